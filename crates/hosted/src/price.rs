//! Money as whole numbers, and what tokens cost.
//!
//! Price lists give US dollars per million tokens. A millionth of that unit is one pico-dollar
//! (1e-12 USD) per token, so listed prices are whole numbers here and sums of them are exact.

use std::fmt;

/// Pico-dollars in a dollar.
const PICOS_PER_USD: f64 = 1e12;

/// Dearest price that is taken for one, in USD per million tokens.
const MAX_USD_PER_MILLION: f64 = 1e6;

/// An amount of money in pico-dollars (1e-12 USD). Shown in dollars with six decimals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost(u64);

impl Cost {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount in pico-dollars.
    pub const fn from_picos(picos: u64) -> Self {
        Self(picos)
    }

    /// The amount in pico-dollars.
    pub const fn as_picos(self) -> u64 {
        self.0
    }

    /// An amount in US dollars, to the nearest pico-dollar. None if it is negative, no number or
    /// more than a `Cost` can hold (18 million dollars).
    pub fn from_usd(usd: f64) -> Option<Self> {
        let picos = (usd * PICOS_PER_USD).round();
        // The first number that is too large; every float below it is in range once rounded.
        let end = u64::MAX as f64;
        (picos >= 0.0 && picos < end).then_some(Self(picos as u64))
    }

    /// The amount in US dollars, as near as a float gets.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / PICOS_PER_USD
    }

    /// The sum of two amounts, or the largest there is.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left of an amount, or nothing.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PICOS_PER_MICRO: u64 = 1_000_000;
        let half_up = u64::from(self.0 % PICOS_PER_MICRO >= PICOS_PER_MICRO / 2);
        let micros = self.0 / PICOS_PER_MICRO + half_up;
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// What one token costs, in pico-dollars per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    input: u64,
    cached: u64,
    output: u64,
}

/// Why a number is no price.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum PriceError {
    /// It is negative, no number or absurdly large.
    #[error(
        "the price of {tokens} tokens must be from 0 to {MAX_USD_PER_MILLION} USD per million \
         tokens, not {usd_per_million}"
    )]
    OutOfRange {
        /// Which tokens: `input`, `cached` or `output`.
        tokens: &'static str,
        /// The number, in USD per million tokens.
        usd_per_million: f64,
    },
}

impl Price {
    /// Prices in USD per million tokens, each to the nearest pico-dollar per token: `input` for
    /// tokens of the prompt, `cached` for those of them that the upstream still had, `output` for
    /// tokens of the answer.
    pub fn from_usd_per_million(input: f64, cached: f64, output: f64) -> Result<Self, PriceError> {
        Ok(Self {
            input: picos_per_token("input", input)?,
            cached: picos_per_token("cached", cached)?,
            output: picos_per_token("output", output)?,
        })
    }

    /// The prices of input, cached input and output in US dollars per million tokens.
    pub fn as_usd_per_million(&self) -> [f64; 3] {
        const PICOS_PER_UNIT: f64 = PICOS_PER_USD / 1e6;
        [self.input, self.cached, self.output].map(|picos| picos as f64 / PICOS_PER_UNIT)
    }

    /// The most that a request with `num_prompt` tokens can cost if its answer has at most
    /// `max_output` tokens.
    pub fn estimate(&self, num_prompt: u64, max_output: u64) -> Cost {
        // Cached tokens are the cheaper ones, but a price list need not know that.
        let prompt = num_prompt.saturating_mul(self.input.max(self.cached));
        Cost(prompt.saturating_add(max_output.saturating_mul(self.output)))
    }

    /// The cost of a request with `num_prompt` tokens, of which the upstream had `num_cached`
    /// (never more than all), and `num_output` tokens of answer.
    pub fn cost(&self, num_prompt: u64, num_cached: u64, num_output: u64) -> Cost {
        let num_cached = num_cached.min(num_prompt);
        let fresh = (num_prompt - num_cached).saturating_mul(self.input);
        let prompt = fresh.saturating_add(num_cached.saturating_mul(self.cached));
        Cost(prompt.saturating_add(num_output.saturating_mul(self.output)))
    }
}

