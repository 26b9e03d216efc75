//! Takes out of a request what must not leave, wherever in its texts it stands.

use harmonium_openai::ChatRequest;
use regex::Regex;
use serde_json::Value;

/// What stands for a text that was taken out.
const STAND_IN: &str = "[redacted]";

/// Patterns of what must not leave.
#[derive(Debug)]
pub(crate) struct Redactor(Vec<Regex>);

/// Fields whose texts hold a request together.
const STRUCTURE: [&str; 5] = ["role", "type", "id", "tool_call_id", "name"];

/// A request that may leave.
#[derive(Debug)]
pub(crate) struct Redacted {
    pub(crate) request: ChatRequest,
    /// How many texts were changed.
    pub(crate) num_changed: usize,
    /// By how much those became longer that did.
    pub(crate) num_more_bytes: u64,
}

#[derive(Debug, Default)]
struct Count {
    changed: usize,
    more_bytes: u64,
}

/// A pattern that cannot be used. Without it something might leave that must not.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// It cannot be read.
    #[error("{pattern:?} is no regular expression: {source}")]
    Syntax {
        /// As it was given.
        pattern: String,
        /// Why.
        source: regex::Error,
    },
    /// It matches nothing at all, and so everywhere.
    #[error("{pattern:?} matches the empty text")]
    Empty {
        /// As it was given.
        pattern: String,
    },
}

impl Redactor {
    pub(crate) fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let compile = |pattern: &String| {
            let regex = Regex::new(pattern)
                .map_err(|source| PatternError::Syntax { pattern: pattern.clone(), source })?;
            match regex.is_match("") {
                true => Err(PatternError::Empty { pattern: pattern.clone() }),
                false => Ok(regex),
            }
        };
        patterns.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is nothing that must not leave.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The request without what the patterns match. `None` if it cannot be taken out, or if what is left is no request;
    /// then it must not be sent.
    pub(crate) fn redact(&self, request: ChatRequest) -> Option<Redacted> {
        if self.is_empty() {
            return Some(Redacted { request, num_changed: 0, num_more_bytes: 0 });
        }
        let mut value = serde_json::to_value(request).ok()?;
        let mut count = Count::default();
        // All that holds texts of the client; what is ours stays.
        for field in ["messages", "tools", "tool_choice", "response_format", "stop"] {
            if let Some(value) = value.get_mut(field) {
                self.redact_texts(value, &mut count)?;
            }
        }
        let request = serde_json::from_value(value).ok()?;
        Some(Redacted { request, num_changed: count.changed, num_more_bytes: count.more_bytes })
    }

    /// Goes as deep as the parser has, which has a bound. `None` if a match is in a number, or in what holds the request
    /// together: without it calls would lose their results, and fields their names.
    fn redact_texts(&self, value: &mut Value, count: &mut Count) -> Option<()> {
        match value {
            Value::String(text) => self.redact_text(text, count),
            Value::Array(values) => {
                for value in values {
                    self.redact_texts(value, count)?;
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let is_structure = value.is_string() && STRUCTURE.contains(&name.as_str());
                    let found = if is_structure { value.as_str() } else { None };
                    if self.finds(name) || found.is_some_and(|text| self.finds(text)) {
                        return None;
                    }
                    if !is_structure {
                        self.redact_texts(value, count)?;
                    }
                }
            }
            // A number has no place for what stands in for it.
            Value::Number(number) if self.finds(&number.to_string()) => return None,
            Value::Number(_) | Value::Bool(_) | Value::Null => {}
        }
        Some(())
    }

    fn finds(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(text))
    }

    fn redact_text(&self, text: &mut String, count: &mut Count) {
        let len = text.len();
        let mut is_changed = false;
        for pattern in &self.0 {
            if pattern.is_match(text) {
                *text = pattern.replace_all(text, STAND_IN).into_owned();
                is_changed = true;
            }
        }
        count.changed += usize::from(is_changed);
        count.more_bytes += text.len().saturating_sub(len) as u64;
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
        let redacted = redactor.redact(request).unwrap();
        (serde_json::to_value(redacted.request).unwrap(), redacted.num_changed)
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
    fn what_holds_a_request_together_is_not_taken_out_of_it() {
        let redactor = Redactor::new(&["secret".to_owned()]).unwrap();
        let redact = |request: Value| redactor.redact(serde_json::from_value(request).unwrap());
        let call = |id: &str| {
            json!({"messages": [{"role": "assistant", "tool_calls": [{"id": id,
            "type": "function", "function": {"name": "f", "arguments": "secret"}}]}]})
        };
        assert!(redact(call("c")).is_some());
        assert!(redact(call("secret")).is_none());
        let schema = |property: &str| {
            json!({"messages": [], "tools": [{"type": "function",
            "function": {"name": "f", "parameters": {"properties": {property: {}}}}}]})
        };
        assert!(redact(schema("x")).is_some());
        assert!(redact(schema("secret")).is_none());
    }

    #[test]
    fn a_number_that_must_not_leave_keeps_the_request_here() {
        let redactor = Redactor::new(&[r"\d{3}-?\d{4}".to_owned()]).unwrap();
        let with = |number: Value| {
            let request = json!({"messages": [], "tools": [{"type": "function", "function":
                {"name": "f", "parameters": {"properties": {"x": {"const": number}}}}}]});
            redactor.redact(serde_json::from_value(request).unwrap())
        };
        assert!(with(json!(5_551_234)).is_none());
        assert!(with(json!(5_551)).is_some());
    }

    #[test]
    fn texts_that_become_longer_are_measured() {
        let redactor = Redactor::new(&[r"\d".to_owned()]).unwrap();
        let request = json!({"messages": [{"role": "user", "content": "12"}]});
        let redacted = redactor.redact(serde_json::from_value(request).unwrap()).unwrap();
        assert_eq!(redacted.num_more_bytes, 2 * STAND_IN.len() as u64 - 2);
    }

    #[test]
    fn without_patterns_nothing_changes() {
        let request = json!({"messages": [{"role": "user", "content": "555-1234"}]});
        assert_eq!(redacted(&[], request.clone()), (request, 0));
    }

    #[test]
    fn a_pattern_that_is_none_is_an_error() {
        let error = |pattern: &str| Redactor::new(&[pattern.to_owned()]).unwrap_err().to_string();
        assert!(error("(").starts_with("\"(\" is no regular expression"), "{}", error("("));
        assert_eq!(error(r"\d*"), r#""\\d*" matches the empty text"#);
    }
}
