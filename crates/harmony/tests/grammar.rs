//! Which tokens an answer may go on with: walks through the grammar with given tokens, with random ones, and with
//! schemas that mean harm. With the real vocabulary and with that of nano.

mod hostile;
mod random;
mod schema;

use std::path::Path;
use std::sync::LazyLock;

use harmonium_harmony::{
    Arguments, Body, CallRule, Culprit, GrammarError, Grammars, Rules, Tokenizer, Walk,
};
use serde_json::{Value, json};

use crate::support::encode_markup;
use crate::tokenizer::o200k;

/// A tokenizer with its grammars.
pub(crate) struct Language {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) grammars: Grammars,
}

impl Language {
    fn new(tokenizer: Tokenizer) -> Self {
        Self { grammars: Grammars::new(tokenizer.clone()), tokenizer }
    }
}

pub(crate) static REAL: LazyLock<Language> = LazyLock::new(|| Language::new(o200k().clone()));

pub(crate) static NANO: LazyLock<Language> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/nano/tokenizer.json");
    let json = std::fs::read(path).expect("nano is in the repository");
    Language::new(Tokenizer::from_bytes(&json).expect("nano's vocabulary loads"))
});

pub(crate) fn allows(mask: &[u32], id: u32) -> bool {
    mask.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Goes as far as the rules allow; returns how many of the ids that were, and the walk behind them.
fn go(language: &Language, rules: &Rules, markup: &str) -> (Vec<u32>, usize, Walk) {
    let ids = encode_markup(&language.tokenizer, markup);
    let mut walk = language.grammars.compile(rules).expect("the rules can be enforced");
    for (index, &id) in ids.iter().enumerate() {
        let mask = walk.allowed().expect("nothing here is complex");
        if !mask.is_some_and(|mask| allows(&mask, id)) {
            return (ids, index, walk);
        }
        walk.push(id).expect("it was allowed");
    }
    let all = ids.len();
    (ids, all, walk)
}

/// A whole answer that must be allowed, and be complete with its last token only.
fn accepts(rules: &Rules, markup: &str) {
    for language in [&*REAL, &*NANO] {
        let (ids, num_allowed, mut walk) = go(language, rules, markup);
        let tail = ids[num_allowed..].iter().filter_map(|&id| language.tokenizer.decode_bytes(id));
        let tail =
            String::from_utf8_lossy(&tail.flatten().copied().collect::<Vec<_>>()).into_owned();
        assert_eq!(num_allowed, ids.len(), "{markup}: stops before {tail:?}");
        assert!(walk.is_complete(), "{markup}");
        assert_eq!(walk.allowed(), Ok(None));
    }
}

/// An answer that must not get as far as its last token.
fn refuses(rules: &Rules, markup: &str) {
    for language in [&*REAL, &*NANO] {
        let (ids, num_allowed, _) = go(language, rules, markup);
        assert!(num_allowed < ids.len(), "{markup}");
    }
}

fn weather_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "days"],
        "additionalProperties": false,
    })
}

fn call(name: &str, parameters: Option<Value>, arguments: Arguments) -> CallRule {
    CallRule { name: name.to_owned(), parameters, arguments }
}

fn json_answer(schema: Value) -> Rules {
    Rules { message: Some(Body::Json(schema)), calls: Vec::new() }
}

/// One of two functions must be called.
fn must_call() -> Rules {
    Rules {
        message: None,
        calls: vec![
            call("get_weather", Some(weather_schema()), Arguments::Strict),
            call("get", None, Arguments::Strict),
        ],
    }
}

const FINAL: &str = "<|channel|>final<|message|>";
const THOUGHT: &str =
    "<|channel|>analysis<|message|>Let me see: {\"no\": json} \n\n你好 🙂<|end|><|start|>assistant";

#[test]
fn a_format_binds_the_final_message_alone() {
    let rules = json_answer(weather_schema());
    let body = "{\"city\":\"Paris\",\"days\":3}";
    accepts(&rules, &format!("{FINAL}{body}<|return|>"));
    accepts(&rules, &format!("{THOUGHT}{FINAL}{body}<|return|>"));
    accepts(&rules, &format!("{THOUGHT}{THOUGHT}{FINAL}{body}<|return|>"));
    refuses(&rules, &format!("{FINAL}It is sunny.<|return|>"));
    refuses(&rules, &format!("{FINAL}{body}<|end|>"));
    refuses(&rules, &format!("{FINAL}{body}<|call|>"));
    refuses(&rules, &format!("{FINAL}{{\"city\":\"Paris\"}}<|return|>"));
    refuses(&rules, &format!("{FINAL}{{\"city\":\"Paris\",\"days\":15}}<|return|>"));
    refuses(&rules, &format!("{FINAL}{{\"city\":\"Paris\",\"days\":3,\"x\":1}}<|return|>"));
    refuses(
        &rules,
        &format!(
            "<|channel|>commentary<|message|>x<|end|><|start|>assistant{FINAL}{body}<|return|>"
        ),
    );
    refuses(&rules, "<|channel|>commentary to=functions.f<|message|>{}<|call|>");
    refuses(&rules, "<|channel|>analysis<|message|>x<|return|>");
}

