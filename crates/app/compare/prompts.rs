//! The requests to compare with: a JSONL file, read and checked as a whole before anything is sent.
//!
//! A field that this version would not send is refused like one with a wrong type: silence would compare something
//! else than what was asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use harmonium_openai::{ChatMessage, ChatRequest};
use serde_json::{Map, Value, json};

/// Most prompts of a file.
const MAX_PROMPTS: usize = 10_000;
/// Longest file. It is held in memory, and so are all answers.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Fields that the comparison itself decides.
const OURS: [&str; 4] = ["model", "n", "stream", "stream_options"];

/// One request without its model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompt {
    /// Its name in the report, unique in the file: the number of its line unless the line names one.
    pub(super) id: String,
    /// What is sent to each model.
    pub(super) request: ChatRequest,
}

/// Reads a file; an error names the line and what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Vec<Prompt>> {
    let name = path.display().to_string();
    let cannot_read = || format!("cannot read {name}");
    let mut text = Vec::new();
    let file = File::open(path).with_context(cannot_read)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).with_context(cannot_read)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        bail!("{name} is longer than {} MiB", MAX_FILE_BYTES >> 20);
    }
    parse(&name, &text)
}

fn parse(name: &str, text: &[u8]) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    let mut lines_by_id: HashMap<String, usize> = HashMap::new();
    for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        if prompts.len() == MAX_PROMPTS {
            bail!("{name}:{line}: there are more than {MAX_PROMPTS} prompts");
        }
        let (id, request) = match prompt(text) {
            Ok((id, request)) => (id.unwrap_or_else(|| line.to_string()), request),
            Err(problem) => bail!("{name}:{line}: {problem}"),
        };
        if let Some(other) = lines_by_id.insert(id.clone(), line) {
            bail!("{name}:{line}: id: {id:?} is that of line {other}, too");
        }
        prompts.push(Prompt { id, request });
    }
    if prompts.is_empty() {
        bail!("{name} has no prompts");
    }
    Ok(prompts)
}

/// The id, if it has one, and the request of one line.
fn prompt(line: &[u8]) -> Result<(Option<String>, ChatRequest), String> {
    let value = serde_json::from_slice(line).map_err(|error| {
        // The line that serde counts is a line of this line.
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        format!("no JSON: {reason} at column {}", error.column())
    })?;
    let mut fields = match value {
        Value::String(text) => Map::from_iter([("prompt".to_owned(), Value::String(text))]),
        Value::Object(fields) => fields,
        other => return Err(format!("{} is neither a string nor an object", excerpt(&other))),
    };
    let id = match fields.remove("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if !id.is_empty() => Some(id),
        Some(Value::Number(id)) => Some(id.to_string()),
        Some(other) => return Err(format!("id: {} is no name", excerpt(&other))),
    };
    if let Some(field) = OURS.into_iter().find(|field| is_given(&fields, field)) {
        return Err(format!("{field}: is decided by the comparison, leave it out"));
    }
    let text = fields.remove("prompt").filter(|value| !value.is_null());
    match (text, is_given(&fields, "messages")) {
        (Some(_), true) => return Err("prompt: there are messages, too".to_owned()),
        (None, false) => return Err("prompt: is missing, and so are messages".to_owned()),
        (Some(Value::String(text)), false) if !text.trim().is_empty() => {
            fields.insert("messages".to_owned(), json!([ChatMessage::user(text)]));
        }
        (Some(other), false) => return Err(format!("prompt: {} is no text", excerpt(&other))),
        (None, true) => {}
    }
    let fields = Value::Object(fields);
    let request: ChatRequest = serde_path_to_error::deserialize(&fields)
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    if request.messages.is_empty() {
        return Err("messages: there is none".to_owned());
    }
    let kept = serde_json::to_value(&request).map_err(|error| error.to_string())?;
    match lost(&fields, &kept) {
        Some(path) => Err(format!("{path}: is a field that this version does not send")),
        None => Ok((id, request)),
    }
}

