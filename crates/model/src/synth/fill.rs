//! The bytes of a tensor: each eight of them a function of the seed, the tensor's name and their place.

use half::bf16;
use rayon::prelude::*;

use super::shape::{Kind, Tensor};

/// Bytes that one task makes.
const PIECE: usize = 64 << 10;
/// The bias of a stored scale.
const SCALE_BIAS: i32 = 127;

/// Fills `chunk` with the bytes of `tensor` from the `at`-th on. `at` is a multiple of eight.
pub(super) fn fill(chunk: &mut [u8], at: u64, tensor: &Tensor, seed: u64) {
    let key = tensor.name.bytes().fold(seed, |key, byte| mix(key ^ u64::from(byte)));
    chunk.par_chunks_mut(PIECE).enumerate().for_each(|(piece, bytes)| {
        let first = at / 8 + (piece * PIECE / 8) as u64;
        for (index, word) in (first..).zip(bytes.chunks_mut(8)) {
            let random = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            word.copy_from_slice(&make(tensor.kind, random)[..word.len()]);
        }
    });
}

/// Eight bytes of values from 64 random bits.
fn make(kind: Kind, random: u64) -> [u8; 8] {
    match kind {
        Kind::Blocks => random.to_le_bytes(),
        Kind::Scales { exponent } => random.to_le_bytes().map(|byte| {
            let shift = match byte % 8 {
                0 => -1,
                1 => 1,
                _ => 0,
            };
            u8::try_from(SCALE_BIAS + exponent + shift).unwrap_or(u8::MAX - 1)
        }),
        Kind::Bf16 { mean, spread } => {
            let mut bytes = [0; 8];
            for (index, value) in bytes.chunks_mut(2).enumerate() {
                let bits = (random >> (16 * index)) as u16;
                let unit = f32::from(bits) / 32_767.5 - 1.0;
                value.copy_from_slice(&bf16::from_f32(mean + spread * unit).to_le_bytes());
            }
            bytes
        }
    }
}

/// The finalizer of splitmix64: a bijection that spreads every bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
