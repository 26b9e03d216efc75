//! Chat request to turn: every value is checked here, once, and trusted afterwards.
//!
//! A wrong value is a 400 that names the field and what it holds. Parameters that cannot change what this model
//! writes (`user`, `store`, `metadata`, ...) are read over; parameters that ask for something else than text are
//! refused. Pure: no tokens, no engine.

mod messages;
mod rules;
mod sampling;
mod tools;

use harmonium_engine::SamplingParams;
use harmonium_harmony::{Conversation, Effort};
use harmonium_openai::ChatRequest;
use harmonium_openai::chat::{Stop, StreamOptions};

use self::messages::History;
pub(crate) use self::rules::AnswerRules;
use crate::error::{Error, FieldCode, Result};

const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 1024;

/// A checked chat request.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) conversation: Conversation,
    /// What the answer must follow; `None` leaves it free.
    pub(crate) rules: Option<AnswerRules>,
    /// The images of the conversation, which is rendered without them.
    pub(crate) images: Option<Images>,
    pub(crate) sampling: SamplingParams,
    /// Seed of the first answer; drawn by the caller if the client gave none.
    pub(crate) seed: Option<u64>,
    /// How many answers.
    pub(crate) n: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stops: Vec<String>,
    pub(crate) ignore_stop_tokens: bool,
    pub(crate) include_reasoning: bool,
    /// `None` asks for the whole answer at once.
    pub(crate) stream: Option<UsageMode>,
}

/// The images of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Images {
    /// How many; at least one.
    pub(crate) count: u32,
    /// The field of the first.
    pub(crate) first: String,
}

/// Where a stream reports its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UsageMode {
    Never,
    /// On a chunk of its own at the end.
    AtEnd,
    /// There and, so far, on every chunk.
    Continuous,
}

/// What values are checked against.
#[derive(Debug)]
pub(crate) struct Bounds<'a> {
    pub(crate) max_n: u32,
    /// Of the model that answers; `None` if that is a hosted one, which alone knows its token ids.
    pub(crate) vocab_size: Option<u32>,
    /// Sampling where the request says nothing.
    pub(crate) defaults: &'a SamplingParams,
}

/// Checks everything but the model's name.
pub(crate) fn validate(request: ChatRequest, bounds: &Bounds<'_>) -> Result<Turn> {
    refuse_what_is_not_text(&request)?;
    let sampling = sampling::params(&request, bounds)?;
    let n = int_in("n", request.n, 1, i64::from(bounds.max_n))?.unwrap_or(1);
    let max_tokens = match (request.max_completion_tokens, request.max_tokens) {
        (None, old) => int_in("max_tokens", old, 1, i64::from(u32::MAX))?,
        (new, _) => int_in("max_completion_tokens", new, 1, i64::from(u32::MAX))?,
    };
    let stream = stream_mode(request.stream, request.stream_options.as_ref())?;
    let effort = effort(&request)?;
    let tools = tools::declared(request.tools, request.tool_choice)?;
    let response_format = tools::response_format(request.response_format)?;
    let rules = rules::rules(&tools, response_format.as_ref());
    let tools = tools.functions.into_iter().map(|declared| declared.function).collect();
    let History { instructions, messages, images } = messages::history(request.messages)?;
    Ok(Turn {
        conversation: Conversation {
            date: None,
            effort,
            instructions,
            tools,
            response_format,
            messages,
        },
        rules,
        images,
        sampling,
        seed: request.seed.map(i64::cast_unsigned),
        n,
        max_tokens,
        stops: stops(request.stop)?,
        ignore_stop_tokens: request.ignore_eos.unwrap_or(false),
        include_reasoning: request.include_reasoning.unwrap_or(true),
        stream,
    })
}

