//! Streams: the same answer in pieces, alone and beside many others.

use std::sync::Arc;

use futures_util::StreamExt;
use harmonium_openai::{ChatMessage, ChatRequest, Client, Fold};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Server, ask, content, with};

const QUESTIONS: [&str; 8] = [
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is 17 + 25?",
    "What is 90 - 13?",
    "Who are you?",
    "How do I start the server?",
    "Write a poem about the sea.",
    "Hello!",
];

fn request(question: &str, effort: &str) -> ChatRequest {
    ChatRequest {
        model: Some("nano".to_owned()),
        messages: vec![ChatMessage::user(question)],
        temperature: Some(0.0),
        reasoning_effort: Some(effort.to_owned()),
        ..ChatRequest::default()
    }
}

/// What a streamed answer says: reasoning and content.
async fn streamed(client: &Client, request: &ChatRequest) -> (String, String) {
    let mut stream = client.chat_stream(request).await.unwrap();
    let mut fold = Fold::new();
    while let Some(chunk) = stream.next().await {
        fold.push(chunk.unwrap());
    }
    let message = fold.finish().unwrap().choices.remove(0).message;
    (message.reasoning.unwrap_or_default(), message.content.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn capital_of_france_streams_at_every_effort() {
    let server = Server::start(&[]);
    for effort in ["low", "medium", "high"] {
        let (reasoning, content) = streamed(&server.client(), &request(QUESTIONS[0], effort)).await;
        assert!(!reasoning.is_empty(), "no reasoning at {effort} effort");
        assert!(content.contains("Paris"), "{content}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_once_say_what_each_says_alone() {
    const NUM_STREAMS: usize = 64;
    let server = Server::start(&[]);
    let client = server.client();
    let mut alone = Vec::new();
    for question in QUESTIONS {
        alone.push(streamed(&client, &request(question, "medium")).await);
    }
    let alone = Arc::new(alone);
    let mut running = JoinSet::new();
    for index in 0..NUM_STREAMS {
        let (client, alone) = (client.clone(), Arc::clone(&alone));
        running.spawn(async move {
            let index = index % QUESTIONS.len();
            let answer = streamed(&client, &request(QUESTIONS[index], "medium")).await;
            assert_eq!(answer, alone[index], "{}", QUESTIONS[index]);
        });
    }
    while let Some(result) = running.join_next().await {
        result.unwrap();
    }
    server.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_is_events_that_end_with_done() {
    let server = Server::start(&[]);
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let response = server.post(&with(ask(QUESTIONS[0]), options)).await;
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("text/event-stream"), "{kind}");
    let text = response.text().await.unwrap();
    let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> =
        chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    assert!(others.iter().all(|chunk| chunk["usage"].is_null()));
    let whole = server.chat(&ask(QUESTIONS[0])).await;
    let streamed: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(streamed, content(&whole));
    assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_stream_frees_its_blocks() {
    let server = Server::start(&[]);
    let endless = json!({"stream": true, "ignore_eos": true, "max_completion_tokens": 3000});
    let response = server.post(&with(ask("Hello!"), endless)).await;
    let mut bytes = response.bytes_stream();
    // The first chunk leaves before the engine has begun; reasoning comes from tokens.
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"reasoning\"") {
        seen.extend(bytes.next().await.unwrap().unwrap());
    }
    assert!(server.blocks_used("full").await > 0.0);
    drop(bytes);
    server.wait_until_idle().await;
}
