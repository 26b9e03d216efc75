//! The client against a server that sends exactly the bytes a test wrote down.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use harmonium_openai::{ChatChunk, ChatMessage, ChatRequest, Client, ClientConfig, Error, Fold};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers one connection with `answer` and returns a client for it, and the request it will get.
async fn client_for(answer: &'static str) -> (Client, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        // The tests' requests are JSON objects and end with their closing brace.
        while !request.ends_with(b"}") {
            assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0, "request broke off");
        }
        socket.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    let config = ClientConfig { base_url, api_key: Some("k".into()), ..ClientConfig::default() };
    (Client::new(config).unwrap(), served)
}

fn request() -> ChatRequest {
    ChatRequest { messages: vec![ChatMessage::user("hi")], ..ChatRequest::default() }
}

async fn collect(client: &Client) -> (Vec<ChatChunk>, Option<Error>) {
    let mut stream = client.chat_stream(&request()).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => chunks.push(chunk),
            Err(error) => {
                assert!(stream.next().await.is_none(), "a stream ends with its first error");
                return (chunks, Some(error));
            }
        }
    }
    (chunks, None)
}

const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const CHUNK: &str = concat!(
    ": keep-alive\n\n",
    r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","#,
    r#""choices":[{"index":0,"delta":{"content":"Paris"},"finish_reason":"stop"}]}"#,
    "\n\n"
);

#[tokio::test]
async fn a_stream_is_read_to_its_end_mark() {
    let answer = format!("{STREAM_HEAD}{CHUNK}data: [DONE]\n\ndata: ignored\n\n").leak();
    let (client, served) = client_for(answer).await;
    let (chunks, error) = collect(&client).await;
    assert!(error.is_none(), "{error:?}");
    let mut fold = Fold::new();
    chunks.into_iter().for_each(|chunk| fold.push(chunk));
    let message = fold.finish().unwrap().choices.remove(0).message;
    assert_eq!(message.content.as_deref(), Some("Paris"));
    let request = served.await.unwrap();
    assert!(request.starts_with("POST /v1/chat/completions "), "{request}");
    assert!(request.contains("authorization: Bearer k\r\n"), "{request}");
    assert!(request.ends_with(r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#));
}

#[tokio::test]
async fn a_stream_without_its_end_mark_is_truncated() {
    let (client, _) = client_for(format!("{STREAM_HEAD}{CHUNK}").leak()).await;
    let (chunks, error) = collect(&client).await;
    assert_eq!(chunks.len(), 1);
    assert!(matches!(error, Some(Error::Truncated)), "{error:?}");
}

#[tokio::test]
async fn an_error_frame_is_a_stream_error() {
    let answer = format!(
        "{STREAM_HEAD}{CHUNK}data: {{\"error\":{{\"message\":\"lost\",\"type\":\"api_error\"}}}}\n\n"
    );
    let (client, _) = client_for(answer.leak()).await;
    let (chunks, error) = collect(&client).await;
    assert_eq!(chunks.len(), 1);
    assert!(matches!(&error, Some(Error::Stream(e)) if e.message == "lost"), "{error:?}");
}

#[tokio::test]
async fn an_error_status_keeps_its_body_and_headers() {
    let (client, _) = client_for(concat!(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\nx-request-id: r1\r\n",
        "content-length: 76\r\n\r\n",
        r#"{"error":{"message":"full","type":"rate_limit_error","param":null,"code":1}}"#
    ))
    .await;
    let error = client.chat(&request()).await.unwrap_err();
    let Error::Api(error) = error else { panic!("{error:?}") };
    assert_eq!((error.status, error.error.code.as_deref()), (429, Some("1")));
    assert_eq!(error.retry_after, Some(std::time::Duration::from_secs(2)));
    assert_eq!(error.request_id.as_deref(), Some("r1"));
    assert_eq!(error.to_string(), "status 429: full");
}

#[tokio::test]
async fn an_error_page_becomes_the_message() {
    let (client, _) =
        client_for("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 11\r\n\r\n<h1>no</h1>").await;
    let error = client.chat_stream(&request()).await.unwrap_err();
    assert_eq!(error.to_string(), "status 502: <h1>no</h1>");
}

#[tokio::test]
async fn what_is_not_the_protocols_json_is_shown() {
    let (client, _) = client_for("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    let error = client.chat(&request()).await.unwrap_err();
    assert_eq!(error.to_string(), r#"unexpected answer from the server: "hello""#);
}

#[tokio::test]
async fn nobody_listening_is_a_transport_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(ClientConfig { base_url, ..ClientConfig::default() }).unwrap();
    assert!(matches!(client.models().await.unwrap_err(), Error::Transport { .. }));
}

#[test]
fn an_address_that_is_none_is_refused() {
    for base_url in ["", "localhost:8000", "/v1"] {
        let config = ClientConfig { base_url: base_url.into(), ..ClientConfig::default() };
        assert!(matches!(Client::new(config), Err(Error::BaseUrl { .. })), "{base_url}");
    }
}
