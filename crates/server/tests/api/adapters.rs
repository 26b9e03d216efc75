//! Adapters: chosen by the model's name, listed, unknown, and hosted where a request does not fit.

use axum::body::Body;
use axum::http::Request;
use harmonium_engine::ExecutorSpec;
use harmonium_engine::fake::{FakeExecutor, Record, spec};
use serde_json::{Value, json};

use crate::hosted::{Leg, header};
use crate::support::{Answer, Fixture, PARIS, RETURN, config, hi, says, tokens};
use crate::upstream::far_away;

/// A model with two adapters that says Paris, and the batches that reach it.
fn executor() -> (FakeExecutor, Record) {
    let mut answer = tokens(PARIS);
    answer.pop();
    let executor = FakeExecutor::new(ExecutorSpec { num_adapters: 2, ..spec() });
    executor.with_answer(answer, RETURN).with_record(1000)
}

fn adapted() -> (Fixture, Record) {
    let (executor, record) = executor();
    (Fixture::new(executor), record)
}

async fn foresee(fixture: &Fixture, fields: Value) -> Answer {
    let request = Request::post("/v1/route").body(Body::from(hi(fields).to_string())).unwrap();
    fixture.ask(request).await
}

#[tokio::test]
async fn the_models_name_chooses_the_adapter_and_answers_echo_it() {
    for (asked, answered, adapter) in [
        ("test", "openai/gpt-oss-test", None),
        ("auto", "openai/gpt-oss-test", None),
        ("openai/gpt-oss-test:adapter-0", "openai/gpt-oss-test:adapter-0", Some(0)),
        ("test:adapter-1", "openai/gpt-oss-test:adapter-1", Some(1)),
    ] {
        let (fixture, record) = adapted();
        let answer = fixture.hi(json!({"model": asked})).await;
        assert_eq!(answer.message()["content"], "Paris.");
        assert_eq!(answer.body["model"], answered);
        assert_eq!(answer.headers["x-harmonium-model"], answered);
        let frames = fixture.stream_hi(json!({"model": asked})).await;
        assert_eq!(frames[0]["model"], answered);
        let record = record.lock().unwrap();
        let spans = record.iter().flat_map(|batch| &batch.spans);
        let used: Vec<_> = spans.map(|span| span.adapter.map(|adapter| adapter.0)).collect();
        assert!(!used.is_empty() && used.iter().all(|used| *used == adapter), "{asked}: {used:?}");
    }
}

#[tokio::test]
async fn adapters_are_listed_with_their_base() {
    let (fixture, _) = adapted();
    let list = fixture.get("/v1/models").await.body;
    let models: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|m| (&m["id"], &m["parent"])).collect();
    let base = json!("openai/gpt-oss-test");
    assert_eq!(
        models,
        [
            (&base, &Value::Null),
            (&json!("test"), &Value::Null),
            (&json!("openai/gpt-oss-test:adapter-0"), &base),
            (&json!("openai/gpt-oss-test:adapter-1"), &base),
        ]
    );
    let shown = fixture.get("/v1/models/openai/gpt-oss-test:adapter-1").await.body;
    assert_eq!((&shown["id"], &shown["parent"]), (&json!("openai/gpt-oss-test:adapter-1"), &base));
}

#[tokio::test]
async fn an_unknown_adapter_is_an_unknown_model() {
    let (fixture, _) = adapted();
    for name in ["test:adapter-2", "test:", "test:adapter-0:adapter-1", "other:adapter-0"] {
        for answer in [
            fixture.hi(json!({"model": name})).await,
            foresee(&fixture, json!({"model": name})).await,
        ] {
            assert_eq!(answer.status, 404, "{name}");
            let error = &answer.body["error"];
            assert_eq!(
                (&error["code"], &error["param"]),
                (&json!("model_not_found"), &json!("model"))
            );
            let message = error["message"].as_str().unwrap();
            let known = "openai/gpt-oss-test, test, openai/gpt-oss-test:adapter-0";
            assert!(message.contains(&format!("{name:?}")) && message.contains(known), "{message}");
        }
    }
    // A model without adapters takes none.
    let plain = Fixture::new(says(PARIS));
    assert_eq!(plain.hi(json!({"model": "test:adapter-0"})).await.status, 404);
}

#[tokio::test]
async fn the_route_of_an_adapters_request_names_the_adapter() {
    let (fixture, _) = adapted();
    let report = foresee(&fixture, json!({"model": "test:adapter-0"})).await.body;
    assert_eq!((&report["backend"], &report["reason"]), (&json!("local"), &json!("fits")));
    assert_eq!(report["model"], "openai/gpt-oss-test:adapter-0");
}

#[tokio::test]
async fn an_adapters_request_that_does_not_fit_goes_where_any_would() {
    let leg = Leg::over(executor().0, |_| far_away(), config(), |_| {}).await;
    let answer = leg.long(json!({"model": "test:adapter-0"})).await;
    assert_eq!(answer.message()["content"], "Far away.");
    assert_eq!(header(&answer, "x-harmonium-reason"), "context");
    let answer = leg.fixture.hi(json!({"model": "test:adapter-0"})).await;
    assert_eq!(header(&answer, "x-harmonium-model"), "openai/gpt-oss-test:adapter-0");
}

#[tokio::test]
async fn adapters_share_no_prefix() {
    let (fixture, _) = adapted();
    let long = "all the same ".repeat(20);
    let ask = async |model: &str| {
        let messages = json!([{"role": "user", "content": long}]);
        let answer = fixture.hi(json!({"model": model, "messages": messages})).await;
        answer.body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
    };
    for model in ["test", "test:adapter-0", "test:adapter-1"] {
        assert_eq!(ask(model).await, 0, "{model}");
        assert!(ask(model).await > 0, "{model}");
    }
}
