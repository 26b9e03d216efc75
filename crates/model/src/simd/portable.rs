//! [`Lanes`] in plain Rust, for every other processor, and what the other two are tested against.

use super::{BF16_VECTORS, LANES_PER_BLOCK, Lanes, MAX_LANES, MXFP4_VECTORS};
use crate::mxfp4::{SCALES, VALUES};

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
    fn mxfp4(words: [u32; LANES]) -> [Self; MXFP4_VECTORS] {
        std::array::from_fn(|vector| {
            Self(words.map(|word| VALUES[(word >> (4 * vector) & 15) as usize]))
        })
    }

    #[inline(always)]
    fn mxfp4_place(vector: usize, lane: usize) -> usize {
        MXFP4_VECTORS * lane + vector
    }

    #[inline(always)]
    fn scales(from: &[u8]) -> Self {
        Self(std::array::from_fn(|lane| {
            from.get(lane / LANES_PER_BLOCK).map_or(0.0, |scale| SCALES[usize::from(*scale)])
        }))
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
