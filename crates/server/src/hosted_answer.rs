//! One request's answer from a hosted model, as chunks of our own protocol.
//!
//! Upstream's chunks pass as they come, its model name included: the answer says who gave it. Only the usage is
//! put where this client wants it. Dropping the answer ends it upstream.

use std::sync::Arc;

use harmonium_hosted::{HostedAnswer as Upstream, Order};
use harmonium_openai::ChatChunk;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::dispatch::Reason;
use crate::error::{Error, Result, Unavailable};
use crate::state::AppState;
use crate::validate::UsageMode;

/// An answer that has begun.
pub(crate) struct HostedAnswer {
    state: Arc<AppState>,
    upstream: Upstream,
    reason: Reason,
    usage_mode: UsageMode,
    arrived: Instant,
    /// When the last chunk with a text or a call came; `None` before the first.
    last: Option<Instant>,
    is_over: bool,
    _running: TaskTrackerToken,
}

/// What the answer has besides what was ordered.
pub(crate) struct Wanted {
    pub(crate) reason: Reason,
    pub(crate) usage_mode: UsageMode,
    pub(crate) arrived: Instant,
}

impl HostedAnswer {
    /// Asks, and returns once the first chunk is there. Errors here come before any byte of the answer.
    pub(crate) async fn start(
        state: Arc<AppState>,
        order: Order<'_>,
        wanted: Wanted,
        running: TaskTrackerToken,
    ) -> Result<Self> {
        let Wanted { reason, usage_mode, arrived } = wanted;
        let hosted = Arc::clone(state.hosted.as_ref().ok_or(Error::Internal)?);
        let asked = hosted.ask(order);
        let upstream = tokio::select! {
            biased;
            () = state.abort.cancelled() => return Err(Error::Unavailable(Unavailable::Draining)),
            asked = asked => asked?,
        };
        Ok(Self {
            upstream,
            reason,
            usage_mode,
            arrived,
            last: None,
            is_over: false,
            state,
            _running: running,
        })
    }

    /// The next chunk; `None` after the last. An error is the last thing there is.
    pub(crate) async fn next(&mut self) -> Option<Result<ChatChunk>> {
        while !self.is_over {
            let next = tokio::select! {
                biased;
                () = self.state.abort.cancelled() => {
                    Some(Err(Error::Unavailable(Unavailable::Draining)))
                }
                next = self.upstream.next() => next.map(|next| next.map_err(Error::from)),
            };
            match next {
                Some(Ok(chunk)) => {
                    if chunk.choices.iter().any(|choice| choice.delta.says_something()) {
                        self.observe_latency();
                    }
                    if let Some(chunk) = with_usage(chunk, self.usage_mode) {
                        return Some(Ok(chunk));
                    }
                }
                end => {
                    self.is_over = true;
                    return end;
                }
            }
        }
        None
    }

    /// What upstream says and what it costs, for the answer's headers.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    fn observe_latency(&mut self) {
        let now = Instant::now();
        match self.last.replace(now) {
            None => self.state.metrics.observe_first_token(now - self.arrived),
            Some(last) => self.state.metrics.observe_inter_token(now - last),
        }
    }
}

impl Drop for HostedAnswer {
    fn drop(&mut self) {
        self.state.metrics.count_hosted_cost(self.upstream.model(), self.upstream.cost());
    }
}

/// The chunk with its usage where the client wants it; `None` if nothing of it is left.
fn with_usage(mut chunk: ChatChunk, mode: UsageMode) -> Option<ChatChunk> {
    let usage = chunk.usage.take().flatten();
    if mode != UsageMode::Never {
        chunk.usage = Some(usage);
    }
    let is_empty = chunk.choices.is_empty() && chunk.usage.flatten().is_none();
    (!is_empty).then_some(chunk)
}
