//! `GET /v1/models`: what there is to ask, here and hosted.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use harmonium_hosted::{BreakerState, Hosted, HostedModel};
use harmonium_openai::models::Pricing;
use harmonium_openai::{Model, ModelList};

use crate::error::{Error, Result, Unavailable};
use crate::prepare::unknown_model;
use crate::state::{AppState, ReadyModel};

/// What the local model reads, writes and does.
pub const LOCAL_CAPABILITIES: [&str; 3] = ["text", "reasoning", "tools"];

/// What we send to a hosted model and take from it.
pub fn hosted_capabilities(sees_images: bool, reasons: bool) -> Vec<&'static str> {
    let image = sees_images.then_some("image");
    let reasoning = reasons.then_some("reasoning");
    ["text"].into_iter().chain(image).chain(reasoning).chain(["tools"]).collect()
}

pub(crate) async fn list(State(state): State<Arc<AppState>>) -> Result<Json<ModelList>> {
    let ready = loaded(&state)?;
    let local = ready.ids().map(|id| local(ready, id));
    let hosted = state.hosted.iter().flat_map(|all| all.models().map(|model| hosted(all, model)));
    let data = local.chain(hosted).collect();
    Ok(Json(ModelList { object: "list".to_owned(), data }))
}

pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    Path(id): Path<String>,
) -> Result<Json<Model>> {
    let ready = loaded(&state)?;
    let id = id.trim_end_matches('/');
    let all = state.hosted.as_deref();
    if ready.find(id).is_some() {
        return Ok(Json(local(ready, id)));
    }
    match all.and_then(|all| Some(hosted(all, all.find(id)?))) {
        Some(model) => Ok(Json(model)),
        None => Err(unknown_model(ready, all, id)),
    }
}

/// The model, also while the server drains.
fn loaded(state: &AppState) -> Result<&ReadyModel> {
    state.model.get().ok_or(Error::Unavailable(Unavailable::Loading))
}

fn local(ready: &ReadyModel, id: &str) -> Model {
    let context_len = ready.model.engine.spec().context_len;
    let is_adapted = ready.find(id).is_some_and(|variant| variant.adapter.is_some());
    let state = if ready.model.engine.is_healthy() { "ready" } else { "stopped" };
    Model {
        id: id.to_owned(),
        object: "model".to_owned(),
        created: ready.created,
        owned_by: "harmonium".to_owned(),
        shutdown_date: None,
        parent: is_adapted.then(|| ready.model.name.clone()),
        max_model_len: Some(context_len.into()),
        max_output_tokens: Some(context_len),
        backend: Some("local".to_owned()),
        state: Some(state.to_owned()),
        capabilities: Some(LOCAL_CAPABILITIES.map(str::to_owned).into()),
        pricing: None,
    }
}

fn hosted(all: &Hosted, model: &HostedModel) -> Model {
    let state = all.states().find(|(name, _)| *name == model.name).map(|(_, state)| match state {
        BreakerState::Closed => "ready",
        BreakerState::HalfOpen => "trying",
        BreakerState::Open => "failing",
    });
    let capabilities = hosted_capabilities(model.image_tokens.is_some(), model.is_reasoning);
    let [input, cached_input, output] = model.price.as_usd_per_million();
    Model {
        id: model.name.clone(),
        object: "model".to_owned(),
        created: 0,
        owned_by: "hosted".to_owned(),
        shutdown_date: all.shutdown_date(&model.name).map(|date| date.to_string()),
        parent: None,
        max_model_len: Some(model.context),
        max_output_tokens: Some(model.max_output),
        backend: Some("hosted".to_owned()),
        state: state.map(str::to_owned),
        capabilities: Some(capabilities.into_iter().map(str::to_owned).collect()),
        pricing: Some(Pricing { input, cached_input, output }),
    }
}
