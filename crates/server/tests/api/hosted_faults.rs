//! Upstreams that misbehave: each gives a clear answer, in bounded time and memory, and never the key.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harmonium_hosted::{BreakerConfig, HostedConfig};
use harmonium_server::ServerConfig;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::hosted::{Leg, long};
use crate::secrecy::KEY;
use crate::support::{PATIENCE, config, content, frames, post};
use crate::upstream::{Act, error, events, far_away, head, text};

/// Short, since tests wait for it.
const TIMEOUT: Duration = Duration::from_millis(200);

fn impatient(hosted: &mut HostedConfig) {
    hosted.timeouts.first_chunk = TIMEOUT;
    hosted.timeouts.between_chunks = TIMEOUT;
}

/// Asks once and checks the answer's status and code; returns it whole.
async fn check(act: Act, status: u16, code: &str) -> String {
    let leg = Leg::with(move |_| act.clone(), config(), impatient).await;
    let answer = leg.long(json!({})).await;
    let found = (answer.status.as_u16(), answer.body["error"]["code"].as_str().unwrap_or(""));
    assert_eq!(found, (status, code), "{:?}", answer.body);
    for key in ["message", "type", "param", "code"] {
        assert!(answer.body["error"].get(key).is_some(), "{key}");
    }
    format!("{:?} {}", answer.headers, answer.body)
}

/// An error that comes as an event, and shows the key.
fn error_event(code: &str) -> Act {
    let error = json!({"error": {"message": format!("oops {KEY}"), "code": code}});
    Act::Say(events(&[error.to_string()]))
}

#[tokio::test]
async fn refusals_become_answers_that_tell_whose_fault_it_is() {
    for (act, status, code) in [
        (
            error(401, "invalid_api_key", &format!("Incorrect API key: {KEY}"), ""),
            502,
            "hosted_key_rejected",
        ),
        (error(403, "unsupported_country", "no", ""), 502, "hosted_key_rejected"),
        (error(404, "model_not_found", "gone", ""), 502, "hosted_model_not_found"),
        (error(400, "context_length_exceeded", "too long", ""), 400, "context_length_exceeded"),
        (error(400, "invalid_value", &format!("bad {KEY}"), ""), 400, "hosted_refused"),
        (error_event("insufficient_quota"), 429, "hosted_quota_exceeded"),
        (error_event("context_length_exceeded"), 400, "context_length_exceeded"),
        (error_event("invalid_prompt"), 400, "hosted_refused"),
        (error_event("server_error"), 502, "hosted_failed"),
        (error(429, "insufficient_quota", "pay", ""), 429, "hosted_quota_exceeded"),
        (
            error(429, "rate_limit_exceeded", "Request too large for big", ""),
            429,
            "hosted_quota_exceeded",
        ),
        (
            error(429, "rate_limit_exceeded", "slow down", "retry-after: 7\r\n"),
            429,
            "hosted_rate_limited",
        ),
        (error(500, "server_error", "oops", ""), 502, "hosted_failed"),
        (
            error(302, "moved", "elsewhere", "location: http://127.0.0.1:1/\r\n"),
            502,
            "hosted_failed",
        ),
    ] {
        let shown = check(act, status, code).await;
        assert_eq!(shown.contains("\"retry-after\": \"7\""), code == "hosted_rate_limited");
        let is_final = ["hosted_key_rejected", "hosted_model_not_found", "hosted_quota_exceeded"];
        assert_eq!(shown.contains("\"x-should-retry\": \"false\""), is_final.contains(&code));
    }
}

