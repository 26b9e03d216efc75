//! Continuous batching over one executor: requests of token ids go in, streams of token events come
//! out.
//!
//! [`start`] gives the executor to one thread that owns it and all scheduler state, and returns a
//! [`Handle`]. Every step of that thread runs four verbs, one file each:
//!
//! ```text
//! plan     admit waiting sequences, give blocks, fill the token budget  -> Batch
//! run      the executor computes the batch                              -> sampled tokens
//! resolve  tokens and state                                             -> effects (pure)
//! apply    effects: grow sequences, share and free blocks, write events
//! ```
//!
//! Events are sent while the executor computes the next batch.
//!
//! The crate knows token ids and blocks; text, protocols and devices are words it does not use.

mod apply;
mod block_pool;
mod constraint;
mod executor;
pub mod fake;
mod handle;
mod kv_cache;
mod mask;
mod plan;
mod prefix_cache;
#[cfg(test)]
mod properties;
mod request;
mod resolve;
mod run;
mod sampling;
mod scheduler;
mod seed;
mod sequence;
mod stats;
mod step_loop;
#[cfg(test)]
mod testing;
mod validate;

pub use constraint::Constraint;
pub use executor::{
    AdapterId, Batch, BlockId, Executor, ExecutorError, ExecutorSpec, Logprobs, Sample, Sampled,
    Span, TokenCount, TokenId,
};
pub use handle::{EngineConfig, Handle, TokenStream, start};
pub use mask::TokenMask;
pub use request::{EngineError, Event, FinishReason, Request};
pub use sampling::{MAX_TOP_LOGPROBS, SamplingParams};
pub use stats::Stats;
