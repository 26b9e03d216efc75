//! The decision, case by case.

use std::time::Duration;

use harmonium_hosted::{BreakerConfig, Budget, HostedConfig, Price, Secret, Timeouts, Wire};

use super::*;

/// One hosted model of 1,000 tokens that answers with 100 at most.
fn hosted() -> (Hosted, tempfile::TempDir) {
    with(|_| {})
}

fn with(change: impl FnOnce(&mut HostedModel)) -> (Hosted, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let second = Duration::from_secs(1);
    let mut model = HostedModel {
        name: "big".to_owned(),
        base_url: "http://127.0.0.1:1/v1".to_owned(),
        api_key: Secret::new("key"),
        context: 1_000,
        max_output: 100,
        price: Price::from_usd_per_million(1.0, 1.0, 1.0).unwrap(),
        wire: Wire::Chat,
        image_tokens: None,
        is_reasoning: false,
        drop: Vec::new(),
    };
    change(&mut model);
    let hosted = Hosted::start(HostedConfig {
        default: "big".to_owned(),
        models: vec![model],
        budget: Budget::default(),
        ledger: dir.path().join("ledger.db"),
        redact: Vec::new(),
        max_in_flight: 1,
        timeouts: Timeouts { connect: second, first_chunk: second, between_chunks: second },
        max_attempts: 1,
        breaker: BreakerConfig { max_failures: 1, cooldown: second },
    })
    .unwrap();
    (hosted, dir)
}

fn question(hosted: &Hosted) -> Question<'_> {
    Question {
        asked: Asked::Any,
        leave: Leave::Allow,
        is_kept: false,
        caller_may: true,
        num_prompt: 10,
        images: None,
        num_unrendered: 0,
        max_tokens: None,
        num_answers: 1,
        context_len: 300,
        num_waiting: 0,
        is_healthy: true,
        triggers: Triggers::default(),
        hosted: Some(hosted),
    }
}

/// `local`, or why the hosted model, or the code of the refusal.
fn decided(question: &Question<'_>) -> String {
    match decide(question) {
        Ok(Route::Local) => "local".to_owned(),
        Ok(Route::Hosted(route)) => {
            assert_eq!(route.model, "big");
            route.reason.as_str().to_owned()
        }
        Err(error) => error.code().to_owned(),
    }
}

#[test]
fn the_count_and_the_wanted_answer_decide() {
    let (hosted, _dir) = hosted();
    for (num_prompt, max_tokens, expected) in [
        (10, None, "local"),
        (299, None, "local"),
        (300, None, "context"),
        (200, Some(100), "local"),
        (201, Some(100), "context"),
        (299, Some(1), "local"),
        // More than the hosted model would give does not send a request there.
        (200, Some(131_072), "local"),
        (201, Some(131_072), "context"),
        (999, None, "context"),
        (1_000, None, "context_length_exceeded"),
    ] {
        let found = decided(&Question { num_prompt, max_tokens, ..question(&hosted) });
        assert_eq!(found, expected, "{num_prompt} {max_tokens:?}");
    }
}

#[test]
fn without_leave_nothing_goes() {
    let (hosted, _dir) = hosted();
    let far = || Question { num_prompt: 500, ..question(&hosted) };
    for refusal in [
        Question { leave: Leave::Never, ..far() },
        Question { leave: Leave::StickyLocal, ..far() },
        Question { is_kept: true, ..far() },
        Question { caller_may: false, ..far() },
        Question { hosted: None, ..far() },
    ] {
        // The engine refuses it: it does not fit.
        assert_eq!(decided(&refusal), "local");
        let named = Question { asked: Asked::Hosted(hosted.default_model()), ..refusal };
        assert_eq!(decided(&named), "hosted_not_allowed");
    }
    let require = |question| Question { leave: Leave::Require, ..question };
    assert_eq!(decided(&require(question(&hosted))), "required");
    let refused = require(Question { caller_may: false, ..question(&hosted) });
    assert_eq!(decided(&refused), "hosted_not_allowed");
    let refused = require(Question { hosted: None, ..question(&hosted) });
    assert_eq!(decided(&refused), "hosted_not_allowed");
}

#[test]
fn a_long_queue_sends_away_only_if_that_is_asked_for() {
    let (hosted, _dir) = hosted();
    let waiting = |num_waiting| Question { num_waiting, ..question(&hosted) };
    assert_eq!(decided(&waiting(1_000)), "local");
    let triggers = Triggers { waiting: Some(2), ..Triggers::default() };
    let max = |question| Question { triggers, ..question };
    assert_eq!(decided(&max(waiting(2))), "local");
    assert_eq!(decided(&max(waiting(3))), "queue");
    assert_eq!(decided(&Question { leave: Leave::Never, ..max(waiting(3)) }), "local");
}

#[test]
fn images_go_where_they_are_seen_or_nowhere() {
    let (blind, _dir) = hosted();
    let (seeing, _dir) = with(|model| model.image_tokens = Some(50));
    let images = Images { count: 2, first: "messages[0].content[1]".to_owned() };
    let triggers = Triggers { images: true, ..Triggers::default() };
    let asks = |hosted, triggers| Question { images: Some(&images), triggers, ..question(hosted) };
    assert_eq!(decided(&asks(&seeing, triggers)), "image");
    for refused in [
        asks(&seeing, Triggers::default()),
        asks(&blind, triggers),
        Question { leave: Leave::Never, ..asks(&seeing, triggers) },
        Question { asked: Asked::Hosted(blind.default_model()), ..asks(&blind, triggers) },
    ] {
        assert_eq!(decided(&refused), "unsupported_value");
    }
    let named = Question {
        asked: Asked::Hosted(seeing.default_model()),
        ..asks(&seeing, Triggers::default())
    };
    let Ok(Route::Hosted(route)) = decide(&named) else { panic!("it is named") };
    // Ten tokens of text, two images, and an answer.
    assert_eq!(route.quote.estimate.as_usd(), (10.0 + 2.0 * 50.0 + 100.0) / 1e6);
}

#[test]
fn a_hosted_model_stands_in_for_a_failed_one_only_if_that_is_asked_for() {
    let (hosted, _dir) = hosted();
    let failed = || Question { is_healthy: false, ..question(&hosted) };
    assert_eq!(decided(&failed()), "local");
    let triggers = Triggers { unhealthy: true, ..Triggers::default() };
    assert_eq!(decided(&Question { triggers, ..failed() }), "unhealthy");
    assert_eq!(decided(&Question { triggers, ..question(&hosted) }), "local");
    assert_eq!(decided(&Question { triggers, leave: Leave::Never, ..failed() }), "local");
}

#[test]
fn a_quote_has_room_for_every_answer() {
    let (hosted, _dir) = hosted();
    let asked = Asked::Hosted(hosted.default_model());
    let named = Question { asked, num_prompt: 950, num_answers: 3, ..question(&hosted) };
    let Ok(Route::Hosted(HostedRoute { quote, reason, .. })) = decide(&named) else {
        panic!("it is named")
    };
    assert_eq!((quote.max_output, reason), (50, Reason::Named));
    // A dollar a million tokens.
    assert_eq!(quote.estimate.as_usd(), (950.0 + 3.0 * 50.0) / 1e6);
}
