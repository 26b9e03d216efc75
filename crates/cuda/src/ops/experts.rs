//! The two products of the experts.

use bytemuck::{Pod, Zeroable};

use super::choice::{self, ExpertKernel, ExpertKernels};
use super::router::MAX_CHOSEN;
use super::{After, Arguments, BF16, Lora, ROUTE_TILE, VECTOR_BYTES, lora_expand, lora_shrink};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// One product of every expert of a layer, in MXFP4.
#[derive(Clone, Copy, Debug)]
pub struct ExpertWeights<'a> {
    /// `[num_experts, outputs, inputs / 32, 16]` bytes, as [`super::arrange_blocks`] leaves them.
    pub blocks: BufferSlice<'a>,
    /// `[num_experts, outputs, inputs / 32]` bytes, for powers of two from 2^-93 to 2^33.
    pub scales: BufferSlice<'a>,
    /// `[num_experts, outputs]` bf16.
    pub bias: BufferSlice<'a>,
}

/// Arguments of [`experts`].
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// `[rows, hidden]` bf16.
    pub x: BufferSlice<'a>,
    /// Rows 2 j and 2 j + 1 are gate and up of intermediate value j: `[2 * intermediate, hidden]` each.
    pub up: ExpertWeights<'a>,
    /// `[hidden, intermediate]` each.
    pub down: ExpertWeights<'a>,
    /// `[rows, num_experts]` float32, as [`super::route`] makes them. One row's routes are chosen from them, those of more
    /// rows are in the next three.
    pub logits: BufferSlice<'a>,
    /// `[rows * chosen]` u32, as [`super::route`] makes them.
    pub grouped: BufferSlice<'a>,
    /// The tiles that it makes with them, [`super::route_tiles_bytes`] bytes.
    pub tiles: BufferSlice<'a>,
    /// `[rows * chosen]` float32: what each answer is multiplied by.
    pub weights: BufferSlice<'a>,
    /// `[rows * chosen, 2 * intermediate]` float32: what is added to the up product of each route before the activation; only
    /// where routes are listed.
    pub added: Option<BufferSlice<'a>>,
    /// What adapters add to `out`, of which `inner` are the inputs; only where routes are listed.
    pub down_change: Option<Lora<'a>>,
    /// Weights that the kernel after the next one reads, if it is known: where few rows leave the memory idle in between, the
    /// first of them are brought to the level 2 cache.
    pub next: Option<BufferSlice<'a>>,
    /// `[rows * chosen, intermediate]` bf16: scratch memory.
    pub inner: BufferSlice<'a>,
    /// `[rows * chosen, hidden]` float32: the answer of each route.
    pub out: BufferSlice<'a>,
    /// Rows of `x`.
    pub rows: usize,
    /// Whether the routes of one row are listed, too.
    pub listed: bool,
    /// Experts of a row.
    pub chosen: usize,
    /// Experts there are.
    pub num_experts: usize,
    /// Elements of a row: a multiple of 32.
    pub hidden: usize,
    /// Width inside an expert: a multiple of 32.
    pub intermediate: usize,
    /// Bound of gates (above) and ups (both sides).
    pub limit: f32,
    /// Factor of the gate in the sigmoid.
    pub alpha: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x: DevicePtr,
    blocks: DevicePtr,
    scales: DevicePtr,
    bias: DevicePtr,
    grouped: DevicePtr,
    tiles: DevicePtr,
    weights: DevicePtr,
    logits: DevicePtr,
    added: DevicePtr,
    next: DevicePtr,
    out: DevicePtr,
    num_experts: u32,
    outputs: u32,
    inputs: u32,
    routes_per_x: u32,
    num_routes: u32,
    next_bytes: u32,
    limit: f32,
    alpha: f32,
}

/// `out[t] = weights[t] * down(swiglu(up(x[t / chosen]) + added[t]))` for every route t, by its expert.
///
/// `logits`, `grouped` and `tiles` are what [`super::route`] made of `rows * chosen` routes; others give other
/// numbers, but nothing outside of the buffers is touched.
pub fn experts(device: &Device, args: &Experts<'_>) -> Result<()> {
    let Experts { rows, chosen, num_experts, listed, .. } = *args;
    experts_by(device, args, choice::experts(rows, chosen, num_experts, listed))
}

