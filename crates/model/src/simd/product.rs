//! Matrix products with weights as stored: unpack a group of 32 weights once, use it for several rows.
//!
//! A tile of `N` weight rows by `M` activation rows keeps its sums in registers. Weights stream from memory once
//! for each block of activation rows that fits into the second-level cache.

use super::{Kernel, LANES, Lanes};
use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};
use crate::mxfp4::{BLOCK, BLOCK_BYTES, SCALES};

/// Weights unpacked together, in either format.
pub(crate) const GROUP: usize = BLOCK;
/// Activation rows that stay in cache while a few weight rows pass over them: 48 rows of 2,880 are 540 KiB.
const CACHED_ROWS: usize = 48;

/// Activation rows in the order that unpacking gives weights: of each group of 32, those at even places, then
/// those at odd ones.
pub struct Paired {
    num_rows: usize,
    num_groups: usize,
    values: Vec<[[f32; LANES]; 2]>,
}

impl Paired {
    /// Reorders rows, each of `row_len` values, which is a multiple of 32.
    pub fn new<'a>(rows: impl Iterator<Item = &'a [f32]>, row_len: usize) -> Self {
        assert_eq!(row_len % GROUP, 0, "config.rs checked that widths are multiples of a block");
        let num_groups = row_len / GROUP;
        let mut values = Vec::with_capacity(rows.size_hint().0 * num_groups);
        let mut num_rows = 0;
        for row in rows {
            assert_eq!(row.len(), row_len);
            let (groups, _) = row.as_chunks::<GROUP>();
            values.extend(groups.iter().map(|group| {
                [0, 1].map(|odd| std::array::from_fn(|index| group[2 * index + odd]))
            }));
            num_rows += 1;
        }
        Self { num_rows, num_groups, values }
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }
}

/// Consecutive weight rows that can be unpacked group by group.
pub(super) trait Rows {
    /// One row.
    type Row: Row;
    /// How many there are.
    fn len(&self) -> usize;
    /// The row at an index below `len`, of this many groups.
    fn row(&self, index: usize, num_groups: usize) -> Self::Row;
}

/// One weight row.
pub(super) trait Row: Copy {
    /// A group of it: weights at even places, weights at odd places.
    ///
    /// # Safety
    /// The index is below the number of groups that the row was made with. A check here would cost the
    /// innermost loop a tenth of its instructions.
    unsafe fn group<L: Lanes>(self, index: usize) -> [L; 2];
}

/// Rows of a bf16 matrix.
pub(super) struct Bf16Rows<'a> {
    num_groups: usize,
    groups: &'a [[u8; 2 * GROUP]],
}

impl<'a> Bf16Rows<'a> {
    pub(super) fn new(weight: &'a Bf16Matrix, first: usize, out_len: usize, x: &Paired) -> Self {
        let num_groups = weight.num_cols / GROUP;
        let len = check(weight.num_cols, out_len, x);
        let (groups, _) = weight.bytes.as_chunks();
        Self { num_groups, groups: &groups[first * num_groups..][..len * num_groups] }
    }
}

impl<'a> Rows for Bf16Rows<'a> {
    type Row = Bf16Row<'a>;

    fn len(&self) -> usize {
        self.groups.len() / self.num_groups
    }

    #[inline(always)]
    fn row(&self, index: usize, num_groups: usize) -> Bf16Row<'a> {
        Bf16Row(&self.groups[index * num_groups..][..num_groups])
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bf16Row<'a>(&'a [[u8; 2 * GROUP]]);

impl Row for Bf16Row<'_> {
    #[inline(always)]
    unsafe fn group<L: Lanes>(self, index: usize) -> [L; 2] {
        // SAFETY: The caller promises that the index is below the slice's length.
        L::bf16(unsafe { self.0.get_unchecked(index) })
    }
}

/// Rows of an MXFP4 matrix.
pub(super) struct Mxfp4Rows<'a> {
    num_groups: usize,
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
}

impl<'a> Mxfp4Rows<'a> {
    pub(super) fn new(weight: &'a Mxfp4Matrix, first: usize, out_len: usize, x: &Paired) -> Self {
        let num_groups = weight.num_cols / GROUP;
        let len = check(weight.num_cols, out_len, x);
        let (blocks, _) = weight.blocks.as_chunks();
        Self {
            num_groups,
            blocks: &blocks[first * num_groups..][..len * num_groups],
            scales: &weight.scales[first * num_groups..][..len * num_groups],
        }
    }
}

