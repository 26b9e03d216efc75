//! What adapters add to a product.

use bytemuck::{Pod, Zeroable};

use super::router::MAX_CHOSEN;
use super::{Arguments, BF16, Output, ROUTE_TILE, choice};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// In [`LoraWeights::sets`]: the adapter changes nothing here. In [`Lora::adapters`]: the row has none.
pub const NO_ADAPTER: u32 = u32::MAX;
/// Ranks are padded with zeros to a multiple of this.
pub const RANK_MULTIPLE: usize = 8;

/// Units of a tile, inputs of a part; as in the kernels.
const TILE_UNITS: usize = 16;
const PART_INPUTS: usize = 768;

/// The low-rank changes of one product by several adapters: sets of a pair of matrices an expert.
#[derive(Clone, Copy, Debug)]
pub struct LoraWeights<'a> {
    /// `[num_sets, num_experts, rank, inputs]` bf16.
    pub a: BufferSlice<'a>,
    /// `[num_sets, num_experts, outputs, rank]` bf16, with the adapter's scale in it.
    pub b: BufferSlice<'a>,
    /// `[num_adapters]` u32: which set is each adapter's, or [`NO_ADAPTER`].
    pub sets: BufferSlice<'a>,
    /// Sets there are.
    pub num_sets: usize,
    /// Adapters there are.
    pub num_adapters: usize,
    /// Numbers between the two matrices, a multiple of [`RANK_MULTIPLE`].
    pub rank: usize,
}

/// The routes of a product of experts.
#[derive(Clone, Copy, Debug)]
pub struct LoraRoutes<'a> {
    /// `[rows * chosen]` u32, as [`super::route`] makes them.
    pub grouped: BufferSlice<'a>,
    /// The tiles that it makes with them.
    pub tiles: BufferSlice<'a>,
    /// `[rows * chosen]` float32: what is added of each route is multiplied by it.
    pub weights: Option<BufferSlice<'a>>,
    /// Whether every route has inputs of its own, not only every row: then the lists were there before the kernel that made
    /// these.
    pub have_inputs: bool,
    /// Experts of a row.
    pub chosen: usize,
    /// Experts there are.
    pub num_experts: usize,
}

/// Arguments of [`lora_shrink`] and [`lora_expand`].
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// `[units, inputs]` bf16, where units are the rows, or the routes if these have inputs of their own.
    pub x: BufferSlice<'a>,
    /// The changes.
    pub weights: LoraWeights<'a>,
    /// `[rows]` u32: the adapter of each, or [`NO_ADAPTER`].
    pub adapters: BufferSlice<'a>,
    /// Of a product of experts; without them the product is a dense one.
    pub routes: Option<LoraRoutes<'a>>,
    /// At least [`lora_scratch_bytes`] bytes.
    pub scratch: BufferSlice<'a>,
    /// `[rows, outputs]` or `[rows * chosen, outputs]` float32. Where it is not added to, what adapters leave alone becomes
    /// zero.
    pub out: Output<'a>,
    /// Number of rows.
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
    a: DevicePtr,
    b: DevicePtr,
    adapters: DevicePtr,
    sets: DevicePtr,
    grouped: DevicePtr,
    tiles: DevicePtr,
    weights: DevicePtr,
    parts: DevicePtr,
    out: DevicePtr,
    num_adapters: u32,
    num_sets: u32,
    num_experts: u32,
    rank: u32,
    inputs: u32,
    outputs: u32,
    num_units: u32,
    units_per_row: u32,
    units_per_x: u32,
    tile_len: u32,
    num_parts: u32,
    is_added: u32,
    waits_first: u32,
    unused: u32,
}

/// How the units of a product are tiled.
struct Tiling {
    num_experts: usize,
    units_per_row: usize,
    /// Routes of a tile of the lists.
    tile_len: usize,
    num_tiles: usize,
    grouped: DevicePtr,
    tiles: DevicePtr,
    weights: DevicePtr,
}

/// Bytes of scratch memory for a product with so many inputs of so many rows or routes.
pub fn lora_scratch_bytes(num_units: usize, inputs: usize, rank: usize) -> usize {
    inputs.div_ceil(PART_INPUTS) * num_units * rank * size_of::<f32>()
}

/// What [`lora_expand`] comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// [`lora_shrink`].
    Shrink,
    /// The product that it adds to, before which [`lora_shrink`] was.
    Product,
}

