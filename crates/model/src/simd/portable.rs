//! [`Lanes`] in plain Rust, for every other processor, and what the other two are tested against.

use super::{GROUP, LANES, Lanes};
use crate::mxfp4::VALUES;

#[derive(Clone, Copy)]
pub(super) struct Wide([f32; LANES]);

impl Lanes for Wide {
    const MANY: bool = false;

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
    fn bf16(from: &[u8; 2 * GROUP]) -> [Self; 2] {
        let (pairs, _) = from.as_chunks::<4>();
        let words: [u32; LANES] = std::array::from_fn(|index| u32::from_le_bytes(pairs[index]));
        [words.map(|word| word << 16), words.map(|word| word & 0xffff_0000)]
            .map(|bits| Self(bits.map(f32::from_bits)))
    }

    #[inline(always)]
    fn mxfp4(from: &[u8; GROUP / 2], scale: f32) -> [Self; 2] {
        [from.map(|byte| byte & 15), from.map(|byte| byte >> 4)]
            .map(|nibbles| Self(nibbles.map(|nibble| VALUES[usize::from(nibble)] * scale)))
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
