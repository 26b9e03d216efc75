//! Takes out of a request what must not leave, wherever in its texts it stands.

use harmonium_openai::ChatRequest;
use regex::Regex;
use serde_json::Value;

/// What stands for a text that was taken out.
const STAND_IN: &str = "[redacted]";

/// Patterns of what must not leave.
#[derive(Debug)]
pub(crate) struct Redactor(Vec<Regex>);

/// A pattern that cannot be used. Without it something might leave that must not.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{pattern:?} is no regular expression: {source}")]
pub struct PatternError {
    /// As it was given.
    pub pattern: String,
    /// Why.
    pub source: regex::Error,
}

impl Redactor {
    pub(crate) fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let compile = |pattern: &String| {
            Regex::new(pattern).map_err(|source| PatternError { pattern: pattern.clone(), source })
        };
        patterns.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is nothing that must not leave.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The request without what the patterns match, and how many texts were changed. `None` if what is left is no
    /// request, which then must not be sent.
    pub(crate) fn redact(&self, request: ChatRequest) -> Option<(ChatRequest, usize)> {
        if self.is_empty() {
            return Some((request, 0));
        }
        let mut value = serde_json::to_value(request).ok()?;
        let mut num_changed = 0;
        // All that holds texts of the client; what is ours stays.
        for field in ["messages", "tools", "tool_choice", "response_format", "stop"] {
            if let Some(value) = value.get_mut(field) {
                num_changed += self.redact_texts(value);
            }
        }
        Some((serde_json::from_value(value).ok()?, num_changed))
    }

    /// Goes as deep as the parser has, which has a bound.
    fn redact_texts(&self, value: &mut Value) -> usize {
        match value {
            Value::String(text) => usize::from(self.redact_text(text)),
            Value::Array(values) => values.iter_mut().map(|value| self.redact_texts(value)).sum(),
            Value::Object(fields) => {
                fields.values_mut().map(|value| self.redact_texts(value)).sum()
            }
            _ => 0,
        }
    }

    fn redact_text(&self, text: &mut String) -> bool {
        let mut is_changed = false;
        for pattern in &self.0 {
            if pattern.is_match(text) {
                *text = pattern.replace_all(text, STAND_IN).into_owned();
                is_changed = true;
            }
        }
        is_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redacted(patterns: &[&str], request: Value) -> (Value, usize) {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let redactor = Redactor::new(&patterns).unwrap();
        let request: ChatRequest = serde_json::from_value(request).unwrap();
        let (request, num_changed) = redactor.redact(request).unwrap();
        (serde_json::to_value(request).unwrap(), num_changed)
    }

    #[test]
    fn every_text_of_the_client_is_searched() {
        let secret = "call 555-1234 now";
        let function = json!({"name": "f", "description": secret,
            "parameters": {"type": "object", "properties": {"x": {"const": secret}}}});
        let (sent, num_changed) = redacted(
            &[r"\d{3}-\d{4}", "now"],
            json!({
                "model": "555-1234",
                "messages": [
                    {"role": "system", "content": secret},
                    {"role": "user", "content": [{"type": "text", "text": secret}]},
                    {"role": "assistant", "content": null, "tool_calls": [{"id": "c",
                        "type": "function", "function": {"name": "f", "arguments": secret}}]},
                    {"role": "tool", "tool_call_id": "c", "content": secret},
                ],
                "tools": [{"type": "function", "function": function}],
                "response_format": {"type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"title": secret}}},
                "stop": [secret],
            }),
        );
        assert_eq!(num_changed, 8);
        assert_eq!(sent["messages"][0]["content"], "call [redacted] [redacted]");
        // The model is ours, not the client's.
        assert_eq!(sent.to_string().matches("555-1234").count(), 1);
        assert!(!sent.to_string().contains("now"));
    }

    #[test]
    fn without_patterns_nothing_changes() {
        let request = json!({"messages": [{"role": "user", "content": "555-1234"}]});
        assert_eq!(redacted(&[], request.clone()), (request, 0));
    }

    #[test]
    fn a_pattern_that_is_none_is_an_error() {
        let error = Redactor::new(&["(".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with("\"(\" is no regular expression"), "{error}");
    }
}