#[test]
fn every_spelling_of_a_header_is_allowed() {
    let formats = [" <|constrain|>json", "<|constrain|>json", " json", ""];
    for format in formats {
        let rules = json_answer(json!({"type": "object"}));
        accepts(
            &rules,
            &format!("<|channel|>final{format}<|message|>{{\"a\":[1,null]}}<|return|>"),
        );
        let body = format!("{format}<|message|>{{\"city\":\"Paris\",\"days\":3}}<|call|>");
        accepts(&must_call(), &format!("<|channel|>commentary to=functions.get_weather{body}"));
        accepts(&must_call(), &format!(" to=functions.get_weather<|channel|>commentary{body}"));
        accepts(
            &must_call(),
            &format!(
                "{THOUGHT} to=functions.get<|channel|>commentary{format}<|message|>{{}}<|call|>"
            ),
        );
    }
}

#[test]
fn a_demanded_call_is_of_a_declared_function_with_its_arguments() {
    let rules = must_call();
    let preamble = "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant";
    let weather = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>";
    accepts(
        &rules,
        &format!("{THOUGHT}{preamble}{weather}{{\"city\":\"Rome\",\"days\":14}}<|call|>"),
    );
    accepts(&rules, "<|channel|>commentary to=functions.get<|message|>{}<|call|>");
    refuses(&rules, &format!("{FINAL}Rome is sunny.<|return|>"));
    refuses(&rules, &format!("{weather}{{}}<|call|>"));
    refuses(&rules, &format!("{weather}{{\"city\":\"Rome\",\"days\":14}}<|return|>"));
    refuses(&rules, "<|channel|>commentary to=functions.get<|message|>{\"city\":\"Rome\"}<|call|>");
    refuses(&rules, "<|channel|>commentary to=functions.get_time<|message|>{}<|call|>");
    refuses(&rules, "<|channel|>commentary to=functions.get_weathe<|message|>{}<|call|>");
    refuses(&rules, "<|channel|>commentary<|message|>{}<|call|>");
    // Talk does not go on for ever.
    accepts(
        &rules,
        &format!("{}{weather}{{\"city\":\"Rome\",\"days\":14}}<|call|>", preamble.repeat(8)),
    );
    refuses(&rules, &format!("{}{preamble}", preamble.repeat(8)));
}

#[test]
fn where_a_call_may_be_the_final_message_may_be_too() {
    let calls = vec![
        call("strict", Some(weather_schema()), Arguments::Strict),
        call("loose", Some(json!({"type": "object", "required": ["a"]})), Arguments::AnyObject),
    ];
    let text = Rules { message: Some(Body::Text), calls: calls.clone() };
    let formatted = Rules { message: Some(Body::Json(json!({"type": "object"}))), calls };
    for rules in [&text, &formatted] {
        accepts(rules, &format!("{FINAL}{{\"x\":1}}<|return|>"));
        accepts(
            rules,
            "<|channel|>commentary to=functions.loose<|message|>{\"x\": [true]}<|call|>",
        );
        refuses(rules, "<|channel|>commentary to=functions.loose<|message|>[]<|call|>");
        refuses(rules, "<|channel|>commentary to=functions.strict<|message|>{\"x\":1}<|call|>");
    }
    accepts(&text, &format!("{FINAL}Any text: \n\n```{{<|return|>"));
    accepts(&text, &format!("{FINAL}<|return|>"));
    refuses(&formatted, &format!("{FINAL}Any text<|return|>"));
}

