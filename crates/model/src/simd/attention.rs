//! One block of cached positions taken into a running (online) softmax.
//!
//! Blocks come in order of position and always begin at multiples of the block size, so the sums of a row are
//! taken in one order whatever chunk, batch or place in memory it has.

use super::{Kernel, Lanes};
use crate::exp::exp;

/// Most positions in a block.
pub(crate) const MAX_BLOCK_SIZE: usize = 64;

/// Exponentials taken together; divides [`MAX_BLOCK_SIZE`].
const STEP: usize = 8;

/// State of one query head's softmax.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Softmax {
    /// Greatest score so far; the sink's to begin with.
    pub(crate) max: f32,
    /// Sum of `exp(score - max)`; 1 to begin with, which is the sink itself.
    pub(crate) sum: f32,
}

/// One block's visible positions and the query heads that look at them.
pub(crate) struct Attend<'a> {
    /// Width of a head, a multiple of [`super::MAX_LANES`].
    pub(crate) head_dim: usize,
    /// Factor on the scores.
    pub(crate) scale: f32,
    /// Rotated queries of the group, one after another.
    pub(crate) queries: &'a [f32],
    /// Keys of the positions, one after another; at most [`MAX_BLOCK_SIZE`] positions.
    pub(crate) keys: &'a [f32],
    /// Their values.
    pub(crate) values: &'a [f32],
    /// One state a query head.
    pub(crate) states: &'a mut [Softmax],
    /// Weighted sums of values, one row a query head, relative to its state's `max`.
    pub(crate) sums: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { head_dim, scale, queries, keys, values, states, sums } = self;
        let heads = queries.chunks_exact(head_dim).zip(sums.chunks_exact_mut(head_dim));
        for ((query, sum), state) in heads.zip(states) {
            let (query, sum) = (L::arrays(query), L::arrays_mut(sum));
            let mut scores = [f32::NEG_INFINITY; MAX_BLOCK_SIZE];
            let mut max = state.max;
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(head_dim)) {
                *score = scale * dot::<L>(query, L::arrays(key));
                max = max.max(*score);
            }
            if max > state.max {
                let shrink = exp(state.max - max);
                state.sum *= shrink;
                let shrink = L::splat(shrink);
                for lanes in sum.iter_mut() {
                    L::load(lanes).mul(shrink).store(lanes);
                }
                state.max = max;
            }
            // What lies past the last position becomes zero.
            let mut total = [0.0; STEP];
            let num_steps = (keys.len() / head_dim).div_ceil(STEP);
            for weights in scores.as_chunks_mut::<STEP>().0.iter_mut().take(num_steps) {
                for (total, weight) in total.iter_mut().zip(weights) {
                    *weight = exp(*weight - max);
                    *total += *weight;
                }
            }
            state.sum += total.iter().sum::<f32>();
            let (wide, narrow) = sum.as_chunks_mut::<4>();
            for (index, sums) in wide.iter_mut().enumerate() {
                add_values::<L, 4>(&scores, values, head_dim, 4 * index, sums);
            }
            for (index, sum) in narrow.iter_mut().enumerate() {
                let first = 4 * wide.len() + index;
                add_values::<L, 1>(&scores, values, head_dim, first, std::array::from_mut(sum));
            }
        }
    }
}

/// Adds the weighted values of all positions to `N` registers of a head's sums, from the register `first` on.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "must be unrolled entirely")]
fn add_values<L: Lanes, const N: usize>(
    weights: &[f32; MAX_BLOCK_SIZE],
    values: &[f32],
    head_dim: usize,
    first: usize,
    sums: &mut [L::Array; N],
) {
    let mut added = [L::zero(); N];
    for index in 0..N {
        added[index] = L::load(&sums[index]);
    }
    for (weight, values) in weights.iter().zip(values.chunks_exact(head_dim)) {
        let weight = L::splat(*weight);
        let values = &L::arrays(values)[first..][..N];
        for index in 0..N {
            added[index] = L::load(&values[index]).fma(weight, added[index]);
        }
    }
    for index in 0..N {
        added[index].store(&mut sums[index]);
    }
}

#[inline(always)]
fn dot<L: Lanes>(a: &[L::Array], b: &[L::Array]) -> f32 {
    let mut sum = L::zero();
    for (a, b) in a.iter().zip(b) {
        sum = L::load(a).fma(L::load(b), sum);
    }
    sum.sum()
}
