//! An answer from whichever model gives it, and the headers that say which that was.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use harmonium_openai::ChatChunk;

use crate::answer::Answer;
use crate::dispatch::Reason;
use crate::error::Result;
use crate::hosted_answer::HostedAnswer;

/// Where the answer comes from: `local` or `hosted`.
const BACKEND: HeaderName = HeaderName::from_static("x-harmonium-backend");
/// Why it comes from there.
const REASON: HeaderName = HeaderName::from_static("x-harmonium-reason");
/// The model that was asked.
const MODEL: HeaderName = HeaderName::from_static("x-harmonium-model");
/// The hosted model's own id of the request.
const UPSTREAM_ID: HeaderName = HeaderName::from_static("x-harmonium-upstream-id");
/// What the answer cost; on a stream, whose headers leave before its end, the most it can cost.
const COST: HeaderName = HeaderName::from_static("x-harmonium-cost-usd");
/// Fields of the request that the hosted model was not sent.
const DROPPED: HeaderName = HeaderName::from_static("x-harmonium-dropped");

/// All of them, for browsers.
pub(crate) const HEADERS: [HeaderName; 6] = [BACKEND, REASON, MODEL, UPSTREAM_ID, COST, DROPPED];

/// A running answer.
pub(crate) enum Reply {
    /// Of the local model.
    Local { answer: Box<Answer>, model: Arc<str> },
    /// Of a hosted model.
    Hosted(Box<HostedAnswer>),
}

impl Reply {
    /// The next chunk; `None` after the last. An error is the last thing there is.
    pub(crate) async fn next(&mut self) -> Option<Result<ChatChunk>> {
        match self {
            Self::Local { answer, .. } => answer.next().await,
            Self::Hosted(answer) => answer.next().await,
        }
    }

    /// The next chunk if it is already made.
    pub(crate) fn next_ready(&mut self) -> Option<ChatChunk> {
        match self {
            Self::Local { answer, .. } => answer.next_ready(),
            Self::Hosted(_) => None,
        }
    }

    /// The backend that gives the answer, and why that one.
    pub(crate) fn origin(&self) -> (&'static str, Reason) {
        match self {
            Self::Local { .. } => ("local", Reason::Fits),
            Self::Hosted(answer) => ("hosted", answer.reason()),
        }
    }

    /// The headers that say where the answer comes from, as far as it is known now.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name, value: &str| {
            // What upstream calls a request may be anything.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        let (backend, reason) = self.origin();
        put(BACKEND, backend);
        put(REASON, reason.as_str());
        match self {
            Self::Local { model, .. } => put(MODEL, model),
            Self::Hosted(answer) => {
                let upstream = answer.upstream();
                put(MODEL, upstream.model());
                put(COST, &upstream.cost().to_string());
                if let Some(id) = upstream.upstream_id() {
                    put(UPSTREAM_ID, id);
                }
                if !upstream.dropped().is_empty() {
                    put(DROPPED, &upstream.dropped().join(", "));
                }
            }
        }
        headers
    }
}
