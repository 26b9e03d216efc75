//! Matrix products with dense weights.
//!
//! A few activation rows use each group of weights straight from the registers that it was unpacked to. For more,
//! unpacking is done once for many of them: see [`super::panel`]. Both forms of weights unpack in the same order, to the same
//! numbers but for what bf12 rounds, so its sums are those of the rounded weights in bf16.

use super::rows::{DenseRow, DenseRows};
use super::{Arranged, Kernel, Lanes, PART_VECTORS};

/// Activation rows that meet a weight while it is in a register.
const TOGETHER: usize = 4;
/// Activation rows up to which weights are not kept unpacked: two passes, for the second of which the second-level cache
/// has the weights of a task.
const FEW_ROWS: usize = 2 * TOGETHER;

/// One product, `out` row-major with a row for each weight row.
pub(super) struct Product<'a, R> {
    pub(super) rows: R,
    pub(super) x: &'a Arranged,
    pub(super) out: &'a mut [f32],
}

impl<R: DenseRows> Kernel for Product<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        match self.x.num_rows() {
            num_x @ ..=TOGETHER => self.few_rows::<L>(0, num_x),
            num_x @ ..=FEW_ROWS => {
                let half = num_x.div_ceil(2);
                self.few_rows::<L>(0, half);
                self.few_rows::<L>(half, num_x - half);
            }
            _ => self.many::<L>(),
        }
    }
}

// Loops by index and not over iterators or closures: what they become must be unrolled entirely, or sums go through
// memory; and a closure given to `array::map` would not be compiled for the instruction set.
#[allow(clippy::needless_range_loop, reason = "see above")]
impl<R: DenseRows> Product<'_, R> {
    /// Groups whose products are summed before they enter the sum of the row: a chunk of a panel.
    const RUN: usize = super::panel::VECTORS / PART_VECTORS / R::Row::PARTS;

    /// All weight rows times `count` activation rows from `m` on, [`TOGETHER`] at most.
    #[inline(always)]
    fn few_rows<L: Lanes>(&mut self, m: usize, count: usize) {
        const { assert!(TOGETHER == 4, "the arms below") };
        // So many weight rows side by side that their sums, which each wait for themselves, keep the processor busy.
        match count {
            1 => self.few::<L, 4, 1>(m),
            2 => self.few::<L, 2, 2>(m),
            3 => self.few::<L, 2, 3>(m),
            _ => self.few::<L, 2, 4>(m),
        }
    }

    /// All weight rows, `N` at a time, times `M` activation rows from `m` on.
    #[inline(always)]
    fn few<L: Lanes, const N: usize, const M: usize>(&mut self, m: usize) {
        let mut n = 0;
        while n + N <= self.rows.len() {
            self.tile::<L, N, M>(n, m);
            n += N;
        }
        while n < self.rows.len() {
            self.tile::<L, 1, M>(n, m);
            n += 1;
        }
    }

    /// Weight rows `n .. n + N` times activation rows `m .. m + M`.
    #[inline(always)]
    fn tile<L: Lanes, const N: usize, const M: usize>(&mut self, n: usize, m: usize) {
        let weights: [R::Row; N] = std::array::from_fn(|index| self.rows.row(n + index));
        let num_whole = weights[0].num_whole_groups::<L>();
        let parts = R::Row::PARTS;
        let x: [_; M] = std::array::from_fn(|index| self.x.row::<L>(m + index, parts));
        let (whole, rest) =
            (x.map(|x| &x[..num_whole * parts]), x.map(|x| &x[num_whole * parts..]));
        let mut sums = [[L::zero(); M]; N];
        let mut start = 0;
        while start < num_whole {
            let end = num_whole.min(start + Self::RUN);
            let mut products = [[L::zero(); M]; N];
            for group in start..end {
                // SAFETY: All weight rows are of one matrix, so they have this many whole groups.
                let groups = weights.map(|row| unsafe { row.whole::<L>(group) });
                weights.iter().for_each(|row| row.prefetch::<L>(group));
                for part in 0..parts {
                    // SAFETY: All activation rows were cut to this many groups above.
                    let x = whole.map(|x| unsafe { x.get_unchecked(group * parts + part) });
                    add::<L, R::Row, N, M>(groups, part, x, &mut products);
                }
            }
            for n in 0..N {
                for m in 0..M {
                    sums[n][m] = sums[n][m].add(products[n][m]);
                }
            }
            start = end;
        }
        if !rest[0].is_empty() {
            let groups = weights.map(|row| row.rest::<L>());
            let mut products = [[L::zero(); M]; N];
            for part in 0..parts {
                add::<L, R::Row, N, M>(groups, part, rest.map(|x| &x[part]), &mut products);
            }
            for n in 0..N {
                for m in 0..M {
                    sums[n][m] = sums[n][m].add(products[n][m]);
                }
            }
        }
        let num_x = self.x.num_rows();
        for n_in_tile in 0..N {
            for m_in_tile in 0..M {
                self.out[(n + n_in_tile) * num_x + m + m_in_tile] =
                    sums[n_in_tile][m_in_tile].sum();
            }
        }
    }
}

/// Adds the products of one part of `N` weight rows and `M` activation rows.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "as for tiles")]
fn add<L: Lanes, R: DenseRow, const N: usize, const M: usize>(
    groups: [R::Group<L>; N],
    part: usize,
    x: [&[L::Array; PART_VECTORS]; M],
    products: &mut [[L; M]; N],
) {
    for n in 0..N {
        let weights = R::part::<L>(groups[n], part);
        for vector in 0..PART_VECTORS {
            for m in 0..M {
                products[n][m] = weights[vector].fma(L::load(&x[m][vector]), products[n][m]);
            }
        }
        for m in 0..M {
            products[n][m] = products[n][m].computed();
        }
    }
}
