//! Activation rows as whole numbers, for products with MXFP4 weights.
//!
//! Each block of 32 is rounded to multiples of a power of two that its greatest magnitude decides, and the multiples
//! are cut into signed bytes, lowest first: their planes. The order is the instruction set's own, as for
//! [`super::Arranged`].

use super::arranged::{Line, lines};
use super::{GROUPS, Kernel, LANES_PER_BLOCK, Lanes, MAX_LANES, Simd};
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// How finely activations are rounded before they meet MXFP4 weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 23 bits and a sign for the greatest of a block: no further from the exact product than float32 is.
    #[default]
    Float32,
    /// 15 bits and a sign.
    Int16,
}

impl Precision {
    /// Bytes of a rounded value.
    pub(super) fn planes(self) -> usize {
        match self {
            Self::Float32 => 3,
            Self::Int16 => 2,
        }
    }
}

/// Registers of a step of activations with so many planes: for each group and plane one of the values at even places and
/// one at odd ones, then the scales and the corrections of all blocks.
pub(super) const fn step_registers(planes: usize) -> usize {
    GROUPS * planes * 2 + 2
}

/// What weights are greater by than they are, so that they are no less than zero.
pub(super) const OFFSET: i32 = 12;

/// Rounded activation rows.
pub struct Rounded {
    simd: Simd,
    precision: Precision,
    num_rows: usize,
    row_len: usize,
    /// Numbers of 32 bits that a row takes.
    stride: usize,
    lines: Vec<Line>,
}

impl Rounded {
    /// Room for rows of `row_len` values, which is a multiple of 32; zeros until [`Self::rows_mut`] is filled.
    pub fn zeros(simd: Simd, precision: Precision, num_rows: usize, row_len: usize) -> Self {
        assert_eq!(row_len % BLOCK, 0, "config.rs checked that widths are multiples of a block");
        // Whole steps of every instruction set: each has a step of as many blocks as it has lanes.
        let num_blocks = (row_len / BLOCK).next_multiple_of(MAX_LANES);
        let stride = num_blocks * step_registers(precision.planes());
        Self { simd, precision, num_rows, row_len, stride, lines: lines(num_rows * stride) }
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
        let Self { simd, precision, row_len, stride, .. } = *self;
        let values: &mut [f32] = bytemuck::cast_slice_mut(&mut self.lines);
        values.chunks_exact_mut(stride).map(move |values| RoundedRowMut {
            simd,
            precision,
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

    /// The registers of one row, step by step.
    #[inline(always)]
    pub(super) fn row<L: Lanes>(&self, index: usize) -> &[L::Array] {
        let values: &[f32] = bytemuck::cast_slice(&self.lines);
        L::arrays(&values[index * self.stride..][..self.stride])
    }
}

/// One row of activations to be rounded.
pub struct RoundedRowMut<'a> {
    simd: Simd,
    precision: Precision,
    row_len: usize,
    values: &'a mut [f32],
}

impl RoundedRowMut<'_> {
    /// Rounds a row.
    pub fn fill(self, from: &[f32]) {
        assert_eq!(from.len(), self.row_len);
        match self.precision {
            Precision::Float32 => self.simd.run(Round::<3> { from, to: self.values }),
            Precision::Int16 => self.simd.run(Round::<2> { from, to: self.values }),
        }
    }
}

/// Rounds one row to `P` planes.
struct Round<'a, const P: usize> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl<const P: usize> Kernel for Round<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let steps = self.to.chunks_exact_mut(step_registers(P) * L::LANES);
        for (from, to) in self.from.chunks(L::LANES * BLOCK).zip(steps) {
            let (planes, to) = to.split_at_mut(GROUPS * P * 2 * L::LANES);
            let (planes, _) =
                bytemuck::cast_slice_mut::<f32, i8>(planes).as_chunks_mut::<BLOCK_BYTES>();
            let (scales, corrections) = to.split_at_mut(L::LANES);
            let corrections: &mut [i32] = bytemuck::cast_slice_mut(corrections);
            let blocks_per_group = L::LANES / LANES_PER_BLOCK;
            let (blocks, _) = from.as_chunks::<BLOCK>();
            for (index, block) in blocks.iter().enumerate() {
                let (group, within) = (index / blocks_per_group, index % blocks_per_group);
                let lane = within * GROUPS + group;
                let (mut rounded, scale) = round::<P>(block);
                scales[lane] = scale;
                corrections[lane] = -OFFSET * rounded.iter().sum::<i32>();
                for plane in 0..P {
                    let at = (group * P + plane) * 2 * blocks_per_group + within;
                    for place in 0..BLOCK_BYTES {
                        planes[at][place] = rounded[2 * place] as i8;
                        planes[at + blocks_per_group][place] = rounded[2 * place + 1] as i8;
                    }
                    for value in &mut rounded {
                        *value = (*value - i32::from(*value as i8)) >> 8;
                    }
                }
            }
        }
    }
}

/// Bits of the whole part and the share of its range that is used, for `P` planes. The greatest is rounded to at most
/// `2^(bits + 1) / headroom`: 5,592,405 in three planes, so that a block's sum with weights up to 12 is below 2^31, and
/// 32,639 in two, the greatest number of two signed bytes.
const fn range<const P: usize>() -> (i32, f64) {
    match P {
        2 => (14, 1.00396),
        3 => (22, 1.5),
        _ => panic!("no precision has so many planes"),
    }
}

/// A block in multiples of a power of two, and half that power: weights come doubled. A block that holds something
/// infinite or no number gets a scale that is no number, and so do the sums it enters.
#[inline(always)]
fn round<const P: usize>(block: &[f32; BLOCK]) -> ([i32; BLOCK], f32) {
    const { range::<P>() };
    let (bits, headroom) = range::<P>();
    let mut greatest = 0;
    for value in block {
        greatest = greatest.max(value.to_bits() & i32::MAX as u32);
    }
    let greatest = f32::from_bits(greatest);
    if !greatest.is_finite() {
        return ([0; BLOCK], f32::NAN);
    }
    let exponent = ((f64::from(greatest) * headroom).to_bits() >> 52) as i32 - 1023;
    // Half the power must be a normal number too: less than 2^-126 counts as nothing.
    let exponent = exponent.max(bits - 125);
    let factor = power(bits - exponent);
    let mut rounded = [0; BLOCK];
    for (rounded, value) in rounded.iter_mut().zip(block) {
        // SAFETY: The greatest magnitude times the factor is below 2^23.
        *rounded = unsafe { (value * factor).round_ties_even().to_int_unchecked() };
    }
    (rounded, power(exponent - bits - 1))
}

/// Two to this power, which is one of a normal number.
#[inline(always)]
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
