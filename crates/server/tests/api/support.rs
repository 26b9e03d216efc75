//! A server over a scripted model, and short ways to ask it.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use harmonium_engine::fake::{FakeExecutor, spec};
use harmonium_engine::{EngineConfig, ExecutorSpec, Handle, SamplingParams, start};
use harmonium_harmony::Tokenizer;
use harmonium_hosted::Hosted;
use harmonium_openai::sse::{Decoder, Limits};
use harmonium_server::{LocalModel, Server, ServerConfig};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::secrecy;

/// Longer than any test takes; a wait that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const CONTROL: [&str; 8] = [
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
    "<|endoftext|>",
];
pub(crate) const RETURN: u32 = 256;
pub(crate) const START: u32 = 259;

/// One token a byte, then the control tokens.
pub(crate) fn tokenizer() -> Tokenizer {
    let is_printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut stand_ins = 0x100..;
    let vocab: serde_json::Map<String, Value> = (0..256)
        .map(|byte| {
            let code = if is_printable(&byte) { byte } else { stand_ins.next().unwrap() };
            (char::from_u32(code).unwrap().to_string(), json!(byte))
        })
        .collect();
    let added: Vec<Value> = (256..)
        .zip(CONTROL)
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []}});
    Tokenizer::from_bytes(&serde_json::to_vec(&json).unwrap()).unwrap()
}

/// Tokens of `text`, with control tokens where it spells them.
pub(crate) fn tokens(text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let control = (256..).zip(CONTROL).find(|(_, name)| rest.starts_with(name));
        match control {
            Some((id, name)) => {
                tokens.push(id);
                rest = &rest[name.len()..];
            }
            None => {
                let (letter, after) = rest.split_at(rest.ceil_char_boundary(1));
                tokens.extend(letter.bytes().map(u32::from));
                rest = after;
            }
        }
    }
    tokens
}

/// The text that `tokens` spell, control tokens by name.
pub(crate) fn spell(tokens: &[u32]) -> String {
    let mut bytes = Vec::new();
    for &token in tokens {
        match u8::try_from(token) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(CONTROL[token as usize - 256].as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A model that always gives this answer.
pub(crate) fn says(answer: &str) -> FakeExecutor {
    let mut answer = tokens(answer);
    let stop_token = answer.pop().unwrap();
    FakeExecutor::new(spec()).with_answer(answer, stop_token)
}

pub(crate) const PARIS: &str = "<|channel|>analysis<|message|>Easy.<|end|>\
    <|start|>assistant<|channel|>final<|message|>Paris.<|return|>";

/// How an answer without reasoning begins.
pub(crate) const FINAL: &str = "<|channel|>final<|message|>";

/// A model that answers `a` for ever.
pub(crate) fn babbles() -> FakeExecutor {
    let header = tokens(FINAL);
    FakeExecutor::new(spec()).with_script(move |seen| {
        let num_said = num_said(seen);
        header.get(num_said).copied().unwrap_or(u32::from(b'a'))
    })
}

/// A model that answers one `a` each time the gate is opened, and ends when it is dropped.
pub(crate) fn waits() -> (FakeExecutor, SyncSender<()>) {
    waits_with(spec())
}

/// The same within other bounds.
pub(crate) fn waits_with(spec: ExecutorSpec) -> (FakeExecutor, SyncSender<()>) {
    let (gate, opened) = sync_channel(64);
    let opened = Mutex::new(opened);
    let header = tokens(FINAL);
    let executor = FakeExecutor::new(spec).with_script(move |seen| {
        if let Some(&token) = header.get(num_said(seen)) {
            return token;
        }
        if opened.lock().unwrap().recv().is_ok() { u32::from(b'a') } else { RETURN }
    });
    (executor, gate)
}

/// Tokens since the prompt's end.
fn num_said(seen: &[u32]) -> usize {
    let start = seen.iter().rposition(|&token| token == START).unwrap();
    seen.len() - (start + 1 + "assistant".len())
}

/// A model that says what `answer` makes of the spelled-out prompt.
///
/// Where the prompt ends is not marked, and the answer may open messages of its own: the end is the first place
/// behind which there is nothing but the beginning of the answer.
pub(crate) fn replies(answer: impl Fn(&str) -> &'static str + Send + 'static) -> FakeExecutor {
    let opening = tokens("<|start|>assistant");
    FakeExecutor::new(spec()).with_script(move |seen| {
        let mut ends = (opening.len()..=seen.len()).filter(|&end| seen[..end].ends_with(&opening));
        let next = ends.find_map(|end| {
            let answer = tokens(answer(&spell(&seen[..end])));
            answer.starts_with(&seen[end..]).then(|| answer.get(seen.len() - end).copied())
        });
        next.flatten().unwrap_or(RETURN)
    })
}

/// A model that always gives this answer and shows the prompt it got.
pub(crate) fn remembers(answer: &'static str) -> (FakeExecutor, Arc<Mutex<String>>) {
    let prompt = Arc::new(Mutex::new(String::new()));
    let shown = Arc::clone(&prompt);
    let executor = replies(move |text| {
        shown.lock().unwrap().replace_range(.., text);
        answer
    });
    (executor, prompt)
}

/// A server with its model.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) engine: Handle,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.engine.stop();
    }
}

/// An answer that is not a stream.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The only choice's message.
    pub(crate) fn message(&self) -> &Value {
        &self.body["choices"][0]["message"]
    }
}

