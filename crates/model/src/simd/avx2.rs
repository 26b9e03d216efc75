//! [`Lanes`] in two AVX2 registers. A byte shuffle turns MXFP4 nibbles into small integers, twice their value;
//! the other half goes into the scale.

use std::arch::x86_64::*;

use super::{GROUP, Kernel, LANES, Lanes};
use crate::mxfp4::VALUES;

#[derive(Clone, Copy)]
pub(super) struct Wide([__m256; 2]);

/// Twice the value of each nibble.
static DOUBLED: [i8; 16] = doubled();

const fn doubled() -> [i8; 16] {
    let mut table = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        table[nibble] = (2.0 * VALUES[nibble]) as i8;
        nibble += 1;
    }
    table
}

/// Runs a loop compiled for AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

// The processor has AVX2 and FMA wherever these methods run, by the rule at `Lanes`: each SAFETY line relies on
// it and adds only what is said of memory.
impl Lanes for Wide {
    const MANY: bool = false;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: Registers only.
        Self([unsafe { _mm256_setzero_ps() }; 2])
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: Registers only.
        Self([unsafe { _mm256_set1_ps(value) }; 2])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: The reference spans both halves of the 64 bytes read, and the loads need no alignment.
        Self(unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: The reference spans both halves of the 64 bytes written; the stores need no alignment.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), self.0[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), self.0[1]);
        }
    }

    #[inline(always)]
    fn bf16(from: &[u8; 2 * GROUP]) -> [Self; 2] {
        // SAFETY: The reference spans both halves of the 64 bytes read, and the loads need no alignment.
        unsafe {
            let mask = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let low = _mm256_loadu_si256(from.as_ptr().cast());
            let high = _mm256_loadu_si256(from.as_ptr().add(32).cast());
            let even = [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ];
            let odd = [
                _mm256_castsi256_ps(_mm256_and_si256(low, mask)),
                _mm256_castsi256_ps(_mm256_and_si256(high, mask)),
            ];
            [Self(even), Self(odd)]
        }
    }

    #[inline(always)]
    fn mxfp4(from: &[u8; GROUP / 2], scale: f32) -> [Self; 2] {
        // SAFETY: The references span the 16 bytes that each load reads; the loads need no alignment.
        unsafe {
            let table = _mm_loadu_si128(DOUBLED.as_ptr().cast());
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let low_nibble = _mm_set1_epi8(15);
            let scale = _mm256_set1_ps(0.5 * scale);
            let even = _mm_shuffle_epi8(table, _mm_and_si128(bytes, low_nibble));
            let odd = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low_nibble);
            let odd = _mm_shuffle_epi8(table, odd);
            [Self::scaled(even, scale), Self::scaled(odd, scale)]
        }
    }

    #[inline(always)]
    fn fma(self, factor: Self, sum: Self) -> Self {
        // SAFETY: Registers only.
        unsafe {
            Self([
                _mm256_fmadd_ps(self.0[0], factor.0[0], sum.0[0]),
                _mm256_fmadd_ps(self.0[1], factor.0[1], sum.0[1]),
            ])
        }
    }

    #[inline(always)]
    fn mul(self, factor: Self) -> Self {
        // SAFETY: Registers only.
        unsafe {
            Self([_mm256_mul_ps(self.0[0], factor.0[0]), _mm256_mul_ps(self.0[1], factor.0[1])])
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: Registers only.
        unsafe {
            let eight = _mm256_add_ps(self.0[0], self.0[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

impl Wide {
    /// Sixteen small integers times the scale.
    #[inline(always)]
    fn scaled(integers: __m128i, scale: __m256) -> Self {
        // SAFETY: Registers only.
        unsafe {
            let low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(integers));
            let high = _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(integers));
            let high = _mm256_cvtepi32_ps(high);
            Self([_mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale)])
        }
    }
}
