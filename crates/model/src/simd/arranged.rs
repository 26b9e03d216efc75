//! Activation rows in the order in which unpacking gives bf16 weights.
//!
//! The order is the instruction set's own, so rows remember for which one they were arranged, and products use that
//! one.

use bytemuck::{Pod, Zeroable};

use super::{BF16_VECTORS, Kernel, Lanes, MAX_LANES, Simd};
use crate::mxfp4::BLOCK;

/// Sixteen numbers on a cache line of their own: loads that straddle two lines take twice as long.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; MAX_LANES]);

/// Room for so many numbers, all zero, from the beginning of a cache line on.
pub(super) fn lines(len: usize) -> Vec<Line> {
    vec![Line::zeroed(); len.div_ceil(MAX_LANES)]
}

/// Activation rows for bf16 weights. A row ends in zeros where its last group is not whole.
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
        let stride = row_len.next_multiple_of(BF16_VECTORS * MAX_LANES);
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

    /// The groups of one row.
    #[inline(always)]
    pub(super) fn row<L: Lanes>(&self, index: usize) -> &[[L::Array; BF16_VECTORS]] {
        let values: &[f32] = bytemuck::cast_slice(&self.lines);
        let values = &values[index * self.stride..][..self.stride];
        let (groups, _) = L::arrays(values).as_chunks();
        &groups[..self.row_len.div_ceil(BF16_VECTORS * L::LANES)]
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
        let groups = self.to.chunks_exact_mut(BF16_VECTORS * L::LANES);
        for (from, to) in self.from.chunks(BF16_VECTORS * L::LANES).zip(groups) {
            let (even, odd) = to.split_at_mut(L::LANES);
            let (pairs, _) = from.as_chunks::<BF16_VECTORS>();
            for ((even, odd), pair) in even.iter_mut().zip(odd).zip(pairs) {
                [*even, *odd] = *pair;
            }
        }
    }
}
