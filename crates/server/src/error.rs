//! Every way a request can fail, and the one place that says how HTTP shows it.
//!
//! Variants are causes. What the client sees (status, type, code, parameter) follows from the cause in
//! [`Error::shape`], an exhaustive match. Messages name fields and values of the request, never keys or texts
//! of the conversation. Causes that are ours alone (a failed step, a panic) are logged, not shown.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use harmonium_engine::EngineError;
use harmonium_hosted::{self as hosted, LedgerError};
use harmonium_openai::{ErrorBody, ErrorObject};

/// Result of anything a request can fail in.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The body is no JSON, or not text.
    #[error("the body is not valid JSON: {reason}")]
    Json { reason: String },
    /// The body did not come whole.
    #[error("the request body broke off")]
    BodyBroken,
    /// The body did not come in time.
    #[error("the request body did not arrive within {seconds} s")]
    BodyTimeout { seconds: u64 },
    /// The body is too long.
    #[error("the request body is longer than {max_bytes} bytes")]
    BodyTooLarge { max_bytes: usize },
    /// A field has a wrong value; the message names both.
    #[error("{message}")]
    Field { param: String, code: FieldCode, message: String },
    /// The prompt leaves no room for an answer. Clients look for the words of OpenAI's own message to decide
    /// whether shortening the conversation helps, so these are kept.
    #[error(
        "This model's maximum context length is {context_len} tokens. However, your messages resulted in \
         {prompt_len} tokens. Please reduce the length of the messages."
    )]
    ContextLength { prompt_len: usize, context_len: u32 },
    /// The prompt leaves no room in any model.
    #[error("{}", too_long_for_all(*prompt_len, *is_exact, *context_len, hosted.as_ref()))]
    ContextLengthOfAll {
        prompt_len: u64,
        /// Whether the prompt has no more tokens than that.
        is_exact: bool,
        context_len: u32,
        /// The largest hosted model and its context, where there is one.
        hosted: Option<(String, u64)>,
    },
    /// The request asks for a hosted model and may not use one.
    #[error("{0}")]
    NotAllowed(NotAllowed),
    /// A hosted model was asked and did not answer.
    #[error("{message}")]
    Hosted { fault: HostedFault, message: String },
    /// Keys are required and none was given.
    #[error("no api key given: send it as \"Authorization: Bearer KEY\"")]
    MissingKey,
    /// The key is none of ours.
    #[error("the api key is not valid")]
    WrongKey,
    /// The model is none of ours.
    #[error("the model {model:?} does not exist, this server has {known}")]
    UnknownModel { model: String, known: String },
    /// The path is none of ours.
    #[error("unknown path {path}, this server has {known}")]
    UnknownPath { path: String, known: &'static str },
    /// The path does not take this method.
    #[error("{path} does not take {method}")]
    WrongMethod { path: String, method: String },
    /// The engine's queue is full.
    #[error("the queue of {capacity} waiting requests is full, try again later")]
    Overloaded { capacity: usize },
    /// What the answer must follow turned out too complex while it was written.
    #[error("the answer cannot go on within the given schemas: {reason}")]
    Schema { reason: String },
    /// The server cannot answer now.
    #[error("{0}")]
    Unavailable(Unavailable),
    /// A fault of ours; the log has it under the request's id.
    #[error("internal error, the server's log has it under this answer's x-request-id")]
    Internal,
}

/// Why the server cannot answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    /// Not yet.
    #[error("the model is still loading")]
    Loading,
    /// Not any more.
    #[error("the server is shutting down")]
    Draining,
    /// The engine has failed.
    #[error("the engine is not running")]
    Stopped,
}

/// The words are OpenAI's, as above.
fn too_long_for_all(
    prompt_len: u64,
    is_exact: bool,
    context_len: u32,
    hosted: Option<&(String, u64)>,
) -> String {
    let hosted = hosted
        .map(|(name, context)| format!(", and that of {name} is {context} tokens"))
        .unwrap_or_default();
    let or_more = if is_exact { "" } else { " or more" };
    format!(
        "This model's maximum context length is {context_len} tokens{hosted}. However, your messages resulted in \
         {prompt_len} tokens{or_more}. Please reduce the length of the messages."
    )
}

