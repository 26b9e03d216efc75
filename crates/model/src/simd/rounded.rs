//! Activation rows as whole numbers, for products with MXFP4 weights.
//!
//! Each block of 32 is rounded to multiples of a step that its greatest magnitude decides. How the multiples lie in memory
//! depends on how many rows there are: [`super::planes`] for few, [`super::pairs`] for many, or [`super::quads`] if they are
//! bytes. Each order is the instruction set's own, as for [`super::Arranged`].

use super::arranged::{Line, lines};
use super::pairs::PairRow;
use super::quads::QuadRow;
use super::{Kernel, Lanes, MAX_LANES, Simd, pairs, planes, quads};
use crate::mxfp4::BLOCK;

/// Activation rows up to which each meets weights straight from the registers that they were unpacked to.
const FEW_ROWS: usize = 3;

/// How finely activations are rounded before they meet MXFP4 weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 23 bits and a sign for the greatest of a block: no further from the exact product than float32 is.
    #[default]
    Float32,
    /// 15 bits and a sign.
    Int16,
    /// 7 bits and a sign.
    Int8,
}

/// How the numbers of a row lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Planes of signed bytes.
    Planes,
    /// Pairs of 16 bits, the blocks in so many chains.
    Pairs {
        /// See [`pairs::in_chains`].
        chains: usize,
    },
    /// Words of four bytes, likewise.
    Quads {
        /// See [`pairs::in_chains`].
        chains: usize,
    },
}

/// Rounded activation rows.
pub struct Rounded {
    simd: Simd,
    precision: Precision,
    order: Order,
    num_rows: usize,
    row_len: usize,
    /// Numbers of 32 bits that a row takes.
    stride: usize,
    lines: Vec<Line>,
}

impl Rounded {
    /// Room for rows of `row_len` values, which is a multiple of 32; zeros until [`Self::rows_mut`] is filled.
    pub fn zeros(simd: Simd, precision: Precision, num_rows: usize, row_len: usize) -> Self {
        let chains = simd.lanes();
        let order = match precision {
            _ if num_rows <= FEW_ROWS => Order::Planes,
            Precision::Float32 | Precision::Int16 => Order::Pairs { chains },
            Precision::Int8 => Order::Quads { chains },
        };
        Self::in_order(simd, precision, order, num_rows, row_len)
    }

    fn in_order(
        simd: Simd,
        precision: Precision,
        order: Order,
        num_rows: usize,
        row_len: usize,
    ) -> Self {
        assert_eq!(row_len % BLOCK, 0, "config.rs checked that widths are multiples of a block");
        let stride = match order {
            Order::Planes => planes::row_len(row_len / BLOCK, precision),
            Order::Pairs { .. } => pairs::row_len(row_len / BLOCK, precision),
            Order::Quads { .. } => quads::row_len(row_len / BLOCK),
        };
        let stride = stride.next_multiple_of(MAX_LANES);
        Self { simd, precision, order, num_rows, row_len, stride, lines: lines(num_rows * stride) }
    }

    /// Rounds rows, each of `row_len` values.
    pub fn new<'a>(
        simd: Simd,
        precision: Precision,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
        row_len: usize,
    ) -> Self {
        let mut rounded = Self::zeros(simd, precision, rows.len(), row_len);
        for (to, from) in rounded.rows_mut().zip(rows) {
            to.fill(from);
        }
        rounded
    }

    /// The rows, each to be filled once.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = RoundedRowMut<'_>> {
        let Self { simd, precision, order, row_len, stride, .. } = *self;
        let values: &mut [f32] = bytemuck::cast_slice_mut(&mut self.lines);
        values.chunks_exact_mut(stride).map(move |values| RoundedRowMut {
            simd,
            precision,
            order,
            row_len,
            values,
        })
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

    /// How finely.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// How rows lie.
    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// One row of planes, register by register.
    #[inline(always)]
    pub(super) fn plane_row<L: Lanes>(&self, index: usize) -> &[L::Array] {
        L::arrays(self.values(index))
    }

    /// One row of pairs.
    #[inline(always)]
    pub(super) fn pair_row(&self, index: usize) -> PairRow<'_> {
        PairRow::new(self.values(index), self.row_len / BLOCK, self.precision)
    }

    /// One row of words of bytes.
    #[inline(always)]
    pub(super) fn quad_row(&self, index: usize) -> QuadRow<'_> {
        QuadRow::new(self.values(index), self.row_len / BLOCK)
    }

    #[inline(always)]
    fn values(&self, index: usize) -> &[f32] {
        let values: &[f32] = bytemuck::cast_slice(&self.lines);
        &values[index * self.stride..][..self.stride]
    }
}

