//! Matrix products with weights as stored: unpack a group of weights once, use it for several rows.
//!
//! A tile of `N` weight rows by `M` activation rows keeps its sums in registers. Weights stream from memory once
//! for each block of activation rows that fits into the second-level cache.

use super::{Kernel, LANES, Lanes};
use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// Vectors of [`LANES`] weights that 64 bytes of bf16 unpack to.
pub(crate) const BF16_VECTORS: usize = 2;
/// Vectors that 64 bytes of MXFP4 unpack to.
pub(crate) const MXFP4_VECTORS: usize = 8;
/// The blocks in those 64 bytes.
pub(crate) const BLOCKS_PER_GROUP: usize = MXFP4_VECTORS * LANES / BLOCK;
/// Activation rows that stay in cache while a few weight rows pass over them: 48 rows of 2,880 are 540 KiB.
const CACHED_ROWS: usize = 48;
/// Bytes ahead of the weights in use that are asked for: half a page, since the processor's own prefetch stops at the
/// end of each. Rows follow one another, so this reaches into the next.
const PREFETCH: usize = 2048;

/// Activation rows in the order that unpacking gives weights.
///
/// Of a group of `16 V` values, vector `v` holds those at places `v`, `V + v`, `2 V + v` and so on: then each lane
/// unpacks one 32-bit word of stored weights, a shift for every vector. The last group of a row ends in zeros.
pub struct Arranged<const V: usize> {
    num_rows: usize,
    row_len: usize,
    groups: Vec<[[f32; LANES]; V]>,
}

impl<const V: usize> Arranged<V> {
    /// Arranges rows, each of `row_len` values, which is a multiple of 32.
    pub fn new<'a>(rows: impl Iterator<Item = &'a [f32]>, row_len: usize) -> Self {
        assert_eq!(row_len % BLOCK, 0, "config.rs checked that widths are multiples of a block");
        let mut groups = Vec::with_capacity(rows.size_hint().0 * Self::num_groups(row_len));
        let mut num_rows = 0;
        for row in rows {
            assert_eq!(row.len(), row_len);
            let (words, _) = row.as_chunks::<V>();
            groups.extend(words.chunks(LANES).map(|words| {
                let value =
                    |lane, vector| words.get(lane).map_or(0.0, |word: &[f32; V]| word[vector]);
                std::array::from_fn(|vector| std::array::from_fn(|lane| value(lane, vector)))
            }));
            num_rows += 1;
        }
        Self { num_rows, row_len, groups }
    }

    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    fn num_groups(row_len: usize) -> usize {
        row_len.div_ceil(V * LANES)
    }

    fn row(&self, index: usize) -> &[[[f32; LANES]; V]] {
        let num_groups = Self::num_groups(self.row_len);
        &self.groups[index * num_groups..][..num_groups]
    }
}

/// Consecutive weight rows that can be unpacked group by group, each to `V` vectors.
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
    /// A group of it, being unpacked.
    type Group<L: Lanes>: Group<L>;

    /// How many groups are whole; at most one more follows.
    fn num_whole_groups(self) -> usize;

    /// One whole group.
    ///
    /// # Safety
    /// The index is below the number of whole groups. A check here would cost the innermost loop a tenth of its
    /// instructions.
    unsafe fn whole<L: Lanes>(self, index: usize) -> Self::Group<L>;

    /// The weights after the last whole group, filled up with zeros.
    fn rest<L: Lanes>(self) -> Self::Group<L>;
}

/// Weights of one group, and how their products enter a sum.
pub(super) trait Group<L: Lanes>: Copy {
    /// The next vector of weights.
    fn next(&mut self) -> L;
    /// What the products of the group are added to.
    fn begin(&self, sum: L) -> L;
    /// The sum after the group, given the one before and what `begin` became.
    fn end(&self, products: L, sum: L) -> L;
}

/// Rows of a bf16 matrix.
pub(super) struct Bf16Rows<'a> {
    groups_per_row: usize,
    groups: &'a [[u8; 64]],
}

