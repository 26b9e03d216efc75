//! Counts the tokens of one request.

use harmonium_openai::Usage;
use harmonium_openai::chat::{CompletionTokensDetails, PromptTokensDetails};

/// The tokens of a request so far, over all its answers. The prompt counts once however many answers it has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TokenMeter {
    pub(crate) num_prompt: u64,
    /// As the first answer found them.
    pub(crate) num_cached: u64,
    pub(crate) num_generated: u64,
    pub(crate) num_reasoning: u64,
}

impl TokenMeter {
    /// As the protocol reports it.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.num_prompt,
            completion_tokens: self.num_generated,
            total_tokens: self.num_prompt + self.num_generated,
            prompt_tokens_details: Some(PromptTokensDetails { cached_tokens: self.num_cached }),
            completion_tokens_details: Some(CompletionTokensDetails {
                reasoning_tokens: self.num_reasoning,
            }),
        }
    }
}
