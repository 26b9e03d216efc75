//! What differs from model to model: the protocol, images, reasoning, the day it ends.

use axum::body::Body;
use axum::http::Request;
use harmonium_hosted::{Hosted, HostedConfig, Wire};
use harmonium_server::{ServerConfig, Triggers};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::hosted::{Leg, code, header, long};
use crate::support::{PATIENCE, config, content, frames, hi, post};
use crate::upstream::{Act, error, events, far_away, head};

fn responses(hosted: &mut HostedConfig) {
    hosted.models[0].wire = Wire::Responses;
    hosted.models[0].is_reasoning = true;
}

fn created() -> String {
    let response = json!({"id": "resp_1", "created_at": 7, "model": "big-2025"});
    json!({"type": "response.created", "response": response}).to_string()
}

fn delta(kind: &str, delta: &str) -> String {
    json!({"type": format!("response.{kind}.delta"), "output_index": 1, "delta": delta}).to_string()
}

fn completed() -> String {
    let usage = json!({"input_tokens": 5000, "output_tokens": 3, "total_tokens": 5003});
    let response = json!({"id": "resp_1", "model": "big-2025", "usage": usage});
    json!({"type": "response.completed", "response": response}).to_string()
}

/// "Far away." in the Responses protocol, which has no mark after its last event.
fn far_response() -> Act {
    let text = |text| delta("output_text", text);
    Act::Say(events(&[created(), text("Far "), text("away."), completed()]))
}

#[tokio::test]
async fn a_model_may_speak_the_responses_protocol() {
    let leg = Leg::with(|_| far_response(), config(), responses).await;
    let answer = leg.long(json!({"reasoning_effort": "high", "stop": ["x"]})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.message()["content"], "Far away.");
    assert_eq!(answer.body["choices"][0]["finish_reason"], "stop");
    assert_eq!((&answer.body["id"], &answer.body["model"]), (&json!("resp_1"), &json!("big-2025")));
    assert_eq!(header(&answer, "x-harmonium-cost-usd"), "0.002005");
    assert_eq!(header(&answer, "x-harmonium-dropped"), "stop");
    let seen = leg.upstream.seen();
    assert!(seen[0].head.starts_with("post /v1/responses "), "{}", seen[0].head);
    let sent = &seen[0].body;
    assert_eq!(sent["input"][0]["content"][0]["type"], "input_text");
    assert_eq!(sent["reasoning"], json!({"effort": "high"}));
    assert_eq!((&sent["store"], &sent["max_output_tokens"]), (&json!(false), &json!(1000)));
}

