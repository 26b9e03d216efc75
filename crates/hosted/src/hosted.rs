//! The hosted leg as the server sees it: what models there are, what a request would cost, and its answer.

use std::sync::Arc;

use bytes::Bytes;
use harmonium_openai::{ChatRequest, Content};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::HostedAnswer;
use crate::breaker::BreakerState;
use crate::config::{ConfigError, HostedConfig, HostedModel, Wire};
use crate::error::{Error, Result};
use crate::identity::pseudonym;
use crate::ledger::{Conversation, Ledger, LedgerError, Spent};
use crate::outgoing::{Note, Outgoing};
use crate::prepare::{Raw, Workshop};
use crate::price::Cost;
use crate::redact::Redactor;
use crate::upstream::Upstream;

/// Who pays for a request that comes without a key.
const ANONYMOUS: &str = "anonymous";

/// How long before a model is switched off its operator is warned.
fn shutdown_warning() -> Span {
    90.days()
}

/// The hosted models, the way to each, and the record of what they cost.
#[derive(Debug)]
pub struct Hosted {
    upstreams: Vec<Arc<Upstream>>,
    default: usize,
    workshop: Arc<Workshop>,
    ledger: Ledger,
    max_in_flight: usize,
    /// One for each request that is being made ready, sent or answered.
    places: Arc<Semaphore>,
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

/// What a request has besides the texts that are rendered into the local prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// How many images.
    pub num_images: u32,
    /// Most tokens that the hosted model may see and the local prompt does not have, or not in full; see
    /// [`unrendered_tokens`](crate::unrendered_tokens).
    pub num_unrendered: u64,
}

/// A request to a hosted model.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The client's request, validated.
    pub request: Arc<ChatRequest>,
    /// What it may use and cost.
    pub quote: Quote,
    /// Whether the client asked for this very model.
    pub is_named: bool,
    /// Why it is not answered here, for the log.
    pub reason: &'static str,
    /// The key the client presented, if any. It is only hashed.
    pub caller_key: Option<&'a str>,
}

/// What would become of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// What would be set aside for it: the most it can cost.
    pub estimate: Cost,
    /// Fields of the client's request that would not be sent.
    pub dropped: Vec<&'static str>,
}

