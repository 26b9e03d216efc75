//! What the engine is asked and what it answers: token ids in, token events out.

use std::sync::Arc;

use crate::constraint::Constraint;
use crate::executor::{AdapterId, Logprobs, TokenId};
use crate::sampling::SamplingParams;

/// One generation. Checked by [`crate::Handle::submit`] against the executor's bounds.
#[derive(Debug, Clone)]
pub struct Request {
    /// The rendered prompt; at least one token.
    pub prompt: Vec<TokenId>,
    /// The adapter that answers, one of the executor's; `None` is the model itself.
    pub adapter: Option<AdapterId>,
    /// Most tokens to generate, at least 1. Prompt and answer together stay within the context.
    pub max_tokens: u32,
    /// How to choose tokens.
    pub sampling: Arc<SamplingParams>,
    /// Seed of all random choices. The caller draws one when the client gave none.
    pub seed: u64,
    /// Tokens that end the answer; the one that did is reported as the last [`Event::Token`].
    pub stop_tokens: Arc<[TokenId]>,
    /// Goes on past stop tokens until `max_tokens` (for load tests).
    pub ignore_stop: bool,
    /// What the answer must follow, at its beginning.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// What happens to a request, in order: one `Started`, tokens, then exactly one `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt was admitted for the first time; this many of its tokens came from the prefix cache.
    Started {
        /// Prompt tokens whose keys and values were found in the cache.
        num_cached_tokens: u32,
    },
    /// The next token of the answer.
    Token {
        /// The token.
        token: TokenId,
        /// Present when the request asked for it.
        logprobs: Option<Logprobs>,
    },
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
    },
    /// The answer ends here because of an error; tokens sent before stay valid.
    Failed(EngineError),
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was generated.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
}

/// Why the engine refused or gave up a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The inbox is full; a later try may succeed.
    #[error("the queue of {capacity} waiting requests is full")]
    Overloaded {
        /// Bound of the inbox.
        capacity: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error("prompt of {prompt_len} tokens does not fit the context of {context_len}")]
    ContextLength {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// The model's bound.
        context_len: u32,
    },
    /// A field has a value that no executor can use.
    #[error("{field}: {message}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it, the value included.
        message: String,
    },
    /// A step failed for this request.
    #[error("{0}")]
    Step(String),
    /// The request's constraint cannot go on.
    #[error("the constraint of the answer: {0}")]
    Constraint(String),
    /// The engine has stopped: the executor was lost or the process is ending.
    #[error("the engine is not running: {0}")]
    Stopped(String),
}
