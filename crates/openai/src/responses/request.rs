//! The body of `POST /v1/responses`.

use serde::Serialize;
use serde_json::Value;

/// A request for one streamed answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ResponseRequest {
    /// Which model shall answer.
    pub model: String,
    /// The conversation so far, oldest first.
    pub input: Vec<InputItem>,
    /// Always true: whole responses are not read here.
    pub stream: bool,
    /// Whether the server keeps the response.
    pub store: bool,
    /// Most tokens of the answer, reasoning included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// 0 is greedy, 1 the plain distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Probability mass that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// What more the answer carries, such as `message.output_text.logprobs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<&'static str>,
    /// How many alternatives are reported with each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<i64>,
    /// How the model reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<ReasoningConfig>,
    /// How the answer's text looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    /// What the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ResponseTool>,
    /// Whether and what it shall call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ResponseToolChoice>,
    /// Whether one answer may make several calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Opaque id of the end user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<String>,
}

/// Something that was said or done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputItem {
    /// A message.
    Message {
        /// `system`, `developer`, `user` or `assistant`.
        role: String,
        /// Its parts, in order.
        content: Vec<InputPart>,
    },
    /// A call that the assistant made.
    FunctionCall {
        /// Identity that the result refers to.
        call_id: String,
        /// The function.
        name: String,
        /// Its arguments, a JSON text.
        arguments: String,
    },
    /// The result of a call.
    FunctionCallOutput {
        /// The call.
        call_id: String,
        /// What came back.
        output: String,
    },
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputPart {
    /// A text that the model reads.
    InputText {
        /// The text.
        text: String,
    },
    /// A text that the model wrote.
    OutputText {
        /// The text.
        text: String,
    },
    /// A refusal that the model wrote.
    Refusal {
        /// The text.
        refusal: String,
    },
    /// An image that the model looks at.
    InputImage {
        /// An `https:` or `data:` address.
        image_url: String,
        /// `auto`, `low` or `high`.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

/// How the model reasons.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReasoningConfig {
    /// `none` to `max`.
    pub effort: String,
}

/// How the answer's text looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TextConfig {
    /// Its form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<TextFormat>,
    /// `low`, `medium` or `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<Value>,
}

/// The form of the answer's text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema {
        /// Letters, digits, `_` and `-`, at most 64.
        name: String,
        /// What it is for.
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// The schema.
        schema: Value,
        /// Whether the answer must follow it.
        #[serde(skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
    },
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseTool {
    /// A function of the client.
    Function {
        /// Letters, digits, `_` and `-`, at most 64.
        name: String,
        /// What it does and when to call it.
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// JSON schema of its arguments; the protocol requires the key.
        parameters: Option<Value>,
        /// Whether the arguments must follow the schema; absent means true there.
        strict: bool,
    },
}

/// Whether and what the model shall call.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ResponseToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// One function.
    Function {
        /// `function`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Some functions.
    Allowed {
        /// `allowed_tools`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// `auto` or `required`.
        mode: String,
        /// Each of them as [`ResponseToolChoice::Function`].
        tools: Vec<ResponseToolChoice>,
    },
}