pub(crate) fn config() -> ServerConfig {
    ServerConfig { date: Some("2026-01-02".to_owned()), ..ServerConfig::default() }
}

impl Fixture {
    pub(crate) fn new(executor: FakeExecutor) -> Self {
        Self::with(executor, config(), EngineConfig::default())
    }

    pub(crate) fn configured(executor: FakeExecutor, config: ServerConfig) -> Self {
        Self::with(executor, config, EngineConfig::default())
    }

    pub(crate) fn with(executor: FakeExecutor, config: ServerConfig, engine: EngineConfig) -> Self {
        Self::hosted(executor, config, engine, None)
    }

    pub(crate) fn hosted(
        executor: FakeExecutor,
        config: ServerConfig,
        engine: EngineConfig,
        hosted: Option<Arc<Hosted>>,
    ) -> Self {
        let engine = start(Box::new(executor), engine);
        let server = Server::new(config, hosted).unwrap();
        server.set_ready(LocalModel {
            name: "openai/gpt-oss-test".to_owned(),
            aliases: vec!["test".to_owned()],
            // As many of them as the executor has.
            adapters: (0..engine.spec().num_adapters).map(|id| format!("adapter-{id}")).collect(),
            tokenizer: tokenizer(),
            engine: engine.clone(),
            defaults: SamplingParams::default(),
            stop_tokens: vec![RETURN],
        });
        Self { server, engine }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        let response = self.server.router().oneshot(request);
        tokio::time::timeout(PATIENCE, response).await.expect("an answer in time").unwrap()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        read(self.send(request).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Asks for a chat completion.
    pub(crate) async fn chat(&self, body: &Value) -> Answer {
        self.ask(post(body.to_string())).await
    }

    /// Asks "hi" with these fields on top.
    pub(crate) async fn hi(&self, fields: Value) -> Answer {
        self.chat(&hi(fields)).await
    }

    /// The frames of the streamed answer to "hi": JSON, or the text of what is none.
    pub(crate) async fn stream_hi(&self, fields: Value) -> Vec<Value> {
        let mut body = hi(fields);
        body["stream"] = json!(true);
        let response = self.send(post(body.to_string())).await;
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = response.into_body().collect();
        let bytes = tokio::time::timeout(PATIENCE, bytes).await.expect("an end in time").unwrap();
        frames(&bytes.to_bytes())
    }

    /// Waits until the engine holds nothing.
    pub(crate) async fn idle(&self) {
        let idle = async {
            loop {
                let stats = self.engine.stats();
                if stats.running + stats.waiting == 0 {
                    assert_eq!((stats.full_blocks_used, stats.window_blocks_used), (0, 0));
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.expect("the engine becomes idle");
    }

    /// Waits until the engine has generated something.
    pub(crate) async fn busy(&self) {
        let busy = async {
            while self.engine.stats().generated_tokens == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, busy).await.expect("the engine begins");
    }
}

pub(crate) fn hi(fields: Value) -> Value {
    let mut body = json!({"model": "test", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

pub(crate) fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/v1/chat/completions").body(body.into()).unwrap()
}

pub(crate) async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    secrecy::check(&format!("{:?} {}", parts.headers, String::from_utf8_lossy(&bytes)));
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { status: parts.status, headers: parts.headers, body }
}

/// The events in `bytes`: JSON, or the text of what is none.
pub(crate) fn frames(bytes: &Bytes) -> Vec<Value> {
    secrecy::check(&String::from_utf8_lossy(bytes));
    let mut events = Vec::new();
    Decoder::new(Limits::default()).push(bytes, &mut events).unwrap();
    let value = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    events.into_iter().map(|event| value(event.data)).collect()
}

/// The content that `frames` add up to, of the choice `index`.
pub(crate) fn content(frames: &[Value], index: u64) -> String {
    frames
        .iter()
        .flat_map(|frame| frame["choices"].as_array().into_iter().flatten())
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect()
}