fn refuse_what_is_not_text(request: &ChatRequest) -> Result<()> {
    let unsupported = |param: &str, problem: &str| {
        Err(Error::field(param, FieldCode::UnsupportedParameter, problem))
    };
    if request.functions.is_some() {
        return unsupported("functions", "this old form is not supported, use tools");
    }
    if request.function_call.is_some() {
        return unsupported("function_call", "this old form is not supported, use tool_choice");
    }
    if request.web_search_options.is_some() {
        return unsupported("web_search_options", "this server does not search the web");
    }
    let other = request.modalities.iter().flatten().find(|modality| *modality != "text");
    if let Some(other) = other {
        let problem = format!("{other:?} is not supported, the model writes text only");
        return Err(Error::field("modalities", FieldCode::UnsupportedValue, problem));
    }
    Ok(())
}

fn stream_mode(stream: Option<bool>, options: Option<&StreamOptions>) -> Result<Option<UsageMode>> {
    if !stream.unwrap_or(false) {
        return match options {
            None => Ok(None),
            Some(_) => Err(Error::field(
                "stream_options",
                FieldCode::Value,
                "only allowed where stream is true",
            )),
        };
    }
    let is_set =
        |option: fn(&StreamOptions) -> Option<bool>| options.and_then(option) == Some(true);
    Ok(Some(match is_set(|options| options.include_usage) {
        false => UsageMode::Never,
        true if is_set(|options| options.continuous_usage_stats) => UsageMode::Continuous,
        true => UsageMode::AtEnd,
    }))
}

/// The three efforts the model knows, from the protocol's seven and the three places clients put them.
fn effort(request: &ChatRequest) -> Result<Effort> {
    let nested = request.reasoning.as_ref().and_then(|options| options.effort.as_deref());
    let template = request
        .chat_template_kwargs
        .as_ref()
        .and_then(|options| options.reasoning_effort.as_deref());
    let places = [
        ("reasoning_effort", request.reasoning_effort.as_deref()),
        ("reasoning.effort", nested),
        ("chat_template_kwargs.reasoning_effort", template),
    ];
    let Some((param, effort)) =
        places.into_iter().find_map(|(param, effort)| effort.map(|effort| (param, effort)))
    else {
        return Ok(Effort::default());
    };
    match effort {
        "none" | "minimal" | "low" => Ok(Effort::Low),
        "medium" => Ok(Effort::Medium),
        "high" | "xhigh" | "max" => Ok(Effort::High),
        other => Err(Error::field(
            param,
            FieldCode::UnsupportedValue,
            format!("{other:?} is none of none, minimal, low, medium, high, xhigh, max"),
        )),
    }
}

fn stops(stop: Option<Stop>) -> Result<Vec<String>> {
    let stops = match stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    let wrong = |problem: String| Err(Error::field("stop", FieldCode::Value, problem));
    if stops.len() > MAX_STOPS {
        return wrong(format!("{} texts are more than {MAX_STOPS}", stops.len()));
    }
    if stops.iter().any(String::is_empty) {
        return wrong("an empty text would end every answer at once".to_owned());
    }
    if let Some(long) = stops.iter().find(|text| text.len() > MAX_STOP_BYTES) {
        return wrong(format!("a text of {} bytes is longer than {MAX_STOP_BYTES}", long.len()));
    }
    Ok(stops)
}

/// An integer within `min..=max`, as the type the caller wants, which must hold both.
fn int_in<T: TryFrom<i64>>(
    param: &str,
    value: Option<i64>,
    min: i64,
    max: i64,
) -> Result<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    T::try_from(value).ok().filter(|_| (min..=max).contains(&value)).map(Some).ok_or_else(|| {
        Error::field(param, FieldCode::Value, format!("{value} is not within {min}..={max}"))
    })
}

/// Names of functions and formats go into the prompt's structure, so they are plain words.
fn name(param: String, name: String) -> Result<String> {
    const MAX_NAME_LEN: usize = 64;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(name);
    }
    let problem = format!("{name:?} is not 1 to {MAX_NAME_LEN} letters, digits, _ or -");
    Err(Error::field(param, FieldCode::Value, problem))
}

#[cfg(test)]
mod tests;
