//! The greedy choice.

use bytemuck::{Pod, Zeroable};

use super::Arguments;
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// What [`argmax`] answers for a row that holds a NaN.
pub const NO_TOKEN: u32 = u32::MAX;

/// Arguments of [`argmax`].
#[derive(Clone, Copy, Debug)]
pub struct Argmax<'a> {
    /// `[rows, width]` float32.
    pub logits: BufferSlice<'a>,
    /// `[rows]` u32.
    pub tokens: BufferSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// How many of them may be chosen, from the first on.
    pub vocabulary: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    logits: DevicePtr,
    tokens: DevicePtr,
    width: u32,
    vocabulary: u32,
}

/// The index of each row's greatest logit, the lowest among equals; [`NO_TOKEN`] if one is a NaN.
pub fn argmax(device: &Device, args: &Argmax<'_>) -> Result<()> {
    let check = Arguments { device, op: "argmax" };
    let Argmax { rows, width, vocabulary, .. } = *args;
    if vocabulary > width {
        return check.refuse("vocabulary", format!("is {vocabulary}, over the {width} there are"));
    }
    let params = Params {
        logits: check.tensor("logits", args.logits, &[rows, width], size_of::<f32>())?,
        tokens: check.tensor("tokens", args.tokens, &[rows], size_of::<u32>())?,
        width: check.count("width", width)?,
        vocabulary: check.count("vocabulary", vocabulary)?,
    };
    let grid =
        Grid { grid: [check.count("rows", rows)?, 1, 1], block: [1024, 1, 1], shared_bytes: 0 };
    // SAFETY: both tensors have the length that the counts say.
    unsafe { device.launch("argmax", &grid, &params) }
}
