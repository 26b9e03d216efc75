//! What of a request is sent upstream.
//!
//! The upstream request is built field by field: what is not named here does not leave. Fields that the hosted
//! model does not take, or that say who the user is, are left out, and the answer names them.
//!
//! | field | what becomes of it |
//! |---|---|
//! | `messages` | role, text, tool calls and results go; reasoning and participants' names do not |
//! | `max_completion_tokens`, `max_tokens` | at most the hosted model's longest answer |
//! | `temperature`, `top_p`, `frequency_penalty`, `presence_penalty`, `seed`, `stop`, `n`, `logprobs`, `top_logprobs` | go |
//! | `logit_bias` | goes if the request names the hosted model: its ids are those of the model it names |
//! | function `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` | go |
//! | `reasoning_effort`, `reasoning`, `chat_template_kwargs`, `include_reasoning`, `verbosity` | left out |
//! | `top_k`, `min_p`, `repetition_penalty`, `ignore_eos` | left out: OpenAI's protocol has none |
//! | `user`, `safety_identifier` | replaced by a keyed hash of the caller |
//! | `store` | always false |
//! | `stream`, `stream_options` | always a stream with its usage; a whole answer is folded here |
//! | all others | left out |

use harmonium_openai::chat::StreamOptions;
use harmonium_openai::{ChatMessage, ChatRequest, Content, ContentPart};
use serde_json::Value;

/// What a request becomes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Translation {
    /// What is sent.
    pub(crate) request: ChatRequest,
    /// Fields of the client's request that were left out, in a fixed order.
    pub(crate) dropped: Vec<&'static str>,
}

/// What the request is translated for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The model's name upstream.
    pub(crate) model: &'a str,
    /// Longest answer to ask for, in tokens.
    pub(crate) max_output: u32,
    /// Whether the client asked for this very model.
    pub(crate) is_named: bool,
    /// The caller, unrecognizable.
    pub(crate) safety_identifier: &'a str,
}

/// Builds the upstream request. `request` has passed validation.
pub(crate) fn translate(request: &ChatRequest, target: Target<'_>) -> Translation {
    let has_tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let format = request.response_format.clone().filter(|format| format.kind != "text");
    Translation {
        request: ChatRequest {
            model: Some(target.model.to_owned()),
            messages: request.messages.iter().map(message).collect(),
            stream: Some(true),
            stream_options: Some(StreamOptions {
                include_usage: Some(true),
                ..StreamOptions::default()
            }),
            n: request.n,
            max_completion_tokens: Some(i64::from(target.max_output)),
            stop: request.stop.clone(),
            seed: request.seed,
            temperature: request.temperature,
            top_p: request.top_p,
            frequency_penalty: request.frequency_penalty,
            presence_penalty: request.presence_penalty,
            logit_bias: request.logit_bias.clone().filter(|_| target.is_named),
            logprobs: request.logprobs,
            top_logprobs: request.top_logprobs,
            // Without tools these are errors upstream, here they say nothing.
            tools: request.tools.clone().filter(|_| has_tools),
            tool_choice: request.tool_choice.clone().filter(|_| has_tools),
            parallel_tool_calls: request.parallel_tool_calls.filter(|_| has_tools),
            response_format: format,
            safety_identifier: Some(Value::from(target.safety_identifier)),
            store: Some(Value::from(false)),
            ..ChatRequest::default()
        },
        dropped: dropped(request, target),
    }
}