#[tokio::test]
async fn responses_stream_as_chat_chunks() {
    let call = json!({"type": "response.output_item.added", "output_index": 1,
        "item": {"type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}});
    let arguments = delta("function_call_arguments", "{}");
    let script = events(&[created(), call.to_string(), arguments, completed()]);
    let leg = Leg::with(move |_| Act::Say(script.clone()), config(), responses).await;
    let body = long(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = leg.fixture.send(post(body.to_string())).await;
    let bytes = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    let frames = frames(&bytes.unwrap().unwrap().to_bytes());
    let call = &frames[0]["choices"][0]["delta"];
    assert_eq!(call["role"], "assistant");
    assert_eq!(call["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(frames[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"], "{}");
    assert_eq!(frames[2]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(frames[3]["usage"]["total_tokens"], 5003);
    assert_eq!(frames[4], "[DONE]");
}

#[tokio::test]
async fn a_response_that_fails_before_its_first_word_is_a_status() {
    let failed = json!({"type": "response.failed",
        "response": {"error": {"code": "server_error", "message": "oops"}}});
    for last in [failed.to_string(), "{\"type\": \"error\", \"message\": \"oops\"}".to_owned()] {
        let script = events(&[created(), last]);
        let leg = Leg::with(move |_| Act::Say(script.clone()), config(), responses).await;
        let answer = leg.long(json!({})).await;
        assert_eq!(code(&answer), (502, "hosted_failed"));
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_keeps_what_came() {
    let script = events(&[created(), delta("output_text", "Far ")]);
    let leg = Leg::with(move |_| Act::Say(script.clone()), config(), responses).await;
    let response = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
    let bytes = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    let frames = frames(&bytes.unwrap().unwrap().to_bytes());
    assert_eq!(content(&frames, 0), "Far ");
    assert_eq!(frames.last().unwrap()["error"]["code"], "hosted_failed");
}

#[tokio::test]
async fn the_first_token_is_a_word_and_not_the_news_that_there_will_be_one() {
    let item = json!({"type": "response.output_item.added", "item": {"type": "reasoning"}});
    let script = events(&[created(), item.to_string()]);
    let leg = Leg::with(move |_| Act::Hold(script.clone()), config(), responses).await;
    // The status comes with it, so that nobody waits in the dark for a model that reasons.
    let answer = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
    assert_eq!(answer.status(), 200);
    let frame = tokio::time::timeout(PATIENCE, answer.into_body().frame()).await.unwrap();
    let frames = frames(&frame.unwrap().unwrap().into_data().unwrap());
    assert_eq!(frames[0]["choices"][0]["delta"], json!({"role": "assistant"}));
    let metrics = leg.fixture.get("/metrics").await.body;
    let count = "harmonium_time_to_first_token_seconds_count 0";
    assert!(metrics.as_str().unwrap().contains(count), "{metrics}");
}

#[tokio::test]
async fn an_answer_of_fewer_tokens_than_the_protocol_has_is_raised_to_them() {
    let leg = Leg::with(|_| far_response(), config(), responses).await;
    let answer = leg.long(json!({"max_completion_tokens": 1})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(header(&answer, "x-harmonium-dropped"), "max_completion_tokens");
    assert_eq!(leg.upstream.seen()[0].body["max_output_tokens"], 16);
}

#[tokio::test]
async fn a_prompt_that_leaves_less_than_the_protocol_has_is_too_long() {
    let num_prompt = {
        let leg = Leg::with(|_| far_response(), config(), responses).await;
        let request = Request::post("/v1/route").body(Body::from(long(json!({})).to_string()));
        leg.fixture.ask(request.unwrap()).await.body["prompt_tokens"].as_u64().unwrap()
    };
    for (room, status) in [(16, 200), (15, 400)] {
        let leg = Leg::with(
            |_| far_response(),
            config(),
            |hosted| {
                responses(hosted);
                hosted.models[0].context = num_prompt + room;
            },
        )
        .await;
        assert_eq!(leg.long(json!({})).await.status, status, "{room}");
    }
}

#[tokio::test]
async fn several_answers_are_not_dropped_in_silence() {
    let leg = Leg::with(|_| far_response(), config(), responses).await;
    let refused = leg.long(json!({"n": 2})).await;
    assert_eq!(code(&refused), (400, "hosted_refused"));
    assert_eq!(refused.body["error"]["param"], "n");
    assert!(leg.upstream.seen().is_empty());
}

fn image(fields: Value) -> Value {
    let mut body = hi(fields);
    let url = json!({"url": "data:image/png;base64,AAAA", "detail": "low"});
    body["messages"] = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": url}]}]);
    body
}

fn seeing(hosted: &mut HostedConfig) {
    hosted.models[0].image_tokens = Some(2_000);
}

#[tokio::test]
async fn images_go_to_a_model_that_sees_if_the_operator_says_so() {
    let triggers = Triggers { images: true, ..Triggers::default() };
    let server = ServerConfig { triggers, ..config() };
    let leg = Leg::with(|_| far_away(), server, seeing).await;
    let answer = leg.fixture.chat(&image(json!({}))).await;
    assert_eq!(header(&answer, "x-harmonium-reason"), "image");
    let sent = &leg.upstream.seen()[0].body["messages"];
    assert_eq!(sent, &image(json!({}))["messages"]);
}

#[tokio::test]
async fn images_are_refused_where_nobody_sees_them() {
    let leg = Leg::with(|_| far_away(), config(), seeing).await;
    let refused = leg.fixture.chat(&image(json!({}))).await;
    assert_eq!(code(&refused), (400, "unsupported_value"));
    assert_eq!(refused.body["error"]["param"], "messages[0].content[1]");
    assert!(leg.upstream.seen().is_empty());
    // Whoever names the hosted model knows where it goes.
    let answer = leg.fixture.chat(&image(json!({"model": "big"}))).await;
    assert_eq!(header(&answer, "x-harmonium-reason"), "named");
}

#[tokio::test]
async fn an_image_cannot_be_searched_for_what_must_not_leave() {
    let leg = Leg::with(
        |_| far_away(),
        config(),
        |hosted| {
            seeing(hosted);
            hosted.redact = vec!["secret".to_owned()];
        },
    )
    .await;
    let refused = leg.fixture.chat(&image(json!({"model": "big"}))).await;
    assert_eq!(code(&refused), (400, "hosted_refused"));
    assert!(leg.upstream.seen().is_empty());
}

#[tokio::test]
async fn the_day_a_model_ends_is_asked_for_and_shown() {
    let script = |_| {
        let model = json!({"id": "big", "object": "model", "shutdown_date": "2027-01-14"});
        let mut bytes = head(200, "application/json", "");
        bytes.extend_from_slice(model.to_string().as_bytes());
        Act::Say(bytes)
    };
    let leg = Leg::with(script, config(), |_| {}).await;
    let shown = async || leg.fixture.get("/v1/models/big").await.body["shutdown_date"].clone();
    assert_eq!(shown().await, Value::Null);
    leg.hosted().ask_shutdown_dates().await;
    assert_eq!(shown().await, "2027-01-14");
    assert!(leg.upstream.seen()[0].head.starts_with("get /v1/models/big "));
    let metrics = leg.fixture.get("/metrics").await.body;
    let expected = "harmonium_hosted_shutdown_timestamp_seconds{model=\"big\"} 1799884800";
    assert!(metrics.as_str().unwrap().contains(expected), "{metrics}");
}

#[tokio::test]
async fn an_upstream_that_does_not_say_when_a_model_ends_is_no_problem() {
    let leg = Leg::with(|_| error(404, "not_found", "what?", ""), config(), |_| {}).await;
    let hosted: &Hosted = leg.hosted();
    hosted.ask_shutdown_dates().await;
    assert_eq!(hosted.shutdown_date("big"), None);
}
