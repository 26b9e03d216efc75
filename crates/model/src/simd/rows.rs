//! Weight rows as they are stored, unpacked group by group into registers.

use super::{Arranged, BF16_VECTORS, LANES_PER_BLOCK, Lanes, MXFP4_VECTORS};
use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// Bytes of a weight in bf16.
const BF16_BYTES: usize = 2;
/// Bytes ahead of the weights in use that are asked for: half a page, since the processor's own prefetch stops at the
/// end of each. Rows follow one another, so this reaches into the next.
const PREFETCH: usize = 2048;

/// Consecutive weight rows of one matrix.
pub(super) trait Rows<const V: usize> {
    /// One row.
    type Row: Row<V>;
    /// How many there are.
    fn len(&self) -> usize;
    /// The row at an index below `len`.
    fn row(&self, index: usize) -> Self::Row;
}

/// One weight row.
pub(super) trait Row<const V: usize>: Copy {
    /// A group of it.
    type Group<L: Lanes>: Group<L, V>;
    /// Groups whose products are summed before they enter the sum of the row. Divides
    /// [`super::panel::VECTORS`] vectors.
    const RUN: usize;

    /// How many groups are whole; at most one more follows.
    fn num_whole_groups<L: Lanes>(self) -> usize;

    /// One whole group.
    ///
    /// # Safety
    /// The index is below the number of whole groups. A check here would cost the innermost loop a tenth of its
    /// instructions.
    unsafe fn whole<L: Lanes>(self, index: usize) -> Self::Group<L>;

    /// Asks for the memory of a group far behind this one.
    fn prefetch<L: Lanes>(self, index: usize);

    /// The weights after the last whole group, filled up with zeros.
    fn rest<L: Lanes>(self) -> Self::Group<L>;
}

/// Weights of one group as stored, and how their products enter the sum of a row.
pub(super) trait Group<L: Lanes, const V: usize>: Copy {
    /// The weights without what [`Group::end`] multiplies by.
    fn weights(self) -> [L; V];
    /// The weights.
    fn scaled(self) -> [L; V];
    /// The sum of a row after a run that ends with this group, given the one before and the run's products.
    fn end(self, products: L, sum: L) -> L;
}

/// Rows of a bf16 matrix.
pub(super) struct Bf16Rows<'a> {
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Bf16Rows<'a> {
    pub(super) fn new(
        weight: &'a Bf16Matrix,
        first: usize,
        out_len: usize,
        x: &Arranged<BF16_VECTORS>,
    ) -> Self {
        let row_bytes = weight.num_cols * BF16_BYTES;
        let len = check(weight.num_cols, out_len, x);
        Self { row_bytes, bytes: &weight.bytes[first * row_bytes..][..len * row_bytes] }
    }
}

impl<'a> Rows<BF16_VECTORS> for Bf16Rows<'a> {
    type Row = Bf16Row<'a>;

    fn len(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    #[inline(always)]
    fn row(&self, index: usize) -> Bf16Row<'a> {
        Bf16Row(&self.bytes[index * self.row_bytes..][..self.row_bytes])
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bf16Row<'a>(&'a [u8]);

impl Row<BF16_VECTORS> for Bf16Row<'_> {
    type Group<L: Lanes> = Bf16Group<L>;
    const RUN: usize = super::panel::VECTORS / BF16_VECTORS;

    #[inline(always)]
    fn num_whole_groups<L: Lanes>(self) -> usize {
        self.0.len() / (4 * L::LANES)
    }

    #[inline(always)]
    unsafe fn whole<L: Lanes>(self, index: usize) -> Bf16Group<L> {
        let range = index * 4 * L::LANES..(index + 1) * 4 * L::LANES;
        // SAFETY: The caller promises that the group is whole.
        let bytes = unsafe { self.0.get_unchecked(range) };
        Bf16Group(L::words(bytes))
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, index: usize) {
        L::prefetch(self.0.as_ptr().wrapping_add(index * 4 * L::LANES + PREFETCH));
    }

