//! Rows of the embedding table.

use bytemuck::{Pod, Zeroable};

use super::{Arguments, BF16, Output};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

const THREADS: u32 = 128;

/// Arguments of [`embedding`].
#[derive(Clone, Copy, Debug)]
pub struct Embedding<'a> {
    /// `[rows]` u32; one outside the vocabulary gives a row of NaN.
    pub tokens: BufferSlice<'a>,
    /// `[vocabulary, width]` bf16.
    pub table: BufferSlice<'a>,
    /// `[rows, width]`, no part of the inputs.
    pub out: Output<'a>,
    /// Number of tokens.
    pub rows: usize,
    /// Rows of the table.
    pub vocabulary: usize,
    /// Elements of a row: a multiple of 8.
    pub width: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    tokens: DevicePtr,
    table: DevicePtr,
    out: DevicePtr,
    width: u32,
    vocabulary: u32,
    is_float: u32,
    unused: u32,
}

/// `out[r] = table[tokens[r]]`.
pub fn embedding(device: &Device, args: &Embedding<'_>) -> Result<()> {
    let check = Arguments { device, op: "embedding" };
    let (rows, width) = (args.rows, args.width);
    if !width.is_multiple_of(8) {
        return check.refuse("width", format!("is {width}, not a multiple of 8"));
    }
    if matches!(args.out, Output::Added(_)) {
        return check.refuse("out", "is added to, which only dense products do".to_owned());
    }
    let (out, is_float) = check.output(args.out, &[rows, width])?;
    let params = Params {
        tokens: check.tensor("tokens", args.tokens, &[rows], size_of::<u32>())?,
        table: check.tensor("table", args.table, &[args.vocabulary, width], BF16)?,
        out,
        width: check.count("width", width)?,
        vocabulary: check.count("vocabulary", args.vocabulary)?,
        is_float,
        unused: 0,
    };
    let grid =
        Grid { grid: [check.count("rows", rows)?, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that rows, width and vocabulary say; the kernel itself checks tokens.
    unsafe { device.launch("embedding", &grid, &params) }
}
