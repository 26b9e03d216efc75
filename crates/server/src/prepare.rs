//! Body to prompt: reads the JSON, checks it and renders it.
//!
//! All of it is computation in proportion to the body. Small bodies are done in place; large ones go to a
//! blocking thread, a few at a time, so that streams keep flowing while a book is tokenized.

use std::sync::Arc;

use axum::body::Bytes;
use harmonium_harmony::{Conversation, min_prompt_len, render};
use harmonium_hosted::{Conversation as Known, Hosted, conversation, unrendered_tokens};
use harmonium_openai::ChatRequest;
use serde::de::DeserializeOwned;

use crate::auth::Caller;
use crate::dispatch::AUTO;
use crate::error::{Error, FieldCode, Result};
use crate::state::{AppState, ReadyModel, Variant};
use crate::validate::{Bounds, Turn, validate};

/// Up to here a body takes well under a millisecond.
const MAX_INLINE_BYTES: usize = 8 << 10;

/// A request that can be submitted. Whether it fits the context is the engine's to say.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) turn: Turn,
    pub(crate) prompt: Vec<u32>,
    /// The request's limit or the default; the engine cuts it to the room that the prompt leaves.
    pub(crate) max_tokens: u32,
    /// What answers it if it stays here.
    pub(crate) variant: Variant,
    /// The hosted model it names, if it names one.
    pub(crate) hosted_model: Option<String>,
    /// What it is to a hosted model, where there is one.
    pub(crate) leaving: Option<Leaving>,
}

/// What the hosted leg needs of a request, computed where large requests stop nobody.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// As it came.
    pub(crate) request: Arc<ChatRequest>,
    /// What it is known again by.
    pub(crate) conversation: Known,
    /// Most tokens that a hosted model may see besides those of the prompt.
    pub(crate) num_unrendered: u64,
}

impl Leaving {
    fn new(request: &ChatRequest, caller_key: Option<&str>) -> Self {
        Self {
            conversation: conversation(caller_key, request),
            num_unrendered: unrendered_tokens(request),
            request: Arc::new(request.clone()),
        }
    }
}

/// Prepares a chat request of `caller` for the model of `state`.
pub(crate) async fn prepare(
    state: &Arc<AppState>,
    caller: Caller,
    body: Bytes,
) -> Result<Prepared> {
    if body.len() <= MAX_INLINE_BYTES {
        return prepare_now(state, caller, &body);
    }
    let permits = Arc::clone(&state.heavy_work);
    let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
    let state = Arc::clone(state);
    let work = move || {
        // The work goes on if the client leaves, so the permit stays with it.
        let _permit = permit;
        prepare_now(&state, caller, &body)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "preparing a request panicked");
        Error::Internal
    })?
}

fn prepare_now(state: &AppState, caller: Caller, body: &[u8]) -> Result<Prepared> {
    let request: ChatRequest = parse(body)?;
    let ready = state.routable()?;
    let hosted = state.hosted.as_deref();
    let (variant, hosted_model) = asked(ready, hosted, request.model.as_deref())?;
    let spec = ready.model.engine.spec();
    let bounds = Bounds {
        max_n: state.config.max_n,
        vocab_size: hosted_model.is_none().then_some(spec.vocab_size),
        defaults: &ready.model.defaults,
    };
    let leaving = hosted.map(|_| Leaving::new(&request, caller.key(&state.config)));
    let mut turn = validate(request, &bounds)?;
    turn.conversation.date = Some(match &state.config.date {
        Some(date) => date.clone(),
        None => jiff::Zoned::now().date().to_string(),
    });
    if body.len() > MAX_INLINE_BYTES {
        refuse_what_fits_nowhere(ready, hosted, &turn.conversation)?;
    }
    let prompt = render(&ready.model.tokenizer, &turn.conversation);
    let max_tokens = turn.max_tokens.unwrap_or(state.config.default_max_tokens);
    Ok(Prepared { turn, prompt, max_tokens, variant, hosted_model, leaving })
}