/// Why a request may not use a hosted model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAllowed {
    /// The operator has not configured any.
    #[error("this server has no hosted models, set hosted.enabled")]
    Off,
    /// The caller's key is for the local model only.
    #[error("this api key may not use hosted models")]
    Key,
    /// The request itself forbids it.
    #[error("x-harmonium-hosted: never forbids the hosted model that the request needs")]
    Request,
    /// The conversation must not leave.
    #[error(
        "the conversation is marked sticky-local and must not leave, but the request needs a hosted model"
    )]
    Conversation,
}

/// What went wrong with a hosted model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostedFault {
    /// What may be spent is spent.
    Budget,
    /// What may be spent is set aside for requests under way, which mostly cost less in the end.
    Reserved,
    /// What was spent is not known, so nothing more may be.
    Ledger,
    /// As many requests are in flight as may be.
    Full,
    /// It is left alone for a while.
    Down { retry_after_seconds: u32 },
    /// It counted more tokens than it takes.
    TooLong,
    /// It found the request wrong.
    Refused { param: Option<String> },
    /// It does not take our key.
    Key,
    /// It does not exist upstream.
    Gone,
    /// It gets too many requests.
    Busy { retry_after_seconds: u32 },
    /// Our account there does not allow the request.
    Quota,
    /// It took too long.
    Timeout,
    /// It failed.
    Upstream,
}

/// What kind of wrong a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldCode {
    /// Of the wrong JSON type.
    Type,
    /// Out of range or malformed.
    Value,
    /// Meaningful elsewhere, but not something this server does.
    UnsupportedValue,
    /// A parameter this server does not have.
    UnsupportedParameter,
    /// Absent, though needed.
    Missing,
    /// A JSON schema that cannot be enforced.
    Schema,
}

impl FieldCode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Type => "invalid_type",
            Self::Value => "invalid_value",
            Self::UnsupportedValue => "unsupported_value",
            Self::UnsupportedParameter => "unsupported_parameter",
            Self::Missing => "missing_required_parameter",
            Self::Schema => "unsupported_schema",
        }
    }
}

/// How HTTP shows an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape<'a> {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<&'a str>,
    retry_after_seconds: Option<u32>,
}

/// Rides on an error response so that the middleware can count it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

impl Error {
    /// A wrong value of `param`. The message names the parameter by itself.
    pub(crate) fn field(
        param: impl Into<String>,
        code: FieldCode,
        problem: impl std::fmt::Display,
    ) -> Self {
        let param = param.into();
        let message = format!("{param}: {problem}");
        Self::Field { param, code, message }
    }

    /// Whether a hosted model was to be asked and nothing was sent to it.
    pub(crate) fn was_not_sent(&self) -> bool {
        use HostedFault as F;
        match self {
            Self::Hosted { fault, .. } => {
                matches!(fault, F::Budget | F::Reserved | F::Ledger | F::Full | F::Down { .. })
            }
            _ => false,
        }
    }

