//! A stand-in for a hosted model's endpoint: real HTTP on loopback, every byte of its answers scripted.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::PATIENCE;

/// What comes back for one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// These bytes and the end of the connection.
    Say(Vec<u8>),
    /// These bytes, and then nothing until the other side leaves.
    Hold(Vec<u8>),
    /// These bytes, and then the others again and again until the other side leaves.
    Repeat(Vec<u8>, Vec<u8>),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Request line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// The endpoint; it ends with the test's runtime.
pub(crate) struct Upstream {
    pub(crate) base_url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    left: Arc<Semaphore>,
}

impl Upstream {
    /// Answers the request number `n`, from 0, with `script(n)`.
    pub(crate) async fn start(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let left = Arc::new(Semaphore::new(0));
        let this = Self { base_url, seen: Arc::clone(&seen), left: Arc::clone(&left) };
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, left) = (Arc::clone(&seen), Arc::clone(&left));
                let script = Arc::clone(&script);
                tokio::spawn(async move {
                    let number = |request| {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request);
                        seen.len() - 1
                    };
                    if answer(stream, |request| script(number(request))).await == Some(Left) {
                        left.add_permits(1);
                    }
                });
            }
        });
        this
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until somebody has left an answer that was not at its end.
    pub(crate) async fn left(&self) {
        let left = tokio::time::timeout(PATIENCE, self.left.acquire()).await;
        left.expect("the other side leaves").unwrap().forget();
    }
}

/// The other side closed the connection first.
#[derive(PartialEq)]
struct Left;

async fn answer(mut stream: TcpStream, act: impl FnOnce(Seen) -> Act) -> Option<Left> {
    let request = read(&mut stream).await?;
    match act(request) {
        Act::Say(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.shutdown().await.ok()?;
            None
        }
        Act::Hold(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            let end = stream.read(&mut [0]).await;
            matches!(end, Ok(0) | Err(_)).then_some(Left)
        }
        Act::Repeat(bytes, more) => {
            stream.write_all(&bytes).await.ok()?;
            while stream.write_all(&more).await.is_ok() {}
            Some(Left)
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_len = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_len]).to_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let len: usize = len.map_or(0, |len| len.trim().parse().unwrap());
    while bytes.len() < head_len + len {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = serde_json::from_slice(&bytes[head_len..]).unwrap_or(Value::Null);
    Some(Seen { head, body })
}

/// The head of an answer.
pub(crate) fn head(status: u16, kind: &str, more: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Whatever\r\ncontent-type: {kind}\r\nx-request-id: up_1\r\nconnection: close\r\n{more}\r\n"
    )
    .into_bytes()
}

/// A streamed answer of these events, without its end.
pub(crate) fn events(events: &[String]) -> Vec<u8> {
    let mut bytes = head(200, "text/event-stream", "");
    for event in events {
        bytes.extend_from_slice(format!("data: {event}\n\n").as_bytes());
    }
    bytes
}

fn chunk(choices: &Value, usage: &Value) -> String {
    json!({"id": "up-1", "object": "chat.completion.chunk", "created": 7, "model": "big-2025",
        "choices": choices, "usage": usage})
    .to_string()
}

/// A chunk with this text.
pub(crate) fn text(text: &str) -> String {
    chunk(&json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]), &Value::Null)
}

/// The chunks after the text: the reason of the end, and the usage.
pub(crate) fn end(prompt_tokens: u64, completion_tokens: u64) -> [String; 3] {
    let usage = json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0}});
    [
        chunk(&json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), &Value::Null),
        chunk(&json!([]), &usage),
        "[DONE]".to_owned(),
    ]
}

/// A whole answer: "Far away.", for 5000 and 3 tokens.
pub(crate) fn far_away() -> Act {
    let [stop, usage, done] = end(5000, 3);
    Act::Say(events(&[text("Far "), text("away."), stop, usage, done]))
}

/// An error as OpenAI writes it.
pub(crate) fn error(status: u16, code: &str, message: &str, headers: &str) -> Act {
    let body = json!({"error": {"message": message, "type": code, "param": null, "code": code}});
    let mut bytes = head(status, "application/json", headers);
    bytes.extend_from_slice(body.to_string().as_bytes());
    Act::Say(bytes)
}