/// The fields of the request that say something and are not sent.
fn dropped(request: &ChatRequest, target: Target<'_>) -> Vec<&'static str> {
    let any = |test: fn(&ChatMessage) -> bool| request.messages.iter().any(test);
    let r = request;
    [
        ("messages.name", any(|message| message.name.is_some())),
        ("messages.reasoning", any(has_reasoning)),
        ("reasoning_effort", r.reasoning_effort.is_some()),
        ("reasoning", r.reasoning.is_some()),
        ("chat_template_kwargs", r.chat_template_kwargs.is_some()),
        ("include_reasoning", r.include_reasoning.is_some()),
        ("verbosity", r.verbosity.is_some()),
        ("top_k", r.top_k.is_some()),
        ("min_p", r.min_p.is_some()),
        ("repetition_penalty", r.repetition_penalty.is_some()),
        ("ignore_eos", r.ignore_eos.is_some()),
        ("logit_bias", r.logit_bias.is_some() && !target.is_named),
        ("user", r.user.is_some()),
        ("safety_identifier", r.safety_identifier.is_some()),
        ("metadata", r.metadata.is_some()),
        ("store", r.store.as_ref().is_some_and(|store| store.as_bool() != Some(false))),
        ("service_tier", r.service_tier.is_some()),
        ("prediction", r.prediction.is_some()),
        ("moderation", r.moderation.is_some()),
        ("prompt_cache_key", r.prompt_cache_key.is_some()),
        ("prompt_cache_options", r.prompt_cache_options.is_some()),
        ("prompt_cache_retention", r.prompt_cache_retention.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is_dropped)| is_dropped.then_some(name))
    .collect()
}

fn message(message: &ChatMessage) -> ChatMessage {
    let has_calls = message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    let is_function = message.role == "function";
    let content = match &message.content {
        Some(content) => Some(self::content(content)),
        // Upstream takes silence only from an assistant that calls.
        None if has_calls || message.function_call.is_some() || message.refusal.is_some() => None,
        None => Some(Content::Text(String::new())),
    };
    ChatMessage {
        role: message.role.clone(),
        content,
        // The result of a call in its old form is known by it.
        name: message.name.clone().filter(|_| is_function),
        tool_calls: message.tool_calls.clone().filter(|_| has_calls),
        tool_call_id: message.tool_call_id.clone(),
        function_call: message.function_call.clone(),
        reasoning: None,
        reasoning_content: None,
        refusal: message.refusal.clone(),
    }
}

fn content(content: &Content) -> Content {
    match content {
        Content::Text(text) => Content::Text(text.clone()),
        Content::Parts(parts) => {
            Content::Parts(parts.iter().filter(|part| !is_reasoning(part)).map(part).collect())
        }
    }
}

fn part(part: &ContentPart) -> ContentPart {
    let kind = match part.kind.as_str() {
        "input_text" | "output_text" => "text",
        other => other,
    };
    ContentPart { kind: kind.to_owned(), text: part.text.clone(), refusal: part.refusal.clone() }
}

fn is_reasoning(part: &ContentPart) -> bool {
    matches!(part.kind.as_str(), "reasoning" | "thinking")
}

fn has_reasoning(message: &ChatMessage) -> bool {
    let in_parts = match &message.content {
        Some(Content::Parts(parts)) => parts.iter().any(is_reasoning),
        _ => false,
    };
    in_parts || message.reasoning.is_some() || message.reasoning_content.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target() -> Target<'static> {
        Target { model: "big", max_output: 100, is_named: false, safety_identifier: "hash" }
    }

    fn translated(request: Value, target: Target<'_>) -> (Value, Vec<&'static str>) {
        let request: ChatRequest = serde_json::from_value(request).unwrap();
        let Translation { request, dropped } = translate(&request, target);
        (serde_json::to_value(request).unwrap(), dropped)
    }

    #[test]
    fn a_plain_request_gets_only_what_is_always_sent() {
        let plain = json!({"model": "auto", "messages": [{"role": "user", "content": "hi"}]});
        let (sent, dropped) = translated(plain, target());
        let expected = json!({
            "model": "big",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_completion_tokens": 100,
            "safety_identifier": "hash",
            "store": false,
        });
        assert_eq!((sent, dropped), (expected, vec![]));
    }

    #[test]
    fn what_the_hosted_model_takes_is_sent_as_it_came() {
        let fields = json!({
            "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.2,
            "seed": 7, "stop": ["x"], "n": 2, "logprobs": true, "top_logprobs": 3,
            "tools": [{"type": "function", "function": {"name": "f", "description": "d",
                "parameters": {"type": "object"}, "strict": true}}],
            "tool_choice": "required", "parallel_tool_calls": false,
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        });
        let mut request = fields.clone();
        request["messages"] = json!([]);
        let (sent, dropped) = translated(request, target());
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&sent[name], value, "{name}");
        }
        assert!(dropped.is_empty());
    }

    #[test]
    fn what_it_does_not_take_is_left_out_and_named() {
        let fields = json!({
            "reasoning_effort": "high", "reasoning": {"effort": "high"},
            "chat_template_kwargs": {}, "include_reasoning": true, "verbosity": "low",
            "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": true,
            "logit_bias": {"1": 2.0}, "user": "eve@example.com", "metadata": {"a": "eve"},
            "service_tier": "flex", "prediction": {}, "moderation": {},
            "prompt_cache_key": "eve", "prompt_cache_options": {}, "prompt_cache_retention": "24h",
        });
        let mut request = fields.clone();
        request["messages"] = json!([]);
        request["store"] = json!(true);
        request["safety_identifier"] = json!("eve");
        let (sent, dropped) = translated(request, target());
        for name in fields.as_object().unwrap().keys() {
            assert!(sent.get(name).is_none(), "{name}");
            assert!(dropped.contains(&name.as_str()), "{name}");
        }
        assert!(dropped.contains(&"store") && dropped.contains(&"safety_identifier"));
        assert_eq!(sent["store"], json!(false));
        assert!(!sent.to_string().contains("eve"));
    }

    #[test]
    fn token_ids_go_only_to_the_model_they_were_meant_for() {
        let request = json!({"messages": [], "logit_bias": {"1": 2.0}});
        let (sent, dropped) = translated(request, Target { is_named: true, ..target() });
        assert_eq!((&sent["logit_bias"], dropped), (&json!({"1": 2.0}), vec![]));
    }

    #[test]
    fn history_goes_without_its_reasoning() {
        let call = json!([{"id": "c1", "type": "function",
            "function": {"name": "f", "arguments": "{}"}}]);
        let (sent, dropped) = translated(
            json!({"messages": [
                {"role": "user", "name": "eve", "content": [{"type": "input_text", "text": "q"}]},
                {"role": "assistant", "content": null, "reasoning": "r", "tool_calls": call},
                {"role": "tool", "tool_call_id": "c1", "content": "42"},
                {"role": "assistant", "content": [{"type": "thinking", "text": "r"},
                    {"type": "text", "text": "a"}]},
                {"role": "assistant", "content": null, "tool_calls": []},
            ]}),
            target(),
        );
        let expected = json!([
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": null, "tool_calls": call},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": ""},
        ]);
        assert_eq!(sent["messages"], expected);
        assert_eq!(dropped, ["messages.name", "messages.reasoning"]);
    }

    #[test]
    fn choices_about_tools_need_tools() {
        let (sent, _) = translated(
            json!({"messages": [], "tools": [], "tool_choice": "none", "parallel_tool_calls": true,
                "response_format": {"type": "text"}}),
            target(),
        );
        for name in ["tools", "tool_choice", "parallel_tool_calls", "response_format"] {
            assert!(sent.get(name).is_none(), "{name}");
        }
    }
}
