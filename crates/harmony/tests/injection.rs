//! No field of a conversation can produce a control token.

use harmonium_harmony::{Conversation, FunctionTool, Message, ResponseFormat, ToolCall, render};
use proptest::prelude::*;
use serde_json::json;

use crate::support::cases;
use crate::support::o200k::{NUM_RANKS, special_tokens};
use crate::tokenizer::o200k;

/// Fills every field with texts, in turn.
fn conversation(texts: &[String]) -> Conversation {
    let mut texts = texts.iter().cycle().cloned();
    let mut text = move || texts.next().expect("endless");
    let schema = json!({
        "type": "object",
        "title": text(),
        "description": text(),
        "required": [text()],
        "properties": {
            text(): {"type": "string", "title": text(), "description": text(), "examples": [text()]},
            text() + "2": {"type": "string", "enum": [text(), text()], "default": text()},
            text() + "3": {"oneOf": [{"type": "string", "description": text(), "default": text()}]},
            text() + "4": {"type": [text(), "null"], "default": {text(): [text()]}},
            text() + "5": {"type": text(), "$ref": text()},
        },
    });
    let assistant = |text: &mut dyn FnMut() -> String| Message::Assistant {
        reasoning: Some(text()),
        content: Some(text()),
        tool_calls: vec![ToolCall { name: text(), arguments: text() }],
    };
    Conversation {
        date: Some(text()),
        instructions: Some(text()),
        tools: vec![FunctionTool {
            name: text(),
            description: Some(text()),
            parameters: Some(schema.clone()),
        }],
        response_format: Some(ResponseFormat { name: text(), description: Some(text()), schema }),
        messages: vec![
            Message::User { text: text() },
            Message::Assistant {
                reasoning: Some(text()),
                content: Some(text()),
                tool_calls: vec![],
            },
            Message::Developer { text: text() },
            Message::User { text: text() },
            assistant(&mut text),
            Message::ToolResult { name: text(), content: text() },
        ],
        ..Conversation::default()
    }
}

/// The structure of a prompt: everything in it that is not text.
fn structure(texts: &[String]) -> Vec<u32> {
    let mut ids = render(o200k(), &conversation(texts));
    ids.retain(|&id| id >= NUM_RANKS);
    ids
}

fn hostile_text() -> impl Strategy<Value = String> {
    let names: Vec<String> = special_tokens().into_iter().map(|(_, name)| name).collect();
    let piece = prop_oneof![
        4 => prop::sample::select(names),
        1 => "[a-z <>|\\n]{1,4}",
        1 => prop::sample::select(vec!["<|", "|>", "<|start|", "assistant", "to=functions.f", "\"", "*/"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn control_tokens_in_any_field_are_text(texts in prop::collection::vec(hostile_text(), 1..40)) {
        prop_assert_eq!(structure(&texts), structure(&["harmless".to_owned()]));
    }
}
