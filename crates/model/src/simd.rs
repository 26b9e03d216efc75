//! Inner loops over stored weights and cached keys, written once for three instruction sets.
//!
//! [`Simd`] picks AVX-512, AVX2 or portable code when the program starts. All three run the same generic loops
//! over [`Lanes`], sixteen float32 at a time. This is the only module of the crate with SIMD `unsafe`; what it
//! exports is safe: lengths are asserted at the door, and an instruction set is used only after detection.
//!
//! Rule of order: the sum for one output and one activation row is taken in the same order whatever else
//! is computed beside it. Tiles change how often a weight is read, never a bit of a result.

#![allow(unsafe_code)]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod product;
#[cfg(test)]
mod tests;

pub(crate) use attention::{Attend, MAX_BLOCK_SIZE, Softmax};
pub use product::Paired;
use product::{Bf16Rows, GROUP, Mxfp4Rows, Product};

use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};

/// float32 lanes of one [`Lanes`] value.
pub(crate) const LANES: usize = 16;

/// Sixteen float32 in the registers of one instruction set.
///
/// A value may be made only while a function compiled for that instruction set runs: the dispatch below is the
/// only place that names the implementations, and it runs such functions after detection alone. All methods are
/// always inlined for the reason given at [`Kernel`].
trait Lanes: Copy {
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
    /// Thirty-two bf16: those at even and those at odd places.
    fn bf16(from: &[u8; 2 * GROUP]) -> [Self; 2];
    /// An MXFP4 block: weights at even and at odd places, times the scale.
    fn mxfp4(from: &[u8; GROUP / 2], scale: f32) -> [Self; 2];
    /// `self * factor + sum`.
    fn fma(self, factor: Self, sum: Self) -> Self;
    /// `self * factor`.
    fn mul(self, factor: Self) -> Self;
    /// The sum of all lanes, in an order of its own that never changes.
    fn sum(self) -> f32;
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
    pub(crate) fn bf16(self, weight: &Bf16Matrix, first: usize, x: &Paired, out: &mut [f32]) {
        let rows = Bf16Rows::new(weight, first, out.len(), x);
        self.run(Product { rows, x, out });
    }

    /// The same product with MXFP4 weights.
    pub(crate) fn mxfp4(self, weight: &Mxfp4Matrix, first: usize, x: &Paired, out: &mut [f32]) {
        let rows = Mxfp4Rows::new(weight, first, out.len(), x);
        self.run(Product { rows, x, out });
    }

    /// Takes one block of cached positions into the running attention of a group of query heads.
    pub(crate) fn attend(self, step: Attend<'_>) {
        self.run(step);
    }
}
