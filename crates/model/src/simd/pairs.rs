//! Rounded activation rows as pairs of 16-bit numbers, for products that have a weight row in each lane.
//!
//! One instruction multiplies a pair of a row's activations, the same in all lanes, with a pair of each lane's weights
//! and adds the two. Which places of a block are a pair is what takes least to make of MXFP4 weights: [`places`].

use super::mxfp4::block_of_lane;
use super::rounded::{Precision, round};
use crate::mxfp4::BLOCK;

/// Pairs of a block.
pub(super) const PAIRS: usize = BLOCK / 2;

/// The two places in a block that a pair is of: a word of stored MXFP4 has eight weights, of which bytes 0 and 2, then
/// 1 and 3, make pairs, lower halves before upper ones.
pub(super) const fn places(pair: usize) -> [usize; 2] {
    let (word, within) = (pair / 4, pair % 4);
    let first = 8 * word + within % 2 * 2 + within / 2;
    [first, first + 4]
}

/// The blocks of a row chain by chain: [`super::mxfp4`] has a sum in each of so many lanes, and adds each block to that of
/// its lane. One chain has them in their order.
pub(super) fn in_chains(num_blocks: usize, chains: usize) -> impl Iterator<Item = usize> {
    (0..chains).flat_map(move |lane| {
        let count = chain_len(lane, num_blocks, chains);
        (0..count).map(move |index| block_of_lane(lane, chains) + index * chains)
    })
}

/// How many blocks a chain has.
pub(super) fn chain_len(lane: usize, num_blocks: usize, chains: usize) -> usize {
    num_blocks.saturating_sub(block_of_lane(lane, chains)).div_ceil(chains)
}

/// Numbers of 16 bits that a value is cut into.
pub(super) const fn planes(precision: Precision) -> usize {
    match precision {
        Precision::Float32 => 2,
        Precision::Int16 | Precision::Int8 => 1,
    }
}

/// Numbers of 32 bits that a row takes: the pairs of its blocks, then a scale for each.
pub(super) fn row_len(num_blocks: usize, precision: Precision) -> usize {
    num_blocks * (planes(precision) * PAIRS + 1)
}

/// One row, its blocks chain by chain.
#[derive(Clone, Copy)]
pub(super) struct PairRow<'a> {
    /// Of each block the pairs of the upper numbers, then those of the lower ones.
    pub(super) pairs: &'a [i32],
    /// One a block.
    pub(super) scales: &'a [f32],
}

impl<'a> PairRow<'a> {
    /// The row that was filled into these numbers.
    pub(super) fn new(values: &'a [f32], num_blocks: usize, precision: Precision) -> Self {
        let (pairs, scales) = values.split_at(num_blocks * planes(precision) * PAIRS);
        Self { pairs: bytemuck::cast_slice(pairs), scales: &scales[..num_blocks] }
    }
}

/// Rounds a row into its numbers.
#[inline(always)]
pub(super) fn fill<const BYTES: usize>(
    from: &[f32],
    precision: Precision,
    chains: usize,
    to: &mut [f32],
) {
    let (blocks, _) = from.as_chunks::<BLOCK>();
    let (pairs, scales) = to.split_at_mut(blocks.len() * planes(precision) * PAIRS);
    let (pairs, _) = bytemuck::cast_slice_mut::<f32, i32>(pairs).as_chunks_mut::<PAIRS>();
    let pairs = pairs.chunks_exact_mut(planes(precision));
    let order = in_chains(blocks.len(), chains);
    for ((index, pairs), scale) in order.zip(pairs).zip(scales) {
        let (rounded, of_block) = round::<BYTES>(&blocks[index]);
        *scale = of_block;
        // What the lower number, which has a sign, leaves to the upper one.
        let upper = rounded.map(|value| (value - i32::from(value as i16)) >> 16);
        let (last, before) = pairs.split_last_mut().expect("there is a plane at least");
        *last = paired(&rounded);
        for to in before {
            *to = paired(&upper);
        }
    }
}

/// The lower halves of a block's numbers, two by two.
#[inline(always)]
fn paired(values: &[i32; BLOCK]) -> [i32; PAIRS] {
    let mut pairs = [0; PAIRS];
    for (index, pair) in pairs.iter_mut().enumerate() {
        let [first, second] = places(index);
        *pair = values[first] & 0xffff | values[second] << 16;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_hold_each_place_once_and_chains_each_block_once() {
        let mut all: Vec<_> = (0..PAIRS).flat_map(places).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..BLOCK));
        for (num_blocks, chains) in [(90, 8), (90, 16), (3, 8), (1, 16), (7, 1)] {
            let mut blocks: Vec<_> = in_chains(num_blocks, chains).collect();
            blocks.sort_unstable();
            assert!(blocks.into_iter().eq(0..num_blocks), "{num_blocks} in {chains}");
        }
        assert!(in_chains(5, 1).eq(0..5));
    }
}
