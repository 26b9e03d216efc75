//! [`Lanes`] in one AVX2 register.
//!
//! The value of an MXFP4 nibble is exact in bf16, so two byte shuffles look up its halves, 32 nibbles at a time. What
//! follows is as for bf16: two weights in each word.

use std::arch::x86_64::*;

use super::{BF16_VECTORS, Kernel, Lanes, MXFP4_VECTORS};
use crate::mxfp4::{SCALES, VALUES};

const LANES: usize = 8;

/// The upper and the lower bytes of [`VALUES`] in bf16, for both halves of a register.
static TABLES: [[u8; 32]; 2] = [table(24), table(16)];

const fn table(shift: u32) -> [u8; 32] {
    let mut table = [0; 32];
    let mut index = 0;
    while index < 32 {
        table[index] = (VALUES[index % 16].to_bits() >> shift) as u8;
        index += 1;
    }
    table
}

#[derive(Clone, Copy)]
pub(super) struct Wide(__m256);

/// Runs a loop compiled for AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

// The processor has AVX2 and FMA wherever these methods run, by the rule at `Lanes`: each SAFETY line relies on
// it and adds only what is said of memory.
impl Lanes for Wide {
    type Array = [f32; LANES];
    type Words = __m256i;
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
        Self(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: The reference spans the 32 bytes read, and the load needs no alignment.
        Self(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: The reference spans the 32 bytes written, and the store needs no alignment.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn words(from: &[u8]) -> __m256i {
        let filled;
        let from = match from.first_chunk() {
            Some(from) => from,
            None => {
                filled = super::filled::<{ 4 * LANES }>(from);
                &filled
            }
        };
        // SAFETY: The reference spans the 32 bytes read, and the load needs no alignment.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn bf16(words: __m256i) -> [Self; BF16_VECTORS] {
        // SAFETY: Registers only.
        unsafe {
            let upper = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            [
                Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))),
                Self(_mm256_castsi256_ps(upper)),
            ]
        }
    }

    #[inline(always)]
    fn mxfp4(words: __m256i) -> [Self; MXFP4_VECTORS] {
        // SAFETY: The references span the 32 bytes read of each table; the loads need no alignment.
        unsafe {
            let upper = _mm256_loadu_si256(TABLES[0].as_ptr().cast());
            let lower = _mm256_loadu_si256(TABLES[1].as_ptr().cast());
            let nibble = _mm256_set1_epi8(15);
            let first = _mm256_and_si256(words, nibble);
            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(words), nibble);
            // Weights `2b` and `2b + 1` of all bytes `b`, as bytes in the order of `b`.
            let (first_upper, first_lower) =
                (_mm256_shuffle_epi8(upper, first), _mm256_shuffle_epi8(lower, first));
            let (second_upper, second_lower) =
                (_mm256_shuffle_epi8(upper, second), _mm256_shuffle_epi8(lower, second));
            let [a, c] = Self::bf16(_mm256_unpacklo_epi8(first_lower, first_upper));
            let [b, d] = Self::bf16(_mm256_unpacklo_epi8(second_lower, second_upper));
            let [e, g] = Self::bf16(_mm256_unpackhi_epi8(first_lower, first_upper));
            let [f, h] = Self::bf16(_mm256_unpackhi_epi8(second_lower, second_upper));
            [a, b, c, d, e, f, g, h]
        }
    }

    /// Each half of the register has its own block; a lane of the first four vectors has four neighbours of its
    /// first half, of the others four of the second.
    #[inline(always)]
    fn mxfp4_place(vector: usize, lane: usize) -> usize {
        lane / 4 * 32 + vector / 4 * 16 + lane % 4 * 4 + vector % 4
    }

    #[inline(always)]
    fn scales(from: &[u8]) -> Self {
        let scale = |block: usize| SCALES[usize::from(from.get(block).copied().unwrap_or(0))];
        // SAFETY: Registers only.
        Self(unsafe { _mm256_set_m128(_mm_set1_ps(scale(1)), _mm_set1_ps(scale(0))) })
    }

    #[inline(always)]
    fn fma(self, factor: Self, sum: Self) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    fn mul(self, factor: Self) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm256_mul_ps(self.0, factor.0) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
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
            let four =
                _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
