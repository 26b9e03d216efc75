//! One row times a pair of thin matrices.
//!
//! A row is multiplied alone, so its sums are taken in one order whatever else is in the batch.

use super::{Kernel, Lanes, MAX_LANES};
use crate::adapter::{LowRank, RANKS_TOGETHER};

/// `y += B (A x)`.
pub(super) struct AddLowRank<'a> {
    pub(super) low_rank: &'a LowRank,
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Kernel for AddLowRank<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { low_rank, x, y } = self;
        assert_eq!((x.len(), y.len()), (low_rank.num_inputs(), low_rank.num_outputs()));
        let (x, _) = x.as_chunks::<MAX_LANES>();
        let mut inner = vec![0.0; low_rank.rank().next_multiple_of(RANKS_TOGETHER)];
        let (fours, _) = inner.as_chunks_mut::<RANKS_TOGETHER>();
        for (rows, inner) in low_rank.a().zip(fours) {
            dots::<L>(rows, x, inner);
        }
        let (whole, rest) = y.as_chunks_mut::<MAX_LANES>();
        let num_whole = whole.len();
        for (weights, y) in low_rank.b().zip(whole) {
            add::<L>(weights, &inner, y);
        }
        if let Some(weights) = low_rank.b().nth(num_whole) {
            let mut filled = [0.0; MAX_LANES];
            filled[..rest.len()].copy_from_slice(rest);
            add::<L>(weights, &inner, &mut filled);
            rest.copy_from_slice(&filled[..rest.len()]);
        }
    }
}

/// Four rows of A times `x`.
#[inline(always)]
fn dots<L: Lanes>(
    rows: &[[[f32; MAX_LANES]; RANKS_TOGETHER]],
    x: &[[f32; MAX_LANES]],
    out: &mut [f32; RANKS_TOGETHER],
) {
    let mut sums = [L::zero(); RANKS_TOGETHER];
    for (rows, x) in rows.iter().zip(x) {
        for (sum, row) in sums.iter_mut().zip(rows) {
            for (row, x) in L::arrays(row).iter().zip(L::arrays(x)) {
                *sum = L::load(row).fma(L::load(x), *sum);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(&sums) {
        *out = (*sum).sum();
    }
}

/// Adds some outputs. There may be more of `inner` than there are ranks, all zeros.
#[inline(always)]
fn add<L: Lanes>(weights: &[[f32; MAX_LANES]], inner: &[f32], y: &mut [f32; MAX_LANES]) {
    for (index, y) in L::arrays_mut(y).iter_mut().enumerate() {
        let mut sum = L::load(y);
        for (weights, inner) in weights.iter().zip(inner) {
            sum = L::load(&L::arrays(weights)[index]).fma(L::splat(*inner), sum);
        }
        sum.store(y);
    }
}
