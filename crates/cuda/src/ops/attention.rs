//! Attention over the cache.

use bytemuck::{Pod, Zeroable};

use super::{Arguments, BF16, HEAD_LEN, KvShape};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// Query heads of one key head that the decode kernel can take.
const MAX_GROUP: usize = 16;
/// Queries of a prefill tile: rows times query heads of a key head.
const TILE_QUERIES: usize = 128;

/// Shared memory of the prefill kernel: four tiles of 64 keys and values.
const PREFILL_SHARED_BYTES: u32 = 4 * 2 * 64 * (HEAD_LEN * BF16) as u32;

/// Shared memory of the decode kernel: three turns of 16 keys and values for each of its four warps.
const DECODE_SHARED_BYTES: u32 = 4 * 3 * 2 * 16 * (HEAD_LEN * BF16) as u32;

/// Rows of one sequence and where its block table lies, for [`attention_prefill`].
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

/// A single row and where its sequence's block table lies, for [`attention_decode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DecodeRow {
    /// The row.
    pub row: u32,
    /// Its position; [`PADDING`](super::PADDING) for one that only pads a batch.
    pub position: u32,
    /// First entry of its block table.
    pub table_start: u32,
    /// Index, in blocks of positions, of that entry.
    pub first_block: u32,
}

/// Arguments of [`attention_prefill`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionPrefill<'a> {
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

/// Arguments of [`attention_decode`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionDecode<'a> {
    /// `[rows, num_heads + 2 * num_kv_heads, 64]` float32: queries, keys, values, not rotated.
    pub qkv: BufferSlice<'a>,
    /// `[context_len, 32, 2]` float32: cosine and sine for each position and pair.
    pub rotations: BufferSlice<'a>,
    /// The cache of one layer, `[num_blocks, num_kv_heads, block_len, 64]` bf16.
    pub keys: BufferSlice<'a>,
    /// The same for values.
    pub values: BufferSlice<'a>,
    /// Whether the rows' own keys and values are in the cache. If not they are written there, and no row sees another's.
    pub is_cached: bool,
    /// `[num_heads]` bf16: a score for each head that takes weight and adds no value.
    pub sinks: BufferSlice<'a>,
    /// Block tables, u32.
    pub tables: BufferSlice<'a>,
    /// `[num_decode]` of [`DecodeRow`].
    pub decode: BufferSlice<'a>,
    /// `[rows, num_heads, 64]` bf16; only the rows in `decode` are written.
    pub out: BufferSlice<'a>,
    /// Rows of `qkv`.
    pub rows: usize,
    /// Rows that attend.
    pub num_decode: usize,
    /// Positions that have rotations.
    pub context_len: usize,
    /// Positions that a row sees, its own included; `None` for all.
    pub window: Option<u32>,
    /// Heads and the shape of the cache.
    pub shape: KvShape,
    /// What the pieces of a context leave for their combination.
    pub splits: Splits<'a>,
}

/// Scratch memory of [`attention_decode`], for each row and head `num_splits` parts.
#[derive(Clone, Copy, Debug)]
pub struct Splits<'a> {
    /// `[num_decode, num_heads, num_splits, 64]` float32.
    pub parts: BufferSlice<'a>,
    /// `[num_decode, num_heads, num_splits, 2]` float32.
    pub stats: BufferSlice<'a>,
    /// `[num_decode, num_kv_heads]` u32: zeros, before and after.
    pub tickets: BufferSlice<'a>,
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
    block_shift: u32,
    num_blocks: u32,
    num_rows: u32,
    table_len: u32,
    window: u32,
    unused: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeParams {
    qkv: DevicePtr,
    rotations: DevicePtr,
    keys: DevicePtr,
    values: DevicePtr,
    sinks: DevicePtr,
    tables: DevicePtr,
    rows: DevicePtr,
    parts: DevicePtr,
    stats: DevicePtr,
    tickets: DevicePtr,
    out: DevicePtr,
    num_heads: u32,
    num_kv_heads: u32,
    block_len: u32,
    num_blocks: u32,
    num_rows: u32,
    table_len: u32,
    context_len: u32,
    window: u32,
    num_splits: u32,
    is_cached: u32,
}

/// Rows that one tile of [`attention_prefill`] may have.
pub fn rows_per_tile(shape: &KvShape) -> usize {
    TILE_QUERIES / shape.group().max(1)
}