fn is_given(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

/// The path of the first value of `given` that has no counterpart in `kept`.
fn lost(given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            given.iter().filter(|(_, value)| !value.is_null()).find_map(|(key, value)| {
                let Some(kept) = kept.get(key) else { return Some(key.clone()) };
                let rest = lost(value, kept)?;
                let dot = if rest.starts_with('[') { "" } else { "." };
                Some(format!("{key}{dot}{rest}"))
            })
        }
        (Value::Array(given), Value::Array(kept)) => {
            given.iter().zip(kept).enumerate().find_map(|(index, (given, kept))| {
                let rest = lost(given, kept)?;
                let dot = if rest.starts_with('[') { "" } else { "." };
                Some(format!("[{index}]{dot}{rest}"))
            })
        }
        _ => None,
    }
}

/// Enough of a value to recognize it.
fn excerpt(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse("p.jsonl", text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn a_line_is_a_text_or_a_request() {
        let text = concat!(
            "\"Hello!\"\r\n\n",
            r#"{"prompt": "Hi", "id": "greeting", "reasoning_effort": "low", "stop": ["x"]}"#,
            "\n",
            r#"{"messages": [{"role": "system", "content": "Be brief."}], "id": 7, "n": null}"#,
        );
        let prompts = parse("p.jsonl", text.as_bytes()).unwrap();
        let ids: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
        assert_eq!(ids, ["1", "greeting", "7"]);
        assert_eq!(prompts[0].request.messages, [ChatMessage::user("Hello!")]);
        assert_eq!(prompts[1].request.messages, [ChatMessage::user("Hi")]);
        assert_eq!(prompts[1].request.reasoning_effort.as_deref(), Some("low"));
        assert_eq!(prompts[2].request.messages, [ChatMessage::system("Be brief.")]);
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number_and_field() {
        for (line, expected) in [
            ("{\"prompt\": ]", "no JSON: expected value at column 12"),
            ("[1]", "[1] is neither a string nor an object"),
            ("{}", "prompt: is missing"),
            ("\"  \"", "prompt: \"  \" is no text"),
            (r#"{"prompt": 5}"#, "prompt: 5 is no text"),
            (r#"{"prompt": "a", "messages": []}"#, "prompt: there are messages, too"),
            (r#"{"messages": []}"#, "messages: there is none"),
            (r#"{"messages": [{"role": "user", "content": 5}]}"#, "messages[0].content: "),
            (r#"{"prompt": "a", "temperature": "hot"}"#, "temperature: "),
            (r#"{"prompt": "a", "id": []}"#, "id: [] is no name"),
            (r#"{"prompt": "a", "model": "m"}"#, "model: is decided by the comparison"),
            (r#"{"prompt": "a", "n": 2}"#, "n: is decided by the comparison"),
            (r#"{"prompt": "a", "max_tokns": 5}"#, "max_tokns: is a field"),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}"#,
                "messages[0].content[0].input_audio: is a field",
            ),
        ] {
            let message = refusal(&format!("\"fine\"\n{line}\n"));
            assert!(message.starts_with(&format!("p.jsonl:2: {expected}")), "{message}");
        }
    }

    #[test]
    fn ids_are_unique_and_numbers_of_lines_count() {
        let message = refusal("\"a\"\n{\"prompt\": \"b\", \"id\": \"1\"}");
        assert_eq!(message, "p.jsonl:2: id: \"1\" is that of line 1, too");
    }

    #[test]
    fn files_have_a_prompt_and_not_too_many() {
        assert_eq!(refusal("\n \n"), "p.jsonl has no prompts");
        let most = "\"a\"\n".repeat(MAX_PROMPTS);
        assert_eq!(parse("p.jsonl", most.as_bytes()).unwrap().len(), MAX_PROMPTS);
        let message = refusal(&format!("{most}\"a\""));
        assert_eq!(message, "p.jsonl:10001: there are more than 10000 prompts");
    }

    #[test]
    fn long_values_are_not_repeated_in_full() {
        let message = refusal(&format!("[\"{}\"]", "ä".repeat(1000)));
        assert!(message.contains("ä...") && message.chars().count() < 120, "{message}");
    }
}