#[test]
fn json_is_written_as_models_write_it_but_not_with_endless_blanks() {
    let rules = json_answer(json!({"type": "object"}));
    let json = |body: &str| format!("{FINAL}{body}<|return|>");
    accepts(&rules, &json("{\"a\": [1, 2], \"b\": {\"c\": \"d\"}}"));
    accepts(&rules, &json("{\n  \"a\": [\n    1,\n    -2.5e3\n  ],\n  \"b\": {}\n}"));
    accepts(&rules, &json("{\r\n\t\"a\": true\r\n}"));
    accepts(&rules, &json(r#"{"\u00e9\ud83d\ude42\n":"\u2019\"\\"}"#));
    accepts(&rules, &json("{\"é🙂\":\"你好\"}"));
    refuses(&rules, &json("{\n\n\n\"a\": 1}"));
    refuses(&rules, &json("{\"a\":   1}"));
    refuses(&rules, &json(&format!("{{\n{}\"a\":1}}", " ".repeat(25))));
    refuses(&rules, &json("{\"a\": \"\n\"}"));
    refuses(&rules, &json("{\"a\": 1,}"));
    refuses(&rules, &json("{\"a\": 1}}"));
}

#[test]
fn no_text_spells_a_control_token_and_no_other_id_is_allowed() {
    for language in [&*REAL, &*NANO] {
        let control = language.tokenizer.control();
        let mut walk = language.grammars.compile(&must_call()).unwrap();
        let mask = walk.allowed().unwrap().unwrap();
        assert!(allows(&mask, control.channel));
        for id in encode_markup(&language.tokenizer, "<|channel|>analysis<|message|>") {
            walk.push(id).unwrap();
        }
        let mask = walk.allowed().unwrap().unwrap();
        let num_ids = u32::try_from(language.tokenizer.vocab_size()).unwrap();
        for id in 0..num_ids + 2000 {
            let is_text = language.tokenizer.decode_bytes(id).is_some();
            let may_be = is_text || id == control.end;
            assert!(may_be || !allows(&mask, id), "{id}");
        }
        for id in language.tokenizer.encode_text(" <|end|><|return|> text\n") {
            assert!(allows(&mask, id), "{id}");
        }
        assert!(allows(&mask, control.end));
    }
}

#[test]
fn copies_of_a_walk_go_their_own_ways() {
    let mut walk = REAL.grammars.compile(&json_answer(weather_schema())).unwrap();
    for id in encode_markup(&REAL.tokenizer, FINAL) {
        walk.push(id).unwrap();
    }
    let mut other = walk.clone();
    let brace = REAL.tokenizer.encode_text("{")[0];
    walk.push(brace).unwrap();
    assert!(allows(&other.allowed().unwrap().unwrap(), brace));
    assert!(!allows(&walk.allowed().unwrap().unwrap(), brace));
    assert!(other.push(REAL.tokenizer.encode_text("x")[0]).is_err());
    assert!(other.allowed().is_err() && walk.allowed().is_ok());
}

fn refused(rules: &Rules) -> GrammarError {
    NANO.grammars.compile(rules).expect_err("it cannot be enforced")
}

#[test]
fn what_cannot_be_enforced_is_refused_by_its_place() {
    let unsupported = json!({"type": "object", "not": {"type": "string"}});
    let calls = |arguments| {
        vec![
            call("sound", Some(weather_schema()), Arguments::Strict),
            call("unsound", Some(unsupported.clone()), arguments),
        ]
    };
    let error = refused(&json_answer(unsupported.clone()));
    assert_eq!(error.culprit, Culprit::Message);
    assert!(error.reason.contains("not"), "{error}");
    let error = refused(&Rules { message: Some(Body::Text), calls: calls(Arguments::Strict) });
    assert_eq!(error.culprit, Culprit::Call(1));
    // One that is not strict is any object instead.
    let rules = Rules { message: None, calls: calls(Arguments::IfPossible) };
    accepts(&rules, "<|channel|>commentary to=functions.unsound<|message|>{\"x\":1}<|call|>");
    refuses(&rules, "<|channel|>commentary to=functions.unsound<|message|>1<|call|>");
    for (schema, shown) in [
        (json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}), "none"),
        (json!({"type": "text"}), "text"),
        (json!({"type": "string", "pattern": "(?=a)b"}), "look"),
        (json!({"type": "string", "format": "shoe-size"}), "shoe-size"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "minimum"),
        (json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), "nothing fulfils it"),
        (json!({"type": "integer", "multipleOf": 999_983}), "multipleOf"),
        (json!(false), ""),
    ] {
        let error = refused(&json_answer(schema.clone()));
        assert_eq!(error.culprit, Culprit::Message, "{schema}");
        assert!(error.reason.contains(shown) && !error.reason.contains('\n'), "{schema}: {error}");
    }
}

#[test]
fn references_and_unions_are_followed() {
    let rules = json_answer(json!({
        "$defs": {"tree": {"type": "object", "properties": {
            "value": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        }, "required": ["value", "children"], "additionalProperties": false}},
        "$ref": "#/$defs/tree",
    }));
    let json = |body: &str| format!("{FINAL}{body}<|return|>");
    accepts(&rules, &json("{\"value\":1,\"children\":[{\"value\":null,\"children\":[]}]}"));
    refuses(&rules, &json("{\"value\":1,\"children\":[{\"value\":\"a\",\"children\":[]}]}"));
    // The request's schema cannot set how JSON is read.
    let rules = json_answer(json!({"type": "object", "x-guidance": {"whitespace_pattern": "x+"}}));
    refuses(&rules, &json("{x}"));
}
