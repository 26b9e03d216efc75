//! Schemas that mean harm: all are refused or read in bounded time, and nothing panics or runs out of stack.

use std::time::{Duration, Instant};

use harmonium_harmony::Walk;
use serde_json::{Map, Value, json};

use super::{FINAL, Language, NANO, REAL, allows, json_answer};
use crate::support::encode_markup;

/// Much more than any takes here, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(60);

fn nested(levels: usize, wrap: impl Fn(Value) -> Value) -> Value {
    (0..levels).fold(json!({"type": "string"}), |inner, _| wrap(inner))
}

/// Definitions that each refer to the next.
fn chain(len: usize, link: impl Fn(Value) -> Value) -> Value {
    let definitions: Map<String, Value> = (0..len)
        .map(|index| {
            let next = json!({"$ref": format!("#/$defs/d{}", index + 1)});
            (format!("d{index}"), link(next))
        })
        .chain([(format!("d{len}"), json!({"type": "object"}))])
        .collect();
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

/// An object with so many optional properties.
fn properties(num: usize, schema: &Value) -> Value {
    let properties: Map<String, Value> =
        (0..num).map(|index| (format!("p{index}"), schema.clone())).collect();
    json!({"type": "object", "properties": properties})
}

/// Schemas of many or deep parts.
fn structures() -> Vec<(&'static str, Value)> {
    let items = |inner: Value| json!({"type": "array", "items": inner});
    let many = |num: usize| -> Vec<Value> {
        (0..num)
            .map(|index| json!({"properties": {(format!("p{index}")): {"const": index}}}))
            .collect()
    };
    vec![
        ("nested", nested(2000, items)),
        ("nested to the limit", nested(60, items)),
        ("a chain of references", chain(5000, |next| json!({"properties": {"a": next}}))),
        ("a chain to the limit", chain(350, |next| json!({"properties": {"a": next}}))),
        ("a chain of allOf", chain(350, |next| json!({"allOf": [next]}))),
        (
            "a chain with siblings",
            chain(350, |next| json!({"$ref": next["$ref"], "minProperties": 1})),
        ),
        ("doubling", chain(60, |next| json!({"allOf": [next.clone(), next]}))),
        (
            "doubling unions",
            chain(
                60,
                |next| json!({"anyOf": [next.clone(), {"allOf": [next, {"type": "object"}]}]}),
            ),
        ),
        (
            "a product of unions",
            json!({"allOf": [{"anyOf": many(200)}, {"anyOf": many(200)}, {"anyOf": many(200)}]}),
        ),
        ("a circle", json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})),
        (
            "a circle with siblings",
            json!({"$defs": {"a": {"$ref": "#/$defs/a", "type": "object"}}, "$ref": "#/$defs/a"}),
        ),
    ]
}

/// Keywords with values that would take long to follow, or are none.
fn keywords() -> Vec<(&'static str, Value)> {
    vec![
        (
            "a huge array",
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000}),
        ),
        (
            "a huge string",
            json!({"type": "string", "minLength": 1_000_000_000, "maxLength": 2_000_000_000}),
        ),
        ("a huge object", json!({"type": "object", "minProperties": 1_000_000_000})),
        (
            "huge numbers",
            json!({"type": "number", "minimum": -1e300, "maximum": 1e300, "multipleOf": 1e-300}),
        ),
        ("an odd divisor", json!({"type": "integer", "multipleOf": 999_983})),
        ("a large divisor", json!({"type": "integer", "multipleOf": 1_000_000})),
        ("a divisor", json!({"type": "integer", "multipleOf": 9973})),
        ("a divisor", json!({"type": "number", "multipleOf": 0.01})),
        (
            "divisors",
            json!({"type": "integer", "multipleOf": 9973, "allOf": [{"multipleOf": 127}]}),
        ),
        (
            "a repeated pattern",
            json!({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"}),
        ),
        ("a wide pattern", json!({"type": "string", "pattern": "a?".repeat(20_000)})),
        (
            "nested groups",
            json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(5000), ")".repeat(5000))}),
        ),
        ("an ambiguous pattern", json!({"type": "string", "pattern": "(.*a.*){20}b"})),
        ("a long enum", json!({"enum": (0..12_000).collect::<Vec<u32>>()})),
        ("a long constant", json!({"const": "x".repeat(100_000)})),
        (
            "a long name",
            json!({"properties": {("x".repeat(100_000)): {}}, "required": ["x".repeat(100_000)]}),
        ),
        ("too long", json!({"description": "x".repeat(200_000)})),
        ("many properties", properties(4000, &json!({}))),
        (
            "overlapping patterns",
            json!({"type": "object", "patternProperties": {"^(a|b)*c$": {}, "^(a|b)*d?c$": {"type": "null"}}}),
        ),
        ("no schema", json!({"properties": 3})),
        (
            "wrong everywhere",
            json!({"type": [], "enum": {}, "items": 1, "required": {}, "$ref": 5}),
        ),
    ]
}

