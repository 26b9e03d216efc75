//! Dense weights as bf12: bf16 with four bits of the exponent, and a power of two that neighbours share.
//!
//! Decoding is bound by the bytes of weights, and bf16 spends half of its bits on exponents that hardly differ. The
//! weights of a group have the exponent of the greatest in common: down to 2^-14 of its power each keeps all its bits,
//! and what is smaller is rounded to multiples of 2^-21 of it, the way subnormal numbers are. Sums in float32 err by more.
//!
//! A group is what four registers of bf16 hold. Three registers hold the twelve bits of three of them in the upper bits of
//! each half of a word, and in the lowest four bits, nibble by nibble from the uppermost, those of the fourth. So a group
//! unpacks to the order of bf16, which is the instruction set's own.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::rows::{DenseRow, DenseRows, PREFETCH};
use super::{Arranged, Kernel, Lanes, MAX_LANES, PART_VECTORS, Simd};
use crate::checkpoint::bytes::Bytes;
use crate::checkpoint::weights::Bf16Matrix;
use crate::error::Result;

/// Registers that hold a group.
const REGISTERS: usize = 3;
/// Registers of bf16 that it is made of.
pub(super) const PARTS: usize = REGISTERS + 1;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Rows that one thread rounds at a time.
const ROWS_PER_TASK: usize = 16;
/// The least and the greatest exponent of a group, as float32 has it, for which its scale and the inverse are normal
/// numbers. The greatest means weights below 2^15.
const EXPONENTS: [u32; 2] = [16, 141];
/// The greatest exponent of a rounded weight.
const MOST: u32 = 15;

/// A matrix of bf12.
pub struct Bf12Matrix {
    simd: Simd,
    num_rows: usize,
    num_cols: usize,
    /// Groups row by row.
    words: Bytes,
    /// For each group what its weights are to be multiplied with, by the exponent.
    scales: Bytes,
}

/// Weights of a group with so many lanes.
const fn group_len(lanes: usize) -> usize {
    PARTS * PART_VECTORS * lanes
}

impl Bf12Matrix {
    /// Rounds a matrix, on the threads of the pool it is called in. `None` if it holds weights of 2^15 or more, or
    /// something that is no number. Fails if there is no memory for it.
    pub fn new(simd: Simd, weight: &Bf16Matrix) -> Result<Option<Self>> {
        let Bf16Matrix { num_rows, num_cols, .. } = *weight;
        let num_groups = num_cols.div_ceil(group_len(simd.lanes()));
        let row_words = num_groups * REGISTERS * simd.lanes();
        let fits = AtomicBool::new(true);
        let mut scales = vec![0; num_rows * num_groups];
        let words = Bytes::filled(num_rows * row_words * size_of::<u32>(), |words| {
            let words: &mut [u32] = bytemuck::cast_slice_mut(words);
            let words = words.par_chunks_mut(ROWS_PER_TASK * row_words);
            let scales = scales.par_chunks_mut(ROWS_PER_TASK * num_groups);
            words.zip(scales).enumerate().for_each(|(task, (words, scales))| {
                let row = |index| weight.row_bytes(task * ROWS_PER_TASK + index);
                let rows =
                    words.chunks_exact_mut(row_words).zip(scales.chunks_exact_mut(num_groups));
                for (index, (words, scales)) in rows.enumerate() {
                    if !simd.run(RoundRow { from: row(index), words, scales }) {
                        fits.store(false, Ordering::Relaxed);
                    }
                }
            });
        })?;
        let fits = fits.into_inner();
        Ok(fits.then(|| Self { simd, num_rows, num_cols, words, scales: scales.into() }))
    }

    /// Bytes of a weight with its share of a scale.
    pub fn weight_bytes(simd: Simd) -> f64 {
        let lanes = simd.lanes();
        (REGISTERS * lanes * size_of::<u32>() + 1) as f64 / group_len(lanes) as f64
    }

    /// How many outputs a product has.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// How many inputs a product has.
    pub fn num_cols(&self) -> usize {
        self.num_cols
    }
}

/// Rounds a row of bf16. Says whether all of it could be.
struct RoundRow<'a> {
    from: &'a [u8],
    words: &'a mut [u32],
    scales: &'a mut [u8],
}

impl Kernel for RoundRow<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<L: Lanes>(self) -> bool {
        let Self { from, words, scales } = self;
        let groups = from.chunks(size_of::<u16>() * group_len(L::LANES));
        let mut fits = true;
        for ((from, words), scale) in
            groups.zip(words.chunks_exact_mut(REGISTERS * L::LANES)).zip(scales)
        {
            // What lacks in the last group is zeros.
            let mut bits = [0; group_len(MAX_LANES)];
            for (bits, pair) in bits.iter_mut().zip(from.as_chunks().0) {
                *bits = u32::from(u16::from_le_bytes(*pair)) << 16;
            }
            let bits = &mut bits[..group_len(L::LANES)];
            let exponent = bits.iter().fold(0, |most, bits| most.max(bits << 1 >> 24));
            fits &= exponent <= EXPONENTS[1];
            let exponent = exponent.clamp(EXPONENTS[0], EXPONENTS[1]);
            *scale = (exponent - MOST + 127) as u8;
            round(bits, f32::from_bits((127 + MOST - exponent) << 23));
            pack(bits, L::LANES, words);
        }
        fits
    }
}

