//! [`Lanes`] in plain Rust, for every other processor, and what the other two are tested against.

use super::mxfp4::block_of_lane;
use super::{LANES_PER_BLOCK, Lanes, MAX_LANES, PART_VECTORS};
use crate::mxfp4::{BLOCK_BYTES, SCALES};

/// As many lanes as the widest registers have.
const LANES: usize = MAX_LANES;

#[derive(Clone, Copy)]
pub(super) struct Wide([f32; LANES]);

/// [`crate::mxfp4::DOUBLED`] of the lower halves of a word's bytes. Without memory, so that all words of a register are
/// taken at once: twice a magnitude is its index, and from the fifth on steps are greater than one.
#[inline(always)]
fn doubled(word: u32) -> u32 {
    const ONES: u32 = 0x0101_0101;
    let index = word & (7 * ONES);
    let from = |start: u32| (index + (8 - start) * ONES) >> 3 & ONES;
    let doubled = index + from(5) + from(6) + 3 * from(7);
    let negative = (word >> 3 & ONES) * 255;
    12 * ONES + doubled - 2 * (doubled & negative)
}

/// The sum of the products of a word's bytes, the second ones with a sign.
#[inline(always)]
fn products(weights: u32, x: u32) -> i32 {
    let product = |at: u32| (weights >> at & 255) as i32 * ((x << (24 - at)) as i32 >> 24);
    product(0) + product(8) + (product(16) + product(24))
}

impl Lanes for Wide {
    type Array = [f32; LANES];
    type Words = [u32; LANES];
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
        Self([0.0; LANES])
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn words(from: &[u8]) -> [u32; LANES] {
        let filled = super::filled::<{ 4 * LANES }>(from);
        let (words, _) = filled.as_chunks();
        std::array::from_fn(|lane| u32::from_le_bytes(words[lane]))
    }

    #[inline(always)]
    fn bf16(words: [u32; LANES]) -> [Self; PART_VECTORS] {
        [words.map(|word| word << 16), words.map(|word| word & 0xffff_0000)]
            .map(|bits| Self(bits.map(f32::from_bits)))
    }

    #[inline(always)]
    fn bf12(words: [u32; LANES]) -> [Self; PART_VECTORS] {
        // The sign stays where it is, and exponent and mantissa come to their places four bits below.
        let upper = |word: u32| f32::from_bits((word as i32 >> 4) as u32 & 0x87ff_0000);
        [Self(words.map(|word| upper(word << 16))), Self(words.map(upper))]
    }

    #[inline(always)]
    fn bf12_fourth([a, b, c]: [[u32; LANES]; 3]) -> [u32; LANES] {
        let lowest = |word: u32| word & 0x000f_000f;
        std::array::from_fn(|lane| {
            lowest(a[lane]) << 12 | lowest(b[lane]) << 8 | lowest(c[lane]) << 4
        })
    }

    #[inline(always)]
    fn mxfp4(words: [u32; LANES]) -> [[u32; LANES]; 2] {
        [words.map(doubled), words.map(|word| doubled(word >> 4))]
    }

    #[inline(always)]
    fn powers(from: &[u8]) -> Self {
        Self(std::array::from_fn(|lane| {
            from.get(block_of_lane(lane, LANES)).map_or(0.0, |scale| SCALES[usize::from(*scale)])
        }))
    }