impl<'a> Bf16Rows<'a> {
    pub(super) fn new(
        weight: &'a Bf16Matrix,
        first: usize,
        out_len: usize,
        x: &Arranged<BF16_VECTORS>,
    ) -> Self {
        let groups_per_row = Arranged::<BF16_VECTORS>::num_groups(weight.num_cols);
        let len = check(weight.num_cols, out_len, x);
        let (groups, _) = weight.bytes.as_chunks();
        Self { groups_per_row, groups: &groups[first * groups_per_row..][..len * groups_per_row] }
    }
}

impl<'a> Rows<BF16_VECTORS> for Bf16Rows<'a> {
    type Row = Bf16Row<'a>;

    fn len(&self) -> usize {
        self.groups.len() / self.groups_per_row
    }

    #[inline(always)]
    fn row(&self, index: usize) -> Bf16Row<'a> {
        Bf16Row(&self.groups[index * self.groups_per_row..][..self.groups_per_row])
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bf16Row<'a>(&'a [[u8; 64]]);

impl Row<BF16_VECTORS> for Bf16Row<'_> {
    type Group<L: Lanes> = Bf16Group<L>;

    #[inline(always)]
    fn num_whole_groups(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    unsafe fn whole<L: Lanes>(self, index: usize) -> Bf16Group<L> {
        // SAFETY: The caller promises that the index is below the slice's length.
        Bf16Group(L::words(unsafe { self.0.get_unchecked(index) }))
    }

    fn rest<L: Lanes>(self) -> Bf16Group<L> {
        Bf16Group(L::words(&[]))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bf16Group<L: Lanes>(L::Words);

impl<L: Lanes> Group<L> for Bf16Group<L> {
    #[inline(always)]
    fn next(&mut self) -> L {
        let weights;
        (weights, self.0) = L::bf16(self.0);
        weights
    }

    #[inline(always)]
    fn begin(&self, sum: L) -> L {
        sum
    }

    #[inline(always)]
    fn end(&self, products: L, _: L) -> L {
        products
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

    #[inline(always)]
    fn num_whole_groups(self) -> usize {
        self.blocks.len() / BLOCKS_PER_GROUP
    }

    #[inline(always)]
    unsafe fn whole<L: Lanes>(self, index: usize) -> Mxfp4Group<L> {
        let range = index * BLOCKS_PER_GROUP..(index + 1) * BLOCKS_PER_GROUP;
        // SAFETY: The caller promises a whole group, and `Mxfp4Rows::row` cut one scale a block.
        let (blocks, scales) =
            unsafe { (self.blocks.get_unchecked(range.clone()), self.scales.get_unchecked(range)) };
        L::prefetch(blocks.as_ptr().cast::<u8>().wrapping_add(PREFETCH));
        Mxfp4Group::new(blocks, scales)
    }

    #[inline(always)]
    fn rest<L: Lanes>(self) -> Mxfp4Group<L> {
        let start = self.num_whole_groups() * BLOCKS_PER_GROUP;
        Mxfp4Group::new(&self.blocks[start..], &self.scales[start..])
    }
}

#[derive(Clone, Copy)]
pub(super) struct Mxfp4Group<L: Lanes> {
    words: L::Words,
    scales: L,
}

impl<L: Lanes> Mxfp4Group<L> {
    #[inline(always)]
    fn new(blocks: &[[u8; BLOCK_BYTES]], scales: &[u8]) -> Self {
        // In a register: a copy of one to three bytes would be a call.
        let packed =
            scales.iter().rev().fold(0_u32, |packed, scale| packed << 8 | u32::from(*scale));
        Self { words: L::words(blocks.as_flattened()), scales: L::scales(packed.to_le_bytes()) }
    }
}

/// Scales multiply the sum of a group's products and not every weight: a product with a power of two is exact.
impl<L: Lanes> Group<L> for Mxfp4Group<L> {
    #[inline(always)]
    fn next(&mut self) -> L {
        let weights;
        (weights, self.words) = L::mxfp4(self.words);
        weights
    }

    #[inline(always)]
    fn begin(&self, _: L) -> L {
        L::zero()
    }

    #[inline(always)]
    fn end(&self, products: L, sum: L) -> L {
        products.fma(self.scales, sum)
    }
}

/// How many weight rows an output of this length asks for.
fn check<const V: usize>(num_cols: usize, out_len: usize, x: &Arranged<V>) -> usize {
    assert_eq!(num_cols, x.row_len, "weights and activations have one width");
    assert!(x.num_rows > 0 && out_len.is_multiple_of(x.num_rows), "the output is whole rows");
    out_len / x.num_rows
}

/// One product, `out` row-major with a row for each weight row.
pub(super) struct Product<'a, W, const V: usize> {
    pub(super) rows: W,
    pub(super) x: &'a Arranged<V>,
    pub(super) out: &'a mut [f32],
}

impl<W: Rows<V>, const V: usize> Kernel for Product<'_, W, V> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        for start in (0..self.x.num_rows).step_by(CACHED_ROWS) {
            let end = self.x.num_rows.min(start + CACHED_ROWS);
            let mut n = 0;
            // One activation row uses each weight once, so nothing is gained from several weight rows side by side,
            // and a single stream is what memory delivers best.
            let tile_rows = if end - start == 1 {
                1
            } else if L::MANY {
                4
            } else {
                2
            };
            // 16 sums, 4 partial ones and what unpacking needs fit 32 registers; the narrow tile fits 16.
            while tile_rows == 4 && n + 4 <= self.rows.len() {
                self.row_tiles::<L, 4, 4>(n, start, end);
                n += 4;
            }
            while tile_rows >= 2 && n + 2 <= self.rows.len() {
                self.row_tiles::<L, 2, 3>(n, start, end);
                n += 2;
            }
            while n < self.rows.len() {
                self.row_tiles::<L, 1, 3>(n, start, end);
                n += 1;
            }
        }
    }
}

