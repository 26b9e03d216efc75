//! Seeded random bytes: weights that nobody trained, made where they are needed.
//!
//! What a word holds is said once, by [`Random::word`], for the kernel and for whoever writes the same bytes to a file.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::Arguments;
use crate::{BufferSlice, Device, DevicePtr, Grid, Result};

const THREADS: u32 = 256;
/// Several times as many blocks as a card runs at a time; beyond them each thread makes several words.
const MAX_BLOCKS: u64 = 1 << 12;
/// The bias of a stored scale.
const SCALE_BIAS: i32 = 127;

/// What random values are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Random {
    /// Bytes, all equally likely: the nibbles of MXFP4 weights.
    Bytes,
    /// bfloat16 of this mean and spread (half the width of a uniform distribution).
    Bf16 {
        /// The middle.
        mean: f32,
        /// The greatest distance from it.
        spread: f32,
    },
    /// Scales of MXFP4 weights: `2^exponent`, now and then half or double.
    Scales {
        /// The usual exponent.
        exponent: i32,
    },
}

impl Random {
    /// The `index`-th eight bytes.
    pub fn word(self, key: u64, index: u64) -> [u8; 8] {
        let random = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        match self {
            Self::Bytes => random.to_le_bytes(),
            Self::Bf16 { mean, spread } => {
                let mut bytes = [0; 8];
                for (index, value) in bytes.chunks_mut(2).enumerate() {
                    let bits = (random >> (16 * index)) as u16;
                    let unit = f32::from(bits) / 32_767.5 - 1.0;
                    value.copy_from_slice(&bf16::from_f32(mean + spread * unit).to_le_bytes());
                }
                bytes
            }
            Self::Scales { exponent } => random.to_le_bytes().map(|byte| {
                let shift = match byte % 8 {
                    0 => -1,
                    1 => 1,
                    _ => 0,
                };
                u8::try_from(SCALE_BIAS + exponent + shift).unwrap_or(u8::MAX - 1)
            }),
        }
    }
}

/// The key of what goes by this name.
pub fn random_key(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed, |key, byte| mix(key ^ u64::from(byte)))
}

/// The finalizer of splitmix64: a bijection that spreads every bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    out: DevicePtr,
    key: u64,
    num_bytes: u64,
    mean: f32,
    spread: f32,
    scale: i32,
    kind: u32,
}

/// Fills `out`, which begins at a multiple of eight bytes, with the words of a key.
pub fn fill(device: &Device, out: BufferSlice<'_>, random: Random, key: u64) -> Result<()> {
    let check = Arguments { device, op: "fill" };
    if !out.ptr().0.is_multiple_of(8) {
        return check.refuse("out", "does not begin at a multiple of 8".to_owned());
    }
    let (kind, mean, spread, scale) = match random {
        Random::Bytes => (0, 0.0, 0.0, 0),
        Random::Bf16 { mean, spread } => (1, mean, spread, 0),
        Random::Scales { exponent } => (2, 0.0, 0.0, SCALE_BIAS + exponent),
    };
    check.count("blocks", out.len().div_ceil(8 * THREADS as usize))?;
    let num_bytes = out.len() as u64;
    device.own(out)?;
    let params = Params { out: out.ptr(), key, num_bytes, mean, spread, scale, kind };
    let blocks = num_bytes.div_ceil(8 * u64::from(THREADS)).min(MAX_BLOCKS);
    let grid = Grid { grid: [blocks as u32, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0 };
    // SAFETY: the kernel writes `num_bytes` bytes from `out` on, and the slice has as many on this device.
    unsafe { device.launch("fill", &grid, &params) }
}
