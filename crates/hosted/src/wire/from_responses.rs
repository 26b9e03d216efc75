//! The events of a response as the chunks of a chat answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use harmonium_openai::chat::{
    ChoiceLogprobs, ChunkChoice, CompletionTokensDetails, Delta, FinishReason, FunctionDelta,
    PromptTokensDetails, ToolCallDelta,
};
use harmonium_openai::responses::{
    ErrorReport, OutputItem, Response, ResponseEvent, ResponseUsage,
};
use harmonium_openai::{ChatChunk, ErrorObject, Usage};

/// What is known of the answer so far.
#[derive(Debug)]
pub(super) struct Reader {
    id: Arc<str>,
    created: i64,
    model: Arc<str>,
    object: Arc<str>,
    /// Whether a chunk has said who speaks.
    has_role: bool,
    /// Whether there has been any text.
    has_text: bool,
    /// The calls by their places among the answer's items.
    calls: BTreeMap<u32, Call>,
    is_over: bool,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    /// Its number among the calls.
    index: u32,
    has_arguments: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            id: "".into(),
            created: 0,
            model: "".into(),
            object: "chat.completion.chunk".into(),
            has_role: false,
            has_text: false,
            calls: BTreeMap::new(),
            is_over: false,
        }
    }
}

impl Reader {
    /// Whether the answer is complete.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The chunks that an event makes, mostly one or none, or upstream's reason to give up.
    pub(super) fn read(&mut self, event: ResponseEvent) -> Result<Vec<ChatChunk>, ErrorObject> {
        let delta = match event {
            // It says nothing of whether there will be an answer.
            ResponseEvent::Created { response } => {
                self.begin(response);
                return Ok(Vec::new());
            }
            ResponseEvent::Text { delta, logprobs } => {
                self.has_text = true;
                let logprobs = (!logprobs.is_empty())
                    .then_some(ChoiceLogprobs { content: Some(logprobs), refusal: None });
                let delta = Delta { content: Some(delta), ..Delta::default() };
                return Ok(vec![self.chunk(delta, None, logprobs)]);
            }
            // Some servers do not stream what is short.
            ResponseEvent::TextDone { text } if !self.has_text => {
                Delta { content: Some(text), ..Delta::default() }
            }
            ResponseEvent::ItemDone {
                output_index,
                item: OutputItem::FunctionCall { call_id, name, arguments },
            } => return Ok(self.call_done(output_index, call_id, name, arguments)),
            ResponseEvent::Refusal { delta } => Delta { refusal: Some(delta), ..Delta::default() },
            ResponseEvent::Reasoning { delta } => {
                Delta { reasoning: Some(delta), ..Delta::default() }
            }
            ResponseEvent::ItemAdded {
                output_index,
                item: OutputItem::FunctionCall { call_id, name, .. },
            } => self.call(output_index, call_id, name),
            ResponseEvent::Arguments { output_index, delta } => {
                match self.arguments(output_index, delta) {
                    Some(delta) => delta,
                    None => return Ok(Vec::new()),
                }
            }
            ResponseEvent::Completed { response } => {
                let reason = match self.calls.is_empty() {
                    true => FinishReason::Stop,
                    false => FinishReason::ToolCalls,
                };
                return Ok(self.end(response, reason));
            }
            ResponseEvent::Incomplete { response } => {
                let details = response.incomplete_details.as_ref();
                let reason = match details.map(|details| details.reason.as_str()) {
                    Some("content_filter") => FinishReason::ContentFilter,
                    _ => FinishReason::Length,
                };
                return Ok(self.end(response, reason));
            }
            ResponseEvent::Failed { response } => {
                return Err(error(response.error.unwrap_or_default()));
            }
            ResponseEvent::Error(report) => return Err(error(report)),
            // The model is at work: reasoning may take longer than anybody waits for a first word. It is what the first
            // chunk of a chat answer says, too, which has the role and no text.
            ResponseEvent::ItemAdded { .. } if !self.has_role => Delta::default(),
            ResponseEvent::ItemAdded { .. }
            | ResponseEvent::TextDone { .. }
            | ResponseEvent::ItemDone { .. }
            | ResponseEvent::Other => return Ok(Vec::new()),
        };
        Ok(vec![self.chunk(delta, None, None)])
    }

    fn begin(&mut self, response: Response) {
        self.id = response.id.into();
        // Seconds: whatever a server sends is a time of this age.
        self.created = response.created_at as i64;
        self.model = response.model.into();
    }

    fn call(&mut self, output_index: u32, call_id: String, name: String) -> Delta {
        // Bounded by the answer's bytes.
        let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        let call = Call { index, has_arguments: false };
        let index = self.calls.entry(output_index).or_insert(call).index;
        let function = FunctionDelta { name: Some(name), arguments: Some(String::new()) };
        tool_call(ToolCallDelta {
            index,
            id: Some(call_id),
            kind: Some("function".to_owned()),
            function: Some(function),
        })
    }