    /// The `code` that clients and metrics see.
    pub(crate) fn code(&self) -> &'static str {
        self.shape().code
    }

    /// The body that clients see, in an answer or in the middle of a stream.
    pub(crate) fn body(&self) -> ErrorBody {
        let shape = self.shape();
        ErrorBody {
            error: ErrorObject {
                message: self.to_string(),
                kind: shape.kind.to_owned(),
                param: shape.param.map(str::to_owned),
                code: Some(shape.code.to_owned()),
            },
        }
    }

    fn shape(&self) -> Shape<'_> {
        use StatusCode as S;
        let invalid = |status, code| Shape {
            status,
            kind: "invalid_request_error",
            code,
            param: None,
            retry_after_seconds: None,
        };
        match self {
            Self::Json { .. } => invalid(S::BAD_REQUEST, "invalid_json"),
            Self::BodyBroken => invalid(S::BAD_REQUEST, "incomplete_body"),
            Self::BodyTimeout { .. } => invalid(S::REQUEST_TIMEOUT, "body_timeout"),
            Self::BodyTooLarge { .. } => invalid(S::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::Field { param, code, .. } => {
                Shape { param: Some(param), ..invalid(S::BAD_REQUEST, code.as_str()) }
            }
            Self::ContextLength { .. } => Shape {
                param: Some("messages"),
                ..invalid(S::BAD_REQUEST, "context_length_exceeded")
            },
            Self::ContextLengthOfAll { .. } => Shape {
                param: Some("messages"),
                ..invalid(S::BAD_REQUEST, "context_length_exceeded")
            },
            Self::NotAllowed(_) => {
                Shape { param: Some("model"), ..invalid(S::FORBIDDEN, "hosted_not_allowed") }
            }
            Self::Hosted { fault, .. } => fault.shape(),
            Self::MissingKey | Self::WrongKey => invalid(S::UNAUTHORIZED, "invalid_api_key"),
            Self::UnknownModel { .. } => {
                Shape { param: Some("model"), ..invalid(S::NOT_FOUND, "model_not_found") }
            }
            Self::UnknownPath { .. } => invalid(S::NOT_FOUND, "unknown_path"),
            Self::WrongMethod { .. } => invalid(S::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Schema { .. } => invalid(S::BAD_REQUEST, "schema_too_complex"),
            Self::Overloaded { .. } => Shape {
                kind: "rate_limit_error",
                retry_after_seconds: Some(1),
                ..invalid(S::TOO_MANY_REQUESTS, "overloaded")
            },
            Self::Unavailable(why) => Shape {
                kind: "api_error",
                // A lost engine does not come back by waiting.
                retry_after_seconds: (*why != Unavailable::Stopped).then_some(5),
                ..invalid(S::SERVICE_UNAVAILABLE, "unavailable")
            },
            Self::Internal => {
                Shape { kind: "api_error", ..invalid(S::INTERNAL_SERVER_ERROR, "internal") }
            }
        }
    }
}

impl HostedFault {
    fn shape(&self) -> Shape<'_> {
        use StatusCode as S;
        let shape = |status, kind, code| Shape {
            status,
            kind,
            code,
            param: None,
            retry_after_seconds: None,
        };
        let limited = |code| shape(S::TOO_MANY_REQUESTS, "rate_limit_error", code);
        let failed = |status, code| shape(status, "api_error", code);
        match self {
            Self::Budget => limited("hosted_budget_exceeded"),
            // About as long as an answer takes.
            Self::Reserved => {
                Shape { retry_after_seconds: Some(5), ..limited("hosted_budget_reserved") }
            }
            Self::Ledger => failed(S::SERVICE_UNAVAILABLE, "hosted_ledger_unavailable"),
            Self::Full => Shape { retry_after_seconds: Some(1), ..limited("hosted_overloaded") },
            Self::Down { retry_after_seconds } => Shape {
                retry_after_seconds: Some(*retry_after_seconds),
                ..failed(S::SERVICE_UNAVAILABLE, "hosted_unavailable")
            },
            Self::TooLong => Shape {
                param: Some("messages"),
                ..shape(S::BAD_REQUEST, "invalid_request_error", "context_length_exceeded")
            },
            Self::Refused { param } => Shape {
                param: param.as_deref(),
                ..shape(S::BAD_REQUEST, "invalid_request_error", "hosted_refused")
            },
            Self::Key => failed(S::BAD_GATEWAY, "hosted_key_rejected"),
            Self::Gone => failed(S::BAD_GATEWAY, "hosted_model_not_found"),
            Self::Busy { retry_after_seconds } => Shape {
                retry_after_seconds: Some(*retry_after_seconds),
                ..limited("hosted_rate_limited")
            },
            Self::Quota => limited("hosted_quota_exceeded"),
            Self::Timeout => failed(S::GATEWAY_TIMEOUT, "hosted_timeout"),
            Self::Upstream => failed(S::BAD_GATEWAY, "hosted_failed"),
        }
    }

    /// Whether asking again would only fail again: what is spent stays spent.
    fn is_final(&self) -> bool {
        matches!(self, Self::Budget | Self::Quota | Self::Key | Self::Gone)
    }
}

