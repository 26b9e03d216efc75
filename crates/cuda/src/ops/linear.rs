//! Dense products.

use bytemuck::{Pod, Zeroable};

use super::{Arguments, BF16, Output, choice};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// Arguments of [`linear`].
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[rows, inputs]` bf16.
    pub x: BufferSlice<'a>,
    /// `[outputs, inputs]` bf16.
    pub weight: BufferSlice<'a>,
    /// `[outputs]` bf16.
    pub bias: Option<BufferSlice<'a>>,
    /// `[rows, outputs]`, no part of the inputs.
    pub out: Output<'a>,
    /// Rows of `x`.
    pub rows: usize,
    /// Elements of a row of `x`: a multiple of 32.
    pub inputs: usize,
    /// Elements of a row of `out`.
    pub outputs: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    out: DevicePtr,
    rows: u32,
    outputs: u32,
    inputs: u32,
    is_float: u32,
}

/// `out = x weight^T + bias`, summed in float32.
pub fn linear(device: &Device, args: &Linear<'_>) -> Result<()> {
    linear_by(device, args, choice::dense(args.rows))
}

/// The same by a kernel of the caller's choice.
pub(super) fn linear_by(
    device: &Device,
    args: &Linear<'_>,
    kernel: choice::DenseKernel,
) -> Result<()> {
    let check = Arguments { device, op: "linear" };
    let Linear { rows, inputs, outputs, .. } = *args;
    if !inputs.is_multiple_of(32) {
        return check.refuse("inputs", format!("is {inputs}, not a multiple of 32"));
    }
    if rows > kernel.max_rows {
        let problem = format!("are {rows}, over the {} of {}", kernel.max_rows, kernel.name);
        return check.refuse("rows", problem);
    }
    let (out, is_float) = check.output(args.out, &[rows, outputs])?;
    let bias = match args.bias {
        Some(bias) => check.tensor("bias", bias, &[outputs], BF16)?,
        None => DevicePtr::NULL,
    };
    let params = Params {
        x: check.tensor("x", args.x, &[rows, inputs], BF16)?,
        weight: check.tensor("weight", args.weight, &[outputs, inputs], BF16)?,
        bias,
        out,
        rows: check.count("rows", rows)?,
        outputs: check.count("outputs", outputs)?,
        inputs: check.count("inputs", inputs)?,
        is_float,
    };
    let tiles = |len: usize, tile: usize| check.count("tiles", len.div_ceil(tile));
    let grid = Grid {
        grid: [tiles(outputs, kernel.tile[1])?, tiles(rows, kernel.tile[0])?, 1],
        block: [kernel.threads, 1, 1],
        shared_bytes: kernel.shared_bytes,
    };
    // SAFETY: every tensor has the length that rows, inputs and outputs say.
    unsafe { device.launch(kernel.name, &grid, &params) }
}
