//! [`Lanes`] in one AVX-512 register.

use std::arch::x86_64::*;

use super::mxfp4::power_places;
use super::{Kernel, LANES_PER_BLOCK, Lanes, PART_VECTORS};
use crate::mxfp4::{BLOCK_BYTES, DOUBLED, SIGNED};

const LANES: usize = 16;

/// Places of the scales of a step, as a shuffle within each quarter takes them.
static POWER_PLACES: [u8; 4 * LANES] = power_places();

#[derive(Clone, Copy)]
pub(super) struct Wide(__m512);

/// Runs a loop compiled for AVX-512F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide>()
}

// The processor has AVX-512F and BW wherever these methods run, by the rule at `Lanes`: each SAFETY line relies on it
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
    fn bf16(words: __m512i) -> [Self; PART_VECTORS] {
        // SAFETY: Registers only.
        unsafe {
            let upper = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_slli_epi32::<16>(words), upper].map(|bits| Self(_mm512_castsi512_ps(bits)))
        }
    }

    #[inline(always)]
    fn bf12(words: __m512i) -> [Self; PART_VECTORS] {
        // SAFETY: Registers only.
        unsafe {
            // The sign stays where it is, and exponent and mantissa come to their places four bits below.
            let kept = _mm512_set1_epi16(0x87ff_u16 as i16);
            Self::bf16(_mm512_and_si512(_mm512_srai_epi16::<4>(words), kept))
        }
    }

    #[inline(always)]
    fn bf12_fourth([a, b, c]: [__m512i; 3]) -> __m512i {
        // SAFETY: Registers only.
        unsafe {
            let lowest = |words| _mm512_and_si512(words, _mm512_set1_epi16(15));
            let (b, c) = (_mm512_slli_epi16::<8>(lowest(b)), _mm512_slli_epi16::<4>(lowest(c)));
            _mm512_or_si512(_mm512_or_si512(_mm512_slli_epi16::<12>(a), b), c)
        }
    }

    #[inline(always)]
    fn mxfp4(words: __m512i) -> [__m512i; 2] {
        // SAFETY: The reference spans the 16 bytes read, and the load needs no alignment.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(DOUBLED.as_ptr().cast()));
            let nibble = _mm512_set1_epi8(15);
            let even = _mm512_and_si512(words, nibble);
            let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(words), nibble);
            [_mm512_shuffle_epi8(table, even), _mm512_shuffle_epi8(table, odd)]
        }
    }

    #[inline(always)]
    fn powers(from: &[u8]) -> Self {
        let bytes = match from.first_chunk() {
            Some(from) => *from,
            None => super::packed::<LANES>(from),
        };
        // SAFETY: The references span the 16 and 64 bytes read, and the loads need no alignment.
        unsafe {
            let bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.as_ptr().cast()));
            let places = _mm512_loadu_si512(POWER_PLACES.as_ptr().cast());
            let bits = _mm512_srli_epi32::<1>(_mm512_shuffle_epi8(bytes, places));
            // Byte 0 is the one power of two that float32 holds as a subnormal.
            let bits = _mm512_max_epi32(bits, _mm512_set1_epi32(1 << 22));
            let powers = _mm512_castsi512_ps(bits);
            // Byte 255 is infinite so far, and becomes the NaN that it is.
            Self(_mm512_fmadd_ps(powers, _mm512_setzero_ps(), powers))
        }
    }

    #[inline(always)]
    fn columns<'a>(row: impl Fn(usize) -> &'a [u8; BLOCK_BYTES]) -> [__m512i; LANES_PER_BLOCK] {
        // SAFETY: The references span the 16 bytes read, and the loads need no alignment.
        unsafe {
            let load = |lane: usize| _mm_loadu_si128(row(lane).as_ptr().cast());
            let four = |lane: usize| {
                let first = _mm512_castsi128_si512(load(lane));
                let second = _mm512_inserti32x4::<1>(first, load(lane + 4));
                let third = _mm512_inserti32x4::<2>(second, load(lane + 8));
                _mm512_inserti32x4::<3>(third, load(lane + 12))
            };
            let (a, b, c, d) = (four(0), four(1), four(2), four(3));
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    fn mxfp4_pairs(words: __m512i) -> [__m512i; 4] {
        // SAFETY: The reference spans the 16 bytes read, and the load needs no alignment.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(SIGNED.as_ptr().cast()));
            let nibble = _mm512_set1_epi8(15);
            let even = _mm512_shuffle_epi8(table, _mm512_and_si512(words, nibble));
            let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(words), nibble);
            let odd = _mm512_shuffle_epi8(table, odd);
            [
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(even)),
                _mm512_srai_epi16::<8>(even),
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(odd)),
                _mm512_srai_epi16::<8>(odd),
            ]
        }
    }

    #[inline(always)]
    fn splat_words(word: i32) -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_set1_epi32(word) }
    }

    #[inline(always)]
    fn no_words() -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn load_words(from: &[f32; LANES]) -> __m512i {
        // SAFETY: The reference spans the 64 bytes read, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_words(words: __m512i, to: &mut [f32; LANES]) {
        // SAFETY: The reference spans the 64 bytes written, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) }
    }

    #[inline(always)]
    fn dot<const FACTOR: i16>(weights: [__m512i; 2], x: [__m512i; 2]) -> __m512i {
        // SAFETY: Registers only.
        unsafe {
            // Four products of at most 24 times 128 fit 16 bits.
            let even = _mm512_maddubs_epi16(weights[0], x[0]);
            let odd = _mm512_maddubs_epi16(weights[1], x[1]);
            _mm512_madd_epi16(_mm512_add_epi16(even, odd), _mm512_set1_epi16(FACTOR))
        }
    }

    #[inline(always)]
    fn settled(words: __m512i) -> __m512i {
        words
    }

    #[inline(always)]
    fn plus(words: __m512i, others: __m512i) -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_add_epi32(words, others) }
    }

    #[inline(always)]
    fn times_256(words: __m512i) -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_slli_epi32::<8>(words) }
    }

    #[inline(always)]
    fn times_65536(words: __m512i) -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_slli_epi32::<16>(words) }
    }

    #[inline(always)]
    fn add_pairs(weights: __m512i, x: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_add_epi32(_mm512_madd_epi16(weights, x), sums) }
    }

    #[inline(always)]
    fn add_quads(weights: __m512i, x: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_add_epi16(_mm512_maddubs_epi16(weights, x), sums) }
    }

    #[inline(always)]
    fn half_sums(words: __m512i) -> __m512i {
        // SAFETY: Registers only.
        unsafe { _mm512_madd_epi16(words, _mm512_set1_epi16(1)) }
    }

    #[inline(always)]
    fn pair_sums(first: __m512i, second: __m512i) -> __m512i {
        // SAFETY: Registers only.
        unsafe {
            let (first, second) = (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second));
            let even = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(first, second));
            let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(first, second));
            _mm512_add_epi32(even, odd)
        }
    }

    #[inline(always)]
    fn floats(words: __m512i) -> Self {
        // SAFETY: Registers only.
        Self(unsafe { _mm512_cvtepi32_ps(words) })
    }

    #[inline(always)]
    fn computed(self) -> Self {
        self
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
        unsafe {
            let upper = _mm512_castps_pd(self.0);
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(upper));
            let eight = _mm256_add_ps(_mm512_castps512_ps256(self.0), upper);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
