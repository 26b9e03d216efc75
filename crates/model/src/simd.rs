//! Inner loops over stored weights and cached keys, written once for three instruction sets.
//!
//! [`Simd`] picks AVX-512, AVX2 or portable code when the program starts. All three run the same generic loops
//! over [`Lanes`], a register of float32 at a time. This is the only module of the crate with SIMD `unsafe`; what it
//! exports is safe: lengths are asserted at the door, and an instruction set is used only after detection.
//!
//! Rule of order: the sum for one output and one activation row is taken in the same order whatever else
//! is computed beside it. Tiles and panels change how often a weight is read, never a bit of a result.

#![allow(unsafe_code)]

use std::fmt;

mod arranged;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf12;
mod interleaved;
mod low_rank;
mod mxfp4;
mod pairs;
mod panel;
mod planes;
mod portable;
mod product;
mod quads;
mod rounded;
mod rows;
#[cfg(test)]
mod tests;

pub use arranged::Arranged;
pub(crate) use arranged::RowMut;
pub(crate) use attention::{Attend, MAX_BLOCK_SIZE, Softmax};
pub use bf12::Bf12Matrix;
use bf12::Bf12Rows;
use low_rank::AddLowRank;
use mxfp4::Mxfp4Product;
use product::Product;
pub(crate) use rounded::RoundedRowMut;
pub use rounded::{Precision, Rounded};
use rows::Bf16Rows;

use crate::adapter::LowRank;
use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};
use crate::mxfp4::BLOCK_BYTES;

/// Vectors that a register of bf16 weights unpacks to.
pub(crate) const PART_VECTORS: usize = 2;
/// Lanes that a register of MXFP4 weights has for each of its blocks.
const LANES_PER_BLOCK: usize = BLOCK_BYTES / 4;
/// Such registers in a step, which has as many blocks as there are lanes: groups.
const GROUPS: usize = 4;
/// Most lanes of any instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// As many float32 as a register of one instruction set holds.
///
/// A value may be made only while a function compiled for that instruction set runs: the dispatch below is the
/// only place that names the implementations, and it runs such functions after detection alone. All methods are
/// always inlined for the reason given at [`Kernel`].
trait Lanes: Copy {
    /// The same numbers in memory.
    type Array: Copy;
    /// As many 32-bit words of stored weights.
    type Words: Copy;
    /// How many numbers: a multiple of [`LANES_PER_BLOCK`] that divides [`MAX_LANES`].
    const LANES: usize;
    /// Numbers in memory, a register at a time.
    fn arrays(from: &[f32]) -> &[Self::Array];
    /// Likewise, to be written.
    fn arrays_mut(from: &mut [f32]) -> &mut [Self::Array];
    /// All lanes zero.
    fn zero() -> Self;
    /// All lanes this value.
    fn splat(value: f32) -> Self;
    /// Numbers from memory.
    fn load(from: &Self::Array) -> Self;
    /// Numbers to memory.
    fn store(self, to: &mut Self::Array);
    /// At most four bytes a lane; zeros in place of those that lack.
    fn words(from: &[u8]) -> Self::Words;
    /// A group of bf16 weights. Lane `l` of vector `v` has the one at place `2 l + v` of the group.
    fn bf16(words: Self::Words) -> [Self; PART_VECTORS];
    /// bf12 weights before they are scaled, of which each half of a word has one in its upper twelve bits. They are placed
    /// as bf16 is.
    fn bf12(words: Self::Words) -> [Self; PART_VECTORS];
    /// The weights whose twelve bits are the lowest four of each half of three words, uppermost first, placed for
    /// [`Self::bf12`].
    fn bf12_fourth(words: [Self::Words; 3]) -> Self::Words;
    /// MXFP4 weights, twice their value and greater by [`planes::OFFSET`], as bytes: those at even and those at odd
    /// places of the row, in order.
    fn mxfp4(words: Self::Words) -> [Self::Words; 2];
    /// The scales of the MXFP4 blocks of a step in the lanes that [`mxfp4::block_of_lane`] says; any number for blocks
    /// that lack.
    fn powers(from: &[u8]) -> Self;
    /// In lane `l`, of each stored MXFP4 block `row(l)`, the words in order.
    fn columns<'a>(row: impl Fn(usize) -> &'a [u8; BLOCK_BYTES]) -> [Self::Words; LANES_PER_BLOCK];
    /// MXFP4 weights, twice their value, as pairs of 16 bits with a sign: those that [`pairs::places`] says of a word.
    fn mxfp4_pairs(words: Self::Words) -> [Self::Words; 4];
    /// All words zero.
    fn no_words() -> Self::Words;
    /// All words this one.
    fn splat_words(word: i32) -> Self::Words;
    /// Words from memory for numbers.
    fn load_words(from: &Self::Array) -> Self::Words;
    /// Words to memory for numbers.
    fn store_words(words: Self::Words, to: &mut Self::Array);
    /// In each lane the sum of the products of both registers' four bytes, weights from 0 to 24 without sign and
    /// activations with one, times `FACTOR`.
    fn dot<const FACTOR: i16>(weights: [Self::Words; 2], x: [Self::Words; 2]) -> Self::Words;
    /// The same words. Where registers are few, the compiler must have computed them by here: left to itself it begins
    /// with many groups at once, and most of their parts go through memory.
    fn settled(words: Self::Words) -> Self::Words;
    /// The sums of words as whole numbers, modulo 2^32.
    fn plus(words: Self::Words, others: Self::Words) -> Self::Words;
    /// Words as whole numbers times 256, modulo 2^32.
    fn times_256(words: Self::Words) -> Self::Words;
    /// Words as whole numbers times 65,536, modulo 2^32.
    fn times_65536(words: Self::Words) -> Self::Words;
    /// To each sum the products of both 16-bit numbers with a sign that a lane has, modulo 2^32.
    fn add_pairs(weights: Self::Words, x: Self::Words, sums: Self::Words) -> Self::Words;
    /// To the 16-bit numbers of each sum the products of bytes, weights without sign and activations with one, neighbours
    /// together.
    fn add_quads(weights: Self::Words, x: Self::Words, sums: Self::Words) -> Self::Words;
    /// In each lane the sum of its two 16-bit numbers with a sign.
    fn half_sums(words: Self::Words) -> Self::Words;
    /// In each four lanes the sums of neighbours, two of the first register's, then two of the second's.
    fn pair_sums(first: Self::Words, second: Self::Words) -> Self::Words;
    /// Whole numbers with a sign, rounded to float32.
    fn floats(words: Self::Words) -> Self;
    /// The same numbers, for the reason given at [`Lanes::settled`].
    fn computed(self) -> Self;
    /// `self * factor + sum`.
    fn fma(self, factor: Self, sum: Self) -> Self;
    /// `self * factor`.
    fn mul(self, factor: Self) -> Self;
    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// Asks for the cache line at an address, which may be anywhere.
    fn prefetch(at: *const u8);
    /// The sum of all lanes: the second half is added to the first, then the second half of what is left, down to one.
    fn sum(self) -> f32;
}

