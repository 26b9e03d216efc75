//! What of a request is sent upstream.
//!
//! The upstream request is built field by field: what is not named here does not leave. Fields that the hosted
//! model does not take, or that say who the user is, are left out, and the answer names them.
//!
//! | field | what becomes of it |
//! |---|---|
//! | `messages` | role, text, images, tool calls and results go; reasoning and participants' names do not; a missing `tool_call_id` is that of the only call the result can answer, else the request is refused |
//! | `max_completion_tokens`, `max_tokens` | at most the hosted model's longest answer; the Responses protocol has none below 16: fewer become 16, and the field counts as left out |
//! | `temperature`, `top_p`, `logprobs`, `top_logprobs` | go |
//! | `frequency_penalty`, `presence_penalty`, `seed`, `stop` | go; the Responses protocol has none |
//! | `n` | goes; more than one is refused where the Responses protocol is spoken |
//! | `logit_bias` | goes if the request names the hosted model, whose ids they are; the Responses protocol has none |
//! | function `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` | go |
//! | `reasoning_effort`, `reasoning`, `chat_template_kwargs` | the effort goes to a model that reasons |
//! | `verbosity` | goes to a model that reasons |
//! | `include_reasoning` | left out |
//! | `top_k`, `min_p`, `repetition_penalty`, `ignore_eos` | left out: OpenAI's protocols have none |
//! | `user`, `safety_identifier` | replaced by a keyed hash of the caller |
//! | `store` | always false |
//! | `stream`, `stream_options` | always a stream with its usage; a whole answer is folded here |
//! | all others | left out |
//!
//! What a model does not take besides, its configuration names (`drop`).

use harmonium_openai::chat::StreamOptions;
use harmonium_openai::{ChatMessage, ChatRequest, Content, ContentPart};
use serde_json::Value;

use crate::calls;
use crate::config::{HostedModel, Wire};
use crate::error::Result;

/// Fields that a model may be configured not to take.
pub(crate) const OPTIONAL_FIELDS: [&str; 11] = [
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "logit_bias",
    "logprobs",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
];

/// Those of them that the Responses protocol does not have.
const NOT_IN_RESPONSES: [&str; 5] =
    ["frequency_penalty", "presence_penalty", "seed", "stop", "logit_bias"];

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
    /// The model.
    pub(crate) model: &'a HostedModel,
    /// Longest answer to ask for, in tokens.
    pub(crate) max_output: u32,
    /// Whether the client asked for this very model.
    pub(crate) is_named: bool,
    /// The caller, unrecognizable.
    pub(crate) safety_identifier: &'a str,
}

impl Target<'_> {
    /// Whether the model takes an optional field from this client.
    fn takes(&self, field: &str) -> bool {
        let is_for_it = match field {
            "reasoning_effort" | "verbosity" => self.model.is_reasoning,
            "logit_bias" => self.is_named,
            _ => true,
        };
        let is_in_protocol = self.model.wire == Wire::Chat || !NOT_IN_RESPONSES.contains(&field);
        is_for_it && is_in_protocol && !self.model.drop.iter().any(|dropped| dropped == field)
    }
}

/// Builds the upstream request. `request` has passed validation.
pub(crate) fn translate(request: &ChatRequest, target: Target<'_>) -> Result<Translation> {
    let mut messages: Vec<_> = request.messages.iter().map(message).collect();
    calls::link(&mut messages, &request.messages)?;
    let has_tools = has_tools(request);
    let format = request.response_format.clone().filter(|format| format.kind != "text");
    Ok(Translation {
        request: ChatRequest {
            model: Some(target.model.name.clone()),
            messages,
            stream: Some(true),
            stream_options: Some(StreamOptions {
                include_usage: Some(true),
                ..StreamOptions::default()
            }),
            n: request.n,
            max_completion_tokens: Some(i64::from(target.max_output)),
            stop: request.stop.clone().filter(|_| target.takes("stop")),
            seed: request.seed.filter(|_| target.takes("seed")),
            temperature: request.temperature.filter(|_| target.takes("temperature")),
            top_p: request.top_p.filter(|_| target.takes("top_p")),
            frequency_penalty: request
                .frequency_penalty
                .filter(|_| target.takes("frequency_penalty")),
            presence_penalty: request.presence_penalty.filter(|_| target.takes("presence_penalty")),
            logit_bias: request.logit_bias.clone().filter(|_| target.takes("logit_bias")),
            logprobs: request.logprobs.filter(|_| target.takes("logprobs")),
            top_logprobs: request.top_logprobs.filter(|_| target.takes("logprobs")),
            reasoning_effort: effort(request).filter(|_| target.takes("reasoning_effort")),
            verbosity: request.verbosity.clone().filter(|_| sends_verbosity(request, target)),
            // Without tools these are errors upstream, here they say nothing.
            tools: request.tools.clone().filter(|_| has_tools),
            tool_choice: request.tool_choice.clone().filter(|_| has_tools),
            parallel_tool_calls: request
                .parallel_tool_calls
                .filter(|_| has_tools && target.takes("parallel_tool_calls")),
            response_format: format,
            safety_identifier: Some(Value::from(target.safety_identifier)),
            store: Some(Value::from(false)),
            ..ChatRequest::default()
        },
        dropped: dropped(request, target),
    })
}

