//! Streamed answers, chunk by chunk.

use std::time::Duration;

use harmonium_engine::fake::Fault;
use harmonium_server::ServerConfig;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{Fixture, PARIS, config, content, hi, post, says, waits};

/// The frames' choices, with what all chunks share checked and taken off.
fn choices(frames: &[Value]) -> Vec<Value> {
    let (done, chunks) = frames.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let shared = |chunk: &Value| ["id", "object", "created", "model"].map(|key| chunk[key].clone());
    for chunk in chunks {
        assert_eq!(shared(chunk), shared(&chunks[0]));
        assert_eq!(chunk["object"], "chat.completion.chunk");
    }
    chunks.iter().map(|chunk| chunk["choices"].clone()).collect()
}

fn delta(delta: Value) -> Value {
    json!([{"index": 0, "delta": delta, "finish_reason": null, "logprobs": null}])
}

#[tokio::test]
async fn chunks_come_in_the_protocols_order() {
    let fixture = Fixture::new(says(
        "<|channel|>analysis<|message|>Hm<|end|>\
         <|start|>assistant<|channel|>final<|message|>ok<|return|>",
    ));
    let frames = fixture.stream_hi(json!({})).await;
    assert_eq!(
        choices(&frames),
        [
            delta(json!({"role": "assistant", "content": ""})),
            delta(json!({"reasoning": "H", "reasoning_content": "H"})),
            delta(json!({"reasoning": "m", "reasoning_content": "m"})),
            delta(json!({"content": "o"})),
            delta(json!({"content": "k"})),
            json!([{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": null}]),
        ]
    );
    assert!(frames[0].get("usage").is_none());
}

#[tokio::test]
async fn usage_comes_where_it_was_asked_for() {
    let fixture = Fixture::new(says(PARIS));
    let whole = fixture.hi(json!({})).await.body["usage"].clone();
    // Before the comparison the prompt is in the cache once: the same holds for all streams.
    let cached = fixture.hi(json!({})).await.body["usage"].clone();
    assert_ne!(whole, cached);

    let options = json!({"stream_options": {"include_usage": true}});
    let frames = fixture.stream_hi(options).await;
    let (last, others) = frames[..frames.len() - 1].split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], cached);
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));

    let options =
        json!({"stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let frames = fixture.stream_hi(options).await;
    let counts: Vec<u64> = frames[..frames.len() - 1]
        .iter()
        .map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap())
        .collect();
    assert_eq!((counts[0], counts[counts.len() - 1]), (0, 40));
    assert!(counts.is_sorted());
}

#[tokio::test]
async fn several_answers_are_interleaved_by_index() {
    let fixture = Fixture::new(says(PARIS));
    let frames = fixture.stream_hi(json!({"n": 3})).await;
    for index in 0..3 {
        assert_eq!(content(&frames, index), "Paris.");
    }
    let finished = |frame: &&Value| frame["choices"][0]["finish_reason"] == "stop";
    assert_eq!(frames.iter().filter(finished).count(), 3);
    assert_eq!(frames.iter().filter(|frame| **frame == "[DONE]").count(), 1);
}

#[tokio::test]
async fn a_character_split_over_tokens_arrives_whole() {
    // Each byte is a token of its own.
    let fixture = Fixture::new(says("<|channel|>final<|message|>é🙂<|return|>"));
    let frames = fixture.stream_hi(json!({"logprobs": true})).await;
    let entries = |frame: &Value| {
        let entries = frame["choices"][0]["logprobs"]["content"].as_array();
        (frame["choices"][0]["delta"]["content"].clone(), entries.map_or(0, Vec::len))
    };
    assert_eq!(entries(&frames[1]), (json!("é"), 2));
    assert_eq!(entries(&frames[2]), (json!("🙂"), 4));
}

#[tokio::test]
async fn a_stream_says_how_it_wants_to_be_treated() {
    let fixture = Fixture::new(says(PARIS));
    let response = fixture.send(post(hi(json!({"stream": true})).to_string())).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap();
    assert!(header("content-type").starts_with("text/event-stream"));
    assert_eq!(header("cache-control"), "no-cache");
    assert!(header("x-request-id").starts_with("req_"));
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let (model, gate) = waits();
    let interval = ServerConfig { keep_alive_interval: Duration::from_millis(1), ..config() };
    let fixture = Fixture::configured(model, interval);
    let request = post(hi(json!({"stream": true})).to_string());
    let mut body = fixture.send(request).await.into_body();
    let mut next = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(frame.to_vec()).unwrap()
    };
    assert!(next().await.contains(r#""role":"assistant""#));
    // The gate is closed: there is nothing else to send.
    for _ in 0..3 {
        assert_eq!(next().await, ": keep-alive\n\n");
    }
    drop(gate);
    let mut rest = String::new();
    while !rest.ends_with("[DONE]\n\n") {
        rest = next().await;
    }
}

#[tokio::test]
async fn an_engine_that_fails_in_the_middle_ends_the_stream_with_an_error() {
    for (fault, code) in [(Fault::Step, "internal"), (Fault::Fatal, "unavailable")] {
        let fixture = Fixture::new(says(PARIS).with_fault(30, fault));
        let frames = fixture.stream_hi(json!({})).await;
        let (last, chunks) = frames.split_last().unwrap();
        assert_eq!(last["error"]["type"], "api_error", "{last}");
        assert_eq!(last["error"]["code"], code);
        assert!(last["error"].get("param").is_some());
        assert!(chunks.iter().all(|chunk| chunk.get("error").is_none()));
        let reasoning: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["reasoning"].as_str())
            .collect();
        assert_eq!(reasoning, "Easy.");
        fixture.idle().await;
    }
}
