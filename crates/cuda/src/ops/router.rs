//! Which experts each row goes to, and the list of routes by expert.

use bytemuck::{Pod, Zeroable};

use super::Arguments;
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// The position of a row that only pads a batch.
pub const PADDING: u32 = u32::MAX;

/// Experts of a row that the router can choose.
const MAX_CHOSEN: usize = 8;

/// Arguments of [`router`].
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
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
pub fn router(device: &Device, args: &Router<'_>) -> Result<()> {
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
pub struct GroupRoutes<'a> {
    /// `[num_routes]` u32: the expert of each route.
    pub experts: BufferSlice<'a>,
    /// `[num_routes]` u32: the routes by expert, each expert's in rising order.
    pub grouped: BufferSlice<'a>,
    /// `[num_experts + 1]` u32: where each expert's routes begin, and the end.
    pub offsets: BufferSlice<'a>,
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
    offsets: DevicePtr,
    num_routes: u32,
    num_experts: u32,
}

/// Lists the routes by expert. A route to an expert that does not exist is in no list.
pub fn group_routes(device: &Device, args: &GroupRoutes<'_>) -> Result<()> {
    let check = Arguments { device, op: "group_routes" };
    let GroupRoutes { num_routes, num_experts, .. } = *args;
    let word = size_of::<u32>();
    let params = GroupParams {
        experts: check.tensor("experts", args.experts, &[num_routes], word)?,
        grouped: check.tensor("grouped", args.grouped, &[num_routes], word)?,
        offsets: check.tensor("offsets", args.offsets, &[num_experts + 1], word)?,
        num_routes: check.count("num_routes", num_routes)?,
        num_experts: check.count("num_experts", num_experts)?,
    };
    let grid = Grid { grid: [params.num_experts, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that the counts say, and a route is listed once at most.
    unsafe { device.launch("group_routes", &grid, &params) }
}
