//! [`Lanes`] in one AVX-512 register. A table of sixteen float32 fits a register too, so an MXFP4 nibble becomes
//! its value in a single permute.

use std::arch::x86_64::*;

use super::{BLOCKS_PER_GROUP, Kernel, LANES, Lanes};
use crate::mxfp4::VALUES;

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
    const MANY: bool = true;
    type Words = __m512i;

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
    fn bf16(words: __m512i) -> (Self, __m512i) {
        // SAFETY: Registers only.
        unsafe {
            let halves = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
            (Self(halves), _mm512_srli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    fn mxfp4(words: __m512i) -> (Self, __m512i) {
        // SAFETY: The reference spans the 64 bytes read, and the load needs no alignment.
        unsafe {
            let table = _mm512_loadu_ps(VALUES.as_ptr());
            // The permute looks at the low four bits of each index only.
            (Self(_mm512_permutexvar_ps(words, table)), _mm512_srli_epi32::<4>(words))
        }
    }

    #[inline(always)]
    fn scales(from: [u8; BLOCKS_PER_GROUP]) -> Self {
        // SAFETY: Registers only.
        unsafe {
            let bytes = _mm512_set1_epi32(i32::from_le_bytes(from));
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
