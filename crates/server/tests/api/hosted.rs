//! Requests that go to a hosted model, and those that must not.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use harmonium_engine::EngineConfig;
use harmonium_engine::fake::FakeExecutor;
use harmonium_hosted::{
    BreakerConfig, Budget, Cost, Hosted, HostedConfig, HostedModel, Price, Secret, Timeouts, Wire,
};
use harmonium_server::{ApiKey, ServerConfig, Triggers};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::secrecy::{self, KEY};
use crate::support::{Answer, Fixture, PARIS, PATIENCE, config, content, frames, hi, post, says};
use crate::upstream::{Act, Upstream, far_away};

/// A server with a hosted model of 10,000 tokens behind its local one of 4,096.
pub(crate) struct Leg {
    pub(crate) fixture: Fixture,
    pub(crate) upstream: Upstream,
    hosted: Arc<Hosted>,
    _ledger: TempDir,
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            secrecy::check_log();
        }
    }
}

impl Leg {
    pub(crate) async fn start(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        Self::with(script, config(), |_| {}).await
    }

    pub(crate) async fn with(
        script: impl Fn(usize) -> Act + Send + Sync + 'static,
        server: ServerConfig,
        change: impl FnOnce(&mut HostedConfig),
    ) -> Self {
        Self::over(says(PARIS), script, server, change).await
    }

    /// Over another local model than the one that says Paris.
    pub(crate) async fn over(
        executor: FakeExecutor,
        script: impl Fn(usize) -> Act + Send + Sync + 'static,
        server: ServerConfig,
        change: impl FnOnce(&mut HostedConfig),
    ) -> Self {
        secrecy::watch_log();
        let upstream = Upstream::start(script).await;
        let ledger = tempfile::tempdir().unwrap();
        let model = HostedModel {
            name: "big".to_owned(),
            base_url: upstream.base_url.clone(),
            api_key: Secret::new(KEY),
            context: 10_000,
            max_output: 1_000,
            price: Price::from_usd_per_million(0.4, 0.1, 1.6).unwrap(),
            wire: Wire::Chat,
            image_tokens: None,
            is_reasoning: false,
            drop: Vec::new(),
        };
        let mut hosted = HostedConfig {
            default: "big".to_owned(),
            models: vec![model],
            budget: Budget::default(),
            ledger: ledger.path().join("ledger.db"),
            redact: Vec::new(),
            max_in_flight: 1_000,
            timeouts: Timeouts {
                connect: PATIENCE,
                first_chunk: PATIENCE,
                between_chunks: PATIENCE,
            },
            max_attempts: 1,
            breaker: BreakerConfig { max_failures: 100, cooldown: PATIENCE },
        };
        change(&mut hosted);
        let hosted = Arc::new(Hosted::start(hosted).unwrap());
        let engine = EngineConfig::default();
        let fixture = Fixture::hosted(executor, server, engine, Some(Arc::clone(&hosted)));
        Self { fixture, upstream, hosted, _ledger: ledger }
    }

    /// The hosted leg itself. It does not show its key.
    pub(crate) fn hosted(&self) -> &Hosted {
        secrecy::check(&format!("{:?}", self.hosted));
        &self.hosted
    }

    /// Asks with a prompt that only the hosted model takes.
    pub(crate) async fn long(&self, fields: Value) -> Answer {
        self.fixture.chat(&long(fields)).await
    }

    async fn with_header(&self, body: &Value, name: &'static str, value: &'static str) -> Answer {
        let mut request = post(body.to_string());
        request.headers_mut().insert(name, value.parse().unwrap());
        self.fixture.ask(request).await
    }
}

pub(crate) fn long(fields: Value) -> Value {
    let mut body = hi(fields);
    body["messages"] = json!([{"role": "user", "content": "word ".repeat(1_000)}]);
    body
}

pub(crate) fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

