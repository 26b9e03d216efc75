//! Which experts each row goes to, and the list of routes by expert.

use bytemuck::{Pod, Zeroable};

use super::choice::{self, ExpertKernels};
use super::{Arguments, ROUTE_TILE};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// The position of a row that only pads a batch.
pub const PADDING: u32 = u32::MAX;

/// Experts of a row that the router can choose.
pub(super) const MAX_CHOSEN: usize = 8;
/// Experts that [`group_routes`] can count.
pub(super) const MAX_EXPERTS: usize = 1024;

/// Arguments of [`router`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Router<'a> {
    /// `[rows, num_experts]` float32.
    pub logits: BufferSlice<'a>,
    /// `[rows]` u32; a row at [`PADDING`] goes to no expert.
    pub positions: BufferSlice<'a>,
    /// `[rows, chosen]` u32, the best first.
    pub experts: BufferSlice<'a>,
    /// `[rows, chosen]` float32, a softmax over the chosen.
    pub weights: BufferSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Experts there are.
    pub num_experts: usize,
    /// Experts a row goes to: at most 8 and at most `num_experts`.
    pub chosen: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RouterParams {
    logits: DevicePtr,
    positions: DevicePtr,
    experts: DevicePtr,
    weights: DevicePtr,
    rows: u32,
    num_experts: u32,
    chosen: u32,
    unused: u32,
}

/// Chooses each row's experts: the greatest logits, lowest index first among equals.
pub(crate) fn router(device: &Device, args: &Router<'_>) -> Result<()> {
    let check = Arguments { device, op: "router" };
    let Router { rows, num_experts, chosen, .. } = *args;
    if chosen > MAX_CHOSEN.min(num_experts) {
        let problem = format!("is {chosen}, over {MAX_CHOSEN} or the {num_experts} experts");
        return check.refuse("chosen", problem);
    }
    let word = size_of::<u32>();
    let params = RouterParams {
        logits: check.tensor("logits", args.logits, &[rows, num_experts], word)?,
        positions: check.tensor("positions", args.positions, &[rows], word)?,
        experts: check.tensor("experts", args.experts, &[rows, chosen], word)?,
        weights: check.tensor("weights", args.weights, &[rows, chosen], word)?,
        rows: check.count("rows", rows)?,
        num_experts: check.count("num_experts", num_experts)?,
        chosen: check.count("chosen", chosen)?,
        unused: 0,
    };
    let grid = Grid { grid: [params.rows.div_ceil(4), 1, 1], block: [128, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that the counts say.
    unsafe { device.launch("router", &grid, &params) }
}

/// Arguments of [`group_routes`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupRoutes<'a> {
    /// `[num_routes]` u32: the expert of each route.
    pub experts: BufferSlice<'a>,
    /// `[num_routes]` u32: the routes by expert, each expert's in rising order.
    pub grouped: BufferSlice<'a>,
    /// [`route_tiles_bytes`] bytes: `[expert, first place in grouped, number of routes, 0]` u32 for each tile of the kernels
    /// that [`super::experts`] takes for as many routes, then zeros.
    pub tiles: BufferSlice<'a>,
    /// Number of routes.
    pub num_routes: usize,
    /// Experts there are.
    pub num_experts: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GroupParams {
    experts: DevicePtr,
    grouped: DevicePtr,
    tiles: DevicePtr,
    num_routes: u32,
    num_experts: u32,
    tile_len: u32,
    num_tiles: u32,
}

/// Bytes of the list of tiles that [`super::route`] makes.
pub fn route_tiles_bytes(num_routes: usize, num_experts: usize) -> usize {
    choice::listed_experts(num_routes, num_experts).num_tiles(num_routes, num_experts) * ROUTE_TILE
}

/// Routes of a tile at most.
pub(crate) fn route_tile_len(num_routes: usize, num_experts: usize) -> usize {
    choice::listed_experts(num_routes, num_experts).tile_len
}

/// Lists the routes by expert. A route to an expert that does not exist is in no list.
pub(crate) fn group_routes(device: &Device, args: &GroupRoutes<'_>) -> Result<()> {
    group_routes_for(device, args, choice::listed_experts(args.num_routes, args.num_experts))
}

/// The same with tiles for kernels of the caller's choice.
pub(super) fn group_routes_for(
    device: &Device,
    args: &GroupRoutes<'_>,
    kernels: ExpertKernels,
) -> Result<()> {
    let check = Arguments { device, op: "group_routes" };
    let GroupRoutes { num_routes, num_experts, .. } = *args;
    if num_experts > MAX_EXPERTS {
        return check.refuse("num_experts", format!("is {num_experts}, over {MAX_EXPERTS}"));
    }
    let word = size_of::<u32>();
    let num_tiles = kernels.num_tiles(num_routes, num_experts);
    let params = GroupParams {
        experts: check.tensor("experts", args.experts, &[num_routes], word)?,
        grouped: check.tensor("grouped", args.grouped, &[num_routes], word)?,
        tiles: check.tensor("tiles", args.tiles, &[num_tiles], ROUTE_TILE)?,
        num_routes: check.count("num_routes", num_routes)?,
        num_experts: check.count("num_experts", num_experts)?,
        tile_len: check.count("tile_len", kernels.tile_len)?,
        num_tiles: check.count("tiles", num_tiles)?,
    };
    let grid = Grid { grid: [params.num_experts, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that the counts say, a route is listed once at most, and no tile is written
    // beyond their number.
    unsafe { device.launch("group_routes", &grid, &params) }
}
