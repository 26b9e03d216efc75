//! [`Lanes`] in one AVX-512 register. A table of sixteen float32 fits a register too, so an MXFP4 nibble becomes
//! its scaled value in a single permute.

use std::arch::x86_64::*;

use super::{GROUP, Kernel, LANES, Lanes};
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
    fn bf16(from: &[u8; 2 * GROUP]) -> [Self; 2] {
        // SAFETY: The reference spans the 64 bytes read, and the load needs no alignment.
        unsafe {
            let words = _mm512_loadu_si512(from.as_ptr().cast());
            let odd = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            let even = _mm512_slli_epi32::<16>(words);
            [Self(_mm512_castsi512_ps(even)), Self(_mm512_castsi512_ps(odd))]
        }
    }

    #[inline(always)]
    fn mxfp4(from: &[u8; GROUP / 2], scale: f32) -> [Self; 2] {
        // SAFETY: The references span the 16 and 64 bytes read, and the loads need no alignment.
        unsafe {
            let table = _mm512_mul_ps(_mm512_loadu_ps(VALUES.as_ptr()), _mm512_set1_ps(scale));
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            // The permute looks at the low four bits of each index only.
            let even = _mm512_permutexvar_ps(bytes, table);
            let odd = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), table);
            [Self(even), Self(odd)]
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
    fn sum(self) -> f32 {
        // SAFETY: Registers only.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
}
