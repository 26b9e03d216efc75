//! A chat request in the words of the Responses protocol.
//!
//! The request has been translated for a hosted model: what that protocol does not have is gone from it.

use harmonium_openai::chat::{FunctionCall, NamedChoice, ResponseFormat, Tool, ToolChoice};
use harmonium_openai::responses::{
    InputItem, InputPart, ReasoningConfig, ResponseRequest, ResponseTool, ResponseToolChoice,
    TextConfig, TextFormat,
};
use harmonium_openai::{ChatMessage, ChatRequest, Content, ContentPart};
use serde_json::Value;

/// Builds the request, field by field.
pub(super) fn response_request(request: &ChatRequest) -> ResponseRequest {
    let wants_logprobs = request.logprobs == Some(true);
    ResponseRequest {
        model: request.model.clone().unwrap_or_default(),
        input: request.messages.iter().flat_map(items).collect(),
        stream: true,
        store: false,
        max_output_tokens: request.max_completion_tokens.and_then(|max| max.try_into().ok()),
        temperature: request.temperature,
        top_p: request.top_p,
        include: if wants_logprobs { vec!["message.output_text.logprobs"] } else { Vec::new() },
        top_logprobs: request.top_logprobs.filter(|_| wants_logprobs),
        reasoning: request.reasoning_effort.clone().map(|effort| ReasoningConfig { effort }),
        text: text_config(request),
        tools: request.tools.iter().flatten().filter_map(tool).collect(),
        tool_choice: request.tool_choice.as_ref().map(tool_choice),
        parallel_tool_calls: request.parallel_tool_calls,
        safety_identifier: request
            .safety_identifier
            .as_ref()
            .and_then(Value::as_str)
            .map(str::to_owned),
    }
}

