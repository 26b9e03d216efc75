//! The answer of a hosted model: its chunks, and what it costs in the end.

use std::sync::Arc;
use std::time::Instant;

use harmonium_openai::{ChatChunk, Usage};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::Result;
use crate::outgoing::Outgoing;
use crate::price::Cost;
use crate::upstream::{Begun, Upstream};
use crate::wire::Chunks;

/// An answer that has begun. Dropping it ends it upstream, and leaves what was set aside for it charged:
/// upstream has worked for money, and only its report at the end says for how much.
#[derive(Debug)]
pub struct HostedAnswer {
    first: Option<ChatChunk>,
    rest: Chunks,
    /// When the last chunk came, so that a wait which is interrupted and taken up again is one wait.
    last: Instant,
    outgoing: Outgoing,
    upstream: Arc<Upstream>,
    /// Among the requests in flight.
    _place: OwnedSemaphorePermit,
}

impl HostedAnswer {
    pub(crate) fn new(
        begun: Begun,
        upstream: Arc<Upstream>,
        mut outgoing: Outgoing,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let Begun { first, rest } = begun;
        outgoing.upstream_id = rest.request_id().map(str::to_owned);
        let last = Instant::now();
        Self { first: Some(first), rest, last, outgoing, upstream, _place: place }
    }

    /// The next chunk, as it came from upstream; `None` after the last. An error is the last thing there is.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<ChatChunk>> {
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.upstream.next(&mut self.rest, self.last).await,
        };
        self.last = Instant::now();
        match &next {
            Some(Ok(chunk)) => {
                self.outgoing.usage = chunk.usage.flatten().or(self.outgoing.usage);
            }
            Some(Err(_)) => {}
            None => self.complete(),
        }
        next
    }

    /// Replaces what was set aside by what upstream reported, if it did.
    fn complete(&mut self) {
        self.outgoing.is_complete = true;
        let Some(usage) = self.outgoing.usage else { return };
        let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
        let price = self.upstream.model.price;
        self.outgoing.settle(price.cost(usage.prompt_tokens, cached, usage.completion_tokens));
    }

    /// The most it may cost, until its end; then what it did cost.
    pub fn cost(&self) -> Cost {
        self.outgoing.cost()
    }

    /// What upstream reported so far.
    pub fn usage(&self) -> Option<Usage> {
        self.outgoing.usage
    }

    /// The name of the model that was asked.
    pub fn model(&self) -> &str {
        &self.upstream.model.name
    }

    /// Upstream's id of the request.
    pub fn upstream_id(&self) -> Option<&str> {
        self.outgoing.upstream_id.as_deref()
    }

    /// Fields of the client's request that were not sent.
    pub fn dropped(&self) -> &[&'static str] {
        &self.outgoing.note.dropped
    }
}
