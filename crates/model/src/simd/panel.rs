//! Products of dense weights with many activation rows, near the processor's peak.
//!
//! A panel of some weight rows, a chunk of each, is unpacked once into the first-level cache and used for all activation
//! rows whose chunk the second-level cache holds. Tiles of a few rows of both keep their products in registers for one
//! chunk, then add them to the sums: the order in which few rows are summed too.

use std::ops::Range;

use super::arranged::lines;
use super::product::Product;
use super::rows::{DenseRow, DenseRows};
use super::{Lanes, PART_VECTORS};

/// Registers that a chunk of a weight row unpacks to.
pub(super) const VECTORS: usize = 64;
/// Numbers in a panel: half of a small first-level cache. The other half is for the activations of a tile.
const PANEL_LEN: usize = 4096;
/// Activation rows that are multiplied by a panel while it is there. Chunks of so many take 256 KiB at most, half of a
/// small second-level cache; the sums of a task are much of the other half.
const CACHED_ROWS: usize = 64;

impl<R: DenseRows> Product<'_, R> {
    /// Groups of a chunk of a row.
    const CHUNK: usize = VECTORS / PART_VECTORS / R::Row::PARTS;

    /// All weight rows times all activation rows.
    #[inline(always)]
    pub(super) fn many<L: Lanes>(&mut self) {
        let num_x = self.x.num_rows();
        for start in (0..num_x).step_by(CACHED_ROWS) {
            self.block::<L>(start..num_x.min(start + CACHED_ROWS));
        }
    }

    /// All weight rows times some activation rows.
    #[inline(always)]
    fn block<L: Lanes>(&mut self, block: Range<usize>) {
        let panel_rows = PANEL_LEN / (VECTORS * L::LANES);
        let num_n = self.rows.len();
        let num_groups = self.x.row::<L>(0, R::Row::PARTS).len() / R::Row::PARTS;
        let mut panel = lines(PANEL_LEN);
        let mut sums = lines(num_n * block.len() * L::LANES);
        let panel = L::arrays_mut(bytemuck::cast_slice_mut(&mut panel));
        let sums = L::arrays_mut(bytemuck::cast_slice_mut(&mut sums));
        for start in (0..num_groups).step_by(Self::CHUNK) {
            let groups = start..num_groups.min(start + Self::CHUNK);
            for n in (0..num_n).step_by(panel_rows) {
                let count = panel_rows.min(num_n - n);
                for (index, to) in panel.chunks_exact_mut(VECTORS).take(count).enumerate() {
                    unpack::<L, R::Row>(self.rows.row(n + index), groups.clone(), to);
                }
                let sums = &mut sums[n * block.len()..][..count * block.len()];
                self.multiply::<L>(panel, block.clone(), groups.clone(), sums);
            }
        }
        let num_x = self.x.num_rows();
        for (out, sums) in self.out.chunks_exact_mut(num_x).zip(sums.chunks_exact(block.len())) {
            for (out, sum) in out[block.clone()].iter_mut().zip(sums) {
                *out = L::load(sum).sum();
            }
        }
    }

    /// A panel times some activation rows, added to a row of sums for each of the panel's.
    #[inline(always)]
    fn multiply<L: Lanes>(
        &self,
        panel: &[L::Array],
        block: Range<usize>,
        groups: Range<usize>,
        sums: &mut [L::Array],
    ) {
        let num_m = block.len();
        let parts = R::Row::PARTS;
        let range = groups.start * parts..groups.end * parts;
        let x = |m| self.x.row::<L>(block.start + m, parts)[range.clone()].as_flattened();
        let mut m = 0;
        while m + 3 <= num_m {
            rows_of_tiles::<L, 3>(panel, [x(m), x(m + 1), x(m + 2)], m, sums, num_m);
            m += 3;
        }
        match num_m - m {
            2 => rows_of_tiles::<L, 2>(panel, [x(m), x(m + 1)], m, sums, num_m),
            1 => rows_of_tiles::<L, 1>(panel, [x(m)], m, sums, num_m),
            _ => {}
        }
    }
}

/// Unpacks some groups of a weight row.
#[inline(always)]
fn unpack<L: Lanes, R: DenseRow>(row: R, groups: Range<usize>, to: &mut [L::Array]) {
    let num_whole = row.num_whole_groups::<L>();
    let to = to.as_chunks_mut::<PART_VECTORS>().0.chunks_exact_mut(R::PARTS);
    for (index, to) in groups.zip(to) {
        let group = if index < num_whole {
            row.prefetch::<L>(index);
            // SAFETY: Just compared.
            unsafe { row.whole::<L>(index) }
        } else {
            row.rest::<L>()
        };
        for (part, to) in to.iter_mut().enumerate() {
            let weights = R::part::<L>(group, part);
            for vector in 0..PART_VECTORS {
                weights[vector].store(&mut to[vector]);
            }
        }
    }
}

/// All rows of a panel times `M` activation rows.
#[inline(always)]
fn rows_of_tiles<L: Lanes, const M: usize>(
    panel: &[L::Array],
    x: [&[L::Array]; M],
    m: usize,
    sums: &mut [L::Array],
    num_m: usize,
) {
    let num_n = sums.len() / num_m;
    let row = |n: usize| &panel[n * VECTORS..][..VECTORS];
    let mut n = 0;
    while n + 4 <= num_n {
        let weights = [row(n), row(n + 1), row(n + 2), row(n + 3)];
        tile::<L, 4, M>(weights, x, &mut sums[n * num_m + m..], num_m);
        n += 4;
    }
    while n < num_n {
        tile::<L, 1, M>([row(n)], x, &mut sums[n * num_m + m..], num_m);
        n += 1;
    }
}

/// `N` weight rows times `M` activation rows, added to sums that lie `stride` apart for each weight row.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "as for the tiles of few rows")]
fn tile<L: Lanes, const N: usize, const M: usize>(
    weights: [&[L::Array]; N],
    x: [&[L::Array]; M],
    sums: &mut [L::Array],
    stride: usize,
) {
    let len = x[0].len();
    let (weights, x) = (weights.map(|row| &row[..len]), x.map(|row| &row[..len]));
    let mut rows = sums.chunks_mut(stride);
    let sums: [&mut [L::Array; M]; N] = std::array::from_fn(|_| {
        rows.next().and_then(|row| row.first_chunk_mut()).expect("a tile lies inside its block")
    });
    let mut products = [[L::zero(); M]; N];
    for vector in 0..len {
        let mut loaded = [L::zero(); M];
        for m in 0..M {
            // SAFETY: All rows were cut to one length above, which the index is below.
            loaded[m] = L::load(unsafe { x[m].get_unchecked(vector) });
        }
        for n in 0..N {
            // SAFETY: Likewise.
            let weight = L::load(unsafe { weights[n].get_unchecked(vector) });
            for m in 0..M {
                products[n][m] = weight.fma(loaded[m], products[n][m]);
            }
        }
    }
    for n in 0..N {
        for m in 0..M {
            L::load(&sums[n][m]).add(products[n][m]).store(&mut sums[n][m]);
        }
    }
}