/// One row of activations to be rounded.
pub struct RoundedRowMut<'a> {
    simd: Simd,
    precision: Precision,
    order: Order,
    row_len: usize,
    values: &'a mut [f32],
}

impl RoundedRowMut<'_> {
    /// Rounds a row.
    pub fn fill(self, from: &[f32]) {
        assert_eq!(from.len(), self.row_len);
        let Self { simd, precision, order, values: to, .. } = self;
        match precision {
            Precision::Float32 => simd.run(Round::<3> { from, precision, order, to }),
            Precision::Int16 => simd.run(Round::<2> { from, precision, order, to }),
            Precision::Int8 => simd.run(Round::<1> { from, precision, order, to }),
        }
    }
}

/// Rounds one row to numbers of so many bytes.
struct Round<'a, const BYTES: usize> {
    from: &'a [f32],
    precision: Precision,
    order: Order,
    to: &'a mut [f32],
}

impl<const BYTES: usize> Kernel for Round<'_, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        match self.order {
            Order::Planes => planes::fill::<L, BYTES>(self.from, self.to),
            Order::Pairs { chains } => {
                pairs::fill::<BYTES>(self.from, self.precision, chains, self.to);
            }
            Order::Quads { chains } => quads::fill(self.from, chains, self.to),
        }
    }
}

/// Bits of the whole part and the share of its range that is used, for numbers of so many bytes. The greatest is rounded to at most
/// `2^(bits + 1) / headroom`: 5,592,405 in three, so that a block's sum with weights up to 12 is below 2^31, and
/// 32,639 in two, the greatest number of two signed bytes.
const fn range<const BYTES: usize>() -> (i32, f64) {
    match BYTES {
        2 => (14, 1.00396),
        3 => (22, 1.5),
        _ => panic!("no precision has so many bytes"),
    }
}

/// A block in multiples of a step, and half that step: weights come doubled. The step is a power of two, but for numbers of
/// one byte, which have no bit to spare for that. A block that holds something infinite or no number gets a scale that is no
/// number, and so do the sums it enters.
#[inline(always)]
pub(super) fn round<const BYTES: usize>(block: &[f32; BLOCK]) -> ([i32; BLOCK], f32) {
    let mut greatest = 0;
    for value in block {
        greatest = greatest.max(value.to_bits() & i32::MAX as u32);
    }
    let greatest = f32::from_bits(greatest);
    if !greatest.is_finite() {
        return ([0; BLOCK], f32::NAN);
    }
    let (factor, half) = if BYTES == 1 { byte_steps(greatest) } else { steps::<BYTES>(greatest) };
    let mut rounded = [0; BLOCK];
    for (rounded, value) in rounded.iter_mut().zip(block) {
        // SAFETY: The greatest magnitude times the factor is below 2^23.
        *rounded = unsafe { (value * factor).round_ties_even().to_int_unchecked() };
    }
    (rounded, half)
}

/// How many steps there are to one, and half a step, where a step is a power of two.
#[inline(always)]
fn steps<const BYTES: usize>(greatest: f32) -> (f32, f32) {
    let (bits, headroom) = range::<BYTES>();
    let exponent = ((f64::from(greatest) * headroom).to_bits() >> 52) as i32 - 1023;
    // Half the power must be a normal number too: less than 2^-126 counts as nothing.
    let exponent = exponent.max(bits - 125);
    (power(bits - exponent), power(exponent - bits - 1))
}

/// The same where the greatest magnitude is 127 steps.
#[inline(always)]
fn byte_steps(greatest: f32) -> (f32, f32) {
    // Half of a step must be a normal number here, too.
    let greatest = greatest.max(256.0 * f32::MIN_POSITIVE);
    (127.0 / greatest, greatest / 254.0)
}

/// Two to this power, which is one of a normal number.
#[inline(always)]
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