/// How far the body of an answer gets with arbitrary tokens, and the slowest mask on the way.
fn wander(language: &Language, mut walk: Walk) -> (String, Duration) {
    for id in encode_markup(&language.tokenizer, FINAL) {
        walk.push(id).expect("any body begins so");
    }
    let mut slowest = Duration::ZERO;
    for num_tokens in 0_usize..60 {
        let begin = Instant::now();
        let mask = walk.allowed();
        slowest = slowest.max(begin.elapsed());
        let mask = match mask {
            Err(error) => return (format!("{error} after {num_tokens} tokens"), slowest),
            Ok(None) => return (format!("complete after {num_tokens} tokens"), slowest),
            Ok(Some(mask)) => mask,
        };
        let allowed: Vec<u32> =
            (0..mask.len() as u32 * 32).filter(|&id| allows(&mask, id)).collect();
        if let Err(error) = walk.push(allowed[num_tokens * 7919 % allowed.len()]) {
            return (format!("{error} after {num_tokens} tokens"), slowest);
        }
    }
    ("goes on".to_owned(), slowest)
}

#[test]
fn hostile_schemas_are_refused_or_read_in_bounded_time() {
    [&*NANO, &*REAL].into_iter().for_each(check);
}

fn check(language: &Language) {
    language.grammars.prepare();
    for (name, schema) in structures().into_iter().chain(keywords()) {
        let begin = Instant::now();
        let walk = language.grammars.compile(&json_answer(schema));
        let (outcome, slowest) = match walk {
            Err(error) => (error.to_string(), Duration::ZERO),
            Ok(walk) => wander(language, walk),
        };
        let elapsed = begin.elapsed();
        assert!(elapsed < PATIENCE, "{name}: {elapsed:?}");
        assert!(!outcome.contains("panic"), "{name}: {outcome}");
        assert!(slowest < PATIENCE / 100, "{name}: {slowest:?} for a mask");
    }
}

/// What real requests have is not taken for harm: the limits of a mask hold in the real vocabulary.
#[test]
fn usual_keywords_stay_within_the_limits() {
    let formats = [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
        "uri",
    ];
    let strings = formats.map(|format| json!({"type": "string", "format": format}));
    let others = [
        json!({"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}),
        json!({"type": "string", "pattern": "^\\+?[0-9 ()-]{7,20}$"}),
        json!({"type": "string", "minLength": 1, "maxLength": 10_000}),
        json!({"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 1000}),
        json!({"type": "number", "multipleOf": 0.01, "minimum": 0}),
        json!({"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32}),
        json!({"enum": (0..1000).map(|index| format!("option {index}")).collect::<Vec<_>>()}),
        json!({"type": "object", "additionalProperties": {"type": "array", "items": {}}}),
        properties(300, &json!({"type": ["string", "null"]})),
    ];
    for schema in strings.into_iter().chain(others) {
        let walk = REAL.grammars.compile(&json_answer(schema.clone()));
        let walk = walk.unwrap_or_else(|error| panic!("{schema}: {error}"));
        let (outcome, slowest) = wander(&REAL, walk);
        assert!(outcome == "goes on" || outcome.starts_with("complete"), "{schema}: {outcome}");
        assert!(slowest < PATIENCE / 100, "{schema}: {slowest:?} for a mask");
    }
}