pub(crate) fn code(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.body["error"]["code"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn what_does_not_fit_goes_to_the_hosted_model_and_says_so() {
    let leg = Leg::start(|_| far_away()).await;
    let answer = leg.long(json!({"reasoning_effort": "high", "user": "eve"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.message()["content"], "Far away.");
    assert_eq!(answer.body["model"], "big-2025");
    assert_eq!(answer.body["usage"]["prompt_tokens"], 5000);
    let shown = ["backend", "reason", "model", "upstream-id", "cost-usd", "dropped"];
    let shown = shown.map(|name| header(&answer, &format!("x-harmonium-{name}")));
    // 5000 tokens at 0.4 and 3 at 1.6 dollars a million.
    assert_eq!(shown, ["hosted", "context", "big", "up_1", "0.002005", "reasoning_effort, user"]);
    let seen = leg.upstream.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].head.starts_with("post /v1/chat/completions "));
    assert!(seen[0].head.contains(&format!("authorization: bearer {KEY}")));
    assert_eq!(seen[0].body["model"], "big");
    assert_eq!(seen[0].body["store"], false);
    assert!(!seen[0].body.to_string().contains("eve"));
}

#[tokio::test]
async fn what_fits_stays() {
    let leg = Leg::start(|_| far_away()).await;
    // 1,000 tokens are as many as the hosted model would give.
    for fields in [
        json!({}),
        json!({"model": "auto"}),
        json!({"model": null}),
        json!({"max_completion_tokens": 131_072}),
    ] {
        let answer = leg.fixture.hi(fields).await;
        assert_eq!(answer.message()["content"], "Paris.");
        assert_eq!(header(&answer, "x-harmonium-backend"), "local");
        assert_eq!(header(&answer, "x-harmonium-model"), "openai/gpt-oss-test");
    }
    assert!(leg.upstream.seen().is_empty());
}

#[tokio::test]
async fn a_long_answer_counts_towards_what_fits() {
    let leg = Leg::start(|_| far_away()).await;
    let mut body = hi(json!({"max_completion_tokens": 900}));
    body["messages"] = json!([{"role": "user", "content": "w".repeat(3_000)}]);
    assert_eq!(header(&leg.fixture.chat(&body).await, "x-harmonium-reason"), "context");
    // Without a limit of the client's own, the answer is as long as there is room for.
    body["max_completion_tokens"] = Value::Null;
    assert_eq!(header(&leg.fixture.chat(&body).await, "x-harmonium-reason"), "fits");
}

#[tokio::test]
async fn a_request_decides_whether_it_may_leave() {
    let leg = Leg::start(|_| far_away()).await;
    let leave = "x-harmonium-hosted";
    let refused = leg.with_header(&long(json!({})), leave, "never").await;
    assert_eq!(code(&refused), (400, "context_length_exceeded"));
    let refused = leg.with_header(&hi(json!({"model": "big"})), leave, "never").await;
    assert_eq!(code(&refused), (403, "hosted_not_allowed"));
    let refused = leg.with_header(&hi(json!({})), leave, "perhaps").await;
    assert_eq!(code(&refused), (400, "invalid_value"));
    let mut twice = post(long(json!({})).to_string());
    for value in ["allow", "never"] {
        twice.headers_mut().append(leave, value.parse().unwrap());
    }
    assert_eq!(code(&leg.fixture.ask(twice).await), (400, "invalid_value"));
    assert!(leg.upstream.seen().is_empty());
    let answer = leg.with_header(&hi(json!({})), leave, "require").await;
    assert_eq!(header(&answer, "x-harmonium-reason"), "required");
    assert_eq!(leg.upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_conversation_once_marked_never_leaves() {
    let leg = Leg::start(|_| far_away()).await;
    let leave = "x-harmonium-hosted";
    let turn = |text: &str| json!({"role": "user", "content": text});
    let says = |text: &str| json!({"role": "assistant", "content": text});
    let mut marked = hi(json!({}));
    marked["messages"] = json!([turn("My secret.")]);
    assert_eq!(leg.with_header(&marked, leave, "sticky-local").await.status, 200);
    // Later turns of it do not leave, whatever they say; another conversation does.
    let book = "word ".repeat(1_000);
    let mut later = hi(json!({}));
    later["messages"] = json!([turn("My secret."), says("Oh."), turn(&book)]);
    assert_eq!(code(&leg.fixture.chat(&later).await), (400, "context_length_exceeded"));
    let refused = leg.with_header(&later, leave, "require").await;
    assert_eq!(code(&refused), (403, "hosted_not_allowed"));
    assert!(leg.upstream.seen().is_empty());
    later["messages"][0] = turn("No secret.");
    assert_eq!(leg.fixture.chat(&later).await.status, 200);
}

#[tokio::test]
async fn a_mark_counts_even_if_its_own_request_was_refused() {
    let leg = Leg::start(|_| far_away()).await;
    let leave = "x-harmonium-hosted";
    let refused = leg.with_header(&long(json!({})), leave, "sticky-local").await;
    assert_eq!(code(&refused), (400, "context_length_exceeded"));
    assert_eq!(code(&leg.long(json!({})).await), (400, "context_length_exceeded"));
}

#[tokio::test]
async fn a_hosted_model_stands_in_for_a_failed_engine_if_the_operator_says_so() {
    let triggers = Triggers { unhealthy: true, ..Triggers::default() };
    for (triggers, status) in [(Triggers::default(), 503), (triggers, 200)] {
        let leg = Leg::with(|_| far_away(), ServerConfig { triggers, ..config() }, |_| {}).await;
        leg.fixture.engine.stop();
        let answer = leg.fixture.hi(json!({})).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(leg.fixture.get("/health").await.status.as_u16(), status);
        let reason = if status == 200 { "unhealthy" } else { "" };
        assert_eq!(header(&answer, "x-harmonium-reason"), reason);
        // What must stay is not answered by anybody.
        let kept = leg.with_header(&hi(json!({})), "x-harmonium-hosted", "never").await;
        assert_eq!(code(&kept), (503, "unavailable"));
    }
}

#[tokio::test]
async fn a_hosted_model_can_be_named() {
    let leg = Leg::start(|_| far_away()).await;
    // The ids are its own, of which it has more than the local model.
    let bias = json!({"logit_bias": {"5": 1, "200000": -1}});
    let mut named = bias.clone();
    named["model"] = json!("big");
    let answer = leg.fixture.hi(named).await;
    assert_eq!(header(&answer, "x-harmonium-reason"), "named");
    assert_eq!(leg.upstream.seen()[0].body["logit_bias"], json!({"5": 1.0, "200000": -1.0}));
    assert_eq!(code(&leg.fixture.hi(bias).await), (400, "invalid_value"));
    let wrong = json!({"model": "big", "logit_bias": {"word": 1}});
    assert_eq!(leg.fixture.hi(wrong).await.body["error"]["param"], "logit_bias");
    let models = leg.fixture.get("/v1/models").await.body;
    let big = &models["data"][2];
    assert_eq!((&big["id"], &big["backend"]), (&json!("big"), &json!("hosted")));
    assert_eq!(big["pricing"], json!({"input": 0.4, "cached_input": 0.1, "output": 1.6}));
    assert_eq!(&leg.fixture.get("/v1/models/big").await.body, big);
}

#[tokio::test]
async fn a_result_goes_with_the_id_of_its_call_or_not_at_all() {
    let leg = Leg::start(|_| far_away()).await;
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let result = json!({"role": "tool", "name": "f", "content": "1"});
    let with_calls = |calls: Value| {
        let asks = json!({"role": "assistant", "content": null, "tool_calls": calls});
        let mut body = long(json!({}));
        body["messages"].as_array_mut().unwrap().extend([asks, result.clone()]);
        body
    };
    assert_eq!(leg.fixture.chat(&with_calls(json!([call("a")]))).await.status, 200);
    assert_eq!(leg.upstream.seen()[0].body["messages"][2]["tool_call_id"], "a");
    let refused = leg.fixture.chat(&with_calls(json!([call("a"), call("b")]))).await;
    assert_eq!(code(&refused), (400, "hosted_refused"));
    assert_eq!(refused.body["error"]["param"], "messages[2].tool_call_id");
    assert_eq!(leg.upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_key_decides_whether_its_requests_may_leave() {
    let key = |key: &str, may_host| ApiKey { key: key.to_owned(), may_host };
    let keys = vec![key("home", false), key("away", true)];
    let leg = Leg::with(|_| far_away(), ServerConfig { api_keys: keys, ..config() }, |_| {}).await;
    let authorization = header::AUTHORIZATION.as_str();
    let ask = async |body: &Value, key| leg.with_header(body, authorization, key).await;
    let refused = ask(&long(json!({})), "Bearer home").await;
    assert_eq!(code(&refused), (400, "context_length_exceeded"));
    let refused = ask(&hi(json!({"model": "big"})), "Bearer home").await;
    assert_eq!(code(&refused), (403, "hosted_not_allowed"));
    assert!(leg.upstream.seen().is_empty());
    assert_eq!(ask(&long(json!({})), "Bearer away").await.status, 200);
    let seen = leg.upstream.seen();
    assert!(!seen[0].head.contains("away") && !seen[0].body.to_string().contains("away"));
}

#[tokio::test]
async fn what_must_not_leave_is_taken_out() {
    let redact = |hosted: &mut HostedConfig| hosted.redact = vec!["wor.".to_owned()];
    let leg = Leg::with(|_| far_away(), config(), redact).await;
    assert_eq!(leg.long(json!({})).await.status, 200);
    let sent = leg.upstream.seen()[0].body["messages"].to_string();
    assert!(sent.contains("[redacted]") && !sent.contains("word"));
}

#[tokio::test]
async fn nothing_leaves_unless_it_is_configured() {
    let fixture = Fixture::new(says(PARIS));
    assert_eq!(code(&fixture.chat(&long(json!({}))).await), (400, "context_length_exceeded"));
    let mut request = post(hi(json!({})).to_string());
    request.headers_mut().insert("x-harmonium-hosted", "require".parse().unwrap());
    assert_eq!(code(&fixture.ask(request).await), (403, "hosted_not_allowed"));
}

#[tokio::test]
async fn what_fits_nowhere_is_refused_with_the_count_and_both_limits() {
    let leg = Leg::start(|_| far_away()).await;
    // The second is too long at a glance, which is not an exact count.
    for (num_words, is_exact) in [(1_990, true), (3_000, false)] {
        let mut body = hi(json!({}));
        body["messages"] = json!([{"role": "user", "content": "word ".repeat(num_words)}]);
        let refused = leg.fixture.chat(&body).await;
        assert_eq!(code(&refused), (400, "context_length_exceeded"));
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(" 4096 ") && message.contains(" 10000 "), "{message}");
        assert!(message.contains("resulted in 1"), "{message}");
        assert_eq!(message.contains("tokens or more"), !is_exact, "{message}");
    }
    assert!(leg.upstream.seen().is_empty());
}

#[tokio::test]
async fn usage_is_where_the_stream_wants_it() {
    let leg = Leg::start(|_| far_away()).await;
    for (options, expected) in [
        (json!({}), [None, None, None, None]),
        (
            json!({"include_usage": true}),
            [Some(json!(null)), Some(json!(null)), Some(json!(null)), Some(json!(5003))],
        ),
    ] {
        let body = long(json!({"stream": true, "stream_options": options}));
        let response = leg.fixture.send(post(body.to_string())).await;
        assert_eq!(response.headers()["x-harmonium-backend"], "hosted");
        // The most it can cost is known before its end.
        assert!(response.headers()["x-harmonium-cost-usd"].to_str().unwrap() > "0.003");
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        let frames = frames(&bytes.to_bytes());
        assert_eq!(frames.last().unwrap(), "[DONE]");
        assert_eq!(content(&frames, 0), "Far away.");
        let usage: Vec<_> = frames
            .iter()
            .filter_map(|frame| Some((frame.as_object()?.get("usage"), &frame["choices"])))
            .map(|(usage, _)| {
                usage.map(|usage| usage.get("total_tokens").cloned().unwrap_or(Value::Null))
            })
            .collect();
        assert_eq!(usage, expected.iter().take(usage.len()).cloned().collect::<Vec<_>>());
        assert_eq!(usage.len(), if options == json!({}) { 3 } else { 4 });
    }
}

#[tokio::test]
async fn a_dry_run_says_who_would_answer_and_asks_nobody() {
    let leg = Leg::start(|_| far_away()).await;
    let ask = async |body: Value| {
        let request = Request::post("/v1/route").body(Body::from(body.to_string())).unwrap();
        leg.fixture.ask(request).await.body
    };
    let near = ask(hi(json!({}))).await;
    assert_eq!((&near["backend"], &near["estimated_cost_usd"]), (&json!("local"), &json!(0.0)));
    let far = ask(long(json!({"max_completion_tokens": 10}))).await;
    assert_eq!((&far["backend"], &far["reason"]), (&json!("hosted"), &json!("context")));
    let num_prompt = far["prompt_tokens"].as_f64().unwrap();
    let cost = far["estimated_cost_usd"].as_f64().unwrap();
    assert!((cost - (num_prompt * 0.4 + 10.0 * 1.6) / 1e6).abs() < 1e-12, "{far}");
    assert!(leg.upstream.seen().is_empty());
}

#[tokio::test]
async fn a_spent_budget_is_429_and_corrected_by_what_upstream_reports() {
    // Two estimates do not fit, an estimate and an actual cost do.
    let budget = Budget { day: Cost::from_usd(0.006), ..Budget::default() };
    let leg = Leg::with(|_| far_away(), config(), |hosted| hosted.budget = budget).await;
    for _ in 0..2 {
        assert_eq!(leg.long(json!({})).await.status, 200);
    }
    let refused = leg.long(json!({})).await;
    assert_eq!(code(&refused), (429, "hosted_budget_exceeded"));
    assert_eq!(header(&refused, "x-should-retry"), "false");
    assert_eq!(leg.upstream.seen().len(), 2);
    assert_eq!(leg.fixture.hi(json!({})).await.status, 200);
}
