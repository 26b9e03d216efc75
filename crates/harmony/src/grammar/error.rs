//! Why there is no grammar for what an answer must follow.

/// The part of the rules that is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// The schema of the final message.
    Message,
    /// The parameters of the call with this index.
    Call(usize),
    /// Each part is sound, but not all of them together.
    Whole,
}

/// Why rules cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct GrammarError {
    /// The part that is to blame.
    pub culprit: Culprit,
    /// What is wrong with it.
    pub reason: String,
}
