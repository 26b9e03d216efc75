//! Rotary position embedding, and the way of keys and values into the cache.

use bytemuck::{Pod, Zeroable};

use super::{Arguments, BF16, HEAD_LEN, KvShape};
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// Arguments of [`rope`].
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// `[rows, num_heads + 2 * num_kv_heads, 64]` float32: queries, keys, values.
    pub qkv: BufferSlice<'a>,
    /// `[rows, num_heads, 64]` bf16: the rotated queries.
    pub queries: BufferSlice<'a>,
    /// `[rows]` u32, each below `context_len`.
    pub positions: BufferSlice<'a>,
    /// `[rows]` u32: block and offset in it, `block * block_len + offset`; all different.
    pub slots: BufferSlice<'a>,
    /// `[context_len, 32, 2]` float32: cosine and sine for each position and pair.
    pub rotations: BufferSlice<'a>,
    /// The cache of one layer, `[num_blocks, num_kv_heads, block_len, 64]` bf16.
    pub keys: BufferSlice<'a>,
    /// The same for values.
    pub values: BufferSlice<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Positions that have rotations.
    pub context_len: usize,
    /// Heads and the shape of the cache.
    pub shape: KvShape,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    qkv: DevicePtr,
    queries: DevicePtr,
    positions: DevicePtr,
    slots: DevicePtr,
    rotations: DevicePtr,
    keys: DevicePtr,
    values: DevicePtr,
    num_heads: u32,
    num_kv_heads: u32,
    block_len: u32,
    num_blocks: u32,
    context_len: u32,
    unused: u32,
}

/// Rotates queries, and keys on their way to the cache; writes values there. A row whose position or slot
/// does not exist is left out.
pub fn rope(device: &Device, args: &Rope<'_>) -> Result<()> {
    let check = Arguments { device, op: "rope" };
    let Rope { rows, context_len, shape, .. } = *args;
    let word = size_of::<u32>();
    let params = Params {
        qkv: check.tensor("qkv", args.qkv, &[rows, shape.qkv_len()], word)?,
        queries: check.tensor("queries", args.queries, &[rows, shape.query_len()], BF16)?,
        positions: check.tensor("positions", args.positions, &[rows], word)?,
        slots: check.tensor("slots", args.slots, &[rows], word)?,
        rotations: check.tensor("rotations", args.rotations, &[context_len, HEAD_LEN], word)?,
        keys: check.tensor("keys", args.keys, &shape.cache(), BF16)?,
        values: check.tensor("values", args.values, &shape.cache(), BF16)?,
        num_heads: check.count("num_heads", shape.num_heads)?,
        num_kv_heads: check.count("num_kv_heads", shape.num_kv_heads)?,
        block_len: check.count("block_len", shape.block_len)?,
        num_blocks: check.count("num_blocks", shape.num_blocks)?,
        context_len: check.count("context_len", context_len)?,
        unused: 0,
    };
    let grid =
        Grid { grid: [check.count("rows", rows)?, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
    // SAFETY: every tensor has the length that the counts say; the kernel itself checks positions and slots.
    unsafe { device.launch("rope", &grid, &params) }
}
