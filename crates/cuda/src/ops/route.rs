//! All that lies between a norm and the experts: from normed rows to the lists of routes.

use bytemuck::{Pod, Zeroable};

use super::router::{MAX_CHOSEN, MAX_EXPERTS};
use super::{
    After, Arguments, BF16, GroupRoutes, Linear, Lora, Output, ROUTE_TILE, RmsNorm, Router, choice,
    group_routes, linear, lora_expand, lora_shrink, rms_norm, router,
};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// Elements of a row that the kernel for few rows can hold.
const MAX_WIDTH: usize = 8192;

/// Arguments of [`route`].
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The residual stream, `[rows, width]` float32.
    pub residual: BufferSlice<'a>,
    /// Gain of the norm, `[width]` bf16.
    pub gain: BufferSlice<'a>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// The normalized rows, `[rows, width]` bf16.
    pub normed: BufferSlice<'a>,
    /// The router's weight, `[num_experts, width]` bf16.
    pub weight: BufferSlice<'a>,
    /// Its bias, `[num_experts]` bf16.
    pub bias: BufferSlice<'a>,
    /// `[rows]` u32; a row at [`PADDING`](super::PADDING) goes to no expert, but for a single one.
    pub positions: BufferSlice<'a>,
    /// `[rows, num_experts]` float32.
    pub logits: BufferSlice<'a>,
    /// What adapters add to the logits before experts are chosen by them.
    pub change: Option<Lora<'a>>,
    /// Whether the routes of one row are listed, too.
    pub listed: bool,
    /// `[rows, chosen]` u32, the best first. These and what follows are not written where routes are not listed.
    pub experts: BufferSlice<'a>,
    /// `[rows, chosen]` float32, a softmax over the chosen; those of a row that pads mean nothing.
    pub weights: BufferSlice<'a>,
    /// `[rows * chosen]` u32: the routes by expert, each expert's in rising order.
    pub grouped: BufferSlice<'a>,
    /// [`route_tiles_bytes`](super::route_tiles_bytes) bytes: `[expert, first place in grouped, number of routes, 0]` u32
    /// for each tile of the kernels of the experts, then zeros.
    pub tiles: BufferSlice<'a>,
    /// As for a [`Linear`] of as many rows.
    pub scratch: BufferSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row: a multiple of 32, at most 8192.
    pub width: usize,
    /// Experts there are.
    pub num_experts: usize,
    /// Experts a row goes to: at most 8 and at most `num_experts`.
    pub chosen: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    x: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    positions: DevicePtr,
    logits: DevicePtr,
    experts: DevicePtr,
    weights: DevicePtr,
    grouped: DevicePtr,
    tiles: DevicePtr,
    ticket: DevicePtr,
    rows: u32,
    num_experts: u32,
    width: u32,
    chosen: u32,
    tile_len: u32,
    num_tiles: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OneParams {
    residual: DevicePtr,
    gain: DevicePtr,
    normed: DevicePtr,
    weight: DevicePtr,
    bias: DevicePtr,
    logits: DevicePtr,
    num_experts: u32,
    width: u32,
    eps: f32,
    unused: u32,
}

/// Normalizes the rows, scores the experts for each, chooses the best and lists the routes to them as [`super::experts`]
/// takes them. One launch for one row, without choice and lists; two for few rows, four for many and where adapters change
/// the logits; they take two more.
pub fn route(device: &Device, args: &Route<'_>) -> Result<()> {
    if choice::are_unlisted(args.rows, args.listed) {
        route_one(device, args)?;
        if let Some(change) = &args.change {
            lora_shrink(device, change)?;
            lora_expand(device, change, After::Shrink)?;
        }
        return device.mark("router");
    }
    let norm = RmsNorm {
        x: None,
        num_parts: 1,
        residual: args.residual,
        gain: args.gain,
        out: args.normed,
        rows: args.rows,
        width: args.width,
        eps: args.eps,
    };
    rms_norm(device, &norm)?;
    device.mark("norm")?;
    if args.rows <= choice::ROUTED_TOGETHER && args.change.is_none() {
        route_few(device, args)?;
    } else {
        route_many(device, args)?;
    }
    device.mark("router")
}