/// The effort that the client wants, in whichever of the three places it says so.
fn effort(request: &ChatRequest) -> Option<String> {
    let nested = request.reasoning.as_ref().and_then(|options| options.effort.as_ref());
    let template =
        request.chat_template_kwargs.as_ref().and_then(|options| options.reasoning_effort.as_ref());
    request.reasoning_effort.as_ref().or(nested).or(template).cloned()
}

/// The fields of the request that say something and are not sent.
fn dropped(request: &ChatRequest, target: Target<'_>) -> Vec<&'static str> {
    let any = |test: fn(&ChatMessage) -> bool| request.messages.iter().any(test);
    let r = request;
    let no_effort = !target.takes("reasoning_effort");
    let is_raised = |limit: Option<i64>| limit.is_some_and(|max| max < target.max_output.into());
    // The new name counts where both are given.
    let is_old_raised = r.max_completion_tokens.is_none() && is_raised(r.max_tokens);
    let optional = [
        ("temperature", r.temperature.is_some()),
        ("top_p", r.top_p.is_some()),
        ("frequency_penalty", r.frequency_penalty.is_some()),
        ("presence_penalty", r.presence_penalty.is_some()),
        ("seed", r.seed.is_some()),
        ("stop", r.stop.is_some()),
        ("logit_bias", r.logit_bias.is_some()),
        ("logprobs", r.logprobs.is_some()),
        ("parallel_tool_calls", r.parallel_tool_calls.is_some() && has_tools(r)),
    ];
    let optional = optional.map(|(name, is_given)| (name, is_given && !target.takes(name)));
    let always = [
        ("messages.name", any(|message| message.name.is_some() && message.role != "function")),
        ("messages.reasoning", any(has_reasoning)),
        ("max_completion_tokens", is_raised(r.max_completion_tokens)),
        ("max_tokens", is_old_raised),
        ("reasoning_effort", no_effort && r.reasoning_effort.is_some()),
        ("reasoning", no_effort && r.reasoning.is_some()),
        ("chat_template_kwargs", no_effort && r.chat_template_kwargs.is_some()),
        ("include_reasoning", r.include_reasoning.is_some()),
        ("top_k", r.top_k.is_some()),
        ("min_p", r.min_p.is_some()),
        ("repetition_penalty", r.repetition_penalty.is_some()),
        ("ignore_eos", r.ignore_eos.is_some()),
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
        ("verbosity", r.verbosity.is_some() && !sends_verbosity(r, target)),
    ];
    let all = always.into_iter().chain(optional);
    all.filter_map(|(name, is_dropped)| is_dropped.then_some(name)).collect()
}

/// Nothing but the three words goes: it is not a place for texts.
fn sends_verbosity(request: &ChatRequest, target: Target<'_>) -> bool {
    let word = request.verbosity.as_ref().and_then(Value::as_str);
    target.takes("verbosity") && matches!(word, Some("low" | "medium" | "high"))
}

fn has_tools(request: &ChatRequest) -> bool {
    request.tools.as_ref().is_some_and(|tools| !tools.is_empty())
}

fn message(message: &ChatMessage) -> ChatMessage {
    // What a message of this role does not have has not been looked at.
    let is_assistant = message.role == "assistant";
    let tool_calls = message.tool_calls.clone().filter(|calls| is_assistant && !calls.is_empty());
    let function_call = message.function_call.clone().filter(|_| is_assistant);
    let refusal = message.refusal.clone().filter(|_| is_assistant);
    let content = match &message.content {
        Some(content) => Some(self::content(content)),
        // Upstream takes silence only from an assistant that calls.
        None if tool_calls.is_some() || function_call.is_some() || refusal.is_some() => None,
        None => Some(Content::Text(String::new())),
    };
    ChatMessage {
        role: message.role.clone(),
        content,
        // The result of a call in its old form is known by it.
        name: message.name.clone().filter(|_| message.role == "function"),
        tool_calls,
        tool_call_id: message.tool_call_id.clone().filter(|_| message.role == "tool"),
        function_call,
        reasoning: None,
        reasoning_content: None,
        refusal,
    }
}

/// Most tokens that the hosted model may see of `request` besides the texts that the local prompt has in full: a token
/// has a byte at least. Schemas and declarations are shown differently here, refusals beside an answer not at all.
pub fn unrendered_tokens(request: &ChatRequest) -> u64 {
    let json_len = |value: Option<Value>| value.map_or(0, |value| value.to_string().len());
    let tools = request.tools.iter().flatten().filter_map(|tool| tool.function.as_ref());
    let tools = tools.map(|function| {
        let description = function.description.as_ref().map_or(0, String::len);
        function.name.len() + description + json_len(function.parameters.clone())
    });
    let format = request.response_format.as_ref().and_then(|format| format.json_schema.as_ref());
    let schema = format.and_then(|format| format.schema.clone());
    let refusals = request.messages.iter().filter_map(|message| message.refusal.as_ref());
    let num_bytes =
        tools.sum::<usize>() + json_len(schema) + refusals.map(String::len).sum::<usize>();
    num_bytes as u64
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
    ContentPart {
        kind: kind.to_owned(),
        text: part.text.clone().filter(|_| kind == "text"),
        refusal: part.refusal.clone().filter(|_| kind == "refusal"),
        // Only there has it been checked and counted.
        image_url: part.image_url.clone().filter(|_| kind == "image_url"),
    }
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
    use crate::config::Secret;
    use crate::price::Price;
    use serde_json::json;

    fn model() -> HostedModel {
        HostedModel {
            name: "big".to_owned(),
            base_url: String::new(),
            api_key: Secret::new("k"),
            context: 1_000,
            max_output: 100,
            price: Price::from_usd_per_million(0.0, 0.0, 0.0).unwrap(),
            wire: Wire::Chat,
            image_tokens: None,
            is_reasoning: false,
            drop: Vec::new(),
        }
    }

    fn target(model: &HostedModel) -> Target<'_> {
        Target { model, max_output: 100, is_named: false, safety_identifier: "hash" }
    }

    fn translated(request: Value, target: Target<'_>) -> (Value, Vec<&'static str>) {
        let request: ChatRequest = serde_json::from_value(request).unwrap();
        let Translation { request, dropped } = translate(&request, target).unwrap();
        (serde_json::to_value(request).unwrap(), dropped)
    }

    #[test]
    fn a_plain_request_gets_only_what_is_always_sent() {
        let plain = json!({"model": "auto", "messages": [{"role": "user", "content": "hi"}]});
        let (sent, dropped) = translated(plain, target(&model()));
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
        let (sent, dropped) = translated(request, target(&model()));
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
        let (sent, dropped) = translated(request, target(&model()));
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
        let (sent, dropped) = translated(request, Target { is_named: true, ..target(&model()) });
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
            target(&model()),
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
    fn a_model_that_reasons_is_told_how_much_from_wherever_it_is_said() {
        let model = HostedModel { is_reasoning: true, ..model() };
        for place in [
            json!({"reasoning_effort": "high"}),
            json!({"reasoning": {"effort": "high"}}),
            json!({"chat_template_kwargs": {"reasoning_effort": "high"}}),
        ] {
            let mut request = place;
            request["messages"] = json!([]);
            request["verbosity"] = json!("low");
            let (sent, dropped) = translated(request, target(&model));
            assert_eq!((&sent["reasoning_effort"], dropped), (&json!("high"), vec![]));
            assert_eq!(sent["verbosity"], "low");
        }
    }

    #[test]
    fn what_a_model_is_said_not_to_take_is_left_out_and_named() {
        let fields = json!({"temperature": 0.5, "top_p": 0.5, "seed": 7, "stop": "x",
            "frequency_penalty": 0.1, "presence_penalty": 0.1, "logprobs": true, "top_logprobs": 2});
        let mut request = fields.clone();
        request["messages"] = json!([]);
        let drop = ["temperature", "logprobs"].map(str::to_owned).into();
        let model = HostedModel { drop, wire: Wire::Responses, ..model() };
        let (sent, dropped) = translated(request, target(&model));
        let expected =
            ["temperature", "frequency_penalty", "presence_penalty", "seed", "stop", "logprobs"];
        assert_eq!(dropped, expected);
        let is_sent = |name: &&str| sent.get(*name).is_some();
        let sent: Vec<_> =
            fields.as_object().unwrap().keys().map(String::as_str).filter(is_sent).collect();
        assert_eq!(sent, ["top_p"]);
    }

    #[test]
    fn a_limit_that_the_protocol_does_not_have_is_raised_and_named() {
        for (fields, expected) in [
            (json!({"max_completion_tokens": 5}), &["max_completion_tokens"][..]),
            (json!({"max_tokens": 5}), &["max_tokens"]),
            (json!({"max_tokens": 5, "max_completion_tokens": 16}), &[]),
            (json!({"max_tokens": 500}), &[]),
        ] {
            let mut request = fields;
            request["messages"] = json!([]);
            let (sent, dropped) =
                translated(request, Target { max_output: 16, ..target(&model()) });
            assert_eq!(sent["max_completion_tokens"], 16);
            assert_eq!(dropped, expected);
        }
    }

    #[test]
    fn a_message_goes_with_what_its_role_has() {
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}});
        let (sent, _) = translated(
            json!({"messages": [{"role": "user", "content": "q", "refusal": "x", "tool_call_id": "x",
                "tool_calls": [call], "function_call": {"name": "x", "arguments": "x"}}]}),
            target(&model()),
        );
        assert_eq!(sent["messages"], json!([{"role": "user", "content": "q"}]));
    }

    #[test]
    fn verbosity_is_no_place_for_texts() {
        let model = HostedModel { is_reasoning: true, ..model() };
        let request = json!({"messages": [], "verbosity": "my secret"});
        let (sent, dropped) = translated(request, target(&model));
        assert_eq!((sent.get("verbosity"), dropped), (None, vec!["verbosity"]));
    }

    #[test]
    fn what_the_local_prompt_does_not_have_in_full_is_counted() {
        let parameters = json!({"type": "object", "anyOf": [{"description": "long ".repeat(100)}]});
        let request = json!({"messages": [{"role": "assistant", "refusal": "no"}], "tools": [
            {"type": "function", "function": {"name": "f", "parameters": parameters}}]});
        let request: ChatRequest = serde_json::from_value(request).unwrap();
        let expected = 1 + parameters.to_string().len() + 2;
        assert_eq!(unrendered_tokens(&request), expected as u64);
    }

    #[test]
    fn an_image_goes_only_where_it_has_been_checked() {
        let image = json!({"url": "https://example.com/a.png"});
        let parts = json!([{"type": "image_url", "image_url": image},
            {"type": "text", "text": "q", "image_url": image}]);
        let request = json!({"messages": [{"role": "user", "content": parts}]});
        let (sent, _) = translated(request, target(&model()));
        let expected =
            json!([{"type": "image_url", "image_url": image}, {"type": "text", "text": "q"}]);
        assert_eq!(sent["messages"][0]["content"], expected);
    }

    #[test]
    fn choices_about_tools_need_tools() {
        let (sent, _) = translated(
            json!({"messages": [], "tools": [], "tool_choice": "none", "parallel_tool_calls": true,
                "response_format": {"type": "text"}}),
            target(&model()),
        );
        for name in ["tools", "tool_choice", "parallel_tool_calls", "response_format"] {
            assert!(sent.get(name).is_none(), "{name}");
        }
    }
}
