//! The history: roles, content, calls and their results.

use std::collections::HashMap;

use harmonium_harmony::{Message, ToolCall};
use harmonium_openai::chat::FunctionCall;
use harmonium_openai::{ChatMessage, Content, ContentPart};

use super::{Images, name, tools::unsupported_kind};
use crate::error::{Error, FieldCode, Result};

/// What the messages of a request say.
pub(super) struct History {
    /// The leading system and developer messages, joined.
    pub(super) instructions: Option<String>,
    /// All that follows them.
    pub(super) messages: Vec<Message>,
    pub(super) images: Option<Images>,
}

/// Checks the messages and takes them apart.
pub(super) fn history(messages: Vec<ChatMessage>) -> Result<History> {
    if messages.is_empty() {
        let problem = "a request needs at least one message";
        return Err(Error::field("messages", FieldCode::Missing, problem));
    }
    let mut instructions: Vec<String> = Vec::new();
    let mut history: Vec<Message> = Vec::with_capacity(messages.len());
    let mut calls = Calls::default();
    let mut images = None;
    for (index, message) in messages.into_iter().enumerate() {
        let param = format!("messages[{index}]");
        match message.role.as_str() {
            "system" | "developer" if history.is_empty() => {
                instructions.push(required_text(&param, message)?);
            }
            "system" | "developer" => {
                history.push(Message::Developer { text: required_text(&param, message)? });
            }
            "user" => {
                let message = set_images_aside(&param, message, &mut images)?;
                history.push(Message::User { text: required_text(&param, message)? });
            }
            "assistant" => history.push(assistant(&param, message, &mut calls)?),
            "tool" => {
                let name = calls.answered_by(&param, &message)?;
                history
                    .push(Message::ToolResult { name, content: required_text(&param, message)? });
            }
            "function" => {
                let name = given_name(&param, &message)?;
                history
                    .push(Message::ToolResult { name, content: required_text(&param, message)? });
            }
            other => {
                return Err(Error::field(
                    format!("{param}.role"),
                    FieldCode::Value,
                    format!(
                        "{other:?} is none of system, developer, user, assistant, tool, function"
                    ),
                ));
            }
        }
    }
    let instructions = (!instructions.is_empty()).then(|| instructions.join("\n\n"));
    Ok(History { instructions, messages: history, images })
}

/// Which function each call of the history named.
#[derive(Default)]
struct Calls(HashMap<String, String>);

impl Calls {
    /// The function whose result a `tool` message carries: by the id of its call, or else by `name`.
    fn answered_by(&self, param: &str, message: &ChatMessage) -> Result<String> {
        let id = message.tool_call_id.as_deref();
        if let Some(name) = id.and_then(|id| self.0.get(id)) {
            return Ok(name.clone());
        }
        if message.name.is_some() {
            return given_name(param, message);
        }
        let param = format!("{param}.tool_call_id");
        Err(match id {
            Some(id) => Error::field(
                param,
                FieldCode::Value,
                format!("{id:?} is not the id of an earlier tool call"),
            ),
            None => Error::field(
                param,
                FieldCode::Missing,
                "a message with role \"tool\" needs the id of its call",
            ),
        })
    }
}

fn given_name(param: &str, message: &ChatMessage) -> Result<String> {
    let param = format!("{param}.name");
    match &message.name {
        Some(given) => name(param, given.clone()),
        None => Err(Error::field(
            param,
            FieldCode::Missing,
            "a message with role \"function\" needs the function's name",
        )),
    }
}

