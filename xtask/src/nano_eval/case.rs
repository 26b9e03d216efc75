//! One case of the evaluation: a request, and what the answer must have.

use anyhow::{Context, Result};
use harmonium_openai::ChatRequest;
use harmonium_openai::chat::ResponseMessage;
use serde::Deserialize;
use serde_json::Value;

/// A line of `crates/model/nano/eval/*.jsonl`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Case {
    /// Names the case in reports.
    pub(crate) id: String,
    /// What it tests; accuracy is counted by skill.
    pub(crate) skill: String,
    /// The body of the chat request, without model and temperature.
    pub(crate) request: ChatRequest,
    /// What makes the answer right.
    pub(crate) expect: Expect,
}

/// What an answer must have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expect {
    /// Each of these texts, in any case.
    Contains(Vec<String>),
    /// One of these texts, in any case.
    Any(Vec<String>),
    /// This number, standing by itself.
    Number(i64),
    /// This JSON value and nothing else.
    Json(Value),
    /// One call of this function with exactly these arguments.
    ToolCall {
        /// The function.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
    /// More reasoning at medium than at low effort, and more at high than at medium.
    ReasoningGrows(bool),
}

impl Expect {
    /// Whether a message meets the expectation. [`Expect::ReasoningGrows`] is about several and never met.
    pub(crate) fn is_met(&self, message: &ResponseMessage) -> bool {
        let text = message.content.as_deref().unwrap_or_default();
        let lower = text.to_lowercase();
        let has = |wanted: &String| lower.contains(&wanted.to_lowercase());
        match self {
            Self::Contains(all) => all.iter().all(has),
            Self::Any(any) => any.iter().any(has),
            Self::Number(number) => numbers(text).contains(&number.to_string()),
            Self::Json(value) => serde_json::from_str::<Value>(text).is_ok_and(|got| got == *value),
            Self::ToolCall { name, arguments } => match message.tool_calls.as_deref() {
                Some([call]) => call.function.as_ref().is_some_and(|function| {
                    function.name == *name
                        && serde_json::from_str::<Value>(&function.arguments)
                            .is_ok_and(|got| got == *arguments)
                }),
                _ => false,
            },
            Self::ReasoningGrows(_) => false,
        }
    }
}

/// Reads all cases of a text of JSON lines; `name` is for messages.
pub(crate) fn parse(text: &str, name: &str) -> Result<Vec<Case>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("{name}:{}", index + 1))
        })
        .collect()
}

/// The whole numbers of a text, with their sign; a minus between two numbers is no sign.
fn numbers(text: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    let mut current = String::new();
    let mut previous = ' ';
    for c in text.chars().chain([' ']) {
        if c.is_ascii_digit() {
            current.push(c);
        } else {
            if current.chars().any(|c| c.is_ascii_digit()) {
                numbers.push(std::mem::take(&mut current));
            }
            current.clear();
            let starts_number = matches!(c, '-' | '\u{2212}') && !previous.is_alphanumeric();
            if starts_number {
                current.push('-');
            }
        }
        previous = c;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn met(expect: Value, message: Value) -> bool {
        let expect: Expect = serde_json::from_value(expect).unwrap();
        expect.is_met(&serde_json::from_value(message).unwrap())
    }

    fn says(expect: Value, text: &str) -> bool {
        met(expect, json!({"role": "assistant", "content": text}))
    }

    #[test]
    fn texts_are_found_in_any_case() {
        assert!(says(json!({"contains": ["paris", "france"]}), "Paris is the capital of France."));
        assert!(!says(json!({"contains": ["paris", "spain"]}), "Paris is the capital of France."));
        assert!(says(json!({"any": ["rome", "paris"]}), "PARIS"));
        assert!(!says(json!({"any": ["rome"]}), "Paris"));
    }

    #[test]
    fn numbers_stand_by_themselves() {
        assert!(says(json!({"number": 57}), "12 + 45 = 57."));
        assert!(!says(json!({"number": 57}), "It is 157."));
        assert!(!says(json!({"number": 57}), "It is -57."));
        assert!(says(json!({"number": -4}), "3 - 7 = -4"));
        assert!(says(json!({"number": 7}), "10-3 is 7"));
    }

    #[test]
    fn json_is_compared_by_value() {
        let expect = json!({"json": {"name": "Ann", "age": 4}});
        assert!(says(expect.clone(), "{\"age\": 4, \"name\": \"Ann\"}"));
        assert!(!says(expect, "Here: {\"age\": 4, \"name\": \"Ann\"}"));
    }

    #[test]
    fn tool_call_needs_name_and_arguments() {
        let expect = json!({"tool_call": {"name": "get_weather", "arguments": {"city": "Oslo"}}});
        let message = |arguments: &str| {
            json!({"role": "assistant", "tool_calls": [{"id": "1", "type": "function",
                "function": {"name": "get_weather", "arguments": arguments}}]})
        };
        assert!(met(expect.clone(), message("{ \"city\": \"Oslo\" }")));
        assert!(!met(expect.clone(), message("{\"city\": \"Bergen\"}")));
        assert!(!met(expect.clone(), message("{\"city\": ")));
        assert!(!says(expect, "get_weather"));
    }

    #[test]
    fn broken_line_is_named() {
        let error = parse("\n{\"id\": 1}\n", "sums.jsonl").unwrap_err();
        assert_eq!(error.to_string(), "sums.jsonl:2");
    }
}