/// Attention of tiles of rows, each of up to [`rows_per_tile`].
///
/// A tile whose rows do not exist is left out, and a position whose block does not exist counts as a key of zeros.
pub fn attention_prefill(device: &Device, args: &AttentionPrefill<'_>) -> Result<()> {
    let check = Arguments { device, op: "attention_prefill" };
    let (rows, shape) = (args.rows, args.shape);
    check_heads(&check, &shape, TILE_QUERIES)?;
    let params = PrefillParams {
        queries: check.tensor("queries", args.queries, &[rows, shape.query_len()], BF16)?,
        keys: check.tensor("keys", args.keys, &shape.cache(), BF16)?,
        values: check.tensor("values", args.values, &shape.cache(), BF16)?,
        sinks: check.tensor("sinks", args.sinks, &[shape.num_heads], BF16)?,
        positions: check.tensor("positions", args.positions, &[rows], size_of::<u32>())?,
        tables: check.tensor("tables", args.tables, &[args.tables.len()], 1)?,
        tiles: check.tensor("tiles", args.tiles, &[args.num_tiles], size_of::<RowTile>())?,
        out: check.tensor("out", args.out, &[rows, shape.query_len()], BF16)?,
        num_heads: check.count("num_heads", shape.num_heads)?,
        num_kv_heads: check.count("num_kv_heads", shape.num_kv_heads)?,
        block_shift: shape.block_len.trailing_zeros(),
        num_blocks: check.count("num_blocks", shape.num_blocks)?,
        num_rows: check.count("rows", rows)?,
        table_len: check.count("tables", args.tables.len() / size_of::<u32>())?,
        window: args.window.unwrap_or(i32::MAX as u32),
        unused: 0,
    };
    let grid = Grid {
        grid: [check.count("num_tiles", args.num_tiles)?, params.num_kv_heads, 1],
        block: [256, 1, 1],
        shared_bytes: PREFILL_SHARED_BYTES,
    };
    // SAFETY: every tensor has the length that the counts say, and the kernel checks what tiles and tables say.
    unsafe { device.launch("attention_prefill", &grid, &params) }
}

/// Attention of single rows, which rotates their queries and their own keys itself.
///
/// What does not exist is treated as by [`attention_prefill`]. A row at a position beyond the context is left out.
pub fn attention_decode(device: &Device, args: &AttentionDecode<'_>) -> Result<()> {
    let check = Arguments { device, op: "attention_decode" };
    let AttentionDecode { rows, num_decode, context_len, shape, splits, .. } = *args;
    check_heads(&check, &shape, MAX_GROUP)?;
    let word = size_of::<f32>();
    let parts = [num_decode, shape.num_heads, splits.num_splits];
    let tickets = [num_decode, shape.num_kv_heads];
    let params = DecodeParams {
        qkv: check.tensor("qkv", args.qkv, &[rows, shape.qkv_len()], word)?,
        rotations: check.tensor("rotations", args.rotations, &[context_len, HEAD_LEN], word)?,
        keys: check.tensor("keys", args.keys, &shape.cache(), BF16)?,
        values: check.tensor("values", args.values, &shape.cache(), BF16)?,
        sinks: check.tensor("sinks", args.sinks, &[shape.num_heads], BF16)?,
        tables: check.tensor("tables", args.tables, &[args.tables.len()], 1)?,
        rows: check.tensor("decode", args.decode, &[num_decode], size_of::<DecodeRow>())?,
        parts: check.tensor("parts", splits.parts, &parts, HEAD_LEN * word)?,
        stats: check.tensor("stats", splits.stats, &parts, 2 * word)?,
        tickets: check.tensor("tickets", splits.tickets, &tickets, word)?,
        out: check.tensor("out", args.out, &[rows, shape.query_len()], BF16)?,
        num_heads: check.count("num_heads", shape.num_heads)?,
        num_kv_heads: check.count("num_kv_heads", shape.num_kv_heads)?,
        block_len: check.count("block_len", shape.block_len)?,
        num_blocks: check.count("num_blocks", shape.num_blocks)?,
        num_rows: check.count("rows", rows)?,
        table_len: check.count("tables", args.tables.len() / word)?,
        context_len: check.count("context_len", context_len)?,
        window: args.window.unwrap_or(i32::MAX as u32),
        num_splits: check.count("num_splits", splits.num_splits)?,
        is_cached: args.is_cached.into(),
    };
    let grid = Grid {
        grid: [params.num_splits, params.num_kv_heads, check.count("num_decode", num_decode)?],
        block: [128, 1, 1],
        shared_bytes: DECODE_SHARED_BYTES,
    };
    // SAFETY: every tensor has the length that the counts say, and the kernel checks what rows and tables say.
    unsafe { device.launch("attention_decode", &grid, &params) }
}

/// Whether the query heads of a key head are whole and no more than a kernel takes, and blocks as it divides by them.
fn check_heads(check: &Arguments<'_>, shape: &KvShape, max_group: usize) -> Result<()> {
    if shape.num_kv_heads == 0
        || !shape.num_heads.is_multiple_of(shape.num_kv_heads)
        || shape.group() > max_group
    {
        let problem = format!("are {} for {} key heads", shape.num_heads, shape.num_kv_heads);
        return check.refuse("num_heads", problem);
    }
    if !shape.block_len.is_power_of_two() {
        return check.refuse("block_len", format!("is {}, no power of two", shape.block_len));
    }
    Ok(())
}