/// The first half of `out[u] += weights[u] * B A x[u]` by the set and expert of each unit u, in float32: what A makes of x,
/// into the scratch memory. Comes right after the kernel that made x (for routes without inputs of their own: the lists).
///
/// What lists, sets and adapters hold may be wrong: then numbers are, but nothing outside of the buffers is touched.
pub fn lora_shrink(device: &Device, args: &Lora<'_>) -> Result<()> {
    let check = Arguments { device, op: "lora" };
    let (mut params, num_tiles) = params(&check, args)?;
    params.waits_first = args.routes.is_some_and(|routes| !routes.have_inputs).into();
    let grid = Grid { grid: [params.num_parts, num_tiles, 1], block: [256, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that the counts say, and the kernel checks what lists, sets and adapters hold.
    unsafe { device.launch("lora_shrink", &grid, &params) }
}

/// The second half, with the same arguments: what B makes of that, into `out`. The scratch memory is free after it.
pub fn lora_expand(device: &Device, args: &Lora<'_>, after: After) -> Result<()> {
    let check = Arguments { device, op: "lora" };
    let (mut params, num_tiles) = params(&check, args)?;
    params.waits_first = (after == After::Shrink).into();
    let (kernel, outputs) = choice::lora_expand(num_tiles as usize, args.outputs);
    let num_blocks = check.count("outputs", args.outputs.div_ceil(outputs))?;
    let grid = Grid { grid: [num_blocks, num_tiles, 1], block: [128, 1, 1], shared_bytes: 0 };
    // SAFETY: as above.
    unsafe { device.launch(kernel, &grid, &params) }
}

/// What both kernels are told, and how many tiles there are.
fn params(check: &Arguments<'_>, args: &Lora<'_>) -> Result<(Params, u32)> {
    let Lora { rows, inputs, outputs, .. } = *args;
    let LoraWeights { num_sets, num_adapters, rank, .. } = args.weights;
    if !inputs.is_multiple_of(32) {
        return check.refuse("inputs", format!("is {inputs}, not a multiple of 32"));
    }
    if !rank.is_multiple_of(RANK_MULTIPLE) {
        return check.refuse("rank", format!("is {rank}, not a multiple of {RANK_MULTIPLE}"));
    }
    let tiling = Tiling::new(check, args)?;
    let (num_experts, num_units) = (tiling.num_experts, rows * tiling.units_per_row);
    let have_inputs = args.routes.is_none_or(|routes| routes.have_inputs);
    let units_per_x = if have_inputs { 1 } else { tiling.units_per_row };
    let (out, is_added) = match args.out {
        Output::F32(out) => (out, 0),
        Output::Added(out) => (out, 1),
        Output::Bf16(_) => return check.refuse("out", "is not float32".to_owned()),
    };
    let scratch = args.scratch.slice(0..lora_scratch_bytes(num_units, inputs, rank))?;
    let (word, num_parts) = (size_of::<u32>(), inputs.div_ceil(PART_INPUTS));
    let x_shape = [num_units / units_per_x, inputs];
    let LoraWeights { a, b, sets, .. } = args.weights;
    let params = Params {
        x: check.tensor("x", args.x, &x_shape, BF16)?,
        a: check.tensor("a", a, &[num_sets, num_experts, rank, inputs], BF16)?,
        b: check.tensor("b", b, &[num_sets, num_experts, outputs, rank], BF16)?,
        adapters: check.tensor("adapters", args.adapters, &[rows], word)?,
        sets: check.tensor("sets", sets, &[num_adapters], word)?,
        grouped: tiling.grouped,
        tiles: tiling.tiles,
        weights: tiling.weights,
        parts: check.tensor("scratch", scratch, &[num_parts, num_units, rank], word)?,
        out: check.tensor("out", out, &[num_units, outputs], word)?,
        num_adapters: check.count("num_adapters", num_adapters)?,
        num_sets: check.count("num_sets", num_sets)?,
        num_experts: check.count("num_experts", num_experts)?,
        rank: check.count("rank", rank)?,
        inputs: check.count("inputs", inputs)?,
        outputs: check.count("outputs", outputs)?,
        num_units: check.count("rows", num_units)?,
        units_per_row: check.count("chosen", tiling.units_per_row)?,
        units_per_x: check.count("chosen", units_per_x)?,
        tile_len: check.count("tile_len", tiling.tile_len)?,
        num_parts: check.count("parts", num_parts)?,
        is_added,
        waits_first: 1,
        unused: 0,
    };
    Ok((params, check.count("tiles", tiling.num_tiles)?))
}

impl Tiling {
    fn new(check: &Arguments<'_>, args: &Lora<'_>) -> Result<Self> {
        let Some(routes) = args.routes else {
            return Ok(Self {
                num_experts: 1,
                units_per_row: 1,
                tile_len: TILE_UNITS,
                num_tiles: args.rows.div_ceil(TILE_UNITS),
                grouped: DevicePtr::NULL,
                tiles: DevicePtr::NULL,
                weights: DevicePtr::NULL,
            });
        };
        let LoraRoutes { chosen, num_experts, .. } = routes;
        if chosen > MAX_CHOSEN.min(num_experts) {
            let problem = format!("is {chosen}, over {MAX_CHOSEN} or the {num_experts} experts");
            return check.refuse("chosen", problem);
        }
        let (word, num_routes) = (size_of::<u32>(), args.rows * chosen);
        let kernels = choice::listed_experts(num_routes, num_experts);
        let num_tiles = kernels.num_tiles(num_routes, num_experts);
        let weights = match routes.weights {
            Some(weights) => check.tensor("weights", weights, &[num_routes], word)?,
            None => DevicePtr::NULL,
        };
        Ok(Self {
            num_experts,
            units_per_row: chosen,
            tile_len: kernels.tile_len,
            num_tiles: num_tiles * kernels.tile_len.div_ceil(TILE_UNITS),
            grouped: check.tensor("grouped", routes.grouped, &[num_routes], word)?,
            tiles: check.tensor("tiles", routes.tiles, &[num_tiles], ROUTE_TILE)?,
            weights,
        })
    }
}
