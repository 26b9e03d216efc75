//! Requests that fail: each cause has its status, and a body in the protocol's form.

use axum::body::Body;
use axum::http::{Request, header};
use harmonium_engine::EngineConfig;
use harmonium_engine::fake::Fault;
use harmonium_server::{ApiKey, Server, ServerConfig};
use serde_json::json;

use crate::support::{Answer, Fixture, PARIS, config, hi, post, read, says, waits};

/// Holds for every error, whatever its cause.
fn check(answer: &Answer, status: u16, kind: &str, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let error = answer.body["error"].as_object().unwrap();
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    assert_eq!((&error["type"], &error["code"]), (&json!(kind), &json!(code)));
    assert!(!answer.headers["x-request-id"].is_empty());
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/json"));
}

const INVALID: &str = "invalid_request_error";

#[tokio::test]
async fn bodies_that_cannot_be_used_are_400() {
    let fixture = Fixture::new(says(PARIS));
    let answer = fixture.ask(post("{\"messages\": [}")).await;
    check(&answer, 400, INVALID, "invalid_json");
    assert!(answer.body["error"]["message"].as_str().unwrap().contains("line 1 column 15"));

    let answer = fixture.hi(json!({"temperature": "warm"})).await;
    check(&answer, 400, INVALID, "invalid_type");
    assert_eq!(answer.body["error"]["param"], "temperature");

    let answer = fixture.hi(json!({"top_p": 7})).await;
    check(&answer, 400, INVALID, "invalid_value");
    assert_eq!(answer.body["error"]["param"], "top_p");
    assert_eq!(answer.body["error"]["message"], "top_p: 7 is not above 0 and at most 1");
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_400_with_both_numbers() {
    let fixture = Fixture::new(says(PARIS));
    // The first is prepared in place; the second is too long at a glance, which is not an exact count.
    for (num_words, is_exact) in [(1_000, true), (3_000, false)] {
        let text = "word ".repeat(num_words);
        let answer = fixture.hi(json!({"messages": [{"role": "user", "content": text}]})).await;
        check(&answer, 400, INVALID, "context_length_exceeded");
        assert_eq!(answer.body["error"]["param"], "messages");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("maximum context length is 4096 tokens"), "{message}");
        let prompt_len: usize = message
            .split_once("resulted in ")
            .and_then(|(_, rest)| rest.split_once(' '))
            .and_then(|(count, _)| count.parse().ok())
            .unwrap();
        assert!((5 * num_words..5 * num_words + 1_000).contains(&prompt_len), "{message}");
        assert_eq!(message.contains("tokens or more"), !is_exact);
    }
}

#[tokio::test]
async fn a_missing_or_wrong_key_is_401() {
    let keys = ServerConfig {
        api_keys: vec![ApiKey { key: "sesame".to_owned(), may_host: false }],
        ..config()
    };
    let fixture = Fixture::configured(says(PARIS), keys);
    for path in ["/v1/models", "/v1/models/test"] {
        check(&fixture.get(path).await, 401, INVALID, "invalid_api_key");
    }
    let with_key = |key: &str| {
        let mut request = post(hi(json!({})).to_string());
        request.headers_mut().insert(header::AUTHORIZATION, key.parse().unwrap());
        request
    };
    check(&fixture.ask(with_key("Bearer sesam")).await, 401, INVALID, "invalid_api_key");
    assert_eq!(fixture.ask(with_key("Bearer sesame")).await.status, 200);
    assert_eq!(fixture.get("/health").await.status, 200);
}

#[tokio::test]
async fn an_unknown_model_is_404_and_the_known_ones_are_named() {
    let fixture = Fixture::new(says(PARIS));
    for answer in
        [fixture.hi(json!({"model": "gpt-9"})).await, fixture.get("/v1/models/gpt-9").await]
    {
        check(&answer, 404, INVALID, "model_not_found");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("\"gpt-9\"") && message.contains("openai/gpt-oss-test, test"));
    }
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    let fixture = Fixture::new(says(PARIS));
    for path in ["/", "/v1", "/chat/completions", "/v1/chat"] {
        check(&fixture.get(path).await, 404, INVALID, "unknown_path");
    }
    let answer = fixture.get("/v1/chat/completions").await;
    check(&answer, 405, INVALID, "method_not_allowed");
    assert_eq!(answer.headers[header::ALLOW], "POST");
    let request = Request::delete("/v1/models").body(Body::empty()).unwrap();
    check(&fixture.ask(request).await, 405, INVALID, "method_not_allowed");
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_413() {
    let fixture =
        Fixture::configured(says(PARIS), ServerConfig { max_body_bytes: 100, ..config() });
    check(&fixture.ask(post(vec![b' '; 101])).await, 413, INVALID, "body_too_large");
    check(&fixture.ask(post(vec![b' '; 100])).await, 400, INVALID, "invalid_json");
}

#[tokio::test]
async fn a_full_queue_is_429_before_the_first_byte() {
    let (model, gate) = waits();
    let engine = EngineConfig { max_waiting: 1, ..EngineConfig::default() };
    let fixture = Fixture::with(model, config(), engine);
    // Some get in before the engine stands still in a step; from then on nobody leaves the queue.
    let mut streams = Vec::new();
    let answer = loop {
        let response = fixture.send(post(hi(json!({"stream": true})).to_string())).await;
        if response.status() != 200 {
            break read(response).await;
        }
        streams.push(response);
        assert!(streams.len() <= 64 + 1, "more than can run and wait");
    };
    check(&answer, 429, "rate_limit_error", "overloaded");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    drop((gate, streams));
    fixture.idle().await;
}

#[tokio::test]
async fn before_there_is_a_model_everything_is_503() {
    let server = Server::new(config(), None).unwrap();
    let ask = async |request| {
        read(tower::ServiceExt::oneshot(server.router(), request).await.unwrap()).await
    };
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    for request in [get("/health"), get("/v1/models"), post(hi(json!({})).to_string())] {
        let answer = ask(request).await;
        check(&answer, 503, "api_error", "unavailable");
        assert_eq!(answer.headers[header::RETRY_AFTER], "5");
    }
    assert_eq!(ask(get("/metrics")).await.status, 200);
}

#[tokio::test]
async fn an_engine_that_is_lost_is_503_for_everyone() {
    let fixture = Fixture::new(says(PARIS).with_fault(3, Fault::Fatal));
    check(&fixture.hi(json!({})).await, 503, "api_error", "unavailable");
    check(&fixture.hi(json!({})).await, 503, "api_error", "unavailable");
    check(&fixture.get("/health").await, 503, "api_error", "unavailable");
}

#[tokio::test]
async fn a_failed_step_is_500_for_its_request_only() {
    let fixture = Fixture::new(says(PARIS).with_fault(3, Fault::Step));
    let answer = fixture.hi(json!({})).await;
    check(&answer, 500, "api_error", "internal");
    assert_eq!(fixture.hi(json!({})).await.status, 200);
    let metrics = fixture.get("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains("harmonium_errors_total{type=\"internal\"} 1"));
}
