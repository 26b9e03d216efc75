//! From a client's request to the bytes that are sent: translation, redaction, hashing and JSON.
//!
//! All of it takes time in proportion to the request, which may be megabytes: it is done on blocking threads, a few at a
//! time, so that the streams of others keep flowing. The bytes are made once, whatever the number of tries.

use std::sync::Arc;

use bytes::Bytes;
use harmonium_openai::ChatRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::HostedModel;
use crate::error::{Error, Result};
use crate::identity::{pseudonym, user};
use crate::redact::Redactor;
use crate::translate::{Target, Translation, translate};
use crate::upstream::Upstream;
use crate::wire;

/// What requests are prepared with.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) redactor: Redactor,
    /// What names are hashed with.
    secret: [u8; 32],
    /// Bounds how many are prepared at a time.
    benches: Arc<Semaphore>,
}

/// What a request is prepared from.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) request: Arc<ChatRequest>,
    pub(crate) max_output: u32,
    pub(crate) is_named: bool,
    /// The caller's key, or nothing.
    pub(crate) caller_key: String,
}

/// A request as it is sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) body: Bytes,
    /// Fields of the client's request that are not in it.
    pub(crate) dropped: Vec<&'static str>,
    /// How many texts had something taken out.
    pub(crate) num_redacted: usize,
    /// By how much what stands in for it is longer.
    pub(crate) num_more_bytes: u64,
}

impl Workshop {
    pub(crate) fn new(redactor: Redactor, secret: [u8; 32]) -> Self {
        let num_cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { redactor, secret, benches: Arc::new(Semaphore::new(num_cores)) }
    }

    /// Prepares a request that has a place among those in flight. The work goes on if nobody waits for it any more, so
    /// the place stays with it.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        raw: Raw,
        upstream: &Arc<Upstream>,
        place: OwnedSemaphorePermit,
    ) -> Result<(Prepared, OwnedSemaphorePermit)> {
        let bench = Arc::clone(&self.benches).acquire_owned().await;
        let bench = bench.expect("the semaphore is never closed");
        let (workshop, upstream) = (Arc::clone(self), Arc::clone(upstream));
        let work = move || {
            let _bench = bench;
            workshop.prepare_now(&raw, &upstream.model).map(|prepared| (prepared, place))
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(%error, "preparing a hosted request panicked");
            Error::Preparation
        })?
    }

    fn prepare_now(&self, raw: &Raw, model: &HostedModel) -> Result<Prepared> {
        let user = user(&raw.request);
        let safety_identifier = pseudonym(&self.secret, &[&raw.caller_key, &user]);
        let Translation { request, dropped } = translate(
            &raw.request,
            Target {
                model,
                max_output: raw.max_output,
                is_named: raw.is_named,
                safety_identifier: &safety_identifier,
            },
        )?;
        let redacted = self.redactor.redact(request).ok_or(Error::Redaction)?;
        let body = wire::body(model.wire, &redacted.request).map_err(|error| {
            tracing::error!(%error, "a hosted request cannot be written");
            Error::Preparation
        })?;
        Ok(Prepared {
            body,
            dropped,
            num_redacted: redacted.num_changed,
            num_more_bytes: redacted.num_more_bytes,
        })
    }
}
