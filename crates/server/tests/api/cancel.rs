//! Clients that go away, over real connections.

use std::future::pending;

use harmonium_openai::{ChatMessage, ChatRequest, Client, ClientConfig};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Fixture, babbles, hi, post};

pub(crate) fn request() -> ChatRequest {
    ChatRequest { messages: vec![ChatMessage::user("hi")], ..ChatRequest::default() }
}

/// Serves `fixture` on a port of its own until the test ends.
async fn serve(fixture: &Fixture) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let server = fixture.server.clone();
    tokio::spawn(async move { server.serve(listener, pending()).await });
    Client::new(ClientConfig { base_url, ..ClientConfig::default() }).unwrap()
}

#[tokio::test]
async fn a_dropped_stream_frees_its_blocks() {
    let fixture = Fixture::new(babbles());
    let client = serve(&fixture).await;
    let mut stream = client.chat_stream(&request()).await.unwrap();
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    drop(stream);
    fixture.idle().await;
    assert_eq!(fixture.engine.stats().cancelled, 1);
}

#[tokio::test]
async fn a_client_that_leaves_before_a_whole_answer_frees_its_blocks() {
    let fixture = Fixture::new(babbles());
    let client = serve(&fixture).await;
    let request = request();
    tokio::select! {
        _ = client.chat(&request) => panic!("an answer of thousands of tokens came first"),
        () = fixture.busy() => {}
    }
    fixture.idle().await;
    assert_eq!(fixture.engine.stats().cancelled, 1);
}

#[tokio::test]
async fn a_dropped_response_body_frees_its_blocks() {
    let fixture = Fixture::new(babbles());
    let response = fixture.send(post(hi(json!({"stream": true, "n": 4})).to_string())).await;
    fixture.busy().await;
    drop(response);
    fixture.idle().await;
    assert_eq!(fixture.engine.stats().cancelled, 4);
}

#[tokio::test]
async fn the_client_reads_what_the_server_says() {
    let fixture = Fixture::new(crate::support::says(crate::support::PARIS));
    let client = serve(&fixture).await;
    let whole = client.chat(&request()).await.unwrap();
    assert_eq!(whole.choices[0].message.content.as_deref(), Some("Paris."));
    let mut fold = harmonium_openai::Fold::new();
    let mut stream = client.chat_stream(&request()).await.unwrap();
    while let Some(chunk) = stream.next().await {
        fold.push(chunk.unwrap());
    }
    assert_eq!(fold.finish().unwrap().choices, whole.choices);
    assert_eq!(client.models().await.unwrap().data[1].id, "test");
}