fn assistant(param: &str, message: ChatMessage, calls: &mut Calls) -> Result<Message> {
    let mut reasoning = message.reasoning.or(message.reasoning_content);
    let mut content = message.refusal;
    match message.content {
        None => {}
        Some(Content::Text(text)) => content = Some(text),
        Some(Content::Parts(parts)) => {
            // The parts of an answer are pieces of one text. Some clients put its reasoning among them.
            for (index, part) in parts.into_iter().enumerate() {
                let param = format!("{param}.content[{index}]");
                let is_reasoning = matches!(part.kind.as_str(), "reasoning" | "thinking");
                let target = if is_reasoning { &mut reasoning } else { &mut content };
                target.get_or_insert_default().push_str(&part_text(&param, part)?);
            }
        }
    }
    let mut tool_calls = Vec::new();
    for (index, call) in message.tool_calls.into_iter().flatten().enumerate() {
        let param = format!("{param}.tool_calls[{index}]");
        if call.kind != "function" {
            return Err(unsupported_kind(format!("{param}.type"), &call.kind));
        }
        let Some(function) = call.function else {
            let problem = "a call of type \"function\" needs it";
            return Err(Error::field(format!("{param}.function"), FieldCode::Missing, problem));
        };
        let function = tool_call(format!("{param}.function.name"), function)?;
        calls.0.insert(call.id, function.name.clone());
        tool_calls.push(function);
    }
    if let Some(function) = message.function_call {
        tool_calls.push(tool_call(format!("{param}.function_call.name"), function)?);
    }
    let not_empty = |text: &String| !text.is_empty();
    Ok(Message::Assistant {
        reasoning: reasoning.filter(not_empty),
        content: content.filter(not_empty),
        tool_calls,
    })
}

fn tool_call(param: String, call: FunctionCall) -> Result<ToolCall> {
    Ok(ToolCall { name: name(param, call.name)?, arguments: call.arguments })
}

/// The message without its images, which are checked and counted.
fn set_images_aside(
    param: &str,
    mut message: ChatMessage,
    images: &mut Option<Images>,
) -> Result<ChatMessage> {
    let Some(Content::Parts(parts)) = &mut message.content else { return Ok(message) };
    for (index, part) in parts.iter().enumerate().filter(|(_, part)| is_image(part)) {
        let param = format!("{param}.content[{index}]");
        check_image(&param, part)?;
        images.get_or_insert(Images { count: 0, first: param }).count += 1;
    }
    parts.retain(|part| !is_image(part));
    Ok(message)
}

fn is_image(part: &ContentPart) -> bool {
    part.kind == "image_url"
}

fn check_image(param: &str, part: &ContentPart) -> Result<()> {
    let Some(image) = &part.image_url else {
        let problem = "a part of type \"image_url\" needs its image_url";
        return Err(Error::field(param, FieldCode::Missing, problem));
    };
    // The address itself may be a whole image.
    if !["https://", "data:image/"].iter().any(|start| image.url.starts_with(start)) {
        let problem = "it begins with neither https:// nor data:image/";
        return Err(Error::field(format!("{param}.image_url.url"), FieldCode::Value, problem));
    }
    match image.detail.as_deref() {
        None | Some("auto" | "low" | "high") => Ok(()),
        Some(other) => {
            let problem = format!("{other:?} is none of auto, low, high");
            Err(Error::field(format!("{param}.image_url.detail"), FieldCode::Value, problem))
        }
    }
}

/// The text of a message that must have one. Separate parts are separate texts: a line end keeps them apart.
fn required_text(param: &str, message: ChatMessage) -> Result<String> {
    let param = format!("{param}.content");
    match message.content {
        Some(Content::Text(text)) => Ok(text),
        Some(Content::Parts(parts)) => {
            let texts: Result<Vec<String>> = parts
                .into_iter()
                .enumerate()
                .map(|(index, part)| part_text(&format!("{param}[{index}]"), part))
                .collect();
            Ok(texts?.join("\n"))
        }
        None => {
            let problem = format!("a message with role {:?} needs it", message.role);
            Err(Error::field(param, FieldCode::Missing, problem))
        }
    }
}

fn part_text(param: &str, part: ContentPart) -> Result<String> {
    let text = match part.kind.as_str() {
        "text" | "input_text" | "output_text" | "reasoning" | "thinking" => part.text,
        "refusal" => part.refusal,
        other => {
            let problem = format!("{other:?} is not supported, the model reads text only");
            return Err(Error::field(param, FieldCode::UnsupportedValue, problem));
        }
    };
    text.ok_or_else(|| {
        let problem = format!("a part of type {:?} needs its text", part.kind);
        Error::field(param, FieldCode::Missing, problem)
    })
}
