//! The exponential function as straight code: no branch and no call, so that loops over it become vector instructions.

/// Arguments below give zero: their exponentials are subnormal.
const LEAST: f32 = -87.33;
/// Arguments above give infinity: the power of two below would be.
const GREATEST: f32 = 88.37;
/// Adding it rounds a small number to a whole one, which then stands in the low bits.
const ROUND: f32 = (3_u32 << 22) as f32;
/// The logarithm of two in two parts, of which the first has so few digits that whole multiples of it are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// `(e^r - 1 - r) / r^2` for magnitudes up to half the logarithm of two, highest power first (Cephes, `expf`).
const POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `e^x`, within two units in the last place.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = x - whole * LN_2[0] - whole * LN_2[1];
    let [a, b, c, d, e, f] = POLYNOMIAL;
    let tail = ((((a * r + b) * r + c) * r + d) * r + e) * r + f;
    let fraction = tail * r * r + r + 1.0;
    let power = shifted.to_bits().wrapping_shl(23).wrapping_add(127 << 23);
    let y = fraction * f32::from_bits(power);
    let y = if x < LEAST { 0.0 } else { y };
    if x > GREATEST { f32::INFINITY } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_within_two_units_in_the_last_place() {
        for step in -873_000..883_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "{x}: {error:e}");
        }
    }

    #[test]
    fn ends_are_zero_and_infinity() {
        assert_eq!([f32::NEG_INFINITY, -1e9, -88.0].map(exp), [0.0; 3]);
        assert_eq!([f32::INFINITY, 1e9, 88.4].map(exp), [f32::INFINITY; 3]);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
