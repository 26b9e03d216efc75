//! One message of a conversation, as clients send it.

use serde::{Deserialize, Deserializer, Serialize};

use super::string_or::{self, Never, StringOr};

/// A message of any role. The role decides which fields mean something; the reader checks that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool` or the old `function`.
    pub role: String,
    /// The text; `null` on an assistant message that only calls tools.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who speaks; on a `function` message the function that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that the assistant made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The old form of one call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
    /// Reasoning sent back with an assistant message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same under its other common name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// A refusal that the assistant gave instead of content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

impl ChatMessage {
    /// A message of `role` that is plain text.
    pub fn text(role: &str, text: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: Some(Content::Text(text.into())), ..Self::default() }
    }

    /// What the user says.
    pub fn user(text: impl Into<String>) -> Self {
        Self::text("user", text)
    }

    /// Instructions for the model.
    pub fn system(text: impl Into<String>) -> Self {
        Self::text("system", text)
    }

    /// An earlier answer of the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::text("assistant", text)
    }

    /// The result of the call `tool_call_id`.
    pub fn tool(tool_call_id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { tool_call_id: Some(tool_call_id.into()), ..Self::text("tool", text) }
    }
}

/// A message's content: one text or a list of parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Typed parts, in order.
    Parts(Vec<ContentPart>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        string_or::deserialize(deserializer)
    }
}

impl<'de> StringOr<'de> for Content {
    const EXPECTED: &'static str = "a string or an array of content parts";
    type Seq = Vec<ContentPart>;
    type Map = Never;

    fn from_string(text: String) -> Self {
        Self::Text(text)
    }

    fn from_seq(parts: Vec<ContentPart>) -> Self {
        Self::Parts(parts)
    }

    fn from_map(never: Never) -> Self {
        match never {}
    }
}

/// One part of a content list. Only the fields of texts and images are read; the type says what else it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContentPart {
    /// `text`, `refusal`, `image_url`, `input_audio`, `file`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a text part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text of a refusal part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The image of an image part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<ImageUrl>,
}

/// An image, by address or by value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageUrl {
    /// An `https:` address, or a `data:` address that holds the image.
    pub url: String,
    /// `auto`, `low` or `high`: how closely it is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A call of a function, in a request's history or in a complete answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Identity that the result refers to.
    #[serde(default)]
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function_type")]
    pub kind: String,
    /// The call itself; absent on calls of other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionCall>,
}

fn function_type() -> String {
    "function".to_owned()
}

/// A function's name and the arguments to call it with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Name as declared in the request's tools.
    pub name: String,
    /// Arguments as the model wrote them: usually, but not surely, a JSON object.
    #[serde(default)]
    pub arguments: String,
}
