//! Activation rows rounded to a byte, four to a word, for products that have a weight row in each lane.
//!
//! One instruction multiplies the four bytes of a word, the same in all lanes, with four of each lane's weights, and adds
//! neighbours. Weights are greater by [`OFFSET`] there; what that adds to a block's sum is taken off as its correction.

use super::pairs::in_chains;
use super::planes::OFFSET;
use super::rounded::round;
use crate::mxfp4::BLOCK;

/// Words of a block.
pub(super) const QUADS: usize = BLOCK / 4;

/// The four places in a block that a word is of: a word of stored MXFP4 has eight weights, those at even places in the
/// lower halves of its bytes.
pub(super) const fn places(quad: usize) -> [usize; 4] {
    let first = quad / 2 * 8 + quad % 2;
    [first, first + 2, first + 4, first + 6]
}

/// Numbers of 32 bits that a row takes: the words of its blocks, then a correction and a scale for each.
pub(super) fn row_len(num_blocks: usize) -> usize {
    num_blocks * (QUADS + 2)
}

/// One row, its blocks chain by chain.
#[derive(Clone, Copy)]
pub(super) struct QuadRow<'a> {
    pub(super) quads: &'a [i32],
    /// One a block.
    pub(super) corrections: &'a [i32],
    /// One a block.
    pub(super) scales: &'a [f32],
}

impl<'a> QuadRow<'a> {
    /// The row that was filled into these numbers.
    pub(super) fn new(values: &'a [f32], num_blocks: usize) -> Self {
        let (quads, values) = values.split_at(num_blocks * QUADS);
        let (corrections, scales) = values.split_at(num_blocks);
        Self {
            quads: bytemuck::cast_slice(quads),
            corrections: bytemuck::cast_slice(corrections),
            scales: &scales[..num_blocks],
        }
    }
}

/// Rounds a row into its numbers.
#[inline(always)]
pub(super) fn fill(from: &[f32], chains: usize, to: &mut [f32]) {
    let (blocks, _) = from.as_chunks::<BLOCK>();
    let (quads, to) = to.split_at_mut(blocks.len() * QUADS);
    let (corrections, scales) = to.split_at_mut(blocks.len());
    let (quads, _) = bytemuck::cast_slice_mut::<f32, i32>(quads).as_chunks_mut::<QUADS>();
    let corrections: &mut [i32] = bytemuck::cast_slice_mut(corrections);
    let order = in_chains(blocks.len(), chains);
    for (((index, quads), correction), scale) in order.zip(quads).zip(corrections).zip(scales) {
        let (rounded, of_block) = round::<1>(&blocks[index]);
        *scale = of_block;
        *correction = -OFFSET * rounded.iter().sum::<i32>();
        for (index, quad) in quads.iter_mut().enumerate() {
            *quad = i32::from_le_bytes(places(index).map(|place| rounded[place] as u8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_each_place_once() {
        let mut all: Vec<_> = (0..QUADS).flat_map(places).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..BLOCK));
    }
}
