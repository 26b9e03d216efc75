//! [`Lanes`] in plain Rust, for every other processor, and what the other two are tested against.

use super::{BLOCKS_PER_GROUP, LANES, Lanes};
use crate::mxfp4::{SCALES, VALUES};

#[derive(Clone, Copy)]
pub(super) struct Wide([f32; LANES]);

impl Lanes for Wide {
    const MANY: bool = false;
    type Words = [u32; LANES];

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
        let filled = super::filled(from);
        let (words, _) = filled.as_chunks();
        std::array::from_fn(|lane| u32::from_le_bytes(words[lane]))
    }

    #[inline(always)]
    fn bf16(words: [u32; LANES]) -> (Self, [u32; LANES]) {
        (Self(words.map(|word| f32::from_bits(word << 16))), words.map(|word| word >> 16))
    }

    #[inline(always)]
    fn mxfp4(words: [u32; LANES]) -> (Self, [u32; LANES]) {
        let values = words.map(|word| VALUES[(word & 15) as usize]);
        (Self(values), words.map(|word| word >> 4))
    }

    #[inline(always)]
    fn scales(from: [u8; BLOCKS_PER_GROUP]) -> Self {
        Self(std::array::from_fn(|lane| SCALES[usize::from(from[lane * BLOCKS_PER_GROUP / LANES])]))
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
