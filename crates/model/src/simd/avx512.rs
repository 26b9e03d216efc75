//! [`Lanes`] in one AVX-512 register. A table of sixteen float32 fits a register too, so an MXFP4 nibble becomes
//! its value in a single permute: vector `v` has nibble `v` of each word.

use std::arch::x86_64::*;

use super::{BF16_VECTORS, Kernel, Lanes, MXFP4_VECTORS};
use crate::mxfp4::VALUES;

const LANES: usize = 16;

#[derive(Clone, Copy)]
pub(super) struct Wide(__m512);

/// Runs a loop compiled for AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

// The processor has AVX-512F wherever these methods run, by the rule at `Lanes`: each SAFETY line relies on it
// and adds only what is said of memory.
impl Lanes for Wide {
    type Array = [f32; LANES];
    type Words = __m512i;
    const LANES: usize = LANES;

    #[inline(always)]
    fn arrays(from: &[f32]) -> &[[f32; LANES]] {
        from.as_chunks().0
    }

    #[inline(always)]
    fn arrays_mut(from: &mut [f32]) -> &mut [[f32; LANES]] {
        from.as_chunks_mut().0
    }

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: The reference spans the 64 bytes read, and the load needs no alignment.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: The reference spans the 64 bytes written, and the store needs no alignment.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn words(from: &[u8]) -> __m512i {
        if let Some(from) = from.first_chunk::<64>() {
            // SAFETY: The reference spans the 64 bytes read, and the load needs no alignment.
            return unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
        }
        let num_words = from.len() / 4;
        // SAFETY: The mask is of the words that the slice holds; masked-out words are not read.
        unsafe { _mm512_maskz_loadu_epi32((1 << num_words) - 1, from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn bf16(words: __m512i) -> [Self; BF16_VECTORS] {
        // SAFETY: Registers only.
        unsafe {
            let upper = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_slli_epi32::<16>(words), upper].map(|bits| Self(_mm512_castsi512_ps(bits)))
        }
    }

    #[inline(always)]
    fn mxfp4(mut words: __m512i) -> [Self; MXFP4_VECTORS] {
        let mut weights = [Self::zero(); MXFP4_VECTORS];
        for weights in &mut weights {
            // SAFETY: The reference spans the 64 bytes read, and the load needs no alignment.
            unsafe {
                let table = _mm512_loadu_ps(VALUES.as_ptr());
                // The permute looks at the low four bits of each index only.
                *weights = Self(_mm512_permutexvar_ps(words, table));
                words = _mm512_srli_epi32::<4>(words);
            }
        }
        weights
    }

    #[inline(always)]
    fn mxfp4_place(vector: usize, lane: usize) -> usize {
        MXFP4_VECTORS * lane + vector
    }

    #[inline(always)]
    fn scales(from: &[u8]) -> Self {
        // In a register: a copy of one to three bytes would be a call.
        let packed = from.iter().rev().fold(0_u32, |packed, scale| packed << 8 | u32::from(*scale));
        // SAFETY: Registers only.
        unsafe {
            let bytes = _mm512_set1_epi32(packed as i32);
            // Each lane's byte to the top, then all else cut off and the exponent put into its place.
            let to_top = _mm512_set_epi32(0, 0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 24);
            let top = _mm512_srli_epi32::<24>(_mm512_sllv_epi32(bytes, to_top));
            let bits = _mm512_slli_epi32::<23>(top);
            // Byte 0 is the one power of two that float32 holds as a subnormal.
            Self(_mm512_castsi512_ps(_mm512_max_epi32(bits, _mm512_set1_epi32(1 << 22))))
        }
    }

    #[inline(always)]
    fn fma(self, factor: Self, sum: Self) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    fn mul(self, factor: Self) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm512_mul_ps(self.0, factor.0) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: A prefetch reads nothing that the program could see, and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: Registers only.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
}
