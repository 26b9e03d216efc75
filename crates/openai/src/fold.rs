//! Puts the chunks of a stream together into the answer they spell.
//!
//! The server's whole answers are folds of its own streams, so both say the same; clients fold what they
//! received. Choices may be interleaved. Memory is bounded by the chunks that were pushed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chat::{
    ChatChunk, ChatCompletion, Choice, ChoiceLogprobs, ChunkChoice, Delta, FunctionCall,
    ResponseMessage, ToolCall, ToolCallDelta, Usage,
};

/// The answer so far.
#[derive(Debug, Default)]
pub struct Fold {
    head: Option<Head>,
    choices: BTreeMap<u32, PartialChoice>,
    usage: Option<Usage>,
}

/// What all chunks of a stream share.
#[derive(Debug)]
struct Head {
    id: Arc<str>,
    created: i64,
    model: Arc<str>,
    system_fingerprint: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct PartialChoice {
    message: ResponseMessage,
    tool_calls: BTreeMap<u32, ToolCall>,
    finish_reason: Option<crate::chat::FinishReason>,
    logprobs: Option<ChoiceLogprobs>,
}

impl Fold {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one chunk.
    pub fn push(&mut self, chunk: ChatChunk) {
        let ChatChunk { id, object: _, created, model, choices, usage, system_fingerprint } = chunk;
        self.head.get_or_insert(Head { id, created, model, system_fingerprint });
        if let Some(usage) = usage.flatten() {
            self.usage = Some(usage);
        }
        for choice in choices {
            self.choices.entry(choice.index).or_default().push(choice);
        }
    }

    /// The whole answer; `None` if there was no chunk at all.
    pub fn finish(self) -> Option<ChatCompletion> {
        let head = self.head?;
        Some(ChatCompletion {
            id: head.id,
            object: "chat.completion".to_owned(),
            created: head.created,
            model: head.model,
            choices: self.choices.into_iter().map(|(index, part)| part.finish(index)).collect(),
            usage: self.usage,
            system_fingerprint: head.system_fingerprint,
        })
    }
}

impl PartialChoice {
    fn push(&mut self, choice: ChunkChoice) {
        let Delta { role, content, refusal, reasoning, reasoning_content, tool_calls } =
            choice.delta;
        if let Some(role) = role {
            self.message.role = role.to_string();
        }
        append(&mut self.message.content, content);
        append(&mut self.message.refusal, refusal);
        append(&mut self.message.reasoning, reasoning);
        append(&mut self.message.reasoning_content, reasoning_content);
        for fragment in tool_calls.into_iter().flatten() {
            append_call(self.tool_calls.entry(fragment.index).or_default(), fragment);
        }
        if let Some(logprobs) = choice.logprobs {
            let so_far = self.logprobs.get_or_insert_default();
            append_list(&mut so_far.content, logprobs.content);
            append_list(&mut so_far.refusal, logprobs.refusal);
        }
        self.finish_reason = choice.finish_reason.or(self.finish_reason);
    }

    fn finish(mut self, index: u32) -> Choice {
        if self.message.role.is_empty() {
            self.message.role = "assistant".to_owned();
        }
        if !self.tool_calls.is_empty() {
            // The first chunk's empty text is no content of its own.
            self.message.content = self.message.content.filter(|text| !text.is_empty());
            self.message.tool_calls = Some(self.tool_calls.into_values().collect());
        }
        Choice {
            index,
            message: self.message,
            finish_reason: self.finish_reason,
            logprobs: self.logprobs,
        }
    }
}

fn append(so_far: &mut Option<String>, more: Option<String>) {
    match (so_far.as_mut(), more) {
        (Some(text), Some(more)) => text.push_str(&more),
        (None, Some(more)) => *so_far = Some(more),
        (_, None) => {}
    }
}

fn append_list<T>(so_far: &mut Option<Vec<T>>, more: Option<Vec<T>>) {
    if let Some(more) = more {
        so_far.get_or_insert_default().extend(more);
    }
}

fn append_call(call: &mut ToolCall, fragment: ToolCallDelta) {
    if let Some(id) = fragment.id {
        call.id = id;
    }
    call.kind = fragment.kind.unwrap_or_else(|| std::mem::take(&mut call.kind));
    if let Some(more) = fragment.function {
        let function: &mut FunctionCall = call.function.get_or_insert_default();
        function.name.push_str(&more.name.unwrap_or_default());
        function.arguments.push_str(&more.arguments.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fold(choices: &[Value]) -> Value {
        let mut fold = Fold::new();
        for choice in choices {
            let chunk = json!({"id": "x", "object": "chat.completion.chunk", "created": 1,
                "model": "m", "choices": [choice]});
            fold.push(serde_json::from_value(chunk).unwrap());
        }
        serde_json::to_value(fold.finish().unwrap()).unwrap()
    }

    #[test]
    fn interleaved_choices_are_kept_apart() {
        let whole = fold(&[
            json!({"index": 1, "delta": {"role": "assistant", "content": ""}}),
            json!({"index": 0, "delta": {"role": "assistant", "content": ""}}),
            json!({"index": 0, "delta": {"content": "a"}}),
            json!({"index": 1, "delta": {"content": "b"}}),
            json!({"index": 0, "delta": {"content": "c"}}),
            json!({"index": 0, "delta": {}, "finish_reason": "stop"}),
            json!({"index": 1, "delta": {}, "finish_reason": "length"}),
        ]);
        assert_eq!(whole["choices"][0]["message"]["content"], "ac");
        assert_eq!(whole["choices"][1]["message"]["content"], "b");
        assert_eq!(whole["choices"][1]["finish_reason"], "length");
    }

    #[test]
    fn a_message_that_only_calls_has_null_content() {
        let call = |fragment: Value| json!({"index": 0, "delta": {"tool_calls": [fragment]}});
        let whole = fold(&[
            json!({"index": 0, "delta": {"role": "assistant", "content": ""}}),
            call(json!({"index": 0, "id": "call_1", "type": "function",
                "function": {"name": "f", "arguments": ""}})),
            call(json!({"index": 0, "function": {"arguments": "{\"a\":"}})),
            call(json!({"index": 0, "function": {"arguments": "1}"}})),
        ]);
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["content"], Value::Null);
        assert!(message.as_object().unwrap().contains_key("content"));
        assert_eq!(message["tool_calls"][0]["id"], "call_1");
        assert_eq!(
            message["tool_calls"][0]["function"],
            json!({"name": "f", "arguments": "{\"a\":1}"})
        );
    }

    #[test]
    fn no_chunk_is_no_answer() {
        assert!(Fold::new().finish().is_none());
    }
}