// Loops by index and not over iterators or closures: what they become must be unrolled entirely, or sums go through
// memory; and a closure given to `array::map` would not be compiled for the instruction set.
#[allow(clippy::needless_range_loop, reason = "see above")]
impl<W: Rows<V>, const V: usize> Product<'_, W, V> {
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
        let weights: [W::Row; N] = std::array::from_fn(|index| self.rows.row(n + index));
        let num_whole_groups = weights[0].num_whole_groups();
        let x: [_; M] = std::array::from_fn(|index| self.x.row(m + index));
        let (whole, rest) = (x.map(|x| &x[..num_whole_groups]), x.map(|x| x.get(num_whole_groups)));
        let mut sums = [[L::zero(); M]; N];
        for group in 0..num_whole_groups {
            // SAFETY: All weight rows are of one matrix, so they have this many whole groups.
            let mut groups = [unsafe { weights[0].whole::<L>(group) }; N];
            for index in 1..N {
                // SAFETY: Likewise.
                groups[index] = unsafe { weights[index].whole(group) };
            }
            // SAFETY: All activation rows were cut to this many groups just above.
            add(groups, whole.map(|x| unsafe { x.get_unchecked(group) }), &mut sums);
        }
        if rest.iter().all(Option::is_some) {
            let mut groups = [weights[0].rest::<L>(); N];
            for index in 1..N {
                groups[index] = weights[index].rest();
            }
            add(groups, rest.map(|x| x.expect("just seen")), &mut sums);
        }
        for (index, sums) in sums.iter().enumerate() {
            let out = &mut self.out[(n + index) * self.x.num_rows + m..][..M];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum.sum();
            }
        }
    }
}

/// Adds the products of one group of `N` weight rows and `M` activation rows. Vector by vector, so that an
/// activation is in a register once for all weight rows and only for a moment.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "as for tiles")]
fn add<L: Lanes, G: Group<L>, const V: usize, const N: usize, const M: usize>(
    mut weights: [G; N],
    x: [&[[f32; LANES]; V]; M],
    sums: &mut [[L; M]; N],
) {
    let mut products = *sums;
    for n in 0..N {
        for m in 0..M {
            products[n][m] = weights[n].begin(sums[n][m]);
        }
    }
    for vector in 0..V {
        let mut loaded = [L::zero(); M];
        for m in 0..M {
            loaded[m] = L::load(&x[m][vector]);
        }
        for n in 0..N {
            let weights = weights[n].next();
            for m in 0..M {
                products[n][m] = weights.fma(loaded[m], products[n][m]);
            }
        }
    }
    for n in 0..N {
        for m in 0..M {
            sums[n][m] = weights[n].end(products[n][m], sums[n][m]);
        }
    }
}
