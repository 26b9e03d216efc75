//! MXFP4 blocks as the kernels of the experts unpack them.

use bytemuck::{Pod, Zeroable};

use super::Arguments;
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

/// Bytes of a block.
const BLOCK_BYTES: usize = 16;
const THREADS: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    blocks: DevicePtr,
    num_blocks: u32,
    unused: u32,
}

/// Rearranges the 16 bytes of each block from the order of checkpoints to the one that [`super::experts`] takes, in place.
/// Once: a second time mixes them up.
pub fn arrange_blocks(device: &Device, blocks: BufferSlice<'_>) -> Result<()> {
    let check = Arguments { device, op: "arrange_blocks" };
    let num_blocks = blocks.len() / BLOCK_BYTES;
    let params = Params {
        blocks: check.tensor("blocks", blocks, &[num_blocks], BLOCK_BYTES)?,
        num_blocks: check.count("blocks", num_blocks)?,
        unused: 0,
    };
    let grid = [params.num_blocks.div_ceil(THREADS), 1, 1];
    let grid = Grid { grid, block: [THREADS, 1, 1], shared_bytes: 0 };
    // SAFETY: the kernel touches `num_blocks` blocks, and the slice has as many on this device.
    unsafe { device.launch("arrange_blocks", &grid, &params) }
}
