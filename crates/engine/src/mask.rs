//! Which tokens a choice may take.

use crate::executor::TokenId;

/// Bits of a word.
const WORD_BITS: usize = u32::BITS as usize;

/// A set of tokens: one bit each, lowest first, in words of 32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask(Box<[u32]>);

impl TokenMask {
    /// The set that these words say. Tokens beyond them are not in it.
    pub fn new(words: impl Into<Box<[u32]>>) -> Self {
        Self(words.into())
    }

    /// Whether the token is in the set.
    pub fn allows(&self, token: TokenId) -> bool {
        let (word, bit) = (token as usize / WORD_BITS, token as usize % WORD_BITS);
        self.0.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// Whether it has a token below this bound.
    pub fn allows_any(&self, bound: TokenId) -> bool {
        let (whole, rest) = (bound as usize / WORD_BITS, bound as usize % WORD_BITS);
        let part = self.0.get(whole).is_some_and(|word| word & ((1 << rest) - 1) != 0);
        part || self.0.iter().take(whole).any(|word| *word != 0)
    }

    /// The words.
    pub fn words(&self) -> &[u32] {
        &self.0
    }
}

impl FromIterator<TokenId> for TokenMask {
    fn from_iter<T: IntoIterator<Item = TokenId>>(tokens: T) -> Self {
        let mut words = Vec::new();
        for token in tokens {
            let (word, bit) = (token as usize / WORD_BITS, token as usize % WORD_BITS);
            if word >= words.len() {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << bit;
        }
        Self::new(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_allows_what_it_was_made_of_and_nothing_beyond() {
        let mask: TokenMask = [0, 31, 32, 70].into_iter().collect();
        assert_eq!(mask.words(), [1 << 31 | 1, 1, 1 << 6]);
        let allowed: Vec<_> = (0..200).filter(|token| mask.allows(*token)).collect();
        assert_eq!(allowed, [0, 31, 32, 70]);
    }

    #[test]
    fn only_tokens_below_a_bound_count() {
        let allows_any = |tokens: &[TokenId], bound| {
            tokens.iter().copied().collect::<TokenMask>().allows_any(bound)
        };
        assert!(allows_any(&[70], 71) && !allows_any(&[70], 70));
        assert!(allows_any(&[31], 32) && !allows_any(&[32], 32));
        assert!(!allows_any(&[], 1000) && !allows_any(&[0], 0));
    }
}