/// A message is one item, and one more for each call that it makes.
fn items(message: &ChatMessage) -> Vec<InputItem> {
    let call_id = || message.tool_call_id.clone().or(message.name.clone()).unwrap_or_default();
    if matches!(message.role.as_str(), "tool" | "function") {
        return vec![InputItem::FunctionCallOutput { call_id: call_id(), output: plain(message) }];
    }
    let mut items = Vec::new();
    let content = parts(message);
    if !content.is_empty() {
        items.push(InputItem::Message { role: message.role.clone(), content });
    }
    let function_call = |call_id: &str, call: &FunctionCall| InputItem::FunctionCall {
        call_id: call_id.to_owned(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    };
    for call in message.tool_calls.iter().flatten() {
        items.extend(call.function.as_ref().map(|function| function_call(&call.id, function)));
    }
    // A call in its old form has no id; its result, which has none either, is known by the name.
    items.extend(message.function_call.as_ref().map(|call| function_call(&call.name, call)));
    items
}

fn parts(message: &ChatMessage) -> Vec<InputPart> {
    let is_answer = message.role == "assistant";
    let text = |text: &String| match is_answer {
        true => InputPart::OutputText { text: text.clone() },
        false => InputPart::InputText { text: text.clone() },
    };
    let mut parts: Vec<InputPart> = match &message.content {
        None => Vec::new(),
        Some(Content::Text(said)) => vec![text(said)],
        Some(Content::Parts(parts)) => {
            parts.iter().filter_map(|part| self::part(part, &text)).collect()
        }
    };
    parts.extend(message.refusal.clone().map(|refusal| InputPart::Refusal { refusal }));
    parts
}

fn part(part: &ContentPart, text: &impl Fn(&String) -> InputPart) -> Option<InputPart> {
    if let Some(image) = &part.image_url {
        let (image_url, detail) = (image.url.clone(), image.detail.clone());
        return Some(InputPart::InputImage { image_url, detail });
    }
    let refusal = part.refusal.clone().map(|refusal| InputPart::Refusal { refusal });
    part.text.as_ref().map(text).or(refusal)
}

/// The text of a result.
fn plain(message: &ChatMessage) -> String {
    match &message.content {
        None => String::new(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => {
            let texts: Vec<_> = parts.iter().filter_map(|part| part.text.as_deref()).collect();
            texts.join("\n")
        }
    }
}

fn text_config(request: &ChatRequest) -> Option<TextConfig> {
    let format = request.response_format.as_ref().and_then(text_format);
    let verbosity = request.verbosity.clone();
    (format.is_some() || verbosity.is_some()).then_some(TextConfig { format, verbosity })
}

fn text_format(format: &ResponseFormat) -> Option<TextFormat> {
    match (format.kind.as_str(), &format.json_schema) {
        ("json_object", _) => Some(TextFormat::JsonObject),
        ("json_schema", Some(schema)) => Some(TextFormat::JsonSchema {
            name: schema.name.clone(),
            description: schema.description.clone(),
            schema: schema.schema.clone().unwrap_or_else(|| Value::Object(Default::default())),
            strict: schema.strict,
        }),
        _ => None,
    }
}

fn tool(tool: &Tool) -> Option<ResponseTool> {
    let function = tool.function.as_ref()?;
    Some(ResponseTool::Function {
        name: function.name.clone(),
        description: function.description.clone(),
        parameters: function.parameters.clone(),
        // Absent it would mean true there, and false here.
        strict: function.strict.unwrap_or(false),
    })
}

fn tool_choice(choice: &ToolChoice) -> ResponseToolChoice {
    match choice {
        ToolChoice::Mode(mode) => ResponseToolChoice::Mode(mode.clone()),
        ToolChoice::Named(NamedChoice { allowed_tools: Some(allowed), .. }) => {
            ResponseToolChoice::Allowed {
                kind: "allowed_tools",
                mode: allowed.mode.clone(),
                tools: allowed.tools.iter().map(named).collect(),
            }
        }
        ToolChoice::Named(choice) => named(choice),
    }
}

fn named(choice: &NamedChoice) -> ResponseToolChoice {
    let name = choice.function.as_ref().map(|function| function.name.clone()).unwrap_or_default();
    ResponseToolChoice::Function { kind: "function", name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sent(request: Value) -> Value {
        let request: ChatRequest = serde_json::from_value(request).unwrap();
        serde_json::to_value(response_request(&request)).unwrap()
    }

    #[test]
    fn a_conversation_becomes_items() {
        let call = json!({"id": "c1", "type": "function",
            "function": {"name": "f", "arguments": "{\"a\":1}"}});
        let image = json!({"url": "data:image/png;base64,AA==", "detail": "low"});
        let found = sent(json!({"model": "m", "max_completion_tokens": 9, "messages": [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "q"},
                {"type": "image_url", "image_url": image}]},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "assistant", "content": "a"},
            {"role": "assistant", "content": null, "function_call": {"name": "g", "arguments": "{}"}},
            {"role": "function", "name": "g", "content": "1"},
        ]}));
        let expected = json!([
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            {"type": "function_call", "call_id": "g", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "g", "output": "1"},
        ]);
        assert_eq!(found["input"], expected);
        let mut rest = found;
        rest.as_object_mut().unwrap().remove("input");
        let expected =
            json!({"model": "m", "stream": true, "store": false, "max_output_tokens": 9});
        assert_eq!(rest, expected);
    }

    #[test]
    fn fields_have_other_places() {
        let function = |name| json!({"type": "function", "function": {"name": name}});
        let found = sent(json!({"model": "m", "messages": [], "reasoning_effort": "low",
            "verbosity": "low", "logprobs": true, "top_logprobs": 2, "safety_identifier": "h",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": function("f"),
            "response_format": {"type": "json_schema",
                "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": true}}}));
        assert_eq!(found["reasoning"], json!({"effort": "low"}));
        assert_eq!(
            found["text"],
            json!({"verbosity": "low", "format": {"type": "json_schema",
            "name": "s", "schema": {"type": "object"}, "strict": true}})
        );
        assert_eq!(found["include"], json!(["message.output_text.logprobs"]));
        assert_eq!(found["top_logprobs"], 2);
        assert_eq!(found["safety_identifier"], "h");
        let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": false});
        assert_eq!(found["tools"], json!([tool]));
        assert_eq!(found["tool_choice"], json!({"type": "function", "name": "f"}));
        let some = json!({"type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [function("f")]}});
        let found = sent(json!({"messages": [], "tool_choice": some}));
        assert_eq!(
            found["tool_choice"],
            json!({"type": "allowed_tools", "mode": "required",
            "tools": [{"type": "function", "name": "f"}]})
        );
    }
}
