//! One block of cached positions taken into a running (online) softmax.
//!
//! Blocks come in order of position and always begin at multiples of the block size, so the sums of a row are
//! taken in one order whatever chunk, batch or place in memory it has.

use super::{Kernel, LANES, Lanes};

/// Most positions in a block.
pub(crate) const MAX_BLOCK_SIZE: usize = 64;

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
    /// Width of a head, a multiple of [`LANES`].
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
            let (query, _) = query.as_chunks();
            let (sum, _) = sum.as_chunks_mut();
            let mut scores = [0.0; MAX_BLOCK_SIZE];
            let mut max = state.max;
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(head_dim)) {
                let (key, _) = key.as_chunks();
                *score = scale * dot::<L>(query, key);
                max = max.max(*score);
            }
            if max > state.max {
                let shrink = (state.max - max).exp();
                state.sum *= shrink;
                let shrink = L::splat(shrink);
                for lanes in sum.iter_mut() {
                    L::load(lanes).mul(shrink).store(lanes);
                }
                state.max = max;
            }
            for (score, value) in scores.iter().zip(values.chunks_exact(head_dim)) {
                let weight = (score - max).exp();
                state.sum += weight;
                let (value, _) = value.as_chunks();
                let weight = L::splat(weight);
                for (lanes, value) in sum.iter_mut().zip(value) {
                    L::load(value).fma(weight, L::load(lanes)).store(lanes);
                }
            }
        }
    }
}

#[inline(always)]
fn dot<L: Lanes>(a: &[[f32; LANES]], b: &[[f32; LANES]]) -> f32 {
    let mut sum = L::zero();
    for (a, b) in a.iter().zip(b) {
        sum = L::load(a).fma(L::load(b), sum);
    }
    sum.sum()
}