/// A request that could be sent.
struct Ready {
    upstream: Arc<Upstream>,
    /// Who pays.
    caller: String,
    estimate: Cost,
    note: Note,
    body: Bytes,
    place: OwnedSemaphorePermit,
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
        let max_in_flight = config.max_in_flight.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            upstreams,
            default: default.unwrap_or_default(),
            workshop: Arc::new(Workshop::new(redactor, ledger.secret())),
            ledger,
            max_in_flight,
            places: Arc::new(Semaphore::new(max_in_flight)),
        })
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

    /// Asks every upstream when its model is switched off, and warns of those for which that is near.
    pub async fn ask_shutdown_dates(&self) {
        for upstream in &self.upstreams {
            upstream.ask_shutdown_date().await;
            let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
            if let Some(date) = upstream.shutdown_date()
                && today.checked_add(shutdown_warning()).is_ok_and(|near| date <= near)
            {
                tracing::warn!(
                    model = upstream.model.name,
                    %date,
                    "a hosted model is switched off: configure another"
                );
            }
        }
    }

    /// The day a model is switched off, if its upstream has said so.
    pub fn shutdown_date(&self, name: &str) -> Option<Date> {
        self.upstreams.iter().find(|upstream| upstream.model.name == name)?.shutdown_date()
    }

    /// What has been spent.
    pub async fn spent(&self) -> std::result::Result<Spent, LedgerError> {
        self.ledger.spent().await
    }

    /// Records that a [`conversation`](crate::conversation) must never leave.
    pub async fn keep(&self, conversation: Conversation) -> Result<()> {
        Ok(self.ledger.keep(conversation).await?)
    }

    /// Whether a [`conversation`](crate::conversation) must never leave.
    pub async fn is_kept(&self, conversation: Conversation) -> Result<bool> {
        Ok(self.ledger.is_kept(conversation).await?)
    }

    /// Asks a model and returns once its answer has begun. Dropping the future gives the request up.
    ///
    /// # Panics
    ///
    /// If there is no model of the order's name.
    pub async fn ask(&self, order: Order<'_>) -> Result<HostedAnswer> {
        let Ready { upstream, caller, estimate, note, body, place } = self.ready(order).await?;
        let reservation = self.ledger.reserve(&caller, &note.model, estimate).await?;
        let mut outgoing = Outgoing::new(note, reservation);
        let begun = upstream.begin(body, &mut outgoing).await?;
        Ok(HostedAnswer::new(begun, upstream, outgoing, place))
    }

    /// Says what [`Self::ask`] would do now, up to the sending: nothing is sent, charged or promised.
    ///
    /// # Panics
    ///
    /// As there.
    pub async fn foresee(&self, order: Order<'_>) -> Result<Foreseen> {
        let Ready { caller, estimate, note, .. } = self.ready(order).await?;
        self.ledger.check_room(&caller, estimate).await?;
        Ok(Foreseen { estimate, dropped: note.dropped })
    }

    /// All that comes before money is set aside and the request sent.
    async fn ready(&self, order: Order<'_>) -> Result<Ready> {
        let upstream = self.upstreams.iter().find(|upstream| upstream.model.name == order.model);
        let upstream = Arc::clone(upstream.expect("the model was found before it was ordered"));
        check(&upstream.model, &order.request)?;
        if !self.workshop.redactor.is_empty() && has_images(&order.request) {
            return Err(Error::Image);
        }
        if let Some(down) = upstream.refusal() {
            return Err(down);
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::Full { max_in_flight: self.max_in_flight })?;
        let raw = Raw {
            request: order.request,
            max_output: order.quote.max_output,
            is_named: order.is_named,
            caller_key: order.caller_key.unwrap_or_default().to_owned(),
        };
        let (prepared, place) = self.workshop.prepare(raw, &upstream, place).await?;
        let caller = order
            .caller_key
            .map_or_else(|| ANONYMOUS.to_owned(), |key| pseudonym(key.as_bytes(), &["caller"]));
        // What stands in for a text may be longer than it.
        let more = upstream.model.price.estimate(prepared.num_more_bytes, 0);
        let note = Note {
            model: order.model.to_owned(),
            reason: order.reason,
            dropped: prepared.dropped,
            num_redacted: prepared.num_redacted,
        };
        let estimate = order.quote.estimate.saturating_add(more);
        Ok(Ready { upstream, caller, estimate, note, body: prepared.body, place })
    }
}

impl HostedModel {
    /// What a request may use and cost here; `None` if the model is too small for it. The `extras` come on top of
    /// the `num_prompt` tokens of its text. `max_tokens` is the client's own limit for each of its `num_answers`.
    pub fn quote(
        &self,
        num_prompt: u64,
        extras: Extras,
        max_tokens: Option<u32>,
        num_answers: u32,
    ) -> Option<Quote> {
        let image_tokens = u64::from(self.image_tokens.unwrap_or_default());
        let num_prompt = num_prompt.saturating_add(u64::from(extras.num_images) * image_tokens);
        let least = self.wire.least_output();
        let room = self.context.checked_sub(num_prompt).filter(|room| *room >= least.into())?;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let max_tokens = max_tokens.unwrap_or(u32::MAX).max(least);
        let max_output = max_tokens.min(self.max_output).min(room);
        let num_output = u64::from(max_output).saturating_mul(u64::from(num_answers));
        // These count towards the cost only: they are far fewer than their bound, which is no reason to refuse.
        let num_prompt = num_prompt.saturating_add(extras.num_unrendered);
        Some(Quote { max_output, estimate: self.price.estimate(num_prompt, num_output) })
    }
}

/// Refuses what cannot be left out of a request without changing what it asks for.
fn check(model: &HostedModel, request: &ChatRequest) -> Result<()> {
    match request.n {
        Some(num_answers) if num_answers > 1 && model.wire == Wire::Responses => {
            Err(Error::NumAnswers { model: model.name.clone(), num_answers })
        }
        _ => Ok(()),
    }
}

fn has_images(request: &ChatRequest) -> bool {
    request.messages.iter().any(|message| match &message.content {
        Some(Content::Parts(parts)) => parts.iter().any(|part| part.image_url.is_some()),
        _ => false,
    })
}
