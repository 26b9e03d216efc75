//! Attention over the cache.

use bytemuck::{Pod, Zeroable};

use super::{Arguments, BF16, HEAD_LEN, KvShape};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// Query heads of one key head that the decode kernel can take.
const MAX_GROUP: usize = 16;
/// Queries of a prefill tile: rows times query heads of a key head.
const TILE_QUERIES: usize = 64;

/// Rows of one sequence and where its block table lies: [`AttentionPrefill`] takes tiles of rows, [`AttentionDecode`]
/// single ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RowTile {
    /// First row.
    pub first_row: u32,
    /// Number of rows, whose positions follow each other.
    pub num_rows: u32,
    /// First entry of its block table.
    pub table_start: u32,
    /// Index, in blocks of positions, of that entry.
    pub first_block: u32,
}

/// What both ways of attention read and write.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// `[rows, num_heads, 64]` bf16, rotated.
    pub queries: BufferSlice<'a>,
    /// The cache of one layer, `[num_blocks, num_kv_heads, block_len, 64]` bf16. Holds the rows' own keys.
    pub keys: BufferSlice<'a>,
    /// The same for values.
    pub values: BufferSlice<'a>,
    /// `[num_heads]` bf16: a score for each head that takes weight and adds no value.
    pub sinks: BufferSlice<'a>,
    /// `[rows]` u32.
    pub positions: BufferSlice<'a>,
    /// Block tables, u32.
    pub tables: BufferSlice<'a>,
    /// `[num_tiles]` of [`RowTile`].
    pub tiles: BufferSlice<'a>,
    /// `[rows, num_heads, 64]` bf16; only the tiles' rows are written.
    pub out: BufferSlice<'a>,
    /// Rows of `queries`.
    pub rows: usize,
    /// Number of tiles.
    pub num_tiles: usize,
    /// Positions that a row sees, its own included; `None` for all.
    pub window: Option<u32>,
    /// Heads and the shape of the cache.
    pub shape: KvShape,
}

