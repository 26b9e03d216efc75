//! The contract between policy and arithmetic.
//!
//! The engine decides which rows run in a step and where their keys and values lie; an [`Executor`] does the
//! arithmetic and answers with one token for every row that asked for one. It knows batches, never requests,
//! and nothing here names a device, a text or a protocol. The engine thread owns the executor: calls come one
//! at a time, in step order, and at most one step is under way.

use std::ops::Range;

use crate::mask::TokenMask;
use crate::sampling::SamplingParams;
use crate::seed::token_seed;

/// A token's index in the model's vocabulary.
pub type TokenId = u32;

/// Index of one physical block inside its group's pool.
pub type BlockId = u32;

/// One of the executor's adapters, by its index: a change of the model that some sequences are run
/// with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdapterId(pub u32);

/// What an executor can hold and run, fixed when it is made. The engine plans within these bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// Rows of the vocabulary: sampled ids and prompt ids are below it.
    pub vocab_size: u32,
    /// Longest sequence, prompt and answer together, in tokens.
    pub context_len: u32,
    /// Positions that a window layer sees, the row's own included.
    pub window: u32,
    /// Positions in one block, the same in both groups.
    pub block_size: u32,
    /// Blocks in the pool of the full layers.
    pub num_full_blocks: u32,
    /// Blocks in the pool of the window layers.
    pub num_window_blocks: u32,
    /// Most rows of one step: the token budget.
    pub max_rows: u32,
    /// Most sequences of one step.
    pub max_sequences: u32,
    /// Adapters it has; ids are below it.
    pub num_adapters: u32,
}

/// The flat arrays of one step. Rows of one sequence are contiguous and in position order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Token of each row.
    pub tokens: Vec<TokenId>,
    /// Position of each row in its sequence, from 0.
    pub positions: Vec<u32>,
    /// One entry a sequence, in row order; together they cover every row once.
    pub spans: Vec<Span>,
    /// Block tables of the full layers, one after another; [`Span::full_blocks`] says whose is which.
    pub full_blocks: Vec<BlockId>,
    /// Block tables of the window layers, likewise.
    pub window_blocks: Vec<BlockId>,
    /// Rows whose next token is wanted, in row order. A chunk that is not the last of its prompt has none.
    pub samples: Vec<Sample>,
}

/// One sequence's share of a step.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its table in [`Batch::full_blocks`]: entry `i` holds positions `i * block_size ..`. Covers position 0
    /// to the last row's.
    pub full_blocks: Range<usize>,
    /// Its table in [`Batch::window_blocks`]. Entry `i` holds positions
    /// `(window_first_block + i) * block_size ..`; it covers every position the rows can see and write.
    pub window_blocks: Range<usize>,
    /// Index, in blocks of positions, of the first entry that is still held.
    pub window_first_block: u32,
    /// What the model is changed by for its rows; `None` is the model itself. The same in all steps
    /// of a sequence.
    pub adapter: Option<AdapterId>,
}

/// A wish for the token that follows one row.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The row whose logits are sampled.
    pub row: usize,
    /// How to choose.
    pub params: std::sync::Arc<SamplingParams>,
    /// Randomness of this choice alone: a function of the request's seed and the token's index, so that an
    /// answer does not depend on the rest of the batch or on preemption.
    pub seed: u64,
    /// Tokens seen so far with their counts; filled only when a penalty needs it.
    pub counts: Vec<TokenCount>,
    /// The tokens among which to choose; `None` is all of them. At least one of the vocabulary.
    pub mask: Option<std::sync::Arc<TokenMask>>,
}

impl Sample {
    /// 64 evenly distributed bits, a function of the seed alone.
    pub fn random_bits(&self) -> u64 {
        token_seed(self.seed, 0)
    }
}

/// How often a token occurs in one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCount {
    /// The token.
    pub token: TokenId,
    /// Whether the prompt holds it (the repetition penalty counts that, the other two do not).
    pub in_prompt: bool,
    /// Occurrences among the generated tokens.
    pub num_generated: u32,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// Present when [`SamplingParams::logprobs`] asked for it.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of probabilities under the model itself, before temperature, penalties and truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// The most probable tokens, best first; as many as were asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a step failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecutorError {
    /// The step failed but the executor is sound: its sequences end with an error, others go on.
    #[error("step failed: {0}")]
    Step(String),
    /// The executor cannot be used any more; the engine ends everything and reports itself unhealthy.
    #[error("executor lost: {0}")]
    Fatal(String),
}

/// Runs the model step by step.
pub trait Executor: Send + 'static {
    /// The bounds the engine plans within. Constant over the executor's life.
    fn spec(&self) -> &ExecutorSpec;

    /// Starts a step: writes the rows' keys and values into their blocks and runs the model over all rows. May
    /// return before any of it is done, so that the caller works beside it; one that computes on the caller's
    /// thread leaves that to [`Self::collect`]. After an `Err` no step is under way.
    fn submit(&mut self, batch: &Batch) -> Result<(), ExecutorError>;

    /// Waits for the step that was submitted and returns one entry for each of its [`Batch::samples`], in order.
    /// It is called once for every step that was started.
    fn collect(&mut self) -> Result<Vec<Sampled>, ExecutorError>;

    /// A whole step, for callers who have nothing to do beside it.
    fn run(&mut self, batch: &Batch) -> Result<Vec<Sampled>, ExecutorError> {
        self.submit(batch)?;
        self.collect()
    }
}