    #[inline(always)]
    fn rest<L: Lanes>(self) -> Bf16Group<L> {
        Bf16Group(L::words(&self.0[self.num_whole_groups::<L>() * 4 * L::LANES..]))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bf16Group<L: Lanes>(L::Words);

impl<L: Lanes> Group<L, BF16_VECTORS> for Bf16Group<L> {
    #[inline(always)]
    fn weights(self) -> [L; BF16_VECTORS] {
        L::bf16(self.0)
    }

    #[inline(always)]
    fn scaled(self) -> [L; BF16_VECTORS] {
        self.weights()
    }

    #[inline(always)]
    fn end(self, products: L, sum: L) -> L {
        sum.add(products)
    }
}

/// Rows of an MXFP4 matrix.
pub(super) struct Mxfp4Rows<'a> {
    blocks_per_row: usize,
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
}

impl<'a> Mxfp4Rows<'a> {
    pub(super) fn new(
        weight: &'a Mxfp4Matrix,
        first: usize,
        out_len: usize,
        x: &Arranged<MXFP4_VECTORS>,
    ) -> Self {
        let blocks_per_row = weight.num_cols / BLOCK;
        let len = check(weight.num_cols, out_len, x);
        let (blocks, _) = weight.blocks.as_chunks();
        Self {
            blocks_per_row,
            blocks: &blocks[first * blocks_per_row..][..len * blocks_per_row],
            scales: &weight.scales[first * blocks_per_row..][..len * blocks_per_row],
        }
    }
}

impl<'a> Rows<MXFP4_VECTORS> for Mxfp4Rows<'a> {
    type Row = Mxfp4Row<'a>;

    fn len(&self) -> usize {
        self.scales.len() / self.blocks_per_row
    }

    #[inline(always)]
    fn row(&self, index: usize) -> Mxfp4Row<'a> {
        let start = index * self.blocks_per_row;
        Mxfp4Row {
            blocks: &self.blocks[start..][..self.blocks_per_row],
            scales: &self.scales[start..][..self.blocks_per_row],
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Mxfp4Row<'a> {
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
}

impl Row<MXFP4_VECTORS> for Mxfp4Row<'_> {
    type Group<L: Lanes> = Mxfp4Group<L>;
    const RUN: usize = 1;

    #[inline(always)]
    fn num_whole_groups<L: Lanes>(self) -> usize {
        self.blocks.len() / (L::LANES / LANES_PER_BLOCK)
    }

    #[inline(always)]
    unsafe fn whole<L: Lanes>(self, index: usize) -> Mxfp4Group<L> {
        let num_blocks = L::LANES / LANES_PER_BLOCK;
        let range = index * num_blocks..(index + 1) * num_blocks;
        // SAFETY: The caller promises a whole group, and `Mxfp4Rows::row` cut one scale a block.
        let (blocks, scales) =
            unsafe { (self.blocks.get_unchecked(range.clone()), self.scales.get_unchecked(range)) };
        Mxfp4Group { words: L::words(blocks.as_flattened()), scales: L::scales(scales) }
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, index: usize) {
        let start = self.blocks.as_ptr().cast::<u8>();
        L::prefetch(start.wrapping_add(index * 4 * L::LANES + PREFETCH));
    }

    #[inline(always)]
    fn rest<L: Lanes>(self) -> Mxfp4Group<L> {
        let start = self.num_whole_groups::<L>() * (L::LANES / LANES_PER_BLOCK);
        let (blocks, scales) = (&self.blocks[start..], &self.scales[start..]);
        Mxfp4Group { words: L::words(blocks.as_flattened()), scales: L::scales(scales) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Mxfp4Group<L: Lanes> {
    words: L::Words,
    scales: L,
}

/// Scales are powers of two, so it is exact to multiply either the weights or the sum of their products.
impl<L: Lanes> Group<L, MXFP4_VECTORS> for Mxfp4Group<L> {
    #[inline(always)]
    fn weights(self) -> [L; MXFP4_VECTORS] {
        L::mxfp4(self.words)
    }

    #[inline(always)]
    fn scaled(self) -> [L; MXFP4_VECTORS] {
        let mut weights = self.weights();
        for weights in &mut weights {
            *weights = weights.mul(self.scales);
        }
        weights
    }

    #[inline(always)]
    fn end(self, products: L, sum: L) -> L {
        products.fma(self.scales, sum)
    }
}

/// How many weight rows an output of this length asks for.
fn check<const V: usize>(num_cols: usize, out_len: usize, x: &Arranged<V>) -> usize {
    assert_eq!(num_cols, x.row_len(), "weights and activations have one width");
    assert!(x.num_rows() > 0 && out_len.is_multiple_of(x.num_rows()), "the output is whole rows");
    out_len / x.num_rows()
}
