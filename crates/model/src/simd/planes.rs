//! Rounded activation rows as planes of signed bytes, for products that take MXFP4 weights from registers as they are
//! stored.
//!
//! A step is as many blocks as there are lanes. Values are cut into signed bytes, lowest first: their planes.

use super::rounded::{Precision, round};
use super::{GROUPS, LANES_PER_BLOCK, Lanes, MAX_LANES};
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// What weights are greater by than they are, so that they are no less than zero.
pub(super) const OFFSET: i32 = 12;

/// Registers of a step of activations with so many planes: for each group and plane one of the values at even places and
/// one at odd ones, then the scales and the corrections of all blocks.
pub(super) const fn step_registers(planes: usize) -> usize {
    GROUPS * planes * 2 + 2
}

/// Bytes of a rounded value.
pub(super) const fn planes(precision: Precision) -> usize {
    match precision {
        Precision::Float32 => 3,
        Precision::Int16 => 2,
        Precision::Int8 => 1,
    }
}

/// Numbers of 32 bits that a row takes: whole steps of every instruction set.
pub(super) fn row_len(num_blocks: usize, precision: Precision) -> usize {
    num_blocks.next_multiple_of(MAX_LANES) * step_registers(planes(precision))
}

/// Rounds a row to `P` planes.
#[inline(always)]
pub(super) fn fill<L: Lanes, const P: usize>(from: &[f32], to: &mut [f32]) {
    let steps = to.chunks_exact_mut(step_registers(P) * L::LANES);
    for (from, to) in from.chunks(L::LANES * BLOCK).zip(steps) {
        let (planes, to) = to.split_at_mut(GROUPS * P * 2 * L::LANES);
        let (planes, _) =
            bytemuck::cast_slice_mut::<f32, i8>(planes).as_chunks_mut::<BLOCK_BYTES>();
        let (scales, corrections) = to.split_at_mut(L::LANES);
        let corrections: &mut [i32] = bytemuck::cast_slice_mut(corrections);
        let blocks_per_group = L::LANES / LANES_PER_BLOCK;
        let (blocks, _) = from.as_chunks::<BLOCK>();
        for (index, block) in blocks.iter().enumerate() {
            let (group, within) = (index / blocks_per_group, index % blocks_per_group);
            let lane = within * GROUPS + group;
            let (mut rounded, scale) = round::<P>(block);
            scales[lane] = scale;
            corrections[lane] = -OFFSET * rounded.iter().sum::<i32>();
            for plane in 0..P {
                let at = (group * P + plane) * 2 * blocks_per_group + within;
                for place in 0..BLOCK_BYTES {
                    planes[at][place] = rounded[2 * place] as i8;
                    planes[at + blocks_per_group][place] = rounded[2 * place + 1] as i8;
                }
                for value in &mut rounded {
                    *value = (*value - i32::from(*value as i8)) >> 8;
                }
            }
        }
    }
}
