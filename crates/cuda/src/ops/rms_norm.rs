//! Residual addition and RMS normalization.

use bytemuck::{Pod, Zeroable};

use super::{Arguments, BF16};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// Threads of a block at most, elements that each takes at a time, and of a row in all; as in the kernel.
const MAX_THREADS: usize = 1024;
const VECTOR: usize = 4;
const MAX_WIDTH: usize = 8192;

/// Arguments of [`rms_norm`].
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// What is added to the residual stream first: `[rows, num_parts, width]` float32.
    pub x: Option<BufferSlice<'a>>,
    /// Parts of `x` for each row, which are summed; without `x` any number.
    pub num_parts: usize,
    /// The residual stream, changed if there is `x`: `[rows, width]` float32.
    pub residual: BufferSlice<'a>,
    /// `[width]` bf16.
    pub gain: BufferSlice<'a>,
    /// `[rows, width]` bf16, no part of the inputs.
    pub out: BufferSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row: a multiple of 8, at most 8192.
    pub width: usize,
    /// Added to the mean of squares.
    pub eps: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x: DevicePtr,
    residual: DevicePtr,
    gain: DevicePtr,
    out: DevicePtr,
    width: u32,
    num_parts: u32,
    eps: f32,
    unused: u32,
}

/// `residual += the sum of x's parts`, then `out = residual / sqrt(mean(residual^2) + eps) * gain`, each row for itself.
pub fn rms_norm(device: &Device, args: &RmsNorm<'_>) -> Result<()> {
    let check = Arguments { device, op: "rms_norm" };
    let (rows, width) = (args.rows, args.width);
    if !width.is_multiple_of(8) || width > MAX_WIDTH {
        return check.refuse("width", format!("is {width}, not a multiple of 8 up to {MAX_WIDTH}"));
    }
    let x = match args.x {
        Some(x) => check.tensor("x", x, &[rows, args.num_parts, width], size_of::<f32>())?,
        None => DevicePtr::NULL,
    };
    let params = Params {
        x,
        residual: check.tensor("residual", args.residual, &[rows, width], size_of::<f32>())?,
        gain: check.tensor("gain", args.gain, &[width], BF16)?,
        out: check.tensor("out", args.out, &[rows, width], BF16)?,
        width: check.count("width", width)?,
        num_parts: check.count("num_parts", args.num_parts)?,
        eps: args.eps,
        unused: 0,
    };
    // Whole warps.
    let threads = (width / VECTOR).next_multiple_of(32).min(MAX_THREADS);
    let grid = Grid {
        grid: [check.count("rows", rows)?, 1, 1],
        block: [check.count("width", threads)?, 1, 1],
        shared_bytes: 0,
    };
    // SAFETY: every tensor has the length that rows, parts and width say.
    unsafe { device.launch("rms_norm", &grid, &params) }
}
