//! [`Lanes`] in one AVX2 register.

use std::arch::asm;
use std::arch::x86_64::*;

use super::mxfp4::power_places;
use super::{Kernel, LANES_PER_BLOCK, Lanes, PART_VECTORS};
use crate::mxfp4::{BLOCK_BYTES, DOUBLED, SIGNED};

const LANES: usize = 8;

/// Places of the scales of a step, as a shuffle within each half takes them.
static POWER_PLACES: [u8; 4 * LANES] = power_places();

#[derive(Clone, Copy)]
pub(super) struct Wide(__m256);

/// Runs a loop compiled for AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

/// Of [`Lanes::settled`]: assembly without an instruction that claims to change this register and all memory.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn settled(mut words: __m256i) -> __m256i {
    // SAFETY: It does nothing at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) words, options(nostack, preserves_flags)) };
    words
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
    fn bf16(words: __m256i) -> [Self; PART_VECTORS] {
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
    fn bf12(words: __m256i) -> [Self; PART_VECTORS] {
        // SAFETY: Registers only.
        unsafe {
            // The sign stays where it is, and exponent and mantissa come to their places four bits below.
            let kept = _mm256_set1_epi16(0x87ff_u16 as i16);
            Self::bf16(_mm256_and_si256(_mm256_srai_epi16::<4>(words), kept))
        }
    }

    #[inline(always)]
    fn bf12_fourth([a, b, c]: [__m256i; 3]) -> __m256i {
        // SAFETY: Registers only.
        unsafe {
            let lowest = |words| _mm256_and_si256(words, _mm256_set1_epi16(15));
            let (b, c) = (_mm256_slli_epi16::<8>(lowest(b)), _mm256_slli_epi16::<4>(lowest(c)));
            _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16::<12>(a), b), c)
        }
    }

    #[inline(always)]
    fn mxfp4(words: __m256i) -> [__m256i; 2] {
        // SAFETY: The reference spans the 16 bytes read, and the load needs no alignment.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(DOUBLED.as_ptr().cast()));
            let nibble = _mm256_set1_epi8(15);
            let even = _mm256_and_si256(words, nibble);
            let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(words), nibble);
            [_mm256_shuffle_epi8(table, even), _mm256_shuffle_epi8(table, odd)]
        }
    }

    #[inline(always)]
    fn powers(from: &[u8]) -> Self {
        let bytes = match from.first_chunk() {
            Some(from) => *from,
            None => super::packed::<LANES>(from),
        };
        // SAFETY: The reference spans the 32 bytes read, and the load needs no alignment.
        unsafe {
            let bytes = _mm256_set1_epi64x(i64::from_le_bytes(bytes));
            let places = _mm256_loadu_si256(POWER_PLACES.as_ptr().cast());
            let bits = _mm256_srli_epi32::<1>(_mm256_shuffle_epi8(bytes, places));
            // Byte 0 is the one power of two that float32 holds as a subnormal.
            let bits = _mm256_max_epi32(bits, _mm256_set1_epi32(1 << 22));
            let powers = _mm256_castsi256_ps(bits);
            // Byte 255 is infinite so far, and becomes the NaN that it is.
            Self(_mm256_fmadd_ps(powers, _mm256_setzero_ps(), powers))
        }
    }

    #[inline(always)]
    fn columns<'a>(row: impl Fn(usize) -> &'a [u8; BLOCK_BYTES]) -> [__m256i; LANES_PER_BLOCK] {
        // SAFETY: The references span the 16 bytes read, and the loads need no alignment.
        unsafe {
            let load = |lane: usize| _mm_loadu_si128(row(lane).as_ptr().cast());
            let two = |lane: usize| _mm256_set_m128i(load(lane + 4), load(lane));
            let (a, b, c, d) = (two(0), two(1), two(2), two(3));
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab_low, cd_low),
                _mm256_unpackhi_epi64(ab_low, cd_low),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    fn mxfp4_pairs(words: __m256i) -> [__m256i; 4] {
        // SAFETY: The reference spans the 16 bytes read, and the load needs no alignment.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(SIGNED.as_ptr().cast()));
            let nibble = _mm256_set1_epi8(15);
            let even = _mm256_shuffle_epi8(table, _mm256_and_si256(words, nibble));
            let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(words), nibble);
            let odd = _mm256_shuffle_epi8(table, odd);
            [
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(even)),
                _mm256_srai_epi16::<8>(even),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(odd)),
                _mm256_srai_epi16::<8>(odd),
            ]
        }
    }

    #[inline(always)]
    fn splat_words(word: i32) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_set1_epi32(word) }
    }

    #[inline(always)]
    fn no_words() -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn load_words(from: &[f32; LANES]) -> __m256i {
        // SAFETY: The reference spans the 32 bytes read, and the load needs no alignment.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_words(words: __m256i, to: &mut [f32; LANES]) {
        // SAFETY: The reference spans the 32 bytes written, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) }
    }

    #[inline(always)]
    fn dot<const FACTOR: i16>(weights: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
        // SAFETY: Registers only.
        unsafe {
            // Four products of at most 24 times 128 fit 16 bits.
            let even = _mm256_maddubs_epi16(weights[0], x[0]);
            let odd = _mm256_maddubs_epi16(weights[1], x[1]);
            _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(FACTOR))
        }
    }

    #[inline(always)]
    fn settled(words: __m256i) -> __m256i {
        // SAFETY: This processor has AVX2.
        unsafe { settled(words) }
    }

    #[inline(always)]
    fn plus(words: __m256i, others: __m256i) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_add_epi32(words, others) }
    }

    #[inline(always)]
    fn times_256(words: __m256i) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_slli_epi32::<8>(words) }
    }

    #[inline(always)]
    fn times_65536(words: __m256i) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_slli_epi32::<16>(words) }
    }

    #[inline(always)]
    fn add_pairs(weights: __m256i, x: __m256i, sums: __m256i) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_add_epi32(_mm256_madd_epi16(weights, x), sums) }
    }

    #[inline(always)]
    fn add_quads(weights: __m256i, x: __m256i, sums: __m256i) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_add_epi16(_mm256_maddubs_epi16(weights, x), sums) }
    }

    #[inline(always)]
    fn half_sums(words: __m256i) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_madd_epi16(words, _mm256_set1_epi16(1)) }
    }

    #[inline(always)]
    fn pair_sums(first: __m256i, second: __m256i) -> __m256i {
        // SAFETY: Registers only.
        unsafe { _mm256_hadd_epi32(first, second) }
    }

    #[inline(always)]
    fn floats(words: __m256i) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm256_cvtepi32_ps(words) })
    }

    #[inline(always)]
    fn computed(self) -> Self {
        // SAFETY: This processor has AVX2.
        Self(unsafe { _mm256_castsi256_ps(settled(_mm256_castps_si256(self.0))) })
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
