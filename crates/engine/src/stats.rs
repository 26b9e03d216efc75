//! What the engine counts: a plain snapshot, written once a step and read by anyone.

/// Numbers of one moment (gauges) and since the start (counters).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold blocks.
    pub running: usize,
    /// Requests that hold none: still in the inbox, not yet admitted, or preempted.
    pub waiting: usize,
    /// Blocks of the full group held by sequences; cached blocks that nobody holds count as free.
    pub full_blocks_used: usize,
    /// Blocks of the window group held by sequences.
    pub window_blocks_used: usize,
    /// Blocks of the full group.
    pub full_blocks_total: usize,
    /// Blocks of the window group.
    pub window_blocks_total: usize,
    /// Prompt tokens of all admitted requests, cached ones included.
    pub prompt_tokens: u64,
    /// Those of them that were found in the prefix cache at the first admission.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Times a running sequence gave its blocks back to be recomputed later.
    pub preemptions: u64,
    /// Requests whose stream was dropped before they ended.
    pub cancelled: u64,
    /// Requests that ended with an answer.
    pub finished: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// Steps run, failed ones included.
    pub steps: u64,
    /// Steps that failed.
    pub step_failures: u64,
}
