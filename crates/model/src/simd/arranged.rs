//! Activation rows in the order in which unpacking gives dense weights.
//!
//! The order is the instruction set's own, so rows remember for which one they were arranged, and products use that
//! one.

use bytemuck::{Pod, Zeroable};

use super::bf12::PARTS;
use super::{Kernel, Lanes, MAX_LANES, PART_VECTORS, Simd};
use crate::mxfp4::BLOCK;

/// Sixteen numbers on a cache line of their own: loads that straddle two lines take twice as long.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; MAX_LANES]);

/// Room for so many numbers, all zero, from the beginning of a cache line on.
pub(super) fn lines(len: usize) -> Vec<Line> {
    vec![Line::zeroed(); len.div_ceil(MAX_LANES)]
}

/// Activation rows for dense weights. A row ends in zeros where its last group is not whole.
pub struct Arranged {
    simd: Simd,
    num_rows: usize,
    row_len: usize,
    /// Length of a row with the zeros at its end.
    stride: usize,
    lines: Vec<Line>,
}

impl Arranged {
    /// Room for rows of `row_len` values, which is a multiple of 32; zeros until [`Self::rows_mut`] is filled.
    pub fn zeros(simd: Simd, num_rows: usize, row_len: usize) -> Self {
        assert_eq!(row_len % BLOCK, 0, "config.rs checked that widths are multiples of a block");
        // A whole number of groups for every instruction set, and of cache lines.
        let stride = row_len.next_multiple_of(PARTS * PART_VECTORS * MAX_LANES);
        Self { simd, num_rows, row_len, stride, lines: lines(num_rows * stride) }
    }

    /// Arranges rows, each of `row_len` values.
    pub fn new<'a>(
        simd: Simd,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
        row_len: usize,
    ) -> Self {
        let mut arranged = Self::zeros(simd, rows.len(), row_len);
        for (to, from) in arranged.rows_mut().zip(rows) {
            to.fill(from);
        }
        arranged
    }

    /// The rows, each to be filled once.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = RowMut<'_>> {
        let Self { simd, row_len, stride, .. } = *self;
        let values: &mut [f32] = bytemuck::cast_slice_mut(&mut self.lines);
        values.chunks_exact_mut(stride).map(move |values| RowMut { simd, row_len, values })
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// How many values each has.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// For which instruction set.
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// For how many weight rows so many products are.
    pub(super) fn outputs_of(&self, out_len: usize) -> usize {
        let whole = self.num_rows > 0 && out_len.is_multiple_of(self.num_rows);
        assert!(whole, "the output is whole rows");
        out_len / self.num_rows
    }

    /// One row, part by part of its weights, of which there are so many in a group. The last group is whole.
    #[inline(always)]
    pub(super) fn row<L: Lanes>(&self, index: usize, parts: usize) -> &[[L::Array; PART_VECTORS]] {
        let values: &[f32] = bytemuck::cast_slice(&self.lines);
        let values = &values[index * self.stride..][..self.stride];
        let num_groups = self.row_len.div_ceil(parts * PART_VECTORS * L::LANES);
        &L::arrays(values).as_chunks().0[..num_groups * parts]
    }
}

/// One row of activations to be arranged.
pub struct RowMut<'a> {
    simd: Simd,
    row_len: usize,
    values: &'a mut [f32],
}

impl RowMut<'_> {
    /// Arranges a row.
    pub fn fill(self, from: &[f32]) {
        assert_eq!(from.len(), self.row_len);
        self.simd.run(Arrange { from, to: self.values });
    }
}

/// Arranges one row.
pub(super) struct Arrange<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Arrange<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let groups = self.to.chunks_exact_mut(PART_VECTORS * L::LANES);
        for (from, to) in self.from.chunks(PART_VECTORS * L::LANES).zip(groups) {
            let (even, odd) = to.split_at_mut(L::LANES);
            let (pairs, _) = from.as_chunks::<PART_VECTORS>();
            for ((even, odd), pair) in even.iter_mut().zip(odd).zip(pairs) {
                [*even, *odd] = *pair;
            }
        }
    }
}