/// As many bytes as are asked for, of which those that lack are zeros.
fn filled<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut filled = [0; N];
    filled[..from.len()].copy_from_slice(from);
    filled
}

/// Likewise of at most 16, in registers: a copy of a few bytes would be a call.
#[inline(always)]
fn packed<const N: usize>(from: &[u8]) -> [u8; N] {
    let packed = from.iter().rev().fold(0_u128, |packed, byte| packed << 8 | u128::from(*byte));
    *packed.to_le_bytes().first_chunk().expect("at most 16 bytes are asked for")
}

/// The instruction set in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    /// AVX-512F with byte and word instructions (BW).
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    /// Plain Rust.
    Portable,
}

/// Proof that detection succeeded: only [`Simd::supported`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected(());

/// A loop that can be compiled for any instruction set. Its `run` and all it calls are always inlined, so that
/// they become part of a function that may use that set's instructions.
trait Kernel {
    /// What the loop answers.
    type Output;
    /// The loop.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// Says how many lanes there are.
struct NumLanes;

impl Kernel for NumLanes {
    type Output = usize;

    fn run<L: Lanes>(self) -> usize {
        L::LANES
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "AVX2",
            Self::Portable => "portable SIMD",
        })
    }
}

impl Simd {
    /// The best this processor has.
    pub fn detect() -> Self {
        Self::supported()[0]
    }

    /// Everything this processor has, best first; never empty.
    pub fn supported() -> Vec<Self> {
        let mut supported = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                supported.push(Self::Avx512(Detected(())));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                supported.push(Self::Avx2(Detected(())));
            }
        }
        supported.push(Self::Portable);
        supported
    }

    /// Whether bf12 is unpacked about as quickly as memory gives it. Plain Rust takes four times as long as for bf16.
    pub(crate) fn unpacks_bf12(self) -> bool {
        self != Self::Portable
    }

    /// Lanes of a register.
    fn lanes(self) -> usize {
        self.run(NumLanes)
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Detected` proves that this processor has AVX-512F and BW.
            Self::Avx512(_) => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Detected` proves that this processor has AVX2 and FMA.
            Self::Avx2(_) => unsafe { avx2::run(kernel) },
            Self::Portable => kernel.run::<portable::Wide>(),
        }
    }

    /// `out[n][m] = sum over k of weight[first + n][k] * x[m][k]` for as many weight rows `n` as `out` has room for,
    /// by the instruction set that the activations were arranged for.
    pub(crate) fn bf16(weight: &Bf16Matrix, first: usize, x: &Arranged, out: &mut [f32]) {
        let rows = Bf16Rows::new(weight, first, out.len(), x);
        x.simd().run(Product { rows, x, out });
    }

    /// The same product with bf12 weights.
    pub(crate) fn bf12(weight: &Bf12Matrix, first: usize, x: &Arranged, out: &mut [f32]) {
        let rows = Bf12Rows::new(weight, first, out.len(), x);
        x.simd().run(Product { rows, x, out });
    }

    /// The same product with MXFP4 weights and rounded activations.
    pub(crate) fn mxfp4(weight: &Mxfp4Matrix, first: usize, x: &Rounded, out: &mut [f32]) {
        match x.precision() {
            Precision::Float32 => x.simd().run(Mxfp4Product::<3>::new(weight, first, x, out)),
            Precision::Int16 => x.simd().run(Mxfp4Product::<2>::new(weight, first, x, out)),
            Precision::Int8 => x.simd().run(Mxfp4Product::<1>::new(weight, first, x, out)),
        }
    }

    /// Adds to `y` what a change of its product makes of `x`.
    pub(crate) fn add_low_rank(self, low_rank: &LowRank, x: &[f32], y: &mut [f32]) {
        self.run(AddLowRank { low_rank, x, y });
    }

    /// Takes one block of cached positions into the running attention of a group of query heads.
    pub(crate) fn attend(self, step: Attend<'_>) {
        self.run(step);
    }
}