/// What the down product asks for ahead of the next kernels, and how many bytes of it.
fn next(check: &Arguments<'_>, args: &Experts<'_>) -> Result<(DevicePtr, u32)> {
    let Some(next) = args.next else { return Ok((DevicePtr::NULL, 0)) };
    let wanted = next.len().min(choice::next_bytes(args.rows)) / VECTOR_BYTES * VECTOR_BYTES;
    Ok((check.tensor("next", next, &[next.len()], 1)?, u32::try_from(wanted).unwrap_or(0)))
}

/// The same by kernels of the caller's choice that can serve as many rows.
pub(super) fn experts_by(
    device: &Device,
    args: &Experts<'_>,
    kernels: ExpertKernels,
) -> Result<()> {
    let check = Arguments { device, op: "experts" };
    let Experts { rows, chosen, num_experts, hidden, intermediate, .. } = *args;
    for (field, width) in [("hidden", hidden), ("intermediate", intermediate)] {
        if !width.is_multiple_of(32) {
            return check.refuse(field, format!("is {width}, not a multiple of 32"));
        }
    }
    if chosen > MAX_CHOSEN.min(num_experts) {
        let problem = format!("is {chosen}, over {MAX_CHOSEN} or the {num_experts} experts");
        return check.refuse("chosen", problem);
    }
    let num_routes = rows * chosen;
    let word = size_of::<u32>();
    let logits = check.tensor("logits", args.logits, &[rows, num_experts], word)?;
    let (next, next_bytes) = next(&check, args)?;
    let grouped = check.tensor("grouped", args.grouped, &[num_routes], word)?;
    let num_tiles = kernels.num_tiles(num_routes, num_experts);
    let tiles = check.tensor("tiles", args.tiles, &[num_tiles], ROUTE_TILE)?;
    let weights = check.tensor("weights", args.weights, &[num_routes], word)?;
    let added = match args.added {
        Some(_) if kernels.are_for_one_row() => {
            return check.refuse("added", "is for routes that are listed".to_owned());
        }
        Some(added) => check.tensor("added", added, &[num_routes, 2 * intermediate], word)?,
        None => DevicePtr::NULL,
    };
    let inner = check.tensor("inner", args.inner, &[num_routes, intermediate], BF16)?;
    let params = |x, weight: &ExpertWeights<'_>, out, outputs: usize, inputs: usize| {
        let shape = [num_experts, outputs, inputs / 32];
        Ok(Params {
            x,
            blocks: check.tensor("blocks", weight.blocks, &shape, 16)?,
            scales: check.tensor("scales", weight.scales, &shape, 1)?,
            bias: check.tensor("bias", weight.bias, &[num_experts, outputs], BF16)?,
            grouped,
            tiles,
            weights,
            logits,
            added,
            next,
            out,
            num_experts: check.count("num_experts", num_experts)?,
            outputs: check.count("outputs", outputs)?,
            inputs: check.count("inputs", inputs)?,
            routes_per_x: 1,
            num_routes: check.count("rows", num_routes)?,
            next_bytes,
            limit: args.limit,
            alpha: args.alpha,
        })
    };
    let x = check.tensor("x", args.x, &[rows, hidden], BF16)?;
    let out = check.tensor("out", args.out, &[num_routes, hidden], word)?;
    let up = params(x, &args.up, inner, 2 * intermediate, hidden)?;
    let up = Params { routes_per_x: check.count("chosen", chosen)?, ..up };
    let down = params(inner, &args.down, out, hidden, intermediate)?;
    let launch = |op, kernel, params| launch(&check, op, kernel, params, num_tiles);
    launch("experts up", kernels.up, up)?;
    if let Some(change) = &args.down_change {
        lora_shrink(device, change)?;
        device.mark("adapters")?;
    }
    launch("experts down", kernels.down, down)?;
    if let Some(change) = &args.down_change {
        lora_expand(device, change, After::Product)?;
        device.mark("adapters")?;
    }
    Ok(())
}

fn launch(
    check: &Arguments<'_>,
    op: &'static str,
    kernel: ExpertKernel,
    params: Params,
    num_tiles: usize,
) -> Result<()> {
    let num_blocks = (params.outputs as usize).div_ceil(kernel.outputs);
    let grid = Grid {
        grid: [check.count("outputs", num_blocks)?, check.count("rows", num_tiles)?, 1],
        block: [kernel.threads, 1, 1],
        shared_bytes: kernel.shared_bytes + kernel.shared_bytes_per_input * params.inputs,
    };
    // SAFETY: `experts_by` has checked that every tensor has the length that the counts say, and the kernel checks what
    // the lists hold.
    unsafe { check.device.launch(kernel.name, &grid, &params) }?;
    check.device.mark(op)
}
