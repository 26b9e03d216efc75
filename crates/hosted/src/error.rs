//! Why a hosted model did not answer.

use std::time::Duration;

use harmonium_openai::{ApiError, Error as ClientError, ErrorObject};

use crate::config::HostedModel;
use crate::ledger::LedgerError;

/// Result of asking a hosted model.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a hosted model did not answer. Messages carry no keys. Those of a refusal have upstream's words, shortened, which
/// may quote the request: they are for the client that sent it, not for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The budget is spent, or what is left is not enough, or the record of it cannot be kept.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What must not leave could not be taken out; nothing was sent.
    #[error("the request cannot be sent without what must not leave")]
    Redaction,
    /// It could not be made ready; nothing was sent.
    #[error("the request could not be made ready for the hosted model")]
    Preparation,
    /// As many requests are in flight as may be; nothing was sent.
    #[error(
        "{max_in_flight} requests to hosted models are under way (hosted.max_in_flight), try again later"
    )]
    Full {
        /// So many.
        max_in_flight: usize,
    },
    /// Something must not leave, and nobody can tell whether an image shows it; nothing was sent.
    #[error("an image cannot be searched for what must not leave (hosted.redact), so none is sent")]
    Image,
    /// The model gives one answer to a request.
    #[error("{model} gives one answer at a time, not {num_answers}")]
    NumAnswers {
        /// The model.
        model: String,
        /// How many were asked for.
        num_answers: i64,
    },
    /// It cannot be told which call a result answers.
    #[error("{param}: {problem}")]
    Call {
        /// The field.
        param: String,
        /// What it holds and why that does not do.
        problem: String,
    },
    /// The model has failed too often of late; nothing was sent.
    #[error("{model} has failed repeatedly and is left alone for {} s", .retry_after.as_secs().max(1))]
    Down {
        /// The model.
        model: String,
        /// When it is tried again.
        retry_after: Duration,
    },
    /// The request needs more than the model has; upstream says so, by its own count.
    #[error("{model} refused the request as too long: {message}")]
    TooLong {
        /// The model.
        model: String,
        /// Upstream's words, which name its count and its limit.
        message: String,
    },
    /// Upstream found the request wrong.
    #[error("{model} refused the request: {message}")]
    Refused {
        /// The model.
        model: String,
        /// Upstream's words.
        message: String,
        /// The field at fault, if upstream named one.
        param: Option<String>,
    },
    /// Upstream does not take our key, or not from here. The operator must act.
    #[error("{model} does not accept this server's key (status {status})")]
    Key {
        /// The model.
        model: String,
        /// 401 or 403.
        status: u16,
    },
    /// Upstream does not have the model, or not any more. The operator must act.
    #[error("{model} does not exist upstream, perhaps not any more")]
    Gone {
        /// The model.
        model: String,
    },
    /// Too many requests; waiting helps.
    #[error("{model} is limiting its requests")]
    Busy {
        /// The model.
        model: String,
        /// When upstream suggests to try again.
        retry_after: Option<Duration>,
    },
    /// The account's money or quota is used up, or one request is above its limit; waiting does not help.
    #[error(
        "this server's account at {model} does not allow the request: its money is used up, or the request is above its limit"
    )]
    Quota {
        /// The model.
        model: String,
    },
    /// Nothing came in time.
    #[error("{model} did not answer within {} s", .waited.as_secs_f64())]
    Timeout {
        /// The model.
        model: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No connection, a server error, or an answer that is not in the protocol's form.
    #[error("{model} failed: {reason}")]
    Upstream {
        /// The model.
        model: String,
        /// What happened.
        reason: String,
        /// Whether upstream had the request and may have worked on it.
        may_have_cost: bool,
    },
}

/// What follows from a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Upstream works and has refused this request.
    Refusal,
    /// Upstream may answer the same request a little later.
    Retry(Option<Duration>),
    /// Upstream does not work, and asking again at once is of no use.
    Failure,
}

