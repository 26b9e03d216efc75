//! Why a hosted model did not answer.

use std::time::Duration;

use harmonium_openai::{ApiError, Error as ClientError, ErrorObject};

use crate::ledger::LedgerError;

/// Result of asking a hosted model.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a hosted model did not answer. Messages carry neither keys nor texts of the conversation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The budget is spent, or what is left is not enough, or the record of it cannot be kept.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What must not leave could not be taken out; nothing was sent.
    #[error("the request cannot be sent without what must not leave")]
    Redaction,
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
    #[error("the quota at {model} does not allow this request: {message}")]
    Quota {
        /// The model.
        model: String,
        /// Upstream's words.
        message: String,
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
        matches!(self, Self::Timeout { .. })
    }

    /// What a client call's failure means, and what follows from it.
    pub(crate) fn from_client(model: &str, error: ClientError) -> (Self, Verdict) {
        let model = model.to_owned();
        match error {
            ClientError::Api(error) => Self::from_status(model, *error),
            // An error event before any chunk: what would have been a status, said late.
            ClientError::Stream(error) => {
                let reason = error.message;
                (Self::Upstream { model, reason }, Verdict::Retry(None))
            }
            ClientError::Transport { source, .. } => {
                let reason = transport_reason(&source);
                (Self::Upstream { model, reason }, Verdict::Retry(None))
            }
            ClientError::Truncated => {
                let reason = "the answer broke off".to_owned();
                (Self::Upstream { model, reason }, Verdict::Retry(None))
            }
            // Excerpts of malformed answers may quote the conversation.
            ClientError::Json { .. } => {
                let reason = "the answer is not in the protocol's form".to_owned();
                (Self::Upstream { model, reason }, Verdict::Failure)
            }
            other => (Self::Upstream { model, reason: other.to_string() }, Verdict::Failure),
        }
    }

    fn from_status(model: String, error: ApiError) -> (Self, Verdict) {
        let ApiError { status, error, retry_after, .. } = error;
        let ErrorObject { message, kind, param, code } = error;
        let has_code = |word: &str| code.as_deref() == Some(word) || kind == word;
        match status {
            401 | 403 => (Self::Key { model, status }, Verdict::Failure),
            404 => (Self::Gone { model }, Verdict::Failure),
            408 | 409 | 500..=599 => {
                let reason = format!("status {status}");
                (Self::Upstream { model, reason }, Verdict::Retry(retry_after))
            }
            // A request above the limit a minute is refused with the words of one that came too early.
            429 if has_code("insufficient_quota") || message.starts_with("Request too large") => {
                (Self::Quota { model, message }, Verdict::Refusal)
            }
            429 => (Self::Busy { model, retry_after }, Verdict::Retry(retry_after)),
            400..=499 if has_code("context_length_exceeded") => {
                (Self::TooLong { model, message }, Verdict::Refusal)
            }
            400..=499 => (Self::Refused { model, message, param }, Verdict::Refusal),
            _ => {
                let reason = format!("status {status}");
                (Self::Upstream { model, reason }, Verdict::Failure)
            }
        }
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
