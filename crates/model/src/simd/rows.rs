//! Rows of dense weights in either form, read group by group.

use super::{Arranged, Lanes, PART_VECTORS};
use crate::checkpoint::weights::Bf16Matrix;

/// Bytes of a weight in bf16.
const BF16_BYTES: usize = 2;
/// Bytes ahead of the weights in use that are asked for: some rows, since rows follow one another. The processor's own
/// prefetch stops at the end of each page, and from some 8 KB on nothing waits for memory any more.
pub(super) const PREFETCH: usize = 16_384;

/// Rows of weights that unpack to the order of [`Arranged`].
pub(super) trait DenseRows {
    /// One of them.
    type Row: DenseRow;
    /// How many there are.
    fn len(&self) -> usize;
    /// The row at an index below `len`.
    fn row(&self, index: usize) -> Self::Row;
}

/// A row of such weights, in groups of parts of which each unpacks to two registers.
pub(super) trait DenseRow: Copy {
    /// Parts of a group.
    const PARTS: usize;
    /// What all parts of a group need.
    type Group<L: Lanes>: Copy;
    /// How many groups are whole; at most one more follows.
    fn num_whole_groups<L: Lanes>(self) -> usize;
    /// One whole group.
    ///
    /// # Safety
    /// The index is below the number of whole groups. A check here would cost the innermost loop a tenth of its
    /// instructions.
    unsafe fn whole<L: Lanes>(self, index: usize) -> Self::Group<L>;
    /// The weights after the last whole group, filled up with zeros.
    fn rest<L: Lanes>(self) -> Self::Group<L>;
    /// One of its parts.
    fn part<L: Lanes>(group: Self::Group<L>, part: usize) -> [L; PART_VECTORS];
    /// Asks for the memory of a group far behind this one.
    fn prefetch<L: Lanes>(self, index: usize);
}

/// Rows of a bf16 matrix.
pub(super) struct Bf16Rows<'a> {
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Bf16Rows<'a> {
    pub(super) fn new(weight: &'a Bf16Matrix, first: usize, out_len: usize, x: &Arranged) -> Self {
        assert_eq!(weight.num_cols, x.row_len(), "weights and activations have one width");
        let row_bytes = weight.num_cols * BF16_BYTES;
        let len = x.outputs_of(out_len);
        Self { row_bytes, bytes: &weight.bytes[first * row_bytes..][..len * row_bytes] }
    }
}

impl<'a> DenseRows for Bf16Rows<'a> {
    type Row = Bf16Row<'a>;

    fn len(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    #[inline(always)]
    fn row(&self, index: usize) -> Bf16Row<'a> {
        Bf16Row(&self.bytes[index * self.row_bytes..][..self.row_bytes])
    }
}

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Bf16Row<'a>(&'a [u8]);

impl DenseRow for Bf16Row<'_> {
    const PARTS: usize = 1;
    type Group<L: Lanes> = L::Words;

    #[inline(always)]
    fn num_whole_groups<L: Lanes>(self) -> usize {
        self.0.len() / (4 * L::LANES)
    }

    #[inline(always)]
    unsafe fn whole<L: Lanes>(self, index: usize) -> L::Words {
        let range = index * 4 * L::LANES..(index + 1) * 4 * L::LANES;
        // SAFETY: The caller promises that the group is whole.
        let bytes = unsafe { self.0.get_unchecked(range) };
        L::words(bytes)
    }

    #[inline(always)]
    fn rest<L: Lanes>(self) -> L::Words {
        L::words(&self.0[self.num_whole_groups::<L>() * 4 * L::LANES..])
    }

    #[inline(always)]
    fn part<L: Lanes>(group: L::Words, _: usize) -> [L; PART_VECTORS] {
        L::bf16(group)
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, index: usize) {
        L::prefetch(self.0.as_ptr().wrapping_add(index * 4 * L::LANES + PREFETCH));
    }
}
