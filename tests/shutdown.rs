//! The end: answers that are under way are finished, new ones are not begun.

use futures_util::StreamExt;
use serde_json::json;

use crate::support::{Server, ask, with};

fn long_stream() -> serde_json::Value {
    let long = json!({"stream": true, "ignore_eos": true, "max_completion_tokens": 1000});
    with(ask("Hello!"), long)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_running_stream_finish() {
    let mut server = Server::start(&[]);
    let mut bytes = server.post(&long_stream()).await.bytes_stream();
    let mut text = bytes.next().await.unwrap().unwrap().to_vec();
    server.terminate();
    while let Some(more) = bytes.next().await {
        text.extend_from_slice(&more.unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_server_is_not_healthy_and_a_second_signal_ends_it_at_once() {
    let mut server = Server::start(&[]);
    // Several, so that they outlast the two signals.
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(server.post(&long_stream()).await);
    }
    server.terminate();
    // Only a first signal that was seen makes the next one the second.
    server.wait_for_health(503).await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(130));
    drop(streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_server_ends_on_sigterm() {
    let mut server = Server::start(&[]);
    assert_eq!(server.get("/health").await.status(), 200);
    server.terminate();
    assert!(server.wait().success());
}