fn picos_per_token(tokens: &'static str, usd_per_million: f64) -> Result<u64, PriceError> {
    if (0.0..=MAX_USD_PER_MILLION).contains(&usd_per_million) {
        Ok((usd_per_million * 1e6).round() as u64)
    } else {
        Err(PriceError::OutOfRange { tokens, usd_per_million })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price() -> Price {
        Price::from_usd_per_million(0.15, 0.0375, 0.6).unwrap()
    }

    #[test]
    fn listed_prices_are_whole_pico_dollars() {
        assert_eq!(price(), Price { input: 150_000, cached: 37_500, output: 600_000 });
    }

    #[test]
    fn a_number_that_is_no_price_is_named() {
        for bad in [-0.01, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1_000_000.1] {
            assert!(Price::from_usd_per_million(bad, 0.0, 0.0).is_err(), "{bad}");
            assert!(Price::from_usd_per_million(0.0, bad, 0.0).is_err(), "{bad}");
            assert!(Price::from_usd_per_million(0.0, 0.0, bad).is_err(), "{bad}");
        }
        assert!(Price::from_usd_per_million(1e6, 0.0, 1e6).is_ok());
        assert_eq!(
            Price::from_usd_per_million(0.1, -2.5, 0.1).unwrap_err().to_string(),
            "the price of cached tokens must be from 0 to 1000000 USD per million tokens, not -2.5"
        );
    }

    #[test]
    fn cached_tokens_have_their_own_price() {
        assert_eq!(price().cost(1000, 0, 10), Cost(156_000_000));
        assert_eq!(price().cost(1000, 400, 10), Cost(111_000_000));
        assert_eq!(price().cost(1000, 9999, 10), price().cost(1000, 1000, 10));
    }

    #[test]
    fn no_request_costs_more_than_its_estimate() {
        let dear_cache = Price::from_usd_per_million(1.0, 2.0, 3.0).unwrap();
        for price in [price(), dear_cache] {
            for num_cached in [0, 1, 50, 100, 101] {
                assert!(price.cost(100, num_cached, 7) <= price.estimate(100, 7));
            }
        }
        assert_eq!(price().estimate(100, 7), price().cost(100, 0, 7));
    }

    #[test]
    fn huge_counts_stop_at_the_largest_cost() {
        assert_eq!(price().estimate(u64::MAX, 1), Cost(u64::MAX));
        assert_eq!(price().cost(1, 0, u64::MAX), Cost(u64::MAX));
        assert_eq!(price().cost(u64::MAX, u64::MAX, u64::MAX), Cost(u64::MAX));
        assert_eq!(Cost(u64::MAX).saturating_add(Cost(1)), Cost(u64::MAX));
        assert_eq!(Cost(1).saturating_sub(Cost(2)), Cost::ZERO);
    }

    #[test]
    fn dollars_become_pico_dollars_and_back() {
        assert_eq!(Cost::from_usd(20.0), Some(Cost(20_000_000_000_000)));
        assert_eq!(Cost::from_usd(0.05), Some(Cost(50_000_000_000)));
        assert_eq!(Cost::from_usd(0.0), Some(Cost::ZERO));
        for bad in [-1e-6, f64::NAN, f64::INFINITY, 18_446_744.1, 1e300] {
            assert_eq!(Cost::from_usd(bad), None, "{bad}");
        }
        assert_eq!(Cost(1_500_000_000_000).as_usd(), 1.5);
    }

    #[test]
    fn dollars_are_shown_with_six_decimals() {
        assert_eq!(Cost(52_429_000_000).to_string(), "0.052429");
        assert_eq!(Cost(499_999).to_string(), "0.000000");
        assert_eq!(Cost(500_000).to_string(), "0.000001");
        assert_eq!(Cost(999_999_999_999).to_string(), "1.000000");
        assert_eq!(Cost(u64::MAX).to_string(), "18446744.073710");
    }
}
