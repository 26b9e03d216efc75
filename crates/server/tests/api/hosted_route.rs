//! What is foreseen of a request is what becomes of it, and what becomes of one that the hosted model cannot be asked.

use axum::body::Body;
use axum::http::Request;
use harmonium_engine::ExecutorSpec;
use harmonium_engine::fake::spec;
use harmonium_hosted::{Budget, Cost, HostedConfig, Wire};
use harmonium_server::{ServerConfig, Triggers};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::hosted::{Leg, code, header, long};
use crate::support::{Answer, PATIENCE, config, content, frames, hi, post, waits_with};
use crate::upstream::{Act, error, events, far_away, text};

async fn foresee(leg: &Leg, body: &Value) -> Answer {
    let request = Request::post("/v1/route").body(Body::from(body.to_string())).unwrap();
    leg.fixture.ask(request).await
}

/// Checks that a request is refused in this way, in a dry run as in earnest, and that nothing is sent.
async fn check_refused(leg: &Leg, body: &Value, expected: (u16, &str), param: Value) {
    let num_seen = leg.upstream.seen().len();
    let (foreseen, real) = (foresee(leg, body).await, leg.fixture.chat(body).await);
    for answer in [foreseen, real] {
        assert_eq!(code(&answer), expected, "{answer:?}");
        assert_eq!(answer.body["error"]["param"], param);
    }
    assert_eq!(leg.upstream.seen().len(), num_seen);
}

fn spent(hosted: &mut HostedConfig) {
    hosted.budget = Budget { day: Some(Cost::ZERO), ..Budget::default() };
}

#[tokio::test]
async fn a_spent_budget_is_foreseen() {
    let leg = Leg::with(|_| far_away(), config(), spent).await;
    check_refused(&leg, &long(json!({})), (429, "hosted_budget_exceeded"), Value::Null).await;
}

#[tokio::test]
async fn several_answers_over_a_protocol_that_has_one_are_foreseen() {
    let responses = |hosted: &mut HostedConfig| hosted.models[0].wire = Wire::Responses;
    let leg = Leg::with(|_| far_away(), config(), responses).await;
    check_refused(&leg, &long(json!({"n": 2})), (400, "hosted_refused"), json!("n")).await;
}

#[tokio::test]
async fn what_cannot_be_redacted_is_foreseen() {
    let leg = Leg::with(
        |_| far_away(),
        config(),
        |hosted| {
            hosted.models[0].image_tokens = Some(10);
            hosted.redact = vec!["secret".to_owned()];
        },
    )
    .await;
    let url = json!({"url": "data:image/png;base64,AAAA"});
    let mut image = hi(json!({"model": "big"}));
    image["messages"][0]["content"] = json!([{"type": "image_url", "image_url": url}]);
    let function = json!({"type": "function", "function": {"name": "secret"}});
    let tool = hi(json!({"model": "big", "tools": [function]}));
    for body in [image, tool] {
        check_refused(&leg, &body, (400, "hosted_refused"), json!("messages")).await;
    }
}

#[tokio::test]
async fn a_model_that_is_left_alone_is_foreseen() {
    let leg = Leg::with(
        |_| error(500, "server_error", "oops", ""),
        config(),
        |hosted| hosted.breaker.max_failures = 1,
    )
    .await;
    assert_eq!(leg.long(json!({})).await.status, 502);
    check_refused(&leg, &long(json!({})), (503, "hosted_unavailable"), Value::Null).await;
}

#[tokio::test]
async fn more_requests_than_may_be_in_flight_are_told_to_come_back() {
    let script = |number| match number {
        0 => Act::Hold(events(&[text("Far ")])),
        _ => far_away(),
    };
    let leg = Leg::with(script, config(), |hosted| hosted.max_in_flight = 1).await;
    // A dry run takes its place for as long as it lasts only.
    assert_eq!(foresee(&leg, &long(json!({}))).await.status, 200);
    let first = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
    assert_eq!(first.status(), 200);
    check_refused(&leg, &long(json!({})), (429, "hosted_overloaded"), Value::Null).await;
    let refused = leg.long(json!({})).await;
    assert_eq!(header(&refused, "retry-after"), "1");
    // What stays is not bound by it, and its end makes room.
    assert_eq!(leg.fixture.hi(json!({})).await.status, 200);
    drop(first);
    assert_eq!(leg.long(json!({})).await.status, 200);
}

#[tokio::test]
async fn what_would_not_be_sent_is_foreseen() {
    let leg = Leg::start(|_| far_away()).await;
    let foreseen = foresee(&leg, &long(json!({"reasoning_effort": "low"}))).await;
    assert_eq!(foreseen.body["dropped"], json!(["reasoning_effort"]));
}

#[tokio::test]
async fn a_long_queue_is_waited_in_after_all_if_the_hosted_model_cannot_be_asked() {
    for (change, backend, reason) in [
        ((|_| {}) as fn(&mut HostedConfig), "hosted", "queue"),
        (spent, "local", "fits"),
        (|hosted| hosted.max_in_flight = 1, "local", "fits"),
    ] {
        // One answer at a time, and none of them ends before the gate is gone.
        let (executor, gate) = waits_with(ExecutorSpec { max_sequences: 1, ..spec() });
        let triggers = Triggers { waiting: Some(0), ..Triggers::default() };
        let server = ServerConfig { triggers, ..config() };
        let script = |number| match number {
            0 => Act::Hold(events(&[text("Far ")])),
            _ => far_away(),
        };
        let leg = Leg::over(executor, script, server, change).await;
        let stream = || post(hi(json!({"stream": true})).to_string());
        let running = leg.fixture.send(stream()).await;
        leg.fixture.busy().await;
        let waiting = leg.fixture.send(stream()).await;
        assert_eq!(leg.fixture.engine.stats().waiting, 1);
        let away = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
        let foreseen = foresee(&leg, &hi(json!({}))).await.body;
        assert_eq!((&foreseen["backend"], &foreseen["reason"]), (&json!(backend), &json!(reason)));
        let answer = leg.fixture.send(stream()).await;
        assert_eq!(answer.headers()["x-harmonium-backend"], backend);
        assert_eq!(answer.headers()["x-harmonium-reason"], reason);
        drop((gate, away));
        for response in [running, waiting, answer] {
            let bytes = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
            let frames = frames(&bytes.expect("it ends").unwrap().to_bytes());
            assert_eq!(frames.last().unwrap(), "[DONE]", "{}", content(&frames, 0));
        }
    }
}
