//! MXFP4: what a stored nibble and a stored scale mean.
//!
//! A block is 32 weights in 16 bytes with one scale byte kept elsewhere. The low nibble of byte `b` is weight
//! `2b`, the high one weight `2b + 1`. A nibble is sign, two exponent bits, one mantissa bit (OCP E2M1); a scale
//! is a power of two (OCP E8M0). [`decode_block`] is the reference that the fast paths are tested against.

/// Weights in a block.
pub const BLOCK: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 16;

/// The value of each nibble.
pub const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Twice the value of each nibble, and 12 more: whole numbers from 0 to 24.
pub static DOUBLED: [u8; 16] = doubled(12.0);
/// Twice the value of each nibble, as a byte with a sign.
pub static SIGNED: [u8; 16] = doubled(0.0);

const fn doubled(offset: f32) -> [u8; 16] {
    let mut table = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        table[nibble] = (2.0 * VALUES[nibble] + offset) as i8 as u8;
        nibble += 1;
    }
    table
}

/// The value of each scale byte.
pub static SCALES: [f32; 256] = scales();

const fn scales() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = scale(byte as u8);
        byte += 1;
    }
    table
}

/// `2^(byte - 127)`; 255 is the format's only NaN.
const fn scale(byte: u8) -> f32 {
    f32::from_bits(match byte {
        // The one power of two here that float32 holds as a subnormal.
        0 => 1 << 22,
        255 => 0x7fc0_0000,
        _ => (byte as u32) << 23,
    })
}

/// The weights of one block, in their order along the row.
pub fn decode_block(block: &[u8; BLOCK_BYTES], scale: u8) -> [f32; BLOCK] {
    let mut weights = [0.0; BLOCK];
    let (pairs, _) = weights.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(block) {
        *pair =
            [byte & 15, byte >> 4].map(|nibble| VALUES[nibble as usize] * SCALES[scale as usize]);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_follow_the_e2m1_formula() {
        for (nibble, value) in VALUES.into_iter().enumerate() {
            let (sign, exponent, mantissa) = (nibble >> 3, (nibble >> 1) & 3, nibble & 1);
            let magnitude = match exponent {
                0 => 0.5 * mantissa as f32,
                _ => (1.0 + 0.5 * mantissa as f32) * 2f32.powi(exponent as i32 - 1),
            };
            assert_eq!(value, if sign == 1 { -magnitude } else { magnitude });
        }
    }

    #[test]
    fn scales_are_powers_of_two_around_byte_127() {
        for byte in 0..=254u8 {
            assert_eq!(f64::from(SCALES[byte as usize]), 2f64.powi(i32::from(byte) - 127));
        }
        assert!(SCALES[255].is_nan());
    }

    #[test]
    fn the_low_nibble_comes_first() {
        let mut block = [0; BLOCK_BYTES];
        block[3] = 0x72;
        let weights = decode_block(&block, 128);
        assert_eq!(weights[6..8], [2.0, 12.0]);
        assert_eq!(weights.iter().filter(|weight| **weight != 0.0).count(), 2);
    }
}
