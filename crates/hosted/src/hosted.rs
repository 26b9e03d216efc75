//! The hosted leg as the server sees it: what models there are, what a request would cost, and its answer.

use std::sync::Arc;

use harmonium_openai::{ChatRequest, Content};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

use crate::answer::HostedAnswer;
use crate::breaker::BreakerState;
use crate::config::{ConfigError, HostedConfig, HostedModel, Wire};
use crate::error::{Error, Result};
use crate::identity::{conversation, pseudonym, user};
use crate::ledger::{Ledger, LedgerError, Spent};
use crate::outgoing::{Note, Outgoing};
use crate::price::Cost;
use crate::redact::Redactor;
use crate::translate::{Target, Translation, translate};
use crate::upstream::Upstream;

/// Fewer tokens of answer nobody can ask for over the Responses protocol.
const LEAST_RESPONSE: u32 = 16;

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
    /// Why it is not answered here, for the log.
    pub reason: &'static str,
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

    /// Records that the conversation that `request` belongs to must never leave.
    pub async fn keep(&self, caller_key: Option<&str>, request: &ChatRequest) -> Result<()> {
        Ok(self.ledger.keep(conversation(caller_key, request)).await?)
    }

    /// Whether the conversation that `request` belongs to must never leave.
    pub async fn is_kept(&self, caller_key: Option<&str>, request: &ChatRequest) -> Result<bool> {
        Ok(self.ledger.is_kept(conversation(caller_key, request)).await?)
    }

    /// Asks a model and returns once its answer has begun. Dropping the future gives the request up.
    ///
    /// # Panics
    ///
    /// If there is no model of the order's name.
    pub async fn ask(&self, order: Order<'_>) -> Result<HostedAnswer> {
        let upstream = self.upstreams.iter().find(|upstream| upstream.model.name == order.model);
        let upstream = Arc::clone(upstream.expect("the model was found before it was ordered"));
        check(&upstream.model, order.request)?;
        if !self.redactor.is_empty() && has_images(order.request) {
            return Err(Error::Image);
        }
        if let Some(down) = upstream.refusal() {
            return Err(down);
        }
        let user = user(order.request);
        let parts = [order.caller_key.unwrap_or(""), user.as_str()];
        let safety_identifier = pseudonym(self.ledger.secret(), &parts);
        let Translation { request, dropped } = translate(
            order.request,
            Target {
                model: &upstream.model,
                max_output: order.quote.max_output,
                is_named: order.is_named,
                safety_identifier: &safety_identifier,
            },
        );
        let redacted = self.redactor.redact(request).ok_or(Error::Redaction)?;
        let caller = order
            .caller_key
            .map_or_else(|| ANONYMOUS.to_owned(), |key| pseudonym(key.as_bytes(), &["caller"]));
        // What stands in for a text may be longer than it.
        let more = upstream.model.price.estimate(redacted.num_more_bytes, 0);
        let estimate = order.quote.estimate.saturating_add(more);
        let reservation = self.ledger.reserve(&caller, order.model, estimate).await?;
        let note = Note {
            model: order.model.to_owned(),
            reason: order.reason,
            dropped,
            num_redacted: redacted.num_changed,
        };
        let mut outgoing = Outgoing::new(note, reservation);
        let begun = upstream.begin(&redacted.request, &mut outgoing).await?;
        Ok(HostedAnswer::new(begun, upstream, outgoing))
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
        let room = self.context.checked_sub(num_prompt).filter(|room| *room > 0)?;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let least = if self.wire == Wire::Responses { LEAST_RESPONSE } else { 1 };
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