    /// More arguments of a call; nothing if there is no such call.
    fn arguments(&mut self, output_index: u32, arguments: String) -> Option<Delta> {
        let call = self.calls.get_mut(&output_index)?;
        call.has_arguments = true;
        let index = call.index;
        let function = FunctionDelta { name: None, arguments: Some(arguments) };
        Some(tool_call(ToolCallDelta { index, function: Some(function), ..Default::default() }))
    }

    /// What of a complete call has not come before.
    fn call_done(
        &mut self,
        output_index: u32,
        call_id: String,
        name: String,
        arguments: String,
    ) -> Vec<ChatChunk> {
        let known = self.calls.get(&output_index).copied();
        let head = known.is_none().then(|| self.call(output_index, call_id, name));
        let has_arguments = known.is_some_and(|call| call.has_arguments) || arguments.is_empty();
        let rest = (!has_arguments).then(|| self.arguments(output_index, arguments)).flatten();
        head.into_iter().chain(rest).map(|delta| self.chunk(delta, None, None)).collect()
    }

    /// The reason of the end, and the usage.
    fn end(&mut self, response: Response, reason: FinishReason) -> Vec<ChatChunk> {
        self.is_over = true;
        let usage = response.usage.map(usage);
        if self.model.is_empty() {
            self.begin(response);
        }
        let last = self.chunk(Delta::default(), Some(reason), None);
        let report = ChatChunk { choices: Vec::new(), usage: Some(usage), ..last.clone() };
        vec![last, report]
    }

    fn chunk(
        &mut self,
        mut delta: Delta,
        finish_reason: Option<FinishReason>,
        logprobs: Option<ChoiceLogprobs>,
    ) -> ChatChunk {
        if !std::mem::replace(&mut self.has_role, true) {
            delta.role = Some("assistant".into());
        }
        ChatChunk {
            id: Arc::clone(&self.id),
            object: Arc::clone(&self.object),
            created: self.created,
            model: Arc::clone(&self.model),
            choices: vec![ChunkChoice { index: 0, delta, finish_reason, logprobs }],
            usage: None,
            system_fingerprint: None,
        }
    }
}

fn tool_call(call: ToolCallDelta) -> Delta {
    Delta { tool_calls: Some(vec![call]), ..Delta::default() }
}

fn usage(usage: ResponseUsage) -> Usage {
    let cached_tokens = usage.input_tokens_details.unwrap_or_default().cached_tokens;
    let reasoning_tokens = usage.output_tokens_details.unwrap_or_default().reasoning_tokens;
    Usage {
        prompt_tokens: usage.input_tokens,
        completion_tokens: usage.output_tokens,
        total_tokens: usage.input_tokens.saturating_add(usage.output_tokens),
        prompt_tokens_details: Some(PromptTokensDetails { cached_tokens }),
        completion_tokens_details: Some(CompletionTokensDetails { reasoning_tokens }),
    }
}

