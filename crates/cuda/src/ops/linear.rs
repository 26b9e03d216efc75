//! Dense products.

use bytemuck::{Pod, Zeroable};

use super::choice::{self, Cut, DenseKernel, PROCESSORS};
use super::{Arguments, BF16, Output};
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
    /// At least [`linear_scratch_bytes`], zeros before the first product that is given them, and then products' alone.
    pub scratch: BufferSlice<'a>,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FewParams {
    x: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    out: DevicePtr,
    rows: u32,
    outputs: u32,
    inputs: u32,
    form: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ManyParams {
    x: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    out: DevicePtr,
    parts: DevicePtr,
    tickets: DevicePtr,
    rows: u32,
    outputs: u32,
    inputs: u32,
    form: u32,
    num_whole: u32,
    num_parts: u32,
    num_pieces: u32,
    unused: u32,
}

/// Bytes of the counters at the start of the scratch memory, one for each tile that is cut.
const TICKET_BYTES: usize = (PROCESSORS * size_of::<u32>()).next_multiple_of(1024);

/// Bytes of scratch memory that are enough for products of up to this many rows.
pub fn linear_scratch_bytes(max_rows: usize) -> usize {
    TICKET_BYTES + part_bytes(choice::most_tile_rows(max_rows)) * PROCESSORS
}

/// Bytes of one piece's sums.
fn part_bytes(tile_rows: usize) -> usize {
    tile_rows * 128 * size_of::<f32>()
}

/// `out = x weight^T + bias`, or that much more than it was, summed in float32.
pub fn linear(device: &Device, args: &Linear<'_>) -> Result<()> {
    linear_by(device, args, choice::dense(args.rows, args.inputs, args.outputs))
}

/// The same by a kernel of the caller's choice.
pub(super) fn linear_by(device: &Device, args: &Linear<'_>, kernel: DenseKernel) -> Result<()> {
    if kernel.is_many() {
        let cut = kernel.cut(args.rows, args.inputs, args.outputs);
        return linear_many(device, args, kernel, cut);
    }
    let check = Arguments { device, op: "linear" };
    let tensors = Tensors::new(&check, args)?;
    if args.rows > kernel.max_rows {
        let problem = format!("are {}, over the {} of {}", args.rows, kernel.max_rows, kernel.name);
        return check.refuse("rows", problem);
    }
    let Tensors { x, weight, bias, out, rows, outputs, inputs, form } = tensors;
    let params = FewParams { x, weight, bias, out, rows, outputs, inputs, form };
    let num_tiles = check.count("tiles", args.outputs.div_ceil(kernel.tile[1]))?;
    let grid = Grid { grid: [num_tiles, 1, 1], block: [kernel.threads, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that rows, inputs and outputs say.
    unsafe { device.launch(kernel.name, &grid, &params) }
}

/// The same in tiles of 64, 128 or 256 rows, shared out as the caller says.
pub(crate) fn linear_cut(
    device: &Device,
    args: &Linear<'_>,
    tile_rows: usize,
    cut: Cut,
) -> Result<()> {
    let Some(kernel) = choice::many_with_tile(tile_rows) else {
        let check = Arguments { device, op: "linear" };
        return check.refuse("tile_rows", format!("are {tile_rows}, for which there is no kernel"));
    };
    linear_many(device, args, kernel, cut)
}

fn linear_many(device: &Device, args: &Linear<'_>, kernel: DenseKernel, cut: Cut) -> Result<()> {
    let check = Arguments { device, op: "linear" };
    let Tensors { x, weight, bias, out, rows, outputs, inputs, form } = Tensors::new(&check, args)?;
    let num_tiles = args.rows.div_ceil(kernel.tile[0]) * args.outputs.div_ceil(kernel.tile[1]);
    let num_cut = num_tiles.saturating_sub(cut.num_whole);
    let num_steps = args.inputs.div_ceil(choice::STEP);
    if cut.num_whole > num_tiles || num_cut > PROCESSORS || cut.num_parts > num_steps {
        return check.refuse("cut", format!("{cut:?} of {num_tiles} tiles of {num_steps} steps"));
    }
    // Sums of tiles that are not cut never leave their block.
    let num_parts = if cut.num_parts == 1 { 0 } else { num_cut * cut.num_parts };
    let parts_end = TICKET_BYTES + num_parts * part_bytes(kernel.tile[0]);
    let scratch = args.scratch.slice(0..parts_end)?;
    let scratch = check.tensor("scratch", scratch, &[parts_end], 1)?;
    let params = ManyParams {
        x,
        weight,
        bias,
        out,
        parts: DevicePtr(scratch.0 + TICKET_BYTES as u64),
        tickets: scratch,
        rows,
        outputs,
        inputs,
        form,
        num_whole: u32::try_from(cut.num_whole).unwrap_or(u32::MAX),
        num_parts: check.count("parts", cut.num_parts)?,
        num_pieces: check.count("pieces", cut.num_whole + num_cut * cut.num_parts)?,
        unused: 0,
    };
    check.count("tiles", num_tiles * kernel.tile[0])?;
    let grid = Grid {
        grid: [check.count("blocks", cut.num_blocks)?, 1, 1],
        block: [kernel.threads, 1, 1],
        shared_bytes: kernel.shared_bytes,
    };
    // SAFETY: every tensor has the length that rows, inputs and outputs say, and the scratch memory has room for the
    // sums of every piece and a counter for every tile that is cut.
    unsafe { device.launch(kernel.name, &grid, &params) }
}

/// The arguments that all kernels have, with lengths checked.
struct Tensors {
    x: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    out: DevicePtr,
    rows: u32,
    outputs: u32,
    inputs: u32,
    form: u32,
}

impl Tensors {
    fn new(check: &Arguments<'_>, args: &Linear<'_>) -> Result<Self> {
        let Linear { rows, inputs, outputs, .. } = *args;
        if !inputs.is_multiple_of(32) {
            return check.refuse("inputs", format!("is {inputs}, not a multiple of 32"));
        }
        let (out, form) = check.output(args.out, &[rows, outputs])?;
        let bias = match args.bias {
            Some(bias) => check.tensor("bias", bias, &[outputs], BF16)?,
            None => DevicePtr::NULL,
        };
        Ok(Self {
            x: check.tensor("x", args.x, &[rows, inputs], BF16)?,
            weight: check.tensor("weight", args.weight, &[outputs, inputs], BF16)?,
            bias,
            out,
            rows: check.count("rows", rows)?,
            outputs: check.count("outputs", outputs)?,
            inputs: check.count("inputs", inputs)?,
            form,
        })
    }
}