impl<'a> Rows for Mxfp4Rows<'a> {
    type Row = Mxfp4Row<'a>;

    fn len(&self) -> usize {
        self.scales.len() / self.num_groups
    }

    #[inline(always)]
    fn row(&self, index: usize, num_groups: usize) -> Mxfp4Row<'a> {
        let start = index * num_groups;
        Mxfp4Row {
            blocks: &self.blocks[start..][..num_groups],
            scales: &self.scales[start..][..num_groups],
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Mxfp4Row<'a> {
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
}

impl Row for Mxfp4Row<'_> {
    #[inline(always)]
    unsafe fn group<L: Lanes>(self, index: usize) -> [L; 2] {
        // SAFETY: The caller promises that the index is below the length of both slices.
        let (block, scale) =
            unsafe { (self.blocks.get_unchecked(index), *self.scales.get_unchecked(index)) };
        L::mxfp4(block, SCALES[usize::from(scale)])
    }
}

/// How many weight rows an output of this length asks for.
fn check(num_cols: usize, out_len: usize, x: &Paired) -> usize {
    assert_eq!(num_cols, x.num_groups * GROUP, "weights and activations have one width");
    assert!(x.num_rows > 0 && out_len.is_multiple_of(x.num_rows), "the output is whole rows");
    out_len / x.num_rows
}

/// One product, `out` row-major with a row for each weight row.
pub(super) struct Product<'a, W> {
    pub(super) rows: W,
    pub(super) x: &'a Paired,
    pub(super) out: &'a mut [f32],
}

impl<W: Rows> Kernel for Product<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        for start in (0..self.x.num_rows).step_by(CACHED_ROWS) {
            let end = self.x.num_rows.min(start + CACHED_ROWS);
            let mut n = 0;
            // 16 sums, 4 activations and what unpacking needs fill 32 registers; the narrow tile fills 16.
            while L::MANY && n + 4 <= self.rows.len() {
                self.row_tiles::<L, 4, 4>(n, start, end);
                n += 4;
            }
            while n + 2 <= self.rows.len() {
                self.row_tiles::<L, 2, 3>(n, start, end);
                n += 2;
            }
            if n < self.rows.len() {
                self.row_tiles::<L, 1, 3>(n, start, end);
            }
        }
    }
}

impl<W: Rows> Product<'_, W> {
    /// Weight rows `n .. n + N` times activation rows `m .. end`.
    #[inline(always)]
    fn row_tiles<L: Lanes, const N: usize, const M: usize>(
        &mut self,
        n: usize,
        mut m: usize,
        end: usize,
    ) {
        while m + M <= end {
            self.tile::<L, N, M>(n, m);
            m += M;
        }
        while m + 2 <= end {
            self.tile::<L, N, 2>(n, m);
            m += 2;
        }
        if m < end {
            self.tile::<L, N, 1>(n, m);
        }
    }

    #[inline(always)]
    fn tile<L: Lanes, const N: usize, const M: usize>(&mut self, n: usize, m: usize) {
        let num_groups = self.x.num_groups;
        let weights: [W::Row; N] =
            std::array::from_fn(|index| self.rows.row(n + index, num_groups));
        let x: [&[[[f32; LANES]; 2]]; M] =
            std::array::from_fn(|index| &self.x.values[(m + index) * num_groups..][..num_groups]);
        let mut sums = [[L::zero(); M]; N];
        for group in 0..num_groups {
            for (weights, sums) in weights.iter().zip(&mut sums) {
                // SAFETY: All rows were cut to `num_groups` groups just above.
                let [even, odd] = unsafe { weights.group::<L>(group) };
                for (x, sum) in x.iter().zip(sums) {
                    // SAFETY: Likewise.
                    let [x_even, x_odd] = unsafe { x.get_unchecked(group) };
                    *sum = even.fma(L::load(x_even), *sum);
                    *sum = odd.fma(L::load(x_odd), *sum);
                }
            }
        }
        for (index, sums) in sums.iter().enumerate() {
            let out = &mut self.out[(n + index) * self.x.num_rows + m..][..M];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum.sum();
            }
        }
    }
}