impl Error {
    /// Whether upstream may have worked on the request for money.
    pub(crate) fn may_have_cost(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Upstream { may_have_cost, .. } => *may_have_cost,
            _ => false,
        }
    }

    /// What happened, in a word and without anybody's words: for the log.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Ledger(_) => "ledger",
            Self::Redaction | Self::Image => "redaction",
            Self::Preparation => "preparation",
            Self::Full { .. } => "full",
            Self::NumAnswers { .. } | Self::Call { .. } | Self::Refused { .. } => "refused",
            Self::Down { .. } => "left alone",
            Self::TooLong { .. } => "too long",
            Self::Key { .. } => "key rejected",
            Self::Gone { .. } => "not found",
            Self::Busy { .. } => "rate limited",
            Self::Quota { .. } => "quota",
            Self::Timeout { .. } => "timeout",
            Self::Upstream { .. } => "failed",
        }
    }

    /// What a client call's failure means, and what follows from it. Upstream may say anything, our key too.
    pub(crate) fn from_client(model: &HostedModel, mut error: ClientError) -> (Self, Verdict) {
        let key = model.api_key.expose();
        let said = match &mut error {
            ClientError::Api(error) => Some(&mut error.error),
            ClientError::Stream(error) => Some(error.as_mut()),
            _ => None,
        };
        if let Some(ErrorObject { message, param, .. }) = said {
            *message = message.replace(key, "[key]");
            *param = param.take().map(|param| param.replace(key, "[key]"));
        }
        let model = model.name.clone();
        let reason = match error {
            ClientError::Api(error) => return Self::from_status(model, *error),
            // An error event before any chunk: what would have been a status, said late.
            ClientError::Stream(error) => return Self::from_event(model, *error),
            ClientError::Transport { source, .. } if source.is_connect() => {
                let reason = transport_reason(&source);
                let error = Self::Upstream { model, reason, may_have_cost: false };
                return (error, Verdict::Retry(None));
            }
            ClientError::Transport { source, .. } => transport_reason(&source),
            ClientError::Truncated => "the answer broke off".to_owned(),
            // Excerpts of malformed answers may quote the conversation.
            ClientError::Json { .. } => "the answer is not in the protocol's form".to_owned(),
            other => other.to_string(),
        };
        // Upstream had the request, and nobody knows what it did with it: sent again, it may be paid for twice.
        (Self::Upstream { model, reason, may_have_cost: true }, Verdict::Failure)
    }

    fn from_event(model: String, error: ErrorObject) -> (Self, Verdict) {
        let code = error.code.as_deref().unwrap_or(&error.kind);
        let status = match code {
            "insufficient_quota" | "rate_limit_exceeded" => 429,
            "context_length_exceeded" | "invalid_prompt" | "invalid_request_error" => 400,
            _ => {
                let reason = shortened(error.message);
                let error = Self::Upstream { model, reason, may_have_cost: false };
                return (error, Verdict::Retry(None));
            }
        };
        let error = ApiError { status, error, retry_after: None, request_id: None };
        Self::from_status(model, error)
    }

    fn from_status(model: String, error: ApiError) -> (Self, Verdict) {
        let ApiError { status, error, retry_after, .. } = error;
        let ErrorObject { message, kind, param, code } = error;
        let message = shortened(message);
        let has_code = |word: &str| code.as_deref() == Some(word) || kind == word;
        match status {
            401 | 403 => (Self::Key { model, status }, Verdict::Failure),
            404 => (Self::Gone { model }, Verdict::Failure),
            // A gateway in between has waited in vain: upstream may still be at work.
            408 | 504 | 520..=529 => {
                let reason = format!("status {status}");
                (Self::Upstream { model, reason, may_have_cost: true }, Verdict::Failure)
            }
            409 | 500..=599 => {
                let reason = format!("status {status}");
                let error = Self::Upstream { model, reason, may_have_cost: false };
                (error, Verdict::Retry(retry_after))
            }
            // A request above the limit a minute is refused with the words of one that came too early.
            429 if has_code("insufficient_quota") || message.starts_with("Request too large") => {
                // Upstream's words name the account.
                (Self::Quota { model }, Verdict::Refusal)
            }
            429 => (Self::Busy { model, retry_after }, Verdict::Retry(retry_after)),
            400..=499 if has_code("context_length_exceeded") => {
                (Self::TooLong { model, message }, Verdict::Refusal)
            }
            400..=499 => (Self::Refused { model, message, param }, Verdict::Refusal),
            _ => {
                let reason = format!("status {status}");
                (Self::Upstream { model, reason, may_have_cost: false }, Verdict::Failure)
            }
        }
    }
}

/// As much of upstream's words as a client can use.
fn shortened(message: String) -> String {
    const MAX_CHARS: usize = 500;
    match message.char_indices().nth(MAX_CHARS) {
        None => message,
        Some((end, _)) => format!("{}...", &message[..end]),
    }
}

/// The last cause says most: "connection refused" rather than "error sending request".
fn transport_reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
