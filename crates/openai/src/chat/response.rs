//! What `POST /v1/chat/completions` answers: one object, or a stream of chunks.
//!
//! Keys that the protocol requires are written even when they are `null`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::message::{FunctionCall, ToolCall};

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// Identity of the answer.
    pub id: Arc<str>,
    /// `chat.completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The model that answered.
    pub model: Arc<str>,
    /// One entry for each of the `n` answers, in order.
    pub choices: Vec<Choice>,
    /// What it cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Identifies the serving configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<Arc<str>>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Which of the `n` answers.
    pub index: u32,
    /// What the model said.
    pub message: ResponseMessage,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
    /// Log-probabilities, if they were asked for.
    #[serde(default)]
    pub logprobs: Option<ChoiceLogprobs>,
}

/// What the model said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResponseMessage {
    /// `assistant`.
    pub role: String,
    /// The text; `null` if it only called tools.
    #[serde(default)]
    pub content: Option<String>,
    /// A refusal instead of content.
    #[serde(default)]
    pub refusal: Option<String>,
    /// The reasoning before the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same under its other common name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The old form of one call, from servers that still send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text was reached.
    Stop,
    /// The token limit or the context was reached.
    Length,
    /// The model called tools.
    ToolCalls,
    /// A filter ended it.
    ContentFilter,
    /// The old form of `tool_calls`.
    FunctionCall,
    /// A reason this crate does not know.
    #[serde(other)]
    Other,
}

/// One event of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// Identity of the answer, the same on all its chunks.
    pub id: Arc<str>,
    /// `chat.completion.chunk`.
    pub object: Arc<str>,
    /// Seconds since 1970, the same on all chunks.
    pub created: i64,
    /// The model that answers.
    pub model: Arc<str>,
    /// What is new; empty on the chunk that carries only the usage.
    pub choices: Vec<ChunkChoice>,
    /// Absent unless the request asked for it, then `null` (`Some(None)`) where there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// Identifies the serving configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<Arc<str>>,
}

/// What is new in one of the answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// Which of the `n` answers.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// On the last chunk of the answer: why it ended.
    #[serde(default)]
    pub finish_reason: Option<FinishReason>,
    /// Log-probabilities of the tokens in `delta.content`.
    #[serde(default)]
    pub logprobs: Option<ChoiceLogprobs>,
}

/// Pieces to append to the message so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// `assistant`, on the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Arc<str>>,
    /// Text of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Text of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Text of the reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same under its other common name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Fragments of tool calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

impl Delta {
    /// Whether there is any text or call in it: the first chunk of a stream may have just the role.
    pub fn says_something(&self) -> bool {
        let Self { role: _, content, refusal, reasoning, reasoning_content, tool_calls } = self;
        [content, refusal, reasoning, reasoning_content]
            .into_iter()
            .any(|text| text.as_ref().is_some_and(|text| !text.is_empty()))
            || tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
    }
}

/// A fragment of one tool call. The first of a call carries id, type and name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which call of the answer.
    pub index: u32,
    /// Identity that the result will refer to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name or arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDelta>,
}

/// A fragment of a function call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionDelta {
    /// The function's name, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// Log-probabilities of an answer or of a chunk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChoiceLogprobs {
    /// One entry for each token of the content.
    #[serde(default)]
    pub content: Option<Vec<TokenLogprob>>,
    /// One entry for each token of a refusal.
    #[serde(default)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A chosen token and its alternatives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text; broken UTF-8 is replaced, `bytes` is exact.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
    /// The most probable tokens, best first.
    #[serde(default)]
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that might have been chosen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens generated, over all answers, reasoning and structure included.
    pub completion_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// More about the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// More about the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

/// More about the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptTokensDetails {
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u64,
}

/// More about the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionTokensDetails {
    /// Generated tokens that were reasoning.
    pub reasoning_tokens: u64,
}