fn error(report: ErrorReport) -> ErrorObject {
    let ErrorReport { code, message, param } = report;
    ErrorObject { kind: code.clone().unwrap_or_default(), message, param, code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harmonium_openai::{ChatCompletion, Fold};
    use serde_json::{Value, json};

    fn read(reader: &mut Reader, event: Value) -> Result<Vec<ChatChunk>, ErrorObject> {
        reader.read(serde_json::from_value(event).unwrap())
    }

    fn whole(events: &[Value]) -> ChatCompletion {
        let mut reader = Reader::default();
        let mut fold = Fold::new();
        for event in events {
            assert!(!reader.is_over());
            read(&mut reader, event.clone())
                .unwrap()
                .into_iter()
                .for_each(|chunk| fold.push(chunk));
        }
        assert!(reader.is_over());
        fold.finish().unwrap()
    }

    fn created() -> Value {
        json!({"type": "response.created",
            "response": {"id": "resp_1", "created_at": 7, "model": "m-2025", "usage": null}})
    }

    fn ended(kind: &str, more: Value) -> Value {
        let mut response = json!({"usage": {"input_tokens": 10, "output_tokens": 4,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 14}});
        response.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": kind, "response": response})
    }

    #[test]
    fn a_response_becomes_an_answer() {
        let answer = whole(&[
            created(),
            json!({"type": "response.in_progress"}),
            json!({"type": "response.output_item.added", "output_index": 0,
                "item": {"type": "reasoning"}}),
            json!({"type": "response.reasoning_text.delta", "delta": "Easy."}),
            json!({"type": "response.output_text.delta", "delta": "Par",
                "logprobs": [{"token": "Par", "logprob": -0.5}]}),
            json!({"type": "response.output_text.delta", "delta": "is."}),
            ended("response.completed", json!({})),
        ]);
        assert_eq!((&*answer.id, answer.created, &*answer.model), ("resp_1", 7, "m-2025"));
        let choice = &answer.choices[0];
        assert_eq!(choice.message.content.as_deref(), Some("Paris."));
        assert_eq!(choice.message.reasoning.as_deref(), Some("Easy."));
        assert_eq!(choice.message.role, "assistant");
        assert_eq!(choice.finish_reason, Some(FinishReason::Stop));
        let logprobs = choice.logprobs.as_ref().unwrap().content.as_ref().unwrap();
        assert_eq!((logprobs.len(), logprobs[0].logprob), (1, -0.5));
        let usage = answer.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (10, 4));
        assert_eq!(usage.prompt_tokens_details.unwrap().cached_tokens, 8);
        assert_eq!(usage.completion_tokens_details.unwrap().reasoning_tokens, 2);
    }

    #[test]
    fn calls_are_numbered_among_themselves() {
        let call = |output_index: u32, name: &str| {
            json!({"type": "response.output_item.added", "output_index": output_index,
                "item": {"type": "function_call", "id": "fc", "call_id": format!("call_{name}"),
                    "name": name, "arguments": ""}})
        };
        let arguments = |output_index: u32, delta: &str| {
            json!({"type": "response.function_call_arguments.delta",
                "output_index": output_index, "delta": delta})
        };
        let answer = whole(&[
            created(),
            call(1, "f"),
            arguments(1, "{\"a\""),
            call(3, "g"),
            arguments(3, "{}"),
            arguments(1, ":1}"),
            arguments(9, "nobody's"),
            ended("response.completed", json!({})),
        ]);
        let calls = answer.choices[0].message.tool_calls.as_ref().unwrap();
        let calls: Vec<_> = calls
            .iter()
            .map(|call| (call.id.as_str(), call.function.as_ref().unwrap().arguments.as_str()))
            .collect();
        assert_eq!(calls, [("call_f", "{\"a\":1}"), ("call_g", "{}")]);
        assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::ToolCalls));
    }

    #[test]
    fn what_comes_only_when_it_is_complete_is_not_lost_and_nothing_comes_twice() {
        let item = |kind: &str, output_index: u32, name: &str, arguments: &str| {
            json!({"type": format!("response.output_item.{kind}"), "output_index": output_index,
                "item": {"type": "function_call", "call_id": format!("call_{name}"),
                    "name": name, "arguments": arguments}})
        };
        let delta = json!({"type": "response.function_call_arguments.delta",
            "output_index": 2, "delta": "{}"});
        let text = |text: &str| json!({"type": "response.output_text.done", "text": text});
        let answer = whole(&[
            created(),
            text("Hi."),
            item("added", 0, "f", ""),
            item("done", 0, "f", "{\"a\":1}"),
            item("done", 1, "g", "{\"b\":2}"),
            item("added", 2, "h", ""),
            delta,
            item("done", 2, "h", "{}"),
            ended("response.completed", json!({})),
        ]);
        let message = &answer.choices[0].message;
        assert_eq!(message.content.as_deref(), Some("Hi."));
        let calls = message.tool_calls.iter().flatten().map(|call| call.function.as_ref().unwrap());
        let calls: Vec<_> =
            calls.map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
        assert_eq!(calls, [("f", "{\"a\":1}"), ("g", "{\"b\":2}"), ("h", "{}")]);
        let streamed = json!({"type": "response.output_text.delta", "delta": "Hi."});
        let answer = whole(&[streamed, text("Hi."), ended("response.completed", json!({}))]);
        assert_eq!(answer.choices[0].message.content.as_deref(), Some("Hi."));
    }

    #[test]
    fn an_end_before_the_end_says_why() {
        let reason = |reason: &str| {
            let details = json!({"incomplete_details": {"reason": reason}, "model": "m"});
            whole(&[ended("response.incomplete", details)]).choices[0].finish_reason.unwrap()
        };
        assert_eq!(reason("max_output_tokens"), FinishReason::Length);
        assert_eq!(reason("content_filter"), FinishReason::ContentFilter);
    }

    #[test]
    fn a_failure_is_one_in_either_form() {
        for event in [
            json!({"type": "response.failed",
                "response": {"error": {"code": "server_error", "message": "oops"}}}),
            json!({"type": "error", "code": "server_error", "message": "oops", "param": null}),
        ] {
            let error = read(&mut Reader::default(), event).unwrap_err();
            assert_eq!((error.code.as_deref(), &*error.message), (Some("server_error"), "oops"));
        }
    }
}
