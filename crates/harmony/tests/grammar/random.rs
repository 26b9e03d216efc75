//! Random walks: whatever a model chooses among the allowed tokens, the answer follows the rules.

use harmonium_harmony::{Arguments, Body, Delta, Parser, Rules};
use proptest::prelude::*;

use super::schema::{follows, objects, schemas};
use super::{Language, NANO, REAL, allows, call};
use crate::support::{cases, parse};

/// Ends most walks; the others are cut, as `max_tokens` would.
const MAX_TOKENS: usize = 600;

/// Draws tokens until the answer is complete: often a control token, or one that closes something, so that it comes to
/// an end. `None` if it does not.
fn wander(
    language: &Language,
    rules: &Rules,
    mut random: impl FnMut() -> usize,
) -> Option<Vec<u32>> {
    let control = language.tokenizer.control();
    let mut short = vec![
        control.channel,
        control.start,
        control.message,
        control.end,
        control.return_,
        control.call,
    ];
    short.extend(
        "\"}]:,0129ae {["
            .chars()
            .flat_map(|letter| language.tokenizer.encode_text(&letter.to_string())),
    );
    let mut walk = language.grammars.compile(rules).expect("the rules can be enforced");
    let mut ids = Vec::new();
    while ids.len() < MAX_TOKENS {
        let Some(mask) = walk.allowed().expect("nothing here is too complex") else {
            return Some(ids);
        };
        let likely: Vec<u32> = short.iter().copied().filter(|&id| allows(&mask, id)).collect();
        let id = if likely.is_empty() || random().is_multiple_of(4) {
            let all: Vec<u32> =
                (0..mask.len() as u32 * 32).filter(|&id| allows(&mask, id)).collect();
            all[random() % all.len()]
        } else {
            likely[random() % likely.len()]
        };
        walk.push(id).expect("it was allowed");
        ids.push(id);
    }
    None
}

fn check(
    language: &Language,
    message: Option<&serde_json::Value>,
    arguments: &serde_json::Value,
    seed: u64,
) -> bool {
    let rules = Rules {
        message: message.cloned().map(Body::Json),
        calls: vec![call("f", Some(arguments.clone()), Arguments::Strict)],
    };
    let mut state = seed;
    let Some(ids) = wander(language, &rules, || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }) else {
        return false;
    };
    let mut parser = Parser::new(language.tokenizer.clone(), ["f".to_owned()]);
    let deltas = parse(&mut parser, &ids);
    assert_eq!(parser.recoveries(), 0, "{deltas:?}");
    let json = |text: &str| {
        serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("{error} in {text:?} of {rules:?}"))
    };
    let mut answers = 0;
    let mut is_call = false;
    for delta in &deltas {
        let (text, schema) = match delta {
            Delta::Content(text) => (text, message.expect("a final message was allowed")),
            Delta::ToolCallArguments(text) => (text, arguments),
            Delta::ToolCallStart { name } => {
                assert_eq!(name, "f");
                is_call = true;
                continue;
            }
            _ => continue,
        };
        assert!(follows(&json(text), schema), "{text} for {schema}");
        answers += 1;
    }
    assert_eq!(answers, 1, "{deltas:?}");
    assert!(is_call || message.is_some());
    true
}

/// So many random rules, of which most walks must come to their end.
fn check_cases(language: &Language, num_cases: u32) {
    let mut runner = proptest::test_runner::TestRunner::new(cases(num_cases));
    let num_ended = std::cell::Cell::new(0);
    let inputs = (prop::option::of(schemas()), objects(schemas()), any::<u64>());
    let result = runner.run(&inputs, |(message, arguments, seed)| {
        let ended = check(language, message.as_ref(), &arguments, seed);
        num_ended.set(num_ended.get() + u32::from(ended));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(num_ended.get() * 2 > num_cases, "{} of {num_cases} ended", num_ended.get());
}

#[test]
fn random_tokens_of_nano_follow_the_rules() {
    check_cases(&NANO, 300);
}

#[test]
fn random_tokens_of_the_real_vocabulary_follow_the_rules() {
    check_cases(&REAL, 25);
}
