//! Prompts against the reference library's, token by token.
//!
//! The cases lie in `tests/golden/harmony` at the repository's root, with the script that makes them; a
//! new case there needs no change here.

use std::path::Path;

use harmonium_harmony::{
    Conversation, Effort, FunctionTool, Message, ResponseFormat, ToolCall, render,
};
use serde_json::Value;

use crate::tokenizer::o200k;

#[test]
fn prompts_equal_the_reference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/harmony");
    let mut num_cases = 0;
    for entry in std::fs::read_dir(folder).expect("the golden folder is there") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            check(&path);
            num_cases += 1;
        }
    }
    assert!(num_cases >= 25, "only {num_cases} cases");
}

fn check(path: &Path) {
    let file = std::fs::read(path).expect("readable");
    let case: Value = serde_json::from_slice(&file).expect("a case is JSON");
    let ids = render(o200k(), &conversation(&case["conversation"]));
    let text = |ids: &[u32]| tiktoken_rs::o200k_harmony_singleton().decode(ids).expect("known ids");
    let text = text(&ids);
    let expected_text = case["text"].as_str().expect("text");
    for (line, expected) in text.lines().zip(expected_text.lines()) {
        assert_eq!(line, expected, "{}", path.display());
    }
    assert_eq!(text, expected_text, "{}", path.display());
    let expected: Vec<u64> = list(&case["ids"]).iter().filter_map(Value::as_u64).collect();
    let ids: Vec<u64> = ids.into_iter().map(u64::from).collect();
    assert_eq!(ids, expected, "{}", path.display());
}

fn conversation(json: &Value) -> Conversation {
    Conversation {
        date: text(&json["date"]),
        effort: match json["effort"].as_str() {
            Some("low") => Effort::Low,
            Some("high") => Effort::High,
            _ => Effort::Medium,
        },
        instructions: text(&json["instructions"]),
        tools: list(&json["tools"])
            .iter()
            .map(|tool| FunctionTool {
                name: text(&tool["name"]).expect("a name"),
                description: text(&tool["description"]),
                parameters: Some(tool["parameters"].clone()).filter(|schema| !schema.is_null()),
            })
            .collect(),
        response_format: json.get("response_format").map(|format| ResponseFormat {
            name: text(&format["name"]).expect("a name"),
            description: text(&format["description"]),
            schema: format["schema"].clone(),
        }),
        messages: list(&json["messages"]).iter().map(message).collect(),
    }
}

fn message(json: &Value) -> Message {
    let field = |name: &str| text(&json[name]).unwrap_or_else(|| panic!("no {name} in {json}"));
    match field("role").as_str() {
        "developer" => Message::Developer { text: field("text") },
        "user" => Message::User { text: field("text") },
        "tool" => Message::ToolResult { name: field("name"), content: field("content") },
        _ => Message::Assistant {
            reasoning: text(&json["reasoning"]),
            content: text(&json["content"]),
            tool_calls: list(&json["tool_calls"])
                .iter()
                .map(|call| ToolCall {
                    name: text(&call["name"]).expect("a name"),
                    arguments: text(&call["arguments"]).expect("arguments"),
                })
                .collect(),
        },
    }
}

fn text(json: &Value) -> Option<String> {
    json.as_str().map(str::to_owned)
}

fn list(json: &Value) -> &[Value] {
    json.as_array().map_or(&[], Vec::as_slice)
}
