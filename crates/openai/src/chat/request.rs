//! The body of `POST /v1/chat/completions`.
//!
//! Numbers are read wider than they are valid, so that the reader can refuse a value by name instead of failing
//! on its type. Fields that have no effect here are kept as they came.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::message::ChatMessage;
use super::string_or::{self, Never, StringOr};

/// A chat request. Every field but `messages` may be absent or `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// Which model shall answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The conversation so far, oldest first.
    pub messages: Vec<ChatMessage>,

    /// Whether the answer comes in chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// What a stream carries besides text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// How many answers to give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    /// Most tokens of the answer, reasoning included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<i64>,
    /// The old name of `max_completion_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<i64>,
    /// Texts that end the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Makes random choices repeatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,

    /// 0 is greedy, 1 the plain distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Probability mass that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Number of best tokens that are kept; 0 or -1 keeps all. Not in OpenAI's protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i64>,
    /// Least probability relative to the best token's. Not in OpenAI's protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Penalty for each earlier occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Penalty for having occurred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// Multiplicative penalty on tokens of prompt and answer. Not in OpenAI's protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Token id, as a string, to what is added to its logit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Whether log-probabilities are reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives are reported with each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<i64>,
    /// Goes on past the end of the answer, for load tests. Not in OpenAI's protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,

    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// The same as an object, as some gateways send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<ReasoningOptions>,
    /// The same as a template argument, as vLLM and llama.cpp take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_kwargs: Option<TemplateOptions>,
    /// Whether the answer carries its reasoning. Not in OpenAI's protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_reasoning: Option<bool>,

    /// What the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Tool>>,
    /// Whether and what it shall call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may make several calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// The old form of `tools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<Value>,
    /// The old form of `tool_choice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<Value>,
    /// The form of the final answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,

    /// `text`, `audio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modalities: Option<Vec<String>>,
    /// Parameters of audio output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<Value>,
    /// Asks for a web search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_search_options: Option<Value>,
    /// Text that the answer is expected to repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Value>,
    /// Free key-value pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Asks for a moderation result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moderation: Option<Value>,
    /// Hint for prompt caching.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<Value>,
    /// Options of prompt caching.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_options: Option<Value>,
    /// How long a cached prompt is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_retention: Option<Value>,
    /// Opaque id of the end user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<Value>,
    /// Its old name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Value>,
    /// Processing tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<Value>,
    /// Whether the completion is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Value>,
    /// `low`, `medium`, `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<Value>,
}

/// Options of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// Ends the stream with a chunk that carries the usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,
    /// Puts the usage so far on every chunk. Not in OpenAI's protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continuous_usage_stats: Option<bool>,
    /// Pads chunks against traffic analysis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_obfuscation: Option<bool>,
}

/// Texts that end an answer: one or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Stop {
    /// One text.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        string_or::deserialize(deserializer)
    }
}

impl<'de> StringOr<'de> for Stop {
    const EXPECTED: &'static str = "a string or an array of strings";
    type Seq = Vec<String>;
    type Map = Never;

    fn from_string(text: String) -> Self {
        Self::One(text)
    }

    fn from_seq(texts: Vec<String>) -> Self {
        Self::Many(texts)
    }

    fn from_map(never: Never) -> Self {
        match never {}
    }
}

/// `reasoning: {"effort": ...}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReasoningOptions {
    /// As `reasoning_effort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
}

/// `chat_template_kwargs: {"reasoning_effort": ...}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateOptions {
    /// As `reasoning_effort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
}

/// Something the model may call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// `function`, `custom`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The declaration of a function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDefinition>,
}

/// A function's declaration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionDefinition {
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it does and when to call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Whether the arguments must follow the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether and what the model shall call.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// One function, or a choice among some.
    Named(NamedChoice),
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        string_or::deserialize(deserializer)
    }
}

impl<'de> StringOr<'de> for ToolChoice {
    const EXPECTED: &'static str = "a string or an object";
    type Seq = Never;
    type Map = NamedChoice;

    fn from_string(mode: String) -> Self {
        Self::Mode(mode)
    }

    fn from_seq(never: Never) -> Self {
        match never {}
    }

    fn from_map(choice: NamedChoice) -> Self {
        Self::Named(choice)
    }
}

/// The object form of a tool choice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedChoice {
    /// `function`, `allowed_tools` or `custom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionName>,
    /// The tools to choose among.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<AllowedTools>,
}

/// A function by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionName {
    /// Its name.
    pub name: String,
}

/// A subset of the declared tools.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AllowedTools {
    /// `auto` or `required`.
    pub mode: String,
    /// References to declared tools.
    pub tools: Vec<NamedChoice>,
}

/// The form of the final answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The schema of `json_schema`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<JsonSchemaFormat>,
}

/// A named JSON schema.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JsonSchemaFormat {
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Whether the answer must follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}
