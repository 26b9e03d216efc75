//! The hosted leg as the server sees it: what models there are, what a request would cost, and its answer.

use std::fmt::Write;
use std::sync::Arc;

use harmonium_openai::{ChatChunk, ChatRequest, ChatStream, Usage};
use ring::hmac;

use crate::breaker::BreakerState;
use crate::config::{ConfigError, HostedConfig, HostedModel};
use crate::error::{Error, Result};
use crate::ledger::{Ledger, LedgerError, Reservation, Spent};
use crate::price::Cost;
use crate::redact::Redactor;
use crate::translate::{Target, Translation, translate};
use crate::upstream::{Begun, Upstream};

/// Who pays for a request that comes without a key.
const ANONYMOUS: &str = "anonymous";

/// The hosted models, the way to each, and the record of what they cost.
#[derive(Debug)]
pub struct Hosted {
    upstreams: Vec<Arc<Upstream>>,
    default: usize,
    redactor: Redactor,
    ledger: Ledger,
}

/// Why the hosted leg cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Spending cannot be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No client can be made for an address.
    #[error(transparent)]
    Client(#[from] harmonium_openai::Error),
}

/// What a request may use and cost at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Longest answer, in tokens.
    pub max_output: u32,
    /// The most it costs: nothing cached, every answer of full length.
    pub estimate: Cost,
}

/// A request to a hosted model.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The client's request, validated.
    pub request: &'a ChatRequest,
    /// What it may use and cost.
    pub quote: Quote,
    /// Whether the client asked for this very model.
    pub is_named: bool,
    /// The key the client presented, if any. It is only hashed.
    pub caller_key: Option<&'a str>,
}

impl Hosted {
    /// Checks the settings and opens the record of what was spent. Nothing is sent.
    pub fn start(config: HostedConfig) -> std::result::Result<Self, StartError> {
        config.check()?;
        let ledger = Ledger::open(&config.ledger, config.budget)?;
        let redactor = Redactor::new(&config.redact).map_err(ConfigError::from)?;
        let default = config.models.iter().position(|model| model.name == config.default);
        let upstreams = config
            .models
            .iter()
            .map(|model| Upstream::new(model.clone(), &config).map(Arc::new))
            .collect::<harmonium_openai::Result<_>>()?;
        Ok(Self { upstreams, default: default.unwrap_or_default(), redactor, ledger })
    }

    /// The models, in the order of the configuration.
    pub fn models(&self) -> impl Iterator<Item = &HostedModel> {
        self.upstreams.iter().map(|upstream| &upstream.model)
    }

    /// Where a request goes that does not fit the local model.
    pub fn default_model(&self) -> &HostedModel {
        &self.upstreams[self.default].model
    }

    /// Whether there is a model of this name.
    pub fn find(&self, name: &str) -> Option<&HostedModel> {
        self.models().find(|model| model.name == name)
    }

    /// What each model is taken for now.
    pub fn states(&self) -> impl Iterator<Item = (&str, BreakerState)> {
        self.upstreams.iter().map(|upstream| (upstream.model.name.as_str(), upstream.state()))
    }

    /// What has been spent.
    pub async fn spent(&self) -> std::result::Result<Spent, LedgerError> {
        self.ledger.spent().await
    }

    /// Asks a model and returns once its answer has begun. Dropping the future gives the request up.
    ///
    /// # Panics
    ///
    /// If there is no model of the order's name.
    pub async fn ask(&self, order: Order<'_>) -> Result<HostedAnswer> {
        let upstream = self.upstreams.iter().find(|upstream| upstream.model.name == order.model);
        let upstream = Arc::clone(upstream.expect("the model was found before it was ordered"));
        let key = upstream.model.api_key.expose();
        let identity = identity(order.request);
        let safety_identifier = pseudonym(key, &[order.caller_key.unwrap_or(""), &identity]);
        let Translation { request, dropped } = translate(
            order.request,
            Target {
                model: order.model,
                max_output: order.quote.max_output,
                is_named: order.is_named,
                safety_identifier: &safety_identifier,
            },
        );
        let redacted = self.redactor.redact(request).ok_or(Error::Redaction)?;
        let (request, num_redacted) = redacted;
        let caller = order
            .caller_key
            .map_or_else(|| ANONYMOUS.to_owned(), |caller| pseudonym(caller, &["caller"]));
        let estimate = order.quote.estimate;
        let reservation = self.ledger.reserve(&caller, order.model, estimate).await?;
        match upstream.begin(&request).await {
            Ok(Begun { first, rest }) => Ok(HostedAnswer {
                first: Some(first),
                rest,
                reservation: Some(reservation),
                usage: None,
                cost: estimate,
                upstream,
                dropped,
                num_redacted,
            }),
            Err(error) => {
                if !error.may_have_cost() {
                    reservation.release().await?;
                }
                Err(error)
            }
        }
    }
}

impl HostedModel {
    /// What a request may use and cost here; `None` if the model is too small for it. `max_tokens` is the
    /// client's own limit for each of its `num_answers`.
    pub fn quote(
        &self,
        num_prompt: u64,
        max_tokens: Option<u32>,
        num_answers: u32,
    ) -> Option<Quote> {
        let room = self.context.checked_sub(num_prompt).filter(|room| *room > 0)?;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let max_output = max_tokens.unwrap_or(u32::MAX).min(self.max_output).min(room);
        let num_output = u64::from(max_output).saturating_mul(u64::from(num_answers));
        Some(Quote { max_output, estimate: self.price.estimate(num_prompt, num_output) })
    }
}

/// An answer that has begun. Dropping it ends it upstream, and leaves what was set aside for it charged:
/// upstream has worked for money, and only its report at the end says for how much.
#[derive(Debug)]
pub struct HostedAnswer {
    first: Option<ChatChunk>,
    rest: ChatStream,
    reservation: Option<Reservation>,
    /// The last that upstream reported: some report it with every chunk.
    usage: Option<Usage>,
    cost: Cost,
    upstream: Arc<Upstream>,
    dropped: Vec<&'static str>,
    num_redacted: usize,
}

impl HostedAnswer {
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
        self.num_redacted
    }

    /// Fields of the client's request that were not sent.
    pub fn dropped(&self) -> &[&'static str] {
        &self.dropped
    }
}

/// What the client says of its own user, by whatever name.
fn identity(request: &ChatRequest) -> String {
    let said = request.safety_identifier.as_ref().or(request.user.as_ref());
    said.map(ToString::to_string).unwrap_or_default()
}

/// A name that stays the same for the same parts, and from which nobody without `key` can tell them.
fn pseudonym(key: &str, parts: &[&str]) -> String {
    const NUM_BYTES: usize = 16;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    let mut name = String::new();
    for byte in &context.sign().as_ref()[..NUM_BYTES] {
        // Writing into a `String` cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_depend_on_every_part_and_on_the_key() {
        let name = pseudonym("key", &["a", "b"]);
        assert_eq!(name.len(), 32);
        assert_eq!(name, pseudonym("key", &["a", "b"]));
        for other in [
            pseudonym("kez", &["a", "b"]),
            pseudonym("key", &["ab", ""]),
            pseudonym("key", &["a"]),
            pseudonym("key", &["b", "a"]),
        ] {
            assert_ne!(name, other);
        }
    }
}