/// Scratch memory of [`attention_decode`], for each row and head `num_splits` parts.
#[derive(Clone, Copy, Debug)]
pub struct Splits<'a> {
    /// `[num_tiles, num_heads, num_splits, 64]` float32.
    pub parts: BufferSlice<'a>,
    /// `[num_tiles, num_heads, num_splits, 2]` float32.
    pub stats: BufferSlice<'a>,
    /// Into how many pieces a context is cut.
    pub num_splits: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PrefillParams {
    queries: DevicePtr,
    keys: DevicePtr,
    values: DevicePtr,
    sinks: DevicePtr,
    positions: DevicePtr,
    tables: DevicePtr,
    tiles: DevicePtr,
    out: DevicePtr,
    num_heads: u32,
    num_kv_heads: u32,
    block_len: u32,
    num_blocks: u32,
    num_rows: u32,
    table_len: u32,
    window: u32,
    unused: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeParams {
    queries: DevicePtr,
    keys: DevicePtr,
    values: DevicePtr,
    sinks: DevicePtr,
    positions: DevicePtr,
    tables: DevicePtr,
    rows: DevicePtr,
    parts: DevicePtr,
    stats: DevicePtr,
    out: DevicePtr,
    num_heads: u32,
    num_kv_heads: u32,
    block_len: u32,
    num_blocks: u32,
    num_rows: u32,
    table_len: u32,
    window: u32,
    num_splits: u32,
}

/// Rows that one tile of [`attention_prefill`] may have.
pub fn rows_per_tile(shape: &KvShape) -> usize {
    TILE_QUERIES / shape.group().max(1)
}

/// Attention of tiles of rows, each of up to [`rows_per_tile`].
///
/// A tile whose rows do not exist is left out, and a position whose block does not exist counts as a key of zeros.
pub fn attention_prefill(device: &Device, args: &Attention<'_>) -> Result<()> {
    let check = Arguments { device, op: "attention_prefill" };
    args.check(&check, TILE_QUERIES)?;
    let shape = args.shape;
    let params = PrefillParams {
        queries: args.queries.ptr(),
        keys: args.keys.ptr(),
        values: args.values.ptr(),
        sinks: args.sinks.ptr(),
        positions: args.positions.ptr(),
        tables: args.tables.ptr(),
        tiles: args.tiles.ptr(),
        out: args.out.ptr(),
        num_heads: check.count("num_heads", shape.num_heads)?,
        num_kv_heads: check.count("num_kv_heads", shape.num_kv_heads)?,
        block_len: check.count("block_len", shape.block_len)?,
        num_blocks: check.count("num_blocks", shape.num_blocks)?,
        num_rows: check.count("rows", args.rows)?,
        table_len: check.count("tables", args.tables.len() / size_of::<u32>())?,
        window: args.window.unwrap_or(i32::MAX as u32),
        unused: 0,
    };
    let grid = Grid {
        grid: [check.count("num_tiles", args.num_tiles)?, params.num_kv_heads, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
    };
    // SAFETY: `check` has looked at every length, and the kernel checks what tiles and tables say.
    unsafe { device.launch("attention_prefill", &grid, &params) }
}

/// Attention of single rows; every tile has one.
///
/// What does not exist is treated as by [`attention_prefill`]; a tile with no row pads a batch.
pub fn attention_decode(device: &Device, args: &Attention<'_>, splits: &Splits<'_>) -> Result<()> {
    let check = Arguments { device, op: "attention_decode" };
    args.check(&check, MAX_GROUP)?;
    let (shape, word) = (args.shape, size_of::<f32>());
    let parts = [args.num_tiles, shape.num_heads, splits.num_splits];
    let params = DecodeParams {
        queries: args.queries.ptr(),
        keys: args.keys.ptr(),
        values: args.values.ptr(),
        sinks: args.sinks.ptr(),
        positions: args.positions.ptr(),
        tables: args.tables.ptr(),
        rows: args.tiles.ptr(),
        parts: check.tensor("parts", splits.parts, &parts, HEAD_LEN * word)?,
        stats: check.tensor("stats", splits.stats, &parts, 2 * word)?,
        out: args.out.ptr(),
        num_heads: check.count("num_heads", shape.num_heads)?,
        num_kv_heads: check.count("num_kv_heads", shape.num_kv_heads)?,
        block_len: check.count("block_len", shape.block_len)?,
        num_blocks: check.count("num_blocks", shape.num_blocks)?,
        num_rows: check.count("rows", args.rows)?,
        table_len: check.count("tables", args.tables.len() / size_of::<u32>())?,
        window: args.window.unwrap_or(i32::MAX as u32),
        num_splits: check.count("num_splits", splits.num_splits)?,
    };
    let num_tiles = check.count("num_tiles", args.num_tiles)?;
    let grid = Grid {
        grid: [params.num_splits, params.num_kv_heads, num_tiles],
        block: [128, 1, 1],
        shared_bytes: 0,
    };
    // SAFETY: `check` has looked at every length, and the kernel checks what tiles and tables say.
    unsafe { device.launch("attention_decode", &grid, &params) }?;
    let grid = Grid {
        grid: [params.num_heads, num_tiles, 1],
        block: [HEAD_LEN as u32, 1, 1],
        shared_bytes: 0,
    };
    // SAFETY: as above.
    unsafe { device.launch("attention_combine", &grid, &params) }
}

impl Attention<'_> {
    fn check(&self, check: &Arguments<'_>, max_group: usize) -> Result<()> {
        let (rows, shape) = (self.rows, self.shape);
        if shape.num_kv_heads == 0
            || !shape.num_heads.is_multiple_of(shape.num_kv_heads)
            || shape.group() > max_group
        {
            let problem = format!("are {} for {} key heads", shape.num_heads, shape.num_kv_heads);
            return check.refuse("num_heads", problem);
        }
        check.tensor("queries", self.queries, &[rows, shape.query_len()], BF16)?;
        check.tensor("keys", self.keys, &shape.cache(), BF16)?;
        check.tensor("values", self.values, &shape.cache(), BF16)?;
        check.tensor("sinks", self.sinks, &[shape.num_heads], BF16)?;
        check.tensor("positions", self.positions, &[rows], size_of::<u32>())?;
        check.tensor("tiles", self.tiles, &[self.num_tiles], size_of::<RowTile>())?;
        check.tensor("tables", self.tables, &[self.tables.len()], 1)?;
        check.tensor("out", self.out, &[rows, shape.query_len()], BF16)?;
        Ok(())
    }
}
