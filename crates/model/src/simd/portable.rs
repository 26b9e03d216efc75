//! [`Lanes`] in plain Rust, for every other processor, and what the other two are tested against.

use super::mxfp4::block_of_lane;
use super::{BF16_VECTORS, Lanes, MAX_LANES};
use crate::mxfp4::{DOUBLED, SCALES};

/// As many lanes as the widest registers have.
const LANES: usize = MAX_LANES;

#[derive(Clone, Copy)]
pub(super) struct Wide([f32; LANES]);

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
    fn bf16(words: [u32; LANES]) -> [Self; BF16_VECTORS] {
        [words.map(|word| word << 16), words.map(|word| word & 0xffff_0000)]
            .map(|bits| Self(bits.map(f32::from_bits)))
    }

    #[inline(always)]
    fn mxfp4(words: [u32; LANES]) -> [[u32; LANES]; 2] {
        let doubled = |shift: u32| {
            words.map(|word| {
                let bytes = (word >> shift).to_le_bytes();
                u32::from_le_bytes(bytes.map(|byte| DOUBLED[usize::from(byte & 15)]))
            })
        };
        [doubled(0), doubled(4)]
    }

    #[inline(always)]
    fn powers(from: &[u8]) -> Self {
        Self(std::array::from_fn(|lane| {
            from.get(block_of_lane(lane, LANES)).map_or(0.0, |scale| SCALES[usize::from(*scale)])
        }))
    }

    #[inline(always)]
    fn no_words() -> [u32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn load_words(from: &[f32; LANES]) -> [u32; LANES] {
        bytemuck::cast(*from)
    }

    #[inline(always)]
    fn store_words(words: [u32; LANES], to: &mut [f32; LANES]) {
        *to = bytemuck::cast(words);
    }

    #[inline(always)]
    fn dot<const FACTOR: i16>(weights: [[u32; LANES]; 2], x: [[u32; LANES]; 2]) -> [u32; LANES] {
        let sum = |weights: u32, x: u32| -> i32 {
            let pairs = weights.to_le_bytes().into_iter().zip(x.to_le_bytes());
            pairs.map(|(weight, x)| i32::from(weight) * i32::from(x as i8)).sum()
        };
        std::array::from_fn(|lane| {
            let sum = sum(weights[0][lane], x[0][lane]) + sum(weights[1][lane], x[1][lane]);
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
