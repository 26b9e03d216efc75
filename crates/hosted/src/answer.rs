//! The answer of a hosted model: its chunks, and what it costs in the end.

use std::sync::Arc;

use harmonium_openai::{ChatChunk, Usage};

use crate::error::Result;
use crate::ledger::Reservation;
use crate::price::Cost;
use crate::upstream::{Begun, Upstream};
use crate::wire::Chunks;

/// An answer that has begun. Dropping it ends it upstream, and leaves what was set aside for it charged:
/// upstream has worked for money, and only its report at the end says for how much.
#[derive(Debug)]
pub struct HostedAnswer {
    first: Option<ChatChunk>,
    rest: Chunks,
    reservation: Option<Reservation>,
    /// The last that upstream reported: some report it with every chunk.
    usage: Option<Usage>,
    cost: Cost,
    upstream: Arc<Upstream>,
    sent: Sent,
}

/// What became of the client's request on its way out.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Fields that were not sent.
    pub(crate) dropped: Vec<&'static str>,
    /// How many texts were sent with something taken out.
    pub(crate) num_redacted: usize,
}

impl HostedAnswer {
    pub(crate) fn new(
        begun: Begun,
        upstream: Arc<Upstream>,
        reservation: Reservation,
        sent: Sent,
    ) -> Self {
        let Begun { first, rest } = begun;
        let cost = reservation.estimate();
        Self {
            first: Some(first),
            rest,
            reservation: Some(reservation),
            usage: None,
            cost,
            upstream,
            sent,
        }
    }

    /// The next chunk, as it came from upstream; `None` after the last. An error is the last thing there is.
    pub async fn next(&mut self) -> Option<Result<ChatChunk>> {
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.upstream.next(&mut self.rest).await,
        };
        match &next {
            Some(Ok(chunk)) => self.usage = chunk.usage.flatten().or(self.usage),
            Some(Err(_)) => {}
            None => self.settle(),
        }
        next
    }

    /// Replaces what was set aside by what upstream reported, if it did.
    fn settle(&mut self) {
        let (Some(usage), Some(reservation)) = (self.usage, self.reservation.take()) else {
            return;
        };
        let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
        let price = self.upstream.model.price;
        self.cost = price.cost(usage.prompt_tokens, cached, usage.completion_tokens);
        reservation.settle_later(self.cost);
    }

    /// The most it may cost, until its end; then what it did cost.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// What upstream reported so far.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The name of the model that was asked.
    pub fn model(&self) -> &str {
        &self.upstream.model.name
    }

    /// Upstream's id of the request.
    pub fn upstream_id(&self) -> Option<&str> {
        self.rest.request_id()
    }

    /// How many texts of the request were sent with something taken out.
    pub fn num_redacted(&self) -> usize {
        self.sent.num_redacted
    }

    /// Fields of the client's request that were not sent.
    pub fn dropped(&self) -> &[&'static str] {
        &self.sent.dropped
    }
}
