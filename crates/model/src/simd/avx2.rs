//! [`Lanes`] in two AVX2 registers. A permute looks up the magnitude of an MXFP4 nibble; its sign is put beside it.

use std::arch::x86_64::*;

use super::{BLOCKS_PER_GROUP, Kernel, LANES, Lanes};
use crate::mxfp4::{SCALES, VALUES};

#[derive(Clone, Copy)]
pub(super) struct Wide([__m256; 2]);

/// Runs a loop compiled for AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

// The processor has AVX2 and FMA wherever these methods run, by the rule at `Lanes`: each SAFETY line relies on
// it and adds only what is said of memory.
impl Lanes for Wide {
    const MANY: bool = false;
    type Words = [__m256i; 2];

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
    fn words(from: &[u8]) -> [__m256i; 2] {
        let filled;
        let from = match from.first_chunk::<64>() {
            Some(from) => from,
            None => {
                filled = super::filled(from);
                &filled
            }
        };
        // SAFETY: The reference spans both halves of the 64 bytes read, and the loads need no alignment.
        unsafe {
            [
                _mm256_loadu_si256(from.as_ptr().cast()),
                _mm256_loadu_si256(from.as_ptr().add(32).cast()),
            ]
        }
    }

    #[inline(always)]
    fn bf16([low, high]: [__m256i; 2]) -> (Self, [__m256i; 2]) {
        // SAFETY: Registers only.
        unsafe {
            let halves = [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ];
            (Self(halves), [_mm256_srli_epi32::<16>(low), _mm256_srli_epi32::<16>(high)])
        }
    }

    #[inline(always)]
    fn mxfp4(mut words: [__m256i; 2]) -> (Self, [__m256i; 2]) {
        // SAFETY: The first half of the table spans the 32 bytes read, and the load needs no alignment.
        unsafe {
            let magnitudes = _mm256_loadu_ps(VALUES.as_ptr());
            let sign = _mm256_set1_ps(-0.0);
            let mut values = [_mm256_setzero_ps(); 2];
            for (value, words) in values.iter_mut().zip(&mut words) {
                // The permute looks at the low three bits of each index only; the fourth is the sign.
                let magnitude = _mm256_permutevar8x32_ps(magnitudes, *words);
                let negative = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(*words));
                *value = _mm256_or_ps(magnitude, _mm256_and_ps(negative, sign));
                *words = _mm256_srli_epi32::<4>(*words);
            }
            (Self(values), words)
        }
    }

    #[inline(always)]
    fn scales(from: [u8; BLOCKS_PER_GROUP]) -> Self {
        // SAFETY: Registers only.
        unsafe {
            let [a, b, c, d] = from;
            let [a, b, c, d] = [
                _mm_set1_ps(SCALES[usize::from(a)]),
                _mm_set1_ps(SCALES[usize::from(b)]),
                _mm_set1_ps(SCALES[usize::from(c)]),
                _mm_set1_ps(SCALES[usize::from(d)]),
            ];
            Self([_mm256_set_m128(b, a), _mm256_set_m128(d, c)])
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
    fn prefetch(at: *const u8) {
        // SAFETY: A prefetch reads nothing that the program could see, and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
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
