//! How the next token is chosen: the parameters of one request, checked once.

use crate::executor::TokenId;

/// Most alternatives a token's log-probabilities may list.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// Sampling parameters of one request. Order of application: penalties, `logit_bias`, the mask of allowed tokens,
/// temperature, `top_k`, `top_p`, `min_p`.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 means greedy: the most probable token, lowest id on a tie.
    pub temperature: f32,
    /// Keeps the smallest set of tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Drops tokens less probable than this share of the best one's probability; 0 drops none.
    pub min_p: f32,
    /// Subtracted from a logit for each time its token was generated.
    pub frequency_penalty: f32,
    /// Subtracted from a logit once if its token was generated.
    pub presence_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or answer; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// How many alternatives to report with each token; `None` reports no log-probabilities at all.
    pub logprobs: Option<u8>,
}

impl Default for SamplingParams {
    /// The model card's recommendation: the plain distribution at temperature 1.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Greedy choice, nothing else changed.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether a choice needs the counts of earlier tokens.
    pub fn needs_counts(&self) -> bool {
        self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
            || self.repetition_penalty != 1.0
    }
}
