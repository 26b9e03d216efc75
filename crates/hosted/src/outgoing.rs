//! A request on its way out: its money, and the line of the log that says it left.
//!
//! Whoever gives up a request leaves its money charged if upstream may be at work on it, and gets it back if upstream
//! surely is not: before anything was sent, and after all that was sent has been refused. Whatever becomes of a request
//! that was sent, one line of the log says so, without its content.

use harmonium_openai::Usage;
use tracing::Span;

use crate::ledger::Reservation;
use crate::price::Cost;

/// What the log says of a request.
#[derive(Debug)]
pub(crate) struct Note {
    /// The model that was asked.
    pub(crate) model: String,
    /// Why it was not answered here.
    pub(crate) reason: &'static str,
    /// Fields of the client's request that were not sent.
    pub(crate) dropped: Vec<&'static str>,
    /// How many texts were sent with something taken out.
    pub(crate) num_redacted: usize,
}

/// A request with money set aside for it. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) note: Note,
    pub(crate) upstream_id: Option<String>,
    pub(crate) usage: Option<Usage>,
    /// Whether the answer came to its end.
    pub(crate) is_complete: bool,
    cost: Cost,
    reservation: Option<Reservation>,
    was_sent: bool,
    /// Whether upstream may be at work on it, for money.
    is_out: bool,
    /// The request's, so that the line has its id.
    span: Span,
}

impl Outgoing {
    /// Nothing has been sent yet.
    pub(crate) fn new(note: Note, reservation: Reservation) -> Self {
        Self {
            note,
            upstream_id: None,
            usage: None,
            is_complete: false,
            cost: reservation.estimate(),
            reservation: Some(reservation),
            was_sent: false,
            is_out: false,
            span: Span::current(),
        }
    }

    /// From here on upstream may be at work.
    pub(crate) fn send(&mut self) {
        (self.was_sent, self.is_out) = (true, true);
    }

    /// Upstream surely has not worked.
    pub(crate) fn was_refused(&mut self) {
        self.is_out = false;
    }

    /// What is charged for it now.
    pub(crate) fn cost(&self) -> Cost {
        self.cost
    }

    /// Puts what the request did cost in the place of what was set aside.
    pub(crate) fn settle(&mut self, cost: Cost) {
        if let Some(reservation) = self.reservation.take() {
            self.cost = cost;
            reservation.settle_later(cost);
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_out {
            self.settle(Cost::ZERO);
        }
        // What is still reserved stays charged.
        let Self { note, usage, .. } = self;
        if !self.was_sent {
            return;
        }
        let usage = usage.unwrap_or_default();
        self.span.in_scope(|| {
            tracing::info!(
                target: "harmonium::audit",
                model = note.model,
                reason = note.reason,
                upstream_id = self.upstream_id,
                prompt_tokens = usage.prompt_tokens,
                completion_tokens = usage.completion_tokens,
                cost_usd = %self.cost,
                is_complete = self.is_complete,
                dropped = note.dropped.join(","),
                num_redacted = note.num_redacted,
                "a request left this machine"
            );
        });
    }
}
