//! What an answer must follow, and the grammar that says so.
//!
//! The grammar is in Lark's notation as llguidance reads it, and covers a whole answer: it begins where the prompt
//! ends, behind `<|start|>assistant`, and ends with the control token that ends an answer. Control tokens stand in it
//! by id, so that no text can spell one. Both places of a recipient and every spelling of a body's format that models
//! use stay allowed; whitespace within JSON is one blank, or a line break with its indentation, so that no model can
//! write blanks for ever.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::tokenizer::ControlTokens;

/// Reasoning and preambles before the answer proper. Models write one of each; one that would rather go on for ever
/// must come to the point.
const MAX_MESSAGES_BEFORE: u32 = 8;

/// Between two lexemes of JSON: a blank, or a line break and what models indent with. A confused model fills all of it
/// at every place, so it is no more than six levels of four blanks.
const WHITESPACE: &str = r"[ \t]|\r?\n[ \t]{0,24}";

/// What an answer may be: reasoning, then exactly one of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// A final message; `None` demands a call.
    pub message: Option<Body>,
    /// A call of one of these functions.
    pub calls: Vec<CallRule>,
}

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRule {
    /// Its declared name, without namespace.
    pub name: String,
    /// JSON schema of its arguments; `None` declares that there are none.
    pub parameters: Option<Value>,
    /// How its arguments follow it.
    pub arguments: Arguments,
}

/// How closely a call's arguments follow the declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    /// They follow the schema; one that cannot be enforced is an error.
    Strict,
    /// They follow the schema if it can be enforced, and are any JSON object otherwise.
    IfPossible,
    /// They are any JSON object.
    AnyObject,
}

/// The text of a final message.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Any text.
    Text,
    /// JSON that follows this schema.
    Json(Value),
}

impl CallRule {
    /// The schema that says what the declaration means: arguments are an object, and none are an empty one.
    pub(super) fn schema(&self) -> Value {
        let Some(mut schema) = self.parameters.clone().filter(|schema| !schema.is_null()) else {
            return json!({"type": "object", "properties": {}, "additionalProperties": false});
        };
        const SAY_THE_TYPE: [&str; 7] =
            ["type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"];
        if let Some(keywords) = schema.as_object_mut()
            && !SAY_THE_TYPE.iter().any(|keyword| keywords.contains_key(*keyword))
        {
            keywords.insert("type".to_owned(), json!("object"));
        }
        schema
    }
}

/// Any JSON object.
pub(super) fn any_object() -> Value {
    json!({"type": "object"})
}

/// The grammar of an answer with this final message or one of these calls, each a name and the schema of its arguments.
pub(super) fn lark(
    control: &ControlTokens,
    message: Option<&Body>,
    calls: &[(&str, Value)],
) -> String {
    let ControlTokens { start, end, message: body, channel, constrain, return_, call, .. } =
        control;
    let mut lark = format!(
        "start: before{{0,{MAX_MESSAGES_BEFORE}}} answer\n\
         before: <[{channel}]> {before} <[{body}]> text <[{end}]> <[{start}]> \"assistant\"\n\
         text: TEXT?\n\
         TEXT: /(?s:.+)/\n\
         format: (\" \"? <[{constrain}]> \"json\" | \" json\")?\n",
        // Preambles go before calls.
        before = if calls.is_empty() { "\"analysis\"" } else { "(\"analysis\" | \"commentary\")" },
    );
    let mut answers = Vec::with_capacity(calls.len() + 1);
    if let Some(message) = message {
        answers.push("message".to_owned());
        let (format, text) = match message {
            Body::Text => ("", "text".to_owned()),
            Body::Json(schema) => ("format", json_rule(schema)),
        };
        line(
            &mut lark,
            format_args!(
                "message: <[{channel}]> \"final\" {format} <[{body}]> json_message <[{return_}]>"
            ),
        );
        line(&mut lark, format_args!("json_message: {text}"));
    }
    for (index, (name, schema)) in calls.iter().enumerate() {
        answers.push(format!("call_{index}"));
        let recipient = Value::from(format!(" to=functions.{name}"));
        line(
            &mut lark,
            format_args!(
                "call_{index}: (<[{channel}]> \"commentary\" {recipient} | {recipient} <[{channel}]> \"commentary\") \
                 format <[{body}]> arguments_{index} <[{call}]>"
            ),
        );
        line(&mut lark, format_args!("arguments_{index}: {}", json_rule(schema)));
    }
    line(&mut lark, format_args!("answer: {}", answers.join(" | ")));
    lark
}

fn line(lark: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(lark, "{line}").expect("a string takes everything");
}

/// The rule of JSON that follows a schema. The options go with the schema, and replace any that it brings.
pub(super) fn json_rule(schema: &Value) -> String {
    let mut schema = match schema {
        Value::Object(keywords) => keywords.clone(),
        Value::Bool(false) => [("not".to_owned(), json!({}))].into_iter().collect(),
        _ => serde_json::Map::new(),
    };
    let options = json!({
        "whitespace_pattern": WHITESPACE,
        // A model that begins to escape a letter must be able to end it.
        "json_allow_general_unicode_escapes": true,
    });
    schema.insert("x-guidance".to_owned(), options);
    format!("%json {}", Value::Object(schema))
}
