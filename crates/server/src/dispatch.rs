//! Local or hosted: decided from the exact count, before the first byte, and never changed afterwards.
//!
//! [`decide`] is pure. A request leaves this machine only if the operator has configured a hosted model, the
//! caller's key allows it, and the request does not forbid it; and then only if it names a hosted model, demands
//! one, does not fit the local context, or the operator has asked for a trigger that applies.

use axum::http::HeaderMap;
use harmonium_hosted::{Extras, Hosted, HostedModel, Quote};

use crate::config::Triggers;
use crate::error::{Error, FieldCode, NotAllowed, Result};
use crate::validate::Images;

/// The header with which a request allows, forbids or demands the hosted leg.
pub(crate) const LEAVE_HEADER: &str = "x-harmonium-hosted";
/// The model name that leaves the choice to the server.
pub(crate) const AUTO: &str = "auto";

/// What a request says about leaving this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It may.
    #[default]
    Allow,
    /// It must not.
    Never,
    /// Neither it nor what follows it in its conversation may.
    StickyLocal,
    /// It must.
    Require,
}

impl Leave {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self> {
        let mut values = headers.get_all(LEAVE_HEADER).iter();
        let Some(value) = values.next() else { return Ok(Self::default()) };
        if values.next().is_some() {
            let problem = "it is given more than once, and which of them counts cannot be told";
            return Err(Error::field(LEAVE_HEADER, FieldCode::Value, problem));
        }
        match value.as_bytes() {
            b"allow" => Ok(Self::Allow),
            b"never" => Ok(Self::Never),
            b"require" => Ok(Self::Require),
            b"sticky-local" => Ok(Self::StickyLocal),
            other => {
                let other = String::from_utf8_lossy(other);
                let problem = format!("{other:?} is none of allow, never, require, sticky-local");
                Err(Error::field(LEAVE_HEADER, FieldCode::Value, problem))
            }
        }
    }
}

/// Which model a request asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// The local one, by any of its names, or whichever is best.
    Any,
    /// This hosted one.
    Hosted(&'a HostedModel),
}

/// Everything the decision depends on.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) asked: Asked<'a>,
    pub(crate) leave: Leave,
    /// Whether its conversation has been marked as one that must not leave.
    pub(crate) is_kept: bool,
    /// Whether the caller's key allows the hosted leg.
    pub(crate) caller_may: bool,
    /// The rendered prompt's length in tokens, images not counted.
    pub(crate) num_prompt: u64,
    pub(crate) images: Option<&'a Images>,
    /// Most tokens that a hosted model may see besides these.
    pub(crate) num_unrendered: u64,
    /// The client's own limit for an answer.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) num_answers: u32,
    /// Context of the local model in tokens.
    pub(crate) context_len: u32,
    /// Requests that wait for the local model.
    pub(crate) num_waiting: usize,
    /// Whether the local model runs.
    pub(crate) is_healthy: bool,
    pub(crate) triggers: Triggers,
    /// Absent where the hosted leg is off.
    pub(crate) hosted: Option<&'a Hosted>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Local,
    Hosted(HostedRoute),
}

/// A hosted model and what the request may use of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostedRoute {
    pub(crate) model: String,
    pub(crate) quote: Quote,
    pub(crate) reason: Reason,
}

impl HostedRoute {
    /// Whether the local model answers after all, now that the hosted one could not be asked: the queue was only long,
    /// and nothing has been sent.
    pub(crate) fn stays_after(&self, error: &Error) -> bool {
        self.reason == Reason::Queue && error.was_not_sent()
    }
}

/// Why a request goes where it goes, as its answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It fits the local model.
    Fits,
    /// It names the hosted model.
    Named,
    /// It demands a hosted model.
    Required,
    /// It does not fit the local context.
    Context,
    /// It has images, which the local model cannot look at.
    Image,
    /// Too many requests wait for the local model.
    Queue,
    /// The local model does not run.
    Unhealthy,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Named => "named",
            Self::Required => "required",
            Self::Context => "context",
            Self::Image => "image",
            Self::Queue => "queue",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Decides, or says why nobody can answer.
pub(crate) fn decide(question: &Question<'_>) -> Result<Route> {
    let may_leave = may_leave(question);
    if let Asked::Hosted(model) = question.asked {
        may_leave?;
        return to_hosted(question, model, Reason::Named);
    }
    if question.leave == Leave::Require {
        let hosted = may_leave?;
        return to_hosted(question, hosted.default_model(), Reason::Required);
    }
    if let Some(images) = question.images {
        return match may_leave {
            Ok(hosted) if question.triggers.images => {
                to_hosted(question, hosted.default_model(), Reason::Image)
            }
            _ => Err(no_images(images, "the local model")),
        };
    }
    let Ok(hosted) = may_leave else {
        // Whether the prompt leaves any room at all is the engine's to say, which shortens the answer to it.
        return Ok(Route::Local);
    };
    let model = hosted.default_model();
    if !fits(question, model) {
        return to_hosted(question, model, Reason::Context);
    }
    if question.triggers.unhealthy && !question.is_healthy {
        return to_hosted(question, model, Reason::Unhealthy);
    }
    if question.triggers.waiting.is_some_and(|max| question.num_waiting > max) {
        // Here the local model still can: what the hosted model cannot take waits for it.
        if let Ok(route) = to_hosted(question, model, Reason::Queue) {
            return Ok(route);
        }
    }
    Ok(Route::Local)
}

fn no_images(images: &Images, model: &str) -> Error {
    let problem = format!("{model} reads text only, it cannot look at images");
    Error::field(images.first.as_str(), FieldCode::UnsupportedValue, problem)
}

/// The hosted leg, if the request may use it.
fn may_leave<'a>(question: &Question<'a>) -> Result<&'a Hosted> {
    let hosted = question.hosted.ok_or(Error::NotAllowed(NotAllowed::Off))?;
    if question.is_kept || question.leave == Leave::StickyLocal {
        return Err(Error::NotAllowed(NotAllowed::Conversation));
    }
    if question.leave == Leave::Never {
        return Err(Error::NotAllowed(NotAllowed::Request));
    }
    if !question.caller_may {
        return Err(Error::NotAllowed(NotAllowed::Key));
    }
    Ok(hosted)
}

/// Whether the local model can give an answer as long as the hosted one could. Without a limit of the client's
/// own, an answer of any length will do.
fn fits(question: &Question<'_>, model: &HostedModel) -> bool {
    let room = u64::from(question.context_len).saturating_sub(question.num_prompt);
    let wanted = question.max_tokens.map_or(1, |max_tokens| max_tokens.min(model.max_output));
    room >= u64::from(wanted)
}

fn to_hosted(question: &Question<'_>, model: &HostedModel, reason: Reason) -> Result<Route> {
    let num_images = match question.images {
        Some(images) if model.image_tokens.is_none() => return Err(no_images(images, &model.name)),
        images => images.map_or(0, |images| images.count),
    };
    let extras = Extras { num_images, num_unrendered: question.num_unrendered };
    let quote = model.quote(question.num_prompt, extras, question.max_tokens, question.num_answers);
    let quote = quote.ok_or_else(|| Error::ContextLengthOfAll {
        prompt_len: question.num_prompt,
        is_exact: true,
        context_len: question.context_len,
        hosted: Some((model.name.clone(), model.context)),
    })?;
    Ok(Route::Hosted(HostedRoute { model: model.name.clone(), quote, reason }))
}

#[cfg(test)]
mod tests;