/// Float32 as the lower twelve bits: the sign, four bits of the exponent and seven of the mantissa after a
/// multiplication that leaves no greater exponent than [`MOST`].
#[inline(always)]
fn round(bits: &mut [u32], factor: f32) {
    for bits in bits {
        let scaled = (f32::from_bits(*bits) * factor).to_bits();
        // To the nearest, to even ones on a tie. Only what became subnormal has bits to lose.
        let upper = (scaled + 0x7fff + (scaled >> 16 & 1)) >> 16;
        *bits = upper & 0x7ff | upper >> 4 & 0x800;
    }
}

/// Twelve bits each into the words of a group.
#[inline(always)]
fn pack(values: &[u32], lanes: usize, words: &mut [u32]) {
    let pair = |place: usize| values[2 * place] | values[2 * place + 1] << 16;
    for lane in 0..lanes {
        let fourth = pair(REGISTERS * lanes + lane);
        for register in 0..REGISTERS {
            let nibbles = fourth >> (8 - 4 * register) & 0x000f_000f;
            words[register * lanes + lane] = pair(register * lanes + lane) << 4 | nibbles;
        }
    }
}

/// Rows of such a matrix.
pub(super) struct Bf12Rows<'a> {
    num_rows: usize,
    num_groups: usize,
    words: &'a [u8],
    scales: &'a [u8],
}

impl<'a> Bf12Rows<'a> {
    pub(super) fn new(weight: &'a Bf12Matrix, first: usize, out_len: usize, x: &Arranged) -> Self {
        assert_eq!(weight.num_cols, x.row_len(), "weights and activations have one width");
        assert_eq!(weight.simd, x.simd(), "weights and activations have one order");
        let num_rows = x.outputs_of(out_len);
        let lanes = x.simd().lanes();
        let num_groups = weight.num_cols.div_ceil(group_len(lanes));
        let row_bytes = num_groups * REGISTERS * lanes * size_of::<u32>();
        Self {
            num_rows,
            num_groups,
            words: &weight.words[first * row_bytes..][..num_rows * row_bytes],
            scales: &weight.scales[first * num_groups..][..num_rows * num_groups],
        }
    }
}

impl<'a> DenseRows for Bf12Rows<'a> {
    type Row = Bf12Row<'a>;

    fn len(&self) -> usize {
        self.num_rows
    }

    #[inline(always)]
    fn row(&self, index: usize) -> Bf12Row<'a> {
        let row_bytes = self.words.len() / self.num_rows;
        Bf12Row {
            words: &self.words[index * row_bytes..][..row_bytes],
            scales: &self.scales[index * self.num_groups..][..self.num_groups],
        }
    }
}

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Bf12Row<'a> {
    words: &'a [u8],
    scales: &'a [u8],
}

/// A group of one.
#[derive(Clone, Copy)]
pub(super) struct Bf12Group<'a, L> {
    words: &'a [u8],
    scale: L,
}

impl<'a> DenseRow for Bf12Row<'a> {
    const PARTS: usize = PARTS;
    type Group<L: Lanes> = Bf12Group<'a, L>;

    #[inline(always)]
    fn num_whole_groups<L: Lanes>(self) -> usize {
        self.scales.len()
    }

    #[inline(always)]
    unsafe fn whole<L: Lanes>(self, index: usize) -> Bf12Group<'a, L> {
        let group = REGISTERS * 4 * L::LANES;
        // SAFETY: The caller promises that there are so many groups; a row has words and a scale of each.
        let (words, scale) = unsafe {
            let words = self.words.get_unchecked(index * group..(index + 1) * group);
            (words, *self.scales.get_unchecked(index))
        };
        Bf12Group { words, scale: L::splat(f32::from_bits(u32::from(scale) << 23)) }
    }

    #[inline(always)]
    fn rest<L: Lanes>(self) -> Bf12Group<'a, L> {
        unreachable!("all groups are whole")
    }

    #[inline(always)]
    fn part<L: Lanes>(group: Bf12Group<'a, L>, part: usize) -> [L; PART_VECTORS] {
        let words =
            |register: usize| L::words(&group.words[register * 4 * L::LANES..][..4 * L::LANES]);
        let words = match part {
            REGISTERS => L::bf12_fourth([words(0), words(1), words(2)]),
            _ => words(part),
        };
        L::bf12(words).map(|weights| weights.mul(group.scale))
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, index: usize) {
        let group = REGISTERS * 4 * L::LANES;
        let ahead = self.words.as_ptr().wrapping_add(index * group + PREFETCH);
        for line in 0..group.div_ceil(LINE_BYTES) {
            L::prefetch(ahead.wrapping_add(line * LINE_BYTES));
        }
    }
}
