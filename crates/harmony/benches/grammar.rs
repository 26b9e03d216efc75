//! What enforced formats cost, with the real o200k vocabulary: reading the vocabulary once, making a grammar once a
//! request, and a mask and a step for every token. The masks of whole answers are printed too: their mean hides that a
//! few, where much is possible, cost most.

#![allow(missing_docs, reason = "criterion's macros document nothing")]
#![allow(clippy::print_stdout, reason = "it tells people what it measured")]

#[path = "../tests/support/o200k.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod o200k;

use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use harmonium_harmony::{Arguments, Body, CallRule, Grammars, Rules, Tokenizer, Walk};
use o200k::TOKENIZER_JSON;
use serde_json::json;

const THOUGHT: &str = "The user wants the weather of three cities as JSON; I should give a forecast for each of them.";
const JSON: &str = r#"{
  "forecasts": [
    {"city": "São Paulo", "days": [{"date": "2026-03-01", "low": -3.5, "high": 12, "sky": "cloudy"}], "note": null},
    {"city": "Kyoto", "days": [], "note": "No data was found for the \"old\" station, so nothing can be said."}
  ]
}"#;

/// A final message after this schema.
fn format() -> Rules {
    let day = json!({"type": "object", "properties": {
        "date": {"type": "string", "format": "date"},
        "low": {"type": "number"},
        "high": {"type": "number"},
        "sky": {"enum": ["clear", "cloudy", "rain", "snow"]},
    }, "required": ["date", "low", "high", "sky"], "additionalProperties": false});
    let forecast = json!({"type": "object", "properties": {
        "city": {"type": "string"},
        "days": {"type": "array", "items": {"$ref": "#/$defs/day"}},
        "note": {"anyOf": [{"type": "string", "maxLength": 200}, {"type": "null"}]},
    }, "required": ["city", "days", "note"], "additionalProperties": false});
    let schema = json!({"$defs": {"day": day, "forecast": forecast}, "type": "object", "properties": {
        "forecasts": {"type": "array", "items": {"$ref": "#/$defs/forecast"}},
    }, "required": ["forecasts"], "additionalProperties": false});
    Rules { message: Some(Body::Json(schema)), calls: Vec::new() }
}

/// A call of one of 100 functions.
fn call() -> Rules {
    let parameters = json!({"type": "object", "properties": {
        "path": {"type": "string"}, "depth": {"type": "integer"}, "all": {"type": "boolean"},
    }, "required": ["path"], "additionalProperties": false});
    let rule = |index: u32| CallRule {
        name: format!("function_{index}"),
        parameters: Some(parameters.clone()),
        arguments: Arguments::Strict,
    };
    Rules { message: None, calls: (0..100).map(rule).collect() }
}

fn answer(tokenizer: &Tokenizer) -> Vec<u32> {
    let control = tokenizer.control();
    let text = |text: &str| tokenizer.encode_text(text);
    [
        vec![control.channel],
        text("analysis"),
        vec![control.message],
        text(THOUGHT),
        vec![control.end, control.start],
        text("assistant"),
        vec![control.channel],
        text("final"),
        vec![control.message],
        text(JSON),
        vec![control.return_],
    ]
    .concat()
}

/// Times of the masks of an answer.
fn masks(walk: &mut Walk, answer: &[u32]) -> Vec<Duration> {
    let time = |&id: &u32| {
        let begin = Instant::now();
        let mask = walk.allowed().expect("the rules are not complex").expect("not over yet");
        let elapsed = begin.elapsed();
        assert!(mask[id as usize / 32] >> (id % 32) & 1 == 1, "{id} is allowed");
        walk.push(id).expect("it is allowed");
        elapsed
    };
    answer.iter().map(time).collect()
}

fn print_masks(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{name}: {} masks, median {:?}, 95th percentile {:?}, slowest {:?}",
        times.len(),
        at(0.5),
        at(0.95),
        at(1.0)
    );
}

fn grammar(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::from_bytes(&TOKENIZER_JSON).expect("the real vocabulary loads");
    let begin = Instant::now();
    let grammars = Grammars::new(tokenizer.clone());
    grammars.prepare();
    println!("vocabulary: {:?}", begin.elapsed());

    let walk = grammars.compile(&format()).expect("the schema can be enforced");
    let answer = answer(&tokenizer);
    let mut warm = walk.clone();
    print_masks("a first answer", masks(&mut warm, &answer));

    let mut group = criterion.benchmark_group("grammar");
    group.sample_size(20);
    group.bench_function("compile a format", |bencher| {
        bencher.iter(|| grammars.compile(&format()));
    });
    group.bench_function("compile 100 functions", |bencher| {
        bencher.iter(|| grammars.compile(&call()));
    });
    group.bench_function("copy a walk", |bencher| bencher.iter(|| walk.clone()));
    group.bench_function("an answer", |bencher| {
        bencher.iter_batched_ref(
            || walk.clone(),
            |walk| masks(walk, &answer),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, grammar);
criterion_main!(benches);
