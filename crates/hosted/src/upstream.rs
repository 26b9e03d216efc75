//! One hosted model's endpoint: sends a request until its answer has begun, or says why it did not.
//!
//! An answer counts as begun with its first valid chunk, so that a failure before it can still be tried again
//! or become a status. After it nothing is ever sent twice.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use harmonium_openai::{ChatChunk, Client, ClientConfig, Error as ClientError};
use jiff::civil::Date;

use crate::breaker::{Breaker, BreakerState};
use crate::config::{HostedConfig, HostedModel, Timeouts};
use crate::error::{Error, Result, Verdict};
use crate::outgoing::Outgoing;
use crate::wire::Chunks;

/// First rest before another try; each further one may be twice as long.
const FIRST_REST: Duration = Duration::from_millis(500);
/// Longest rest of our own choice.
const MAX_REST: Duration = Duration::from_secs(8);
/// Longest rest that upstream may ask for before we hand its request for patience on to the client.
const MAX_ASKED_REST: Duration = Duration::from_secs(20);
/// Longest wait to be told when a model is switched off.
const SHUTDOWN_DATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer in bytes: eight of 32,768 tokens with a kilobyte each, which is one with several alternatives.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A model, the way to it, and whether it works.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) model: HostedModel,
    client: Client,
    breaker: Breaker,
    /// The day the model is switched off, as far as upstream has said.
    shutdown_date: Mutex<Option<Date>>,
    timeouts: Timeouts,
    max_attempts: u32,
}

/// An answer that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) first: ChatChunk,
    pub(crate) rest: Chunks,
}

impl Upstream {
    pub(crate) fn new(model: HostedModel, config: &HostedConfig) -> harmonium_openai::Result<Self> {
        let client = Client::new(ClientConfig {
            base_url: model.base_url.clone(),
            api_key: Some(model.api_key.expose().to_owned()),
            connect_timeout: config.timeouts.connect,
            // Ours count chunks, whatever comments come between them, and end first.
            read_timeout: 2 * config.timeouts.first_chunk.max(config.timeouts.between_chunks),
            max_answer_bytes: MAX_ANSWER_BYTES,
        })?;
        Ok(Self {
            model,
            client,
            breaker: Breaker::new(config.breaker),
            shutdown_date: Mutex::new(None),
            timeouts: config.timeouts,
            max_attempts: config.max_attempts,
        })
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.breaker.state(Instant::now())
    }

    pub(crate) fn shutdown_date(&self) -> Option<Date> {
        *self.shutdown_date.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks upstream when the model is switched off. Many upstreams do not say; nothing depends on it.
    pub(crate) async fn ask_shutdown_date(&self) {
        let asked = self.client.model(&self.model.name);
        let date = match tokio::time::timeout(SHUTDOWN_DATE_TIMEOUT, asked).await {
            Ok(Ok(model)) => model.shutdown_date.and_then(|date| date.parse::<Date>().ok()),
            Ok(Err(_)) | Err(_) => {
                tracing::info!(model = self.model.name, "upstream does not say what the model is");
                return;
            }
        };
        *self.shutdown_date.lock().unwrap_or_else(PoisonError::into_inner) = date;
    }

    /// Why nothing can be sent now, if that is so.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.breaker.refusal(Instant::now()).map(|retry_after| self.down(retry_after))
    }

    /// Sends a request until it is answered, refused, or no more tries are left. What may have cost something is not
    /// sent again.
    pub(crate) async fn begin(&self, body: Bytes, outgoing: &mut Outgoing) -> Result<Begun> {
        let mut attempt = 1;
        let mut last = None;
        loop {
            let leave = match self.breaker.admit(Instant::now()) {
                Ok(leave) => leave,
                // What made the breaker open says more than that it is open.
                Err(retry_after) => return Err(last.unwrap_or_else(|| self.down(retry_after))),
            };
            outgoing.send();
            let (error, verdict) = match self.attempt(body.clone()).await {
                Ok(begun) => {
                    leave.succeeded();
                    return Ok(begun);
                }
                Err(failure) => failure,
            };
            match (&error, verdict) {
                (_, Verdict::Refusal) => leave.succeeded(),
                // It works, only not for us now.
                (Error::Busy { .. }, _) => drop(leave),
                _ => leave.failed(Instant::now()),
            }
            if !error.may_have_cost() {
                outgoing.was_refused();
            }
            // Upstream's own words may quote the conversation.
            let (model, why) = (&self.model.name, error.label());
            tracing::warn!(model, why, attempt, "a hosted model did not answer");
            let Verdict::Retry(asked) = verdict else { return Err(error) };
            if attempt == self.max_attempts || asked.is_some_and(|asked| asked > MAX_ASKED_REST) {
                return Err(error);
            }
            tokio::time::sleep(rest(attempt, asked)).await;
            attempt += 1;
            last = Some(error);
        }
    }

    async fn attempt(&self, body: Bytes) -> std::result::Result<Begun, (Error, Verdict)> {
        let begin = async {
            let mut rest = Chunks::open(&self.client, self.model.wire, body).await?;
            let first = rest.next().await.ok_or(ClientError::Truncated)??;
            Ok(Begun { first, rest })
        };
        let waited = self.timeouts.first_chunk;
        match tokio::time::timeout(waited, begin).await {
            Ok(begun) => begun.map_err(|error| Error::from_client(&self.model, error)),
            // Not tried again: upstream may be at work on it, for money.
            Err(_) => Err((self.timeout(waited), Verdict::Failure)),
        }
    }

    /// The next chunk of an answer whose last one came at `last`; `None` at its end.
    pub(crate) async fn next(&self, rest: &mut Chunks, last: Instant) -> Option<Result<ChatChunk>> {
        let waited = self.timeouts.between_chunks;
        let deadline = tokio::time::Instant::from_std(last + waited);
        match tokio::time::timeout_at(deadline, rest.next()).await {
            Ok(next) => {
                next.map(|chunk| chunk.map_err(|error| Error::from_client(&self.model, error).0))
            }
            Err(_) => Some(Err(self.timeout(waited))),
        }
    }

    fn timeout(&self, waited: Duration) -> Error {
        Error::Timeout { model: self.model.name.clone(), waited }
    }

    fn down(&self, retry_after: Duration) -> Error {
        Error::Down { model: self.model.name.clone(), retry_after }
    }
}

/// How long to rest after a try, drawn at random so that many clients do not come back together.
fn rest(attempt: u32, asked: Option<Duration>) -> Duration {
    let longest = FIRST_REST.saturating_mul(1 << (attempt - 1).min(8)).min(MAX_REST);
    let drawn = longest.mul_f64(fastrand::f64());
    // No sooner than upstream asked for, and not all at that very moment.
    asked.map_or(drawn, |asked| asked + drawn / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_a_bound_and_never_undercut_what_was_asked() {
        for attempt in 1..40 {
            assert!(rest(attempt, None) <= MAX_REST);
            let asked = Duration::from_secs(3);
            let rested = rest(attempt, Some(asked));
            assert!(rested >= asked && rested <= asked + MAX_REST / 4);
        }
        assert!(rest(1, None) <= FIRST_REST);
    }
}