/// An early answer to books that no model takes: encoding them takes much longer than seeing that.
fn refuse_what_fits_nowhere(
    ready: &ReadyModel,
    hosted: Option<&Hosted>,
    conversation: &Conversation,
) -> Result<()> {
    let context_len = ready.model.engine.spec().context_len;
    let largest = hosted.and_then(|hosted| hosted.models().max_by_key(|model| model.context));
    let largest_len = largest.map_or(0, |model| model.context).max(context_len.into());
    let prompt_len = min_prompt_len(&ready.model.tokenizer, conversation) as u64;
    if prompt_len < largest_len {
        return Ok(());
    }
    let hosted = largest.map(|model| (model.name.clone(), model.context));
    Err(Error::ContextLengthOfAll { prompt_len, is_exact: false, context_len, hosted })
}

/// What answers a request here, and the hosted model that it names. One without a model gets whichever is best.
fn asked(
    ready: &ReadyModel,
    hosted: Option<&Hosted>,
    name: Option<&str>,
) -> Result<(Variant, Option<String>)> {
    let Some(name) = name.filter(|name| *name != AUTO) else {
        return Ok((ready.base.clone(), None));
    };
    if let Some(variant) = ready.find(name) {
        return Ok((variant.clone(), None));
    }
    match hosted.is_some_and(|hosted| hosted.find(name).is_some()) {
        true => Ok((ready.base.clone(), Some(name.to_owned()))),
        false => Err(unknown_model(ready, hosted, name)),
    }
}

/// The refusal of a model that is neither here nor hosted.
pub(crate) fn unknown_model(ready: &ReadyModel, hosted: Option<&Hosted>, name: &str) -> Error {
    let hosted = hosted.into_iter().flat_map(Hosted::models).map(|model| model.name.as_str());
    let known: Vec<_> = ready.ids().chain(hosted).collect();
    Error::UnknownModel { model: name.to_owned(), known: known.join(", ") }
}

/// Reads JSON whatever the content type says; an error names the field, or the place where it is no JSON.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    use serde_json::error::Category;

    // Derived readers would take an array for an object, its elements for the fields in order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Error::Json { reason: "an array, not an object, at line 1".to_owned() });
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let param = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            Category::Data if param != "." => Error::field(param, FieldCode::Type, error),
            _ => Error::Json { reason: error.to_string() },
        }
    })?;
    json.end().map_err(|error| Error::Json { reason: error.to_string() })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> (Option<String>, String) {
        let error = parse::<ChatRequest>(body.as_bytes()).unwrap_err().body().error;
        (error.param, error.message)
    }

    #[test]
    fn broken_json_is_refused_by_line_and_column() {
        for (body, shown) in [
            ("{\n  \"messages\": [,]\n}", "line 2 column 16"),
            ("", "line 1 column 0"),
            ("{} x", "line 1 column 4"),
            ("[1]", "line 1"),
            ("{\"messages\": \"\u{0}\"}", "line 1 column 15"),
        ] {
            let (param, message) = refusal(body);
            assert_eq!(param, None, "{message}");
            assert!(message.contains(shown), "{message}");
        }
    }

    #[test]
    fn a_wrong_type_is_refused_by_its_field() {
        for (body, field, shown) in [
            (r#"{"temperature": "hot"}"#, "temperature", "\"hot\""),
            (r#"{"max_tokens": 1.5}"#, "max_tokens", "1.5"),
            (r#"{"messages": {}}"#, "messages", "sequence"),
            (r#"{"messages": [{"role": "user", "content": 5}]}"#, "messages[0].content", "5"),
            (r#"{"messages": [{"content": "x"}]}"#, "messages[0]", "role"),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text"}, {"type": 7}]}]}"#,
                "messages[0].content[1].type",
                "7",
            ),
            (r#"{"stop": [1]}"#, "stop[0]", "1"),
            (r#"{"tools": [{"type": "function", "function": {}}]}"#, "tools[0].function", "name"),
            (r#"{"tool_choice": []}"#, "tool_choice", "not accepted"),
        ] {
            let (param, message) = refusal(body);
            assert_eq!(param.as_deref(), Some(field), "{message}");
            assert!(message.starts_with(field) && message.contains(shown), "{message}");
        }
    }

    #[test]
    fn unknown_fields_are_read_over() {
        let request: ChatRequest =
            parse(br#"{"messages": [], "x": {"y": 1}, "messages_": null}"#).unwrap();
        assert_eq!(request, ChatRequest::default());
    }
}