impl From<hosted::Error> for Error {
    fn from(error: hosted::Error) -> Self {
        let seconds = |wait: Duration| u32::try_from(wait.as_secs().max(1)).unwrap_or(u32::MAX);
        let message = error.to_string();
        let fault = match error {
            hosted::Error::Ledger(full @ LedgerError::Exceeded { .. }) => match full.may_pass() {
                true => HostedFault::Reserved,
                false => HostedFault::Budget,
            },
            hosted::Error::Ledger(error) => {
                tracing::error!(%error, "spending cannot be recorded, so nothing is spent");
                let message = "the record of spending is not available".to_owned();
                return Self::Hosted { fault: HostedFault::Ledger, message };
            }
            hosted::Error::Preparation => return Self::Internal,
            hosted::Error::Full { .. } => HostedFault::Full,
            hosted::Error::Down { retry_after, .. } => {
                HostedFault::Down { retry_after_seconds: seconds(retry_after) }
            }
            hosted::Error::Redaction | hosted::Error::Image => {
                HostedFault::Refused { param: Some("messages".to_owned()) }
            }
            hosted::Error::NumAnswers { .. } => {
                HostedFault::Refused { param: Some("n".to_owned()) }
            }
            hosted::Error::Call { param, .. } => HostedFault::Refused { param: Some(param) },
            hosted::Error::TooLong { .. } => HostedFault::TooLong,
            hosted::Error::Refused { param, .. } => HostedFault::Refused { param },
            hosted::Error::Key { .. } => HostedFault::Key,
            hosted::Error::Gone { .. } => HostedFault::Gone,
            hosted::Error::Busy { retry_after, .. } => HostedFault::Busy {
                retry_after_seconds: seconds(retry_after.unwrap_or(Duration::from_secs(5))),
            },
            hosted::Error::Quota { .. } => HostedFault::Quota,
            hosted::Error::Timeout { .. } => HostedFault::Timeout,
            _ => HostedFault::Upstream,
        };
        Self::Hosted { fault, message }
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { capacity } => Self::Overloaded { capacity },
            EngineError::ContextLength { prompt_len, context_len } => {
                Self::ContextLength { prompt_len, context_len }
            }
            EngineError::Invalid { field, message } => {
                Self::field(field, FieldCode::Value, message)
            }
            EngineError::Step(reason) => {
                tracing::error!(%reason, "the engine failed on a request");
                Self::Internal
            }
            EngineError::Constraint(reason) => Self::Schema { reason },
            EngineError::Stopped(reason) => {
                tracing::error!(%reason, "the engine has stopped");
                Self::Unavailable(Unavailable::Stopped)
            }
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let Shape { status, code, retry_after_seconds, .. } = self.shape();
        let mut response = (status, Json(self.body())).into_response();
        response.extensions_mut().insert(ErrorCode(code));
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::Hosted { fault, .. } = &self
            && fault.is_final()
        {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self == Self::Unavailable(Unavailable::Draining) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause, status, code, parameter of what is the client's own fault.
    fn client_faults() -> Vec<(Error, u16, &'static str, Option<&'static str>)> {
        use FieldCode as F;
        let field = |code| Error::field("n", code, "0 is wrong");
        let model = Error::UnknownModel { model: "x".into(), known: "y".into() };
        let path = Error::UnknownPath { path: "/x".into(), known: "/y" };
        let method = Error::WrongMethod { path: "/x".into(), method: "PUT".into() };
        let too_long = EngineError::ContextLength { prompt_len: 9, context_len: 8 };
        let too_long_for_all = Error::ContextLengthOfAll {
            prompt_len: 9,
            is_exact: true,
            context_len: 8,
            hosted: Some(("x".into(), 9)),
        };
        let refused = HostedFault::Refused { param: Some("n".into()) };
        let n = Some("n");
        vec![
            (Error::Json { reason: "x".into() }, 400, "invalid_json", None),
            (Error::BodyBroken, 400, "incomplete_body", None),
            (Error::BodyTimeout { seconds: 1 }, 408, "body_timeout", None),
            (Error::BodyTooLarge { max_bytes: 1 }, 413, "body_too_large", None),
            (field(F::Type), 400, "invalid_type", n),
            (field(F::Value), 400, "invalid_value", n),
            (field(F::UnsupportedValue), 400, "unsupported_value", n),
            (field(F::UnsupportedParameter), 400, "unsupported_parameter", n),
            (field(F::Missing), 400, "missing_required_parameter", n),
            (field(F::Schema), 400, "unsupported_schema", n),
            (too_long.into(), 400, "context_length_exceeded", Some("messages")),
            (too_long_for_all, 400, "context_length_exceeded", Some("messages")),
            (Error::NotAllowed(NotAllowed::Key), 403, "hosted_not_allowed", Some("model")),
            (hosted(HostedFault::TooLong), 400, "context_length_exceeded", Some("messages")),
            (hosted(refused), 400, "hosted_refused", n),
            (Error::MissingKey, 401, "invalid_api_key", None),
            (Error::WrongKey, 401, "invalid_api_key", None),
            (model, 404, "model_not_found", Some("model")),
            (path, 404, "unknown_path", None),
            (EngineError::Constraint("x".into()).into(), 400, "schema_too_complex", None),
            (method, 405, "method_not_allowed", None),
        ]
    }

    fn hosted(fault: HostedFault) -> Error {
        Error::Hosted { fault, message: "x".into() }
    }

    /// Cause, status, type, code, Retry-After of what is not.
    fn other_faults() -> Vec<(Error, u16, &'static str, &'static str, Option<&'static str>)> {
        use HostedFault as H;
        let unavailable = Error::Unavailable;
        let full = EngineError::Overloaded { capacity: 1 };
        let lost = EngineError::Stopped("lost".into());
        let failed = EngineError::Step("nan".into());
        let down = H::Down { retry_after_seconds: 9 };
        let busy = H::Busy { retry_after_seconds: 9 };
        vec![
            (full.into(), 429, "rate_limit_error", "overloaded", Some("1")),
            (unavailable(Unavailable::Loading), 503, "api_error", "unavailable", Some("5")),
            (unavailable(Unavailable::Draining), 503, "api_error", "unavailable", Some("5")),
            (lost.into(), 503, "api_error", "unavailable", None),
            (failed.into(), 500, "api_error", "internal", None),
            (hosted(H::Budget), 429, "rate_limit_error", "hosted_budget_exceeded", None),
            (hosted(H::Reserved), 429, "rate_limit_error", "hosted_budget_reserved", Some("5")),
            (hosted(H::Ledger), 503, "api_error", "hosted_ledger_unavailable", None),
            (hosted(H::Full), 429, "rate_limit_error", "hosted_overloaded", Some("1")),
            (hosted(down), 503, "api_error", "hosted_unavailable", Some("9")),
            (hosted(H::Key), 502, "api_error", "hosted_key_rejected", None),
            (hosted(H::Gone), 502, "api_error", "hosted_model_not_found", None),
            (hosted(busy), 429, "rate_limit_error", "hosted_rate_limited", Some("9")),
            (hosted(H::Quota), 429, "rate_limit_error", "hosted_quota_exceeded", None),
            (hosted(H::Timeout), 504, "api_error", "hosted_timeout", None),
            (hosted(H::Upstream), 502, "api_error", "hosted_failed", None),
        ]
    }

    #[test]
    fn every_cause_has_its_status_and_all_four_keys() {
        let client = client_faults().into_iter().map(|(error, status, code, param)| {
            (error, status, "invalid_request_error", code, param, None)
        });
        let other = other_faults().into_iter().map(|(error, status, kind, code, retry_after)| {
            (error, status, kind, code, None, retry_after)
        });
        for (error, status, kind, code, param, retry_after) in client.chain(other) {
            let body = error.body().error;
            assert_eq!(
                (body.kind.as_str(), body.code.as_deref(), body.param.as_deref()),
                (kind, Some(code), param),
                "{error:?}"
            );
            assert!(!body.message.is_empty());
            let response = error.clone().into_response();
            assert_eq!(response.status().as_u16(), status, "{error:?}");
            let header = response.headers().get(header::RETRY_AFTER);
            assert_eq!(header.map(|value| value.to_str().unwrap()), retry_after, "{error:?}");
        }
    }

    #[test]
    fn causes_of_ours_are_not_shown() {
        let error: Error = EngineError::Step("row 3 of tensor q is NaN".into()).into();
        assert!(!error.to_string().contains("tensor"));
    }
}