#[tokio::test]
async fn malformed_and_endless_answers_are_502() {
    let sse = || head(200, "text/event-stream", "");
    let with = |text: &str| [sse(), text.as_bytes().to_vec()].concat();
    let line = vec![b'a'; 1 << 20];
    for act in [
        Act::Say(Vec::new()),
        Act::Say(b"nonsense\r\n\r\n".to_vec()),
        Act::Say(sse()),
        Act::Say(with("data: [DONE]\n\n")),
        Act::Say(with("data: {\"choices\n\n")),
        Act::Say(with("data: []\n\n")),
        Act::Say(with("data: {\"error\": {\"message\": \"overloaded\"}}\n\n")),
        Act::Say(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html></html>".to_vec()),
        // A line without an end, and a body without one.
        Act::Repeat(sse(), line.clone()),
        Act::Repeat(head(500, "text/html", ""), line),
    ] {
        check(act, 502, "hosted_failed").await;
    }
}

#[tokio::test]
async fn silence_is_504() {
    let comments = b": still here\n\n".to_vec();
    for act in [
        Act::Hold(Vec::new()),
        Act::Hold(head(200, "text/event-stream", "")),
        Act::Repeat(head(200, "text/event-stream", ""), comments),
        Act::Hold(events(&[text("Far ")])),
    ] {
        check(act, 504, "hosted_timeout").await;
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502() {
    let leg = Leg::with(
        |_| far_away(),
        config(),
        |hosted| hosted.models[0].base_url = "http://127.0.0.1:1/v1".to_owned(),
    )
    .await;
    let answer = leg.long(json!({})).await;
    assert_eq!(answer.status, 502);
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.to_lowercase().contains("refused"), "{message}");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_before_the_first_byte() {
    let failures = [
        error(500, "server_error", "oops", ""),
        error(429, "rate_limit_exceeded", "slow down", "retry-after-ms: 1\r\n"),
        Act::Say(events(&["{\"error\": {\"message\": \"overloaded\"}}".to_owned()])),
    ];
    for failure in failures {
        let script = move |number| if number == 0 { failure.clone() } else { far_away() };
        let leg = Leg::with(script, config(), |hosted| hosted.max_attempts = 2).await;
        let answer = leg.long(json!({})).await;
        assert_eq!(answer.message()["content"], "Far away.", "{answer:?}");
        let seen = leg.upstream.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].body, seen[1].body);
    }
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    for failure in [
        error(400, "invalid_value", "bad field", ""),
        error(401, "invalid_api_key", "no", ""),
        error(429, "insufficient_quota", "pay", ""),
        error(429, "rate_limit_exceeded", "slow down", "retry-after: 3600\r\n"),
        // Each of these may have been charged.
        Act::Hold(Vec::new()),
        Act::Say(Vec::new()),
        Act::Say(head(200, "text/event-stream", "")),
        error(504, "gateway_timeout", "late", ""),
        // Nothing is sent twice once the answer has begun.
        Act::Say(events(&[text("Far ")])),
    ] {
        let leg = Leg::with(
            move |_| failure.clone(),
            config(),
            |hosted| {
                impatient(hosted);
                hosted.max_attempts = 3;
            },
        )
        .await;
        assert_ne!(leg.long(json!({})).await.status, 200);
        assert_eq!(leg.upstream.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_keeps_what_came_and_ends_with_an_error() {
    for act in [
        Act::Say(events(&[text("Far ")])),
        Act::Hold(events(&[text("Far ")])),
        Act::Say(events(&[text("Far "), "{\"error\": {\"message\": \"lost\"}}".to_owned()])),
    ] {
        let leg = Leg::with(move |_| act.clone(), config(), impatient).await;
        let response = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
        assert_eq!(response.status(), 200);
        let bytes = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
        let frames = frames(&bytes.unwrap().unwrap().to_bytes());
        assert_eq!(content(&frames, 0), "Far ");
        let error = &frames.last().unwrap()["error"];
        assert!(error["code"].as_str().unwrap().starts_with("hosted_"), "{error}");
        // No finish reason: the answer is not complete.
        assert!(frames.iter().all(|frame| frame["choices"][0]["finish_reason"].is_null()));
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_answer_upstream() {
    let leg = Leg::start(|_| Act::Hold(events(&[text("Far ")]))).await;
    let response = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
    drop(response);
    leg.upstream.left().await;
}

#[tokio::test]
async fn an_upstream_that_keeps_failing_is_left_alone_and_tried_again_later() {
    let num_failures = AtomicUsize::new(2);
    let script =
        move |_| match num_failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        {
            Ok(_) => error(500, "server_error", "oops", ""),
            Err(_) => far_away(),
        };
    let cooldown = Duration::from_millis(100);
    let leg = Leg::with(script, config(), |hosted| {
        hosted.breaker = BreakerConfig { max_failures: 2, cooldown };
    })
    .await;
    for _ in 0..2 {
        assert_eq!(leg.long(json!({})).await.status, 502);
    }
    let refused = leg.long(json!({})).await;
    assert_eq!((refused.status.as_u16(), leg.upstream.seen().len()), (503, 2));
    assert_eq!(refused.body["error"]["code"], "hosted_unavailable");
    assert_eq!(refused.headers["retry-after"], "1");
    let metric = async || leg.fixture.get("/metrics").await.body.as_str().unwrap().to_owned();
    let again = async {
        // It is refused until it may be tried, and then it works.
        while leg.long(json!({})).await.status != 200 {}
    };
    assert!(!metric().await.contains("harmonium_hosted_breaker{model=\"big\"} 0"));
    tokio::time::timeout(PATIENCE, again).await.expect("it is tried again");
    let text = metric().await;
    assert!(text.contains("harmonium_hosted_breaker{model=\"big\"} 0"), "{text}");
    assert!(text.contains("harmonium_answers_total{backend=\"hosted\",reason=\"context\"} 1"));
    assert!(text.contains("harmonium_hosted_cost_usd_total{model=\"big\"} 0.00200"), "{text}");
}

#[tokio::test]
async fn a_silence_is_measured_across_keep_alives() {
    let server = ServerConfig { keep_alive_interval: TIMEOUT / 20, ..config() };
    // Comments come at any pace, and are no part of an answer.
    let comments = b": still here\n\n".to_vec();
    for act in [Act::Hold(events(&[text("Far ")])), Act::Repeat(events(&[text("Far ")]), comments)]
    {
        let leg = Leg::with(move |_| act.clone(), server.clone(), impatient).await;
        let response = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
        let bytes = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
        let frames = frames(&bytes.expect("it ends").unwrap().to_bytes());
        assert_eq!(frames.last().unwrap()["error"]["code"], "hosted_timeout");
    }
}

#[tokio::test]
async fn what_may_have_cost_something_stays_charged() {
    for lost in [Act::Say(Vec::new()), Act::Say(head(200, "text/event-stream", ""))] {
        let leg = Leg::with(move |_| lost.clone(), config(), |_| {}).await;
        assert_eq!(leg.long(json!({})).await.status, 502);
        let spent = leg.hosted().spent().await.unwrap().day;
        assert!(spent > harmonium_hosted::Cost::ZERO, "{spent}");
    }
}

#[tokio::test]
async fn a_failure_that_cost_nothing_is_not_charged() {
    let script = |number| match number {
        0 => error(500, "server_error", "oops", ""),
        _ => far_away(),
    };
    let leg = Leg::with(script, config(), |hosted| {
        hosted.budget.day = harmonium_hosted::Cost::from_usd(0.004);
    })
    .await;
    assert_eq!(leg.long(json!({})).await.status, 502);
    assert_eq!(leg.long(json!({})).await.status, 200);
    let refused = leg.long(json!({})).await;
    assert_eq!(refused.body["error"]["code"], Value::from("hosted_budget_exceeded"));
}
