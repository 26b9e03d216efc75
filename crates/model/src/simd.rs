//! Inner loops over stored weights and cached keys, written once for three instruction sets.
//!
//! [`Simd`] picks AVX-512, AVX2 or portable code when the program starts. All three run the same generic loops
//! over [`Lanes`], sixteen float32 at a time. This is the only module of the crate with SIMD `unsafe`; what it
//! exports is safe: lengths are asserted at the door, and an instruction set is used only after detection.
//!
//! Rule of order: the sum for one output and one activation row is taken in the same order whatever else
//! is computed beside it. Tiles change how often a weight is read, never a bit of a result.

#![allow(unsafe_code)]

use std::fmt;

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod low_rank;
mod portable;
mod product;
#[cfg(test)]
mod tests;

pub(crate) use attention::{Attend, MAX_BLOCK_SIZE, Softmax};
use low_rank::AddLowRank;
pub use product::Arranged;
pub(crate) use product::{BF16_VECTORS, MXFP4_VECTORS};
use product::{BLOCKS_PER_GROUP, Bf16Rows, Mxfp4Rows, Product};

use crate::adapter::LowRank;
use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};

/// float32 lanes of one [`Lanes`] value.
pub(crate) const LANES: usize = 16;

/// Sixteen float32 in the registers of one instruction set.
///
/// A value may be made only while a function compiled for that instruction set runs: the dispatch below is the
/// only place that names the implementations, and it runs such functions after detection alone. All methods are
/// always inlined for the reason given at [`Kernel`].
trait Lanes: Copy {
    /// Sixteen 32-bit words of stored weights.
    type Words: Copy;
    /// Whether there are 32 registers of this size, or only half as many.
    const MANY: bool;
    /// All lanes zero.
    fn zero() -> Self;
    /// All lanes this value.
    fn splat(value: f32) -> Self;
    /// Sixteen numbers from memory.
    fn load(from: &[f32; LANES]) -> Self;
    /// Sixteen numbers to memory.
    fn store(self, to: &mut [f32; LANES]);
    /// At most 64 bytes; zeros in place of those that lack.
    fn words(from: &[u8]) -> Self::Words;
    /// Each word's lower half as bf16, and the words shifted to the other.
    fn bf16(words: Self::Words) -> (Self, Self::Words);
    /// The value of each word's lowest MXFP4 nibble without its scale, and the words shifted to the next nibble.
    fn mxfp4(words: Self::Words) -> (Self, Self::Words);
    /// The scales of four MXFP4 blocks, each in the four lanes of its block. The format's NaN may come out as
    /// infinite.
    fn scales(from: [u8; BLOCKS_PER_GROUP]) -> Self;
    /// `self * factor + sum`.
    fn fma(self, factor: Self, sum: Self) -> Self;
    /// `self * factor`.
    fn mul(self, factor: Self) -> Self;
    /// Asks for the cache line at an address, which may be anywhere.
    fn prefetch(at: *const u8);
    /// The sum of all lanes, in an order of its own that never changes.
    fn sum(self) -> f32;
}

/// 64 bytes, of which those that lack are zeros.
fn filled(from: &[u8]) -> [u8; 64] {
    let mut filled = [0; 64];
    filled[..from.len()].copy_from_slice(from);
    filled
}

/// The instruction set in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    /// AVX-512F.
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
            if is_x86_feature_detected!("avx512f") {
                supported.push(Self::Avx512(Detected(())));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                supported.push(Self::Avx2(Detected(())));
            }
        }
        supported.push(Self::Portable);
        supported
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Detected` proves that this processor has AVX-512F.
            Self::Avx512(_) => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Detected` proves that this processor has AVX2 and FMA.
            Self::Avx2(_) => unsafe { avx2::run(kernel) },
            Self::Portable => kernel.run::<portable::Wide>(),
        }
    }

    /// `out[n][m] = sum over k of weight[first + n][k] * x[m][k]` for as many weight rows `n` as `out` has room for.
    pub(crate) fn bf16(
        self,
        weight: &Bf16Matrix,
        first: usize,
        x: &Arranged<BF16_VECTORS>,
        out: &mut [f32],
    ) {
        let rows = Bf16Rows::new(weight, first, out.len(), x);
        self.run(Product { rows, x, out });
    }

    /// The same product with MXFP4 weights.
    pub(crate) fn mxfp4(
        self,
        weight: &Mxfp4Matrix,
        first: usize,
        x: &Arranged<MXFP4_VECTORS>,
        out: &mut [f32],
    ) {
        let rows = Mxfp4Rows::new(weight, first, out.len(), x);
        self.run(Product { rows, x, out });
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
