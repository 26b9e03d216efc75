//! A typed client for servers that speak this protocol.
//!
//! One call, one request: it neither retries nor follows redirects (a redirect would carry the key elsewhere).
//! Answers are bounded in size and in silence. Dropping an [`AnswerStream`] closes the connection, which ends
//! the answer at the server.

mod stream;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::chat::{ChatCompletion, ChatRequest};
use crate::error::{ApiError, Error, ErrorBody, ErrorObject, Result};
use crate::models::{Model, ModelList};

pub use stream::{AnswerStream, ChatStream, ResponseStream};

/// The body of an error is a few sentences.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// Where a client asks and how long it waits.
#[derive(Clone)]
pub struct ClientConfig {
    /// Address up to and including the version, such as `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence within an answer.
    pub read_timeout: Duration,
    /// Longest answer, streamed or not, in bytes.
    pub max_answer_bytes: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            base_url: "http://127.0.0.1:8000/v1".to_owned(),
            api_key: None,
            connect_timeout: Duration::from_secs(5),
            // The wait that OpenAI's own clients have.
            read_timeout: Duration::from_secs(600),
            max_answer_bytes: 64 << 20,
        }
    }
}

/// Asks one server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    api_key: Option<String>,
    max_answer_bytes: usize,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client; nothing is sent yet.
    pub fn new(config: ClientConfig) -> Result<Self> {
        let base_url = config.base_url.trim_end_matches('/').to_owned();
        let invalid = || Error::BaseUrl { url: config.base_url.clone() };
        let url = reqwest::Url::parse(&base_url).map_err(|_| invalid())?;
        if url.host_str().is_none() {
            return Err(invalid());
        }
        let mut http = http()
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
            .redirect(reqwest::redirect::Policy::none());
        // A proxy from the environment cannot reach this machine's own addresses.
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|source| transport(&base_url, source))?;
        Ok(Self {
            http,
            base_url,
            api_key: config.api_key,
            max_answer_bytes: config.max_answer_bytes,
        })
    }

    /// Asks for a whole answer; `stream` in the request is overruled.
    pub async fn chat(&self, request: &ChatRequest) -> Result<ChatCompletion> {
        let request = ChatRequest { stream: None, stream_options: None, ..request.clone() };
        self.read_json(self.post("/chat/completions", &request)).await
    }

    /// Asks for a streamed answer and returns once the server has accepted.
    pub async fn chat_stream(&self, request: &ChatRequest) -> Result<ChatStream> {
        let request = ChatRequest { stream: Some(true), ..request.clone() };
        let response = self.send(self.post("/chat/completions", &request)).await?;
        Ok(ChatStream::new(response, self.max_answer_bytes))
    }

    /// As [`Self::chat_stream`] for a request that is JSON already, `stream` included: large ones are written where
    /// nobody waits, and once for several tries.
    pub async fn chat_stream_of(&self, request: Bytes) -> Result<ChatStream> {
        let response = self.send(self.post_bytes("/chat/completions", request)).await?;
        Ok(ChatStream::new(response, self.max_answer_bytes))
    }

    /// Asks for a streamed response and returns once the server has accepted. `request` is the JSON of a
    /// [`ResponseRequest`](crate::responses::ResponseRequest).
    pub async fn response_stream_of(&self, request: Bytes) -> Result<ResponseStream> {
        let response = self.send(self.post_bytes("/responses", request)).await?;
        Ok(ResponseStream::new(response, self.max_answer_bytes))
    }

    /// Asks which models there are.
    pub async fn models(&self) -> Result<ModelList> {
        self.read_json(self.http.get(format!("{}/models", self.base_url))).await
    }

    /// Asks what a model is. `id` is one that the address can hold as it is.
    pub async fn model(&self, id: &str) -> Result<Model> {
        self.read_json(self.http.get(format!("{}/models/{id}", self.base_url))).await
    }

    fn post(&self, path: &str, body: &impl Serialize) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.base_url)).json(body)
    }

    fn post_bytes(&self, path: &str, json: Bytes) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.base_url));
        request.header(CONTENT_TYPE, "application/json").body(json)
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|source| transport(&self.base_url, source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let request_id = header(response.headers(), "x-request-id");
        let retry_after = retry_after(response.headers());
        let body = self.read_bytes(response, MAX_ERROR_BYTES).await?;
        let error = serde_json::from_slice::<ErrorBody>(&body)
            .map(|body| body.error)
            .unwrap_or_else(|_| ErrorObject { message: excerpt(&body), ..Default::default() });
        Err(Error::Api(Box::new(ApiError { status, error, retry_after, request_id })))
    }

    async fn read_json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        let body = self.read_bytes(response, self.max_answer_bytes).await?;
        parse(&body)
    }

    async fn read_bytes(
        &self,
        mut response: reqwest::Response,
        max_bytes: usize,
    ) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(bytes) =
            response.chunk().await.map_err(|source| transport(&self.base_url, source))?
        {
            if body.len() + bytes.len() > max_bytes {
                return Err(Error::TooLong { max_bytes });
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }
}

/// An HTTP client to be configured. It makes ring the provider of TLS's cryptography, unless the process has
/// chosen another: reqwest's own choice is a C library that takes minutes to build.
pub fn http() -> reqwest::ClientBuilder {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// Whether an address is one of this machine alone, which no other can listen on.
pub fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The host and, if it is named, the port of an address; `None` if it has none. No user name, no password.
pub fn host(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|source| Error::Json { excerpt: excerpt(body), source })
}

/// Enough of an answer to recognize it in an error message.
fn excerpt(body: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    String::from_utf8_lossy(body).trim().chars().take(MAX_CHARS).collect()
}

/// When to ask again: in milliseconds, as OpenAI says it, or in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| header(headers, name).and_then(|text| text.parse::<u64>().ok());
    let milliseconds = number("retry-after-ms").map(Duration::from_millis);
    milliseconds.or_else(|| number(RETRY_AFTER.as_str()).map(Duration::from_secs))
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn transport(url: &str, source: reqwest::Error) -> Error {
    Error::Transport { url: url.to_owned(), source: source.without_url() }
}
