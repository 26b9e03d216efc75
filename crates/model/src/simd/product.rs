//! Matrix products with bf16 weights.
//!
//! A few activation rows use each group of weights straight from the registers that it was unpacked to. For more,
//! unpacking is done once for many of them: see [`super::panel`].

use super::rows::{Bf16Row, Bf16Rows};
use super::{Arranged, BF16_VECTORS, Kernel, Lanes};

/// Activation rows up to which weights are not kept unpacked.
const FEW_ROWS: usize = 4;
/// Weight rows side by side: sums of one alone would wait for each other.
const TILE_ROWS: usize = 2;
/// Groups whose products are summed before they enter the sum of the row: a chunk of a panel.
const RUN: usize = super::panel::VECTORS / BF16_VECTORS;

/// One product, `out` row-major with a row for each weight row.
pub(super) struct Product<'a> {
    pub(super) rows: Bf16Rows<'a>,
    pub(super) x: &'a Arranged,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        const { assert!(FEW_ROWS == 4, "the arms below") };
        match self.x.num_rows() {
            1 => self.few::<L, 1>(),
            2 => self.few::<L, 2>(),
            3 => self.few::<L, 3>(),
            4 => self.few::<L, 4>(),
            _ => self.many::<L>(),
        }
    }
}

// Loops by index and not over iterators or closures: what they become must be unrolled entirely, or sums go through
// memory; and a closure given to `array::map` would not be compiled for the instruction set.
#[allow(clippy::needless_range_loop, reason = "see above")]
impl Product<'_> {
    /// All weight rows times `M` activation rows, which are all there are.
    #[inline(always)]
    fn few<L: Lanes, const M: usize>(&mut self) {
        let mut n = 0;
        while n + TILE_ROWS <= self.rows.len() {
            self.tile::<L, TILE_ROWS, M>(n);
            n += TILE_ROWS;
        }
        while n < self.rows.len() {
            self.tile::<L, 1, M>(n);
            n += 1;
        }
    }

    /// Weight rows `n .. n + N` times all activation rows.
    #[inline(always)]
    fn tile<L: Lanes, const N: usize, const M: usize>(&mut self, n: usize) {
        let weights: [Bf16Row<'_>; N] = std::array::from_fn(|index| self.rows.row(n + index));
        let num_whole = weights[0].num_whole_groups::<L>();
        let x: [&[[L::Array; BF16_VECTORS]]; M] =
            std::array::from_fn(|index| self.x.row::<L>(index));
        let (whole, rest) = (x.map(|x| &x[..num_whole]), x.map(|x| x.get(num_whole)));
        let mut sums = [[L::zero(); M]; N];
        let mut start = 0;
        while start < num_whole {
            let end = num_whole.min(start + RUN);
            let mut products = [[L::zero(); M]; N];
            // SAFETY: All weight rows are of one matrix, so they have this many whole groups, and runs are not empty.
            let mut groups = [unsafe { weights[0].whole::<L>(start) }; N];
            for group in start..end {
                for index in 0..N {
                    // SAFETY: Likewise.
                    groups[index] = unsafe { weights[index].whole::<L>(group) };
                    weights[index].prefetch::<L>(group);
                }
                // SAFETY: All activation rows were cut to this many groups above.
                let x = whole.map(|x| unsafe { x.get_unchecked(group) });
                add::<L, N, M>(groups, x, &mut products);
            }
            for n in 0..N {
                for m in 0..M {
                    sums[n][m] = sums[n][m].add(products[n][m]);
                }
            }
            start = end;
        }
        if rest.iter().all(Option::is_some) {
            let mut products = [[L::zero(); M]; N];
            let mut groups = [weights[0].rest::<L>(); N];
            for index in 1..N {
                groups[index] = weights[index].rest::<L>();
            }
            add::<L, N, M>(groups, rest.map(|x| x.expect("just seen")), &mut products);
            for n in 0..N {
                for m in 0..M {
                    sums[n][m] = sums[n][m].add(products[n][m]);
                }
            }
        }
        for n_in_tile in 0..N {
            for m in 0..M {
                self.out[(n + n_in_tile) * M + m] = sums[n_in_tile][m].sum();
            }
        }
    }
}

/// Adds the products of one group of `N` weight rows and `M` activation rows.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "as for tiles")]
fn add<L: Lanes, const N: usize, const M: usize>(
    groups: [L::Words; N],
    x: [&[L::Array; BF16_VECTORS]; M],
    products: &mut [[L; M]; N],
) {
    for n in 0..N {
        let weights = L::bf16(groups[n]);
        for vector in 0..BF16_VECTORS {
            for m in 0..M {
                products[n][m] = weights[vector].fma(L::load(&x[m][vector]), products[n][m]);
            }
        }
    }
}