fn route_one(device: &Device, args: &Route<'_>) -> Result<()> {
    let check = Arguments { device, op: "route" };
    let Route { width, num_experts, .. } = *args;
    check_width(&check, width)?;
    let params = OneParams {
        residual: check.tensor("residual", args.residual, &[width], size_of::<f32>())?,
        gain: check.tensor("gain", args.gain, &[width], BF16)?,
        normed: check.tensor("normed", args.normed, &[width], BF16)?,
        weight: check.tensor("weight", args.weight, &[num_experts, width], BF16)?,
        bias: check.tensor("bias", args.bias, &[num_experts], BF16)?,
        logits: check.tensor("logits", args.logits, &[num_experts], size_of::<f32>())?,
        num_experts: check.count("num_experts", num_experts)?,
        width: check.count("width", width)?,
        eps: args.eps,
        unused: 0,
    };
    let grid = Grid { grid: [params.num_experts, 1, 1], block: [128, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that the counts say.
    unsafe { device.launch("router_one", &grid, &params) }
}

/// Whether a kernel for few rows can hold a row.
fn check_width(check: &Arguments<'_>, width: usize) -> Result<()> {
    if !width.is_multiple_of(32) || width > MAX_WIDTH {
        let problem = format!("is {width}, not a multiple of 32 up to {MAX_WIDTH}");
        return check.refuse("width", problem);
    }
    Ok(())
}

fn route_many(device: &Device, args: &Route<'_>) -> Result<()> {
    let Route { positions, logits, experts, weights, rows, num_experts, chosen, .. } = *args;
    let product = Linear {
        x: args.normed,
        weight: args.weight,
        bias: Some(args.bias),
        out: Output::F32(logits),
        scratch: args.scratch,
        rows,
        inputs: args.width,
        outputs: num_experts,
    };
    if let Some(change) = &args.change {
        lora_shrink(device, change)?;
    }
    linear(device, &product)?;
    if let Some(change) = &args.change {
        lora_expand(device, change, After::Product)?;
    }
    router(device, &Router { logits, positions, experts, weights, rows, num_experts, chosen })?;
    let (grouped, tiles, num_routes) = (args.grouped, args.tiles, rows * chosen);
    group_routes(device, &GroupRoutes { experts, grouped, tiles, num_routes, num_experts })
}

fn route_few(device: &Device, args: &Route<'_>) -> Result<()> {
    let check = Arguments { device, op: "route" };
    let Route { rows, width, num_experts, chosen, .. } = *args;
    check_width(&check, width)?;
    if num_experts > MAX_EXPERTS {
        return check.refuse("num_experts", format!("is {num_experts}, over {MAX_EXPERTS}"));
    }
    if chosen > MAX_CHOSEN.min(num_experts) {
        let problem = format!("is {chosen}, over {MAX_CHOSEN} or the {num_experts} experts");
        return check.refuse("chosen", problem);
    }
    let (word, num_routes) = (size_of::<u32>(), rows * chosen);
    let kernels = choice::listed_experts(num_routes, num_experts);
    let num_tiles = kernels.num_tiles(num_routes, num_experts);
    let params = Params {
        x: check.tensor("normed", args.normed, &[rows, width], BF16)?,
        weight: check.tensor("weight", args.weight, &[num_experts, width], BF16)?,
        bias: check.tensor("bias", args.bias, &[num_experts], BF16)?,
        positions: check.tensor("positions", args.positions, &[rows], word)?,
        logits: check.tensor("logits", args.logits, &[rows, num_experts], word)?,
        experts: check.tensor("experts", args.experts, &[rows, chosen], word)?,
        weights: check.tensor("weights", args.weights, &[rows, chosen], word)?,
        grouped: check.tensor("grouped", args.grouped, &[num_routes], word)?,
        tiles: check.tensor("tiles", args.tiles, &[num_tiles], ROUTE_TILE)?,
        ticket: check.tensor("scratch", args.scratch.slice(0..word)?, &[1], word)?,
        rows: check.count("rows", rows)?,
        num_experts: check.count("num_experts", num_experts)?,
        width: check.count("width", width)?,
        chosen: check.count("chosen", chosen)?,
        tile_len: check.count("tile_len", kernels.tile_len)?,
        num_tiles: check.count("tiles", num_tiles)?,
    };
    let grid = Grid { grid: [params.num_experts, 1, 1], block: [128, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that the counts say, rows and routes are no more than the kernel takes, a
    // route is listed once at most, and no tile is written beyond their number.
    unsafe { device.launch("router_few", &grid, &params) }
}
