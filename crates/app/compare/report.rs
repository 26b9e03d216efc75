//! The report of a comparison: what `report.json` holds and `report.html` shows.
//!
//! Field names end in their unit. What is not known is `null`, never 0: an answer without usage has no cost, while
//! one of a model without a price costs 0.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harmonium_hosted::Cost;
use harmonium_openai::chat::ToolCall;
use harmonium_openai::models::Pricing;
use harmonium_openai::{ChatRequest, FinishReason, Usage};
use serde::{Serialize, Serializer};

use super::measure::Measured;
use super::models::{Charge, Known, Models};
use super::totals::Totals;

/// Counts changes of this form that a reader must know of.
const VERSION: u32 = 1;

/// A whole comparison.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The version of this form.
    pub(super) version: u32,
    /// The version of the program that made it.
    pub(super) harmonium: &'static str,
    /// When it was made, in seconds since 1970.
    pub(super) created: u64,
    /// The file with the prompts, as it was named.
    pub(super) prompts_file: String,
    /// Whether all prompts were sent to all models; false after Ctrl-C.
    pub(super) is_complete: bool,
    /// The number of requests that `monthly_cost_usd` is about.
    pub(super) monthly_requests: u64,
    /// The models that were asked, in order.
    pub(super) models: Vec<ModelReport>,
    /// The prompts that were sent, in order.
    pub(super) prompts: Vec<PromptReport>,
}

/// One model over all prompts.
#[derive(Debug, Serialize)]
pub(super) struct ModelReport {
    /// What the requests called it.
    pub(super) name: String,
    /// `local` or `hosted`, from a server that says so.
    pub(super) backend: Option<String>,
    /// Its prices in USD per million tokens; `null` is no price.
    pub(super) pricing: Option<Pricing>,
    /// Sums and middles of its answers.
    pub(super) totals: Totals,
}

/// One prompt and what was answered.
#[derive(Debug, Serialize)]
pub(super) struct PromptReport {
    /// From its line, or the line's number.
    pub(super) id: String,
    /// The request as it was sent, without model and streaming.
    pub(super) request: ChatRequest,
    /// In the order of the models. After Ctrl-C the last prompt may have fewer, and the last answer an error.
    pub(super) answers: Vec<Answer>,
}

/// What one model made of one prompt.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answer {
    /// The model that was asked.
    pub(super) model: String,
    /// The model that answered, by its own name, which may be that of a snapshot.
    pub(super) answered_by: Option<String>,
    /// Whether that is another model than the one that was asked, such as the hosted one for a prompt that does
    /// not fit the local context.
    pub(super) is_elsewhere: bool,
    /// Fields of the request that were not sent to the hosted model.
    pub(super) dropped: Option<String>,
    /// The answer's text.
    pub(super) content: Option<String>,
    /// The reasoning before it.
    pub(super) reasoning: Option<String>,
    /// A refusal instead of an answer.
    pub(super) refusal: Option<String>,
    /// The calls it made.
    pub(super) tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub(super) finish_reason: Option<FinishReason>,
    /// Why it failed, `interrupted` after Ctrl-C; what had come before is above.
    pub(super) error: Option<String>,
    /// Time to the first reasoning, text or tool call.
    pub(super) ttft_ms: Option<f64>,
    /// Time to the end.
    pub(super) total_ms: f64,
    /// Completion tokens after the first by the time after the first.
    pub(super) tokens_per_s: Option<f64>,
    /// Tokens as the server counts them.
    pub(super) usage: Option<Tokens>,
    /// What it cost by the list prices of the model that answered.
    #[serde(rename = "cost_usd", serialize_with = "as_usd")]
    pub(super) cost: Option<Cost>,
}

/// The tokens of an answer, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tokens {
    /// Of the prompt.
    pub(super) prompt: u64,
    /// Of these, found in a prompt cache.
    pub(super) cached: u64,
    /// Of the answer.
    pub(super) completion: u64,
    /// Of these, reasoning.
    pub(super) reasoning: u64,
}

impl Report {
    /// The report of `prompts`.
    pub(super) fn new(
        prompts_file: String,
        models: &Models,
        prompts: Vec<PromptReport>,
        is_complete: bool,
        monthly_requests: u64,
    ) -> Self {
        let model = |(index, model): (usize, &Known)| {
            let answers = prompts.iter().filter_map(|prompt| prompt.answers.get(index));
            ModelReport {
                name: model.name.clone(),
                backend: model.backend.clone(),
                pricing: model.pricing,
                totals: Totals::of(answers, monthly_requests),
            }
        };
        let models = models.chosen().enumerate().map(model).collect();
        let created = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            version: VERSION,
            harmonium: env!("CARGO_PKG_VERSION"),
            created: created.map_or(0, |since| since.as_secs()),
            prompts_file,
            is_complete,
            monthly_requests,
            models,
            prompts,
        }
    }

    /// The number of answers that failed.
    pub(super) fn num_failed(&self) -> u64 {
        self.models.iter().map(|model| model.totals.num_failed).sum()
    }
}

impl Answer {
    /// What `measured` means, given that `asked` was asked.
    pub(super) fn new(asked: &Known, models: &Models, measured: Measured) -> Self {
        let usage = measured.usage.as_ref().map(Tokens::from);
        let cost = usage.and_then(|tokens| match models.charge(asked, &measured.origin) {
            Charge::Free => Some(Cost::ZERO),
            Charge::At(price) => Some(price.cost(tokens.prompt, tokens.cached, tokens.completion)),
            Charge::Unknown => None,
        });
        let tokens_per_s = measured.tokens_per_s().map(|speed| (speed * 100.0).round() / 100.0);
        let Measured { origin, dropped, message, finish_reason, error, first, total, .. } =
            measured;
        Self {
            model: asked.name.clone(),
            is_elsewhere: asked.is_elsewhere(&origin),
            answered_by: origin.model,
            dropped,
            content: message.content,
            // Two names for the same text.
            reasoning: message.reasoning.or(message.reasoning_content),
            refusal: message.refusal,
            tool_calls: message.tool_calls.unwrap_or_default(),
            finish_reason,
            error,
            ttft_ms: first.map(milliseconds),
            total_ms: milliseconds(total),
            tokens_per_s,
            usage,
            cost,
        }
    }
}

impl From<&Usage> for Tokens {
    fn from(usage: &Usage) -> Self {
        Self {
            prompt: usage.prompt_tokens,
            cached: usage.prompt_tokens_details.unwrap_or_default().cached_tokens,
            completion: usage.completion_tokens,
            reasoning: usage.completion_tokens_details.unwrap_or_default().reasoning_tokens,
        }
    }
}

/// To a tenth, which is finer than a network is steady.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

fn as_usd<S: Serializer>(cost: &Option<Cost>, serializer: S) -> Result<S::Ok, S::Error> {
    cost.map(Cost::as_usd).serialize(serializer)
}
