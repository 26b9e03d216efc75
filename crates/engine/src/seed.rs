//! Where random choices come from: one 64-bit seed for every generated token.
//!
//! The seed of token `index` is output `index` of the SplitMix64 generator (Steele, Lea, Flood:
//! "Fast splittable pseudorandom number generators") that starts at the request's seed. It is
//! computed from the two numbers alone, so that neither the batch around a sequence nor its
//! recomputation changes an answer.

/// The increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Seed of the choice of generated token `index`, from 0.
pub(crate) fn token_seed(request_seed: u64, index: usize) -> u64 {
    mix(request_seed.wrapping_add(GAMMA.wrapping_mul(index as u64 + 1)))
}

/// The output function of SplitMix64: a bijection that spreads every input bit over the whole word.
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_the_outputs_of_splitmix64() {
        // The published reference program (splitmix64.c, Vigna) started at 1234567.
        let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        assert_eq!([0, 1, 2].map(|index| token_seed(1234567, index)), expected);
    }
}
