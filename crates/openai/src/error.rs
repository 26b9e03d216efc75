//! Errors: the protocol's error body, and what a client call can end with.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::sse::SseError;

/// Result of a client call.
pub type Result<T> = std::result::Result<T, Error>;

/// `{"error": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// What went wrong. All four keys are always written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// Class of the error, such as `invalid_request_error`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The request field that is at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// For programs; some servers send a number.
    #[serde(default, deserialize_with = "string_or_number")]
    pub code: Option<String>,
}

fn string_or_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

/// How a client call fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configured address cannot be used.
    #[error("base url {url:?} is not an http address")]
    BaseUrl {
        /// As it was given.
        url: String,
    },
    /// No answer, or it broke off: connection refused, reset, timed out.
    #[error("no connection to {url}")]
    Transport {
        /// What was asked for.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The server answered with an error status.
    #[error("{0}")]
    Api(Box<ApiError>),
    /// The server answered with something else than the protocol's JSON.
    #[error("unexpected answer from the server: {excerpt:?}")]
    Json {
        /// The beginning of what came.
        excerpt: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The answer exceeds the client's bound.
    #[error("answer is longer than {max_bytes} bytes")]
    TooLong {
        /// The bound.
        max_bytes: usize,
    },
    /// The stream is not well-formed.
    #[error("malformed event stream")]
    Sse(#[from] SseError),
    /// The stream reported an error after it had begun.
    #[error("the server ended the stream: {}", .0.message)]
    Stream(Box<ErrorObject>),
    /// The stream ended without its `[DONE]`.
    #[error("the stream broke off before its end")]
    Truncated,
}

/// An error status and its body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("status {status}: {}", .error.message)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The body's error, or the body itself as the message if it was no JSON.
    pub error: ErrorObject,
    /// When the server suggests to try again.
    pub retry_after: Option<Duration>,
    /// The server's `x-request-id`.
    pub request_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_body_always_has_four_keys() {
        let body = ErrorBody { error: ErrorObject { message: "m".into(), ..Default::default() } };
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            r#"{"error":{"message":"m","type":"","param":null,"code":null}}"#
        );
    }

    #[test]
    fn numeric_codes_are_read_as_text() {
        let body: ErrorBody =
            serde_json::from_str(r#"{"error":{"message":"m","code":429}}"#).unwrap();
        assert_eq!(body.error.code.as_deref(), Some("429"));
    }
}
