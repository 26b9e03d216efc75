//! The events of a streamed response. Only what makes up an answer is read; all other events are [`ResponseEvent::Other`].

use serde::Deserialize;

use crate::chat::TokenLogprob;

/// One event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type")]
pub enum ResponseEvent {
    /// The server has begun.
    #[serde(rename = "response.created")]
    Created {
        /// The response so far.
        response: Response,
    },
    /// An item of the answer begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Its place in the answer.
        #[serde(default)]
        output_index: u32,
        /// The item, still empty.
        item: OutputItem,
    },
    /// More text.
    #[serde(rename = "response.output_text.delta")]
    Text {
        /// What is new.
        delta: String,
        /// Log-probabilities of its tokens, if they were asked for.
        #[serde(default)]
        logprobs: Vec<TokenLogprob>,
    },
    /// A text is complete.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// All of it.
        #[serde(default)]
        text: String,
    },
    /// An item of the answer is complete.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Its place in the answer.
        #[serde(default)]
        output_index: u32,
        /// The whole item.
        item: OutputItem,
    },
    /// More of a refusal.
    #[serde(rename = "response.refusal.delta")]
    Refusal {
        /// What is new.
        delta: String,
    },
    /// More of the reasoning, or of the summary that stands for it.
    #[serde(
        rename = "response.reasoning_text.delta",
        alias = "response.reasoning_summary_text.delta"
    )]
    Reasoning {
        /// What is new.
        delta: String,
    },
    /// More of a call's arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    Arguments {
        /// Place of the call in the answer.
        #[serde(default)]
        output_index: u32,
        /// What is new.
        delta: String,
    },
    /// The answer is complete.
    #[serde(rename = "response.completed")]
    Completed {
        /// The whole response.
        response: Response,
    },
    /// The answer ended before it was complete.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// The response so far.
        response: Response,
    },
    /// The server gave up.
    #[serde(rename = "response.failed")]
    Failed {
        /// The response so far.
        response: Response,
    },
    /// The server gave up, in the form without a response.
    #[serde(rename = "error")]
    Error(ErrorReport),
    /// Something that adds nothing to the answer.
    #[serde(other)]
    Other,
}

/// The state of a response.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Response {
    /// Identity of the response.
    pub id: String,
    /// Seconds since 1970; some servers send a fraction.
    pub created_at: f64,
    /// The model that answers.
    pub model: String,
    /// What it cost, at its end.
    pub usage: Option<ResponseUsage>,
    /// Why it is incomplete.
    pub incomplete_details: Option<Incomplete>,
    /// Why it failed.
    pub error: Option<ErrorReport>,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Incomplete {
    /// `max_output_tokens` or `content_filter`.
    pub reason: String,
}

/// Why a response failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ErrorReport {
    /// For programs.
    pub code: Option<String>,
    /// For people.
    pub message: String,
    /// The request field that is at fault.
    pub param: Option<String>,
}

/// An item of an answer. Only calls say more than what their deltas say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// A call.
    FunctionCall {
        /// Identity that the result will refer to.
        call_id: String,
        /// The function.
        name: String,
        /// Its arguments: empty where the item begins, mostly.
        #[serde(default)]
        arguments: String,
    },
    /// A message, reasoning, or something that only a server's own tools make.
    #[serde(other)]
    Other,
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens generated, reasoning included.
    pub output_tokens: u64,
    /// More about the prompt.
    #[serde(default)]
    pub input_tokens_details: Option<InputTokensDetails>,
    /// More about the answer.
    #[serde(default)]
    pub output_tokens_details: Option<OutputTokensDetails>,
}

/// More about the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InputTokensDetails {
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u64,
}

/// More about the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OutputTokensDetails {
    /// Generated tokens that were reasoning.
    pub reasoning_tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_known_by_their_type_and_unknown_ones_are_read_over() {
        let read = |value| serde_json::from_value::<ResponseEvent>(value).unwrap();
        let text =
            read(json!({"type": "response.output_text.delta", "item_id": "m", "output_index": 0,
            "content_index": 0, "delta": "Hi", "logprobs": [], "sequence_number": 4}));
        assert_eq!(text, ResponseEvent::Text { delta: "Hi".to_owned(), logprobs: vec![] });
        let summary = read(json!({"type": "response.reasoning_summary_text.delta", "delta": "r"}));
        assert_eq!(summary, ResponseEvent::Reasoning { delta: "r".to_owned() });
        let other = read(json!({"type": "response.content_part.done", "part": {"type": "x"}}));
        assert_eq!(other, ResponseEvent::Other);
        let item = read(json!({"type": "response.output_item.added", "output_index": 0,
            "item": {"type": "reasoning", "id": "r", "summary": []}}));
        assert_eq!(item, ResponseEvent::ItemAdded { output_index: 0, item: OutputItem::Other });
    }
}
