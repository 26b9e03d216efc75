//! Paths, ids, models, metrics, browsers.

use axum::body::Body;
use axum::http::{Request, header};
use harmonium_server::ServerConfig;
use serde_json::json;

use crate::support::{Fixture, PARIS, config, hi, says};

#[tokio::test]
async fn models_are_listed_and_shown_by_ids_with_slashes() {
    let fixture = Fixture::new(says(PARIS));
    for path in ["/v1/models", "/v1/models/"] {
        let list = fixture.get(path).await.body;
        assert_eq!(list["object"], "list");
        let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
        assert_eq!(ids, ["openai/gpt-oss-test", "test"]);
    }
    for path in [
        "/v1/models/openai/gpt-oss-test",
        "/v1/models/openai%2Fgpt-oss-test",
        "/v1/models/openai/gpt-oss-test/",
    ] {
        let mut model = fixture.get(path).await.body;
        assert!(model["created"].take().as_i64().unwrap() > 1_700_000_000);
        assert_eq!(
            model,
            json!({"id": "openai/gpt-oss-test", "object": "model", "created": null,
                "owned_by": "harmonium", "max_model_len": 4096, "max_output_tokens": 4096,
                "backend": "local", "state": "ready", "capabilities": ["text", "reasoning", "tools"]})
        );
    }
}

#[tokio::test]
async fn a_trailing_slash_changes_nothing() {
    let fixture = Fixture::new(says(PARIS));
    let request =
        Request::post("/v1/chat/completions/").body(Body::from(hi(json!({})).to_string()));
    assert_eq!(fixture.ask(request.unwrap()).await.message()["content"], "Paris.");
    assert_eq!(fixture.get("/health/").await.body, json!({"status": "ok"}));
    assert_eq!(fixture.get("/metrics/").await.status, 200);
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let fixture = Fixture::new(says(PARIS));
    let ask = async |id: Option<&str>, path: &str| {
        let mut request = Request::get(path);
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let answer = fixture.ask(request.body(Body::empty()).unwrap()).await;
        answer.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask(Some("trace-7"), "/health").await, "trace-7");
    assert_eq!(ask(Some("trace-7"), "/nowhere").await, "trace-7");
    assert!(ask(Some("two words"), "/health").await.starts_with("req_"));
    assert_ne!(ask(None, "/health").await, ask(None, "/health").await);
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let fixture = Fixture::new(says(PARIS));
    fixture.hi(json!({})).await;
    fixture.hi(json!({})).await;
    fixture.hi(json!({"n": 0})).await;
    fixture.get("/nowhere").await;
    fixture.idle().await;
    let metrics = fixture.get("/metrics").await;
    assert_eq!(metrics.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let text = metrics.body.as_str().unwrap();
    for line in [
        "harmonium_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 2",
        "harmonium_requests_total{route=\"/v1/chat/completions\",status=\"400\"} 1",
        "harmonium_requests_total{route=\"unmatched\",status=\"404\"} 1",
        "harmonium_errors_total{type=\"invalid_value\"} 1",
        "harmonium_time_to_first_token_seconds_count 2",
        "harmonium_inter_token_latency_seconds_count 78",
        "harmonium_queue_seconds_count 2",
        "harmonium_reasoning_tokens_total 10",
        "harmonium_generated_tokens_total 80",
        "harmonium_sequences_total{outcome=\"finished\"} 2",
        "harmonium_kv_blocks_used{group=\"full\"} 0",
        "harmonium_kv_blocks_used{group=\"window\"} 0",
        "harmonium_kv_blocks{group=\"full\"} 4096",
        "harmonium_running 0",
        "harmonium_ready 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("prefix_cache_hit_tokens_total 0"));

    let request = Request::get("/metrics").header(header::ACCEPT, "application/openmetrics-text");
    let metrics = fixture.ask(request.body(Body::empty()).unwrap()).await;
    let content_type = metrics.headers[header::CONTENT_TYPE].to_str().unwrap();
    assert!(content_type.starts_with("application/openmetrics-text"));
}

#[tokio::test]
async fn browsers_may_call_from_the_origins_that_are_set() {
    let origins = ServerConfig { cors_origins: vec!["https://a.example".to_owned()], ..config() };
    let fixture = Fixture::configured(says(PARIS), origins);
    let preflight = async |origin: &str| {
        let request = Request::options("/v1/chat/completions")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type");
        fixture.send(request.body(Body::empty()).unwrap()).await
    };
    let allowed = preflight("https://a.example").await;
    let header = |name: &str| allowed.headers()[name].to_str().unwrap();
    assert_eq!(allowed.status(), 200);
    assert_eq!(header("access-control-allow-origin"), "https://a.example");
    assert_eq!(header("access-control-allow-headers"), "authorization,content-type");
    let refused = preflight("https://b.example").await;
    assert!(refused.headers().get("access-control-allow-origin").is_none());
}

#[tokio::test]
async fn without_origins_no_browser_may_call() {
    let fixture = Fixture::new(says(PARIS));
    let request = Request::get("/v1/models").header(header::ORIGIN, "https://a.example");
    let answer = fixture.ask(request.body(Body::empty()).unwrap()).await;
    assert!(answer.headers.get("access-control-allow-origin").is_none());
}
