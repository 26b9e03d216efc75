//! Rows of bf16 weights as they are stored, read group by group.

use super::{Arranged, Lanes};
use crate::checkpoint::weights::Bf16Matrix;

/// Bytes of a weight in bf16.
const BF16_BYTES: usize = 2;
/// Bytes ahead of the weights in use that are asked for: half a page, since the processor's own prefetch stops at the
/// end of each. Rows follow one another, so this reaches into the next.
const PREFETCH: usize = 2048;

/// Rows of a bf16 matrix.
pub(super) struct Bf16Rows<'a> {
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Bf16Rows<'a> {
    pub(super) fn new(weight: &'a Bf16Matrix, first: usize, out_len: usize, x: &Arranged) -> Self {
        assert_eq!(weight.num_cols, x.row_len(), "weights and activations have one width");
        let num_x = x.num_rows();
        assert!(num_x > 0 && out_len.is_multiple_of(num_x), "the output is whole rows");
        let row_bytes = weight.num_cols * BF16_BYTES;
        let len = out_len / num_x;
        Self { row_bytes, bytes: &weight.bytes[first * row_bytes..][..len * row_bytes] }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// The row at an index below `len`.
    #[inline(always)]
    pub(super) fn row(&self, index: usize) -> Bf16Row<'a> {
        Bf16Row(&self.bytes[index * self.row_bytes..][..self.row_bytes])
    }
}

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Bf16Row<'a>(&'a [u8]);

impl Bf16Row<'_> {
    /// How many groups are whole; at most one more follows.
    #[inline(always)]
    pub(super) fn num_whole_groups<L: Lanes>(self) -> usize {
        self.0.len() / (4 * L::LANES)
    }

    /// One whole group.
    ///
    /// # Safety
    /// The index is below the number of whole groups. A check here would cost the innermost loop a tenth of its
    /// instructions.
    #[inline(always)]
    pub(super) unsafe fn whole<L: Lanes>(self, index: usize) -> L::Words {
        let range = index * 4 * L::LANES..(index + 1) * 4 * L::LANES;
        // SAFETY: The caller promises that the group is whole.
        let bytes = unsafe { self.0.get_unchecked(range) };
        L::words(bytes)
    }

    /// Asks for the memory of a group far behind this one.
    #[inline(always)]
    pub(super) fn prefetch<L: Lanes>(self, index: usize) {
        L::prefetch(self.0.as_ptr().wrapping_add(index * 4 * L::LANES + PREFETCH));
    }

    /// The weights after the last whole group, filled up with zeros.
    #[inline(always)]
    pub(super) fn rest<L: Lanes>(self) -> L::Words {
        L::words(&self.0[self.num_whole_groups::<L>() * 4 * L::LANES..])
    }
}