    #[inline(always)]
    fn columns<'a>(
        row: impl Fn(usize) -> &'a [u8; BLOCK_BYTES],
    ) -> [[u32; LANES]; LANES_PER_BLOCK] {
        let word = |lane: usize, word: usize| row(lane).as_chunks().0[word];
        std::array::from_fn(|index| {
            std::array::from_fn(|lane| u32::from_le_bytes(word(lane, index)))
        })
    }

    #[inline(always)]
    fn mxfp4_pairs(words: [u32; LANES]) -> [[u32; LANES]; 4] {
        // Bytes 0 and 2 less 12, as 16 bits each: the sign is turned, so that neither borrows.
        let pair = |bytes: u32| ((bytes & 0x00ff_00ff) + 0x7ff4_7ff4) ^ 0x8000_8000;
        let [even, odd] = Self::mxfp4(words);
        [even, even.map(|bytes| bytes >> 8), odd, odd.map(|bytes| bytes >> 8)]
            .map(|words| words.map(pair))
    }

    #[inline(always)]
    fn splat_words(word: i32) -> [u32; LANES] {
        [word as u32; LANES]
    }

    #[inline(always)]
    fn no_words() -> [u32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn load_words(from: &[f32; LANES]) -> [u32; LANES] {
        from.map(f32::to_bits)
    }

    #[inline(always)]
    fn store_words(words: [u32; LANES], to: &mut [f32; LANES]) {
        *to = words.map(f32::from_bits);
    }

    #[inline(always)]
    fn dot<const FACTOR: i16>(weights: [[u32; LANES]; 2], x: [[u32; LANES]; 2]) -> [u32; LANES] {
        std::array::from_fn(|lane| {
            let sum =
                products(weights[0][lane], x[0][lane]) + products(weights[1][lane], x[1][lane]);
            (sum * i32::from(FACTOR)) as u32
        })
    }

    #[inline(always)]
    fn settled(words: [u32; LANES]) -> [u32; LANES] {
        words
    }

    #[inline(always)]
    fn plus(words: [u32; LANES], others: [u32; LANES]) -> [u32; LANES] {
        std::array::from_fn(|lane| words[lane].wrapping_add(others[lane]))
    }

    #[inline(always)]
    fn times_256(words: [u32; LANES]) -> [u32; LANES] {
        words.map(|word| word << 8)
    }

    #[inline(always)]
    fn times_65536(words: [u32; LANES]) -> [u32; LANES] {
        words.map(|word| word << 16)
    }

    #[inline(always)]
    fn add_pairs(weights: [u32; LANES], x: [u32; LANES], sums: [u32; LANES]) -> [u32; LANES] {
        std::array::from_fn(|lane| {
            let lower = i32::from(weights[lane] as i16) * i32::from(x[lane] as i16);
            let upper = (weights[lane] as i32 >> 16) * (x[lane] as i32 >> 16);
            sums[lane].wrapping_add(lower.wrapping_add(upper) as u32)
        })
    }

    #[inline(always)]
    fn add_quads(weights: [u32; LANES], x: [u32; LANES], sums: [u32; LANES]) -> [u32; LANES] {
        std::array::from_fn(|lane| {
            let (weights, x) = (weights[lane].to_le_bytes(), x[lane].to_le_bytes());
            let product = |place: usize| i16::from(weights[place]) * i16::from(x[place] as i8);
            let lower = (sums[lane] as i16).wrapping_add(product(0)).wrapping_add(product(1));
            let upper = (sums[lane] >> 16) as i16;
            let upper = upper.wrapping_add(product(2)).wrapping_add(product(3));
            u32::from(lower as u16) | u32::from(upper as u16) << 16
        })
    }

    #[inline(always)]
    fn half_sums(words: [u32; LANES]) -> [u32; LANES] {
        words.map(|word| (i32::from(word as i16) + (word as i32 >> 16)) as u32)
    }

    #[inline(always)]
    fn pair_sums(first: [u32; LANES], second: [u32; LANES]) -> [u32; LANES] {
        std::array::from_fn(|lane| {
            let from = if lane % 4 < 2 { &first } else { &second };
            let pair = lane / 4 * 4 + lane % 2 * 2;
            from[pair].wrapping_add(from[pair + 1])
        })
    }

    #[inline(always)]
    fn floats(words: [u32; LANES]) -> Self {
        Self(words.map(|word| word as i32 as f32))
    }

    #[inline(always)]
    fn computed(self) -> Self {
        self
    }

    #[inline(always)]
    fn fma(self, factor: Self, sum: Self) -> Self {
        // Not `mul_add`: without the instruction that is a slow call.
        Self(std::array::from_fn(|index| self.0[index] * factor.0[index] + sum.0[index]))
    }

    #[inline(always)]
    fn mul(self, factor: Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index] * factor.0[index]))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index] + other.0[index]))
    }

    #[inline(always)]
    fn prefetch(_: *const u8) {}

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for index in 0..half {
                lanes[index] += lanes[index + half];
            }
        }
        lanes[0]
    }
}
