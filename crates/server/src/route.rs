//! From an HTTP request to the decision who answers it, and `POST /v1/route`, which stops there.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use harmonium_hosted::{Foreseen, Order};
use serde::Serialize;

use crate::auth::Caller;
use crate::dispatch::{Asked, HostedRoute, Leave, Question, Reason, Route, decide};
use crate::error::{Error, Result};
use crate::prepare::{Prepared, prepare};
use crate::state::AppState;

/// A body that takes longer to arrive is not worth its connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// A checked request and who sent it.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) prepared: Prepared,
    pub(crate) caller: Caller,
    leave: Leave,
}

/// Reads, checks and renders a request.
pub(crate) async fn check(state: &Arc<AppState>, request: Request) -> Result<Checked> {
    let leave = Leave::from_headers(request.headers())?;
    let caller = *request.extensions().get::<Caller>().ok_or(Error::Internal)?;
    let body = read_body(state, request).await?;
    let prepared = prepare(state, caller, body).await?;
    Ok(Checked { prepared, caller, leave })
}

impl Checked {
    /// Records that the request's conversation must not leave, if the request says so.
    pub(crate) async fn keep(&self, state: &AppState) -> Result<()> {
        match (self.leave, &state.hosted, &self.prepared.leaving) {
            (Leave::StickyLocal, Some(hosted), Some(leaving)) => {
                Ok(hosted.keep(leaving.conversation).await?)
            }
            _ => Ok(()),
        }
    }

    /// Decides who answers it.
    pub(crate) async fn route(&self, state: &AppState) -> Result<Route> {
        let route = self.decide(state, false)?;
        match (&route, &state.hosted, &self.prepared.leaving) {
            (Route::Hosted(_), Some(hosted), Some(leaving))
                if hosted.is_kept(leaving.conversation).await? =>
            {
                self.decide(state, true)
            }
            _ => Ok(route),
        }
    }

    /// What a hosted model is asked, or would be.
    pub(crate) fn order<'a>(
        &self,
        state: &'a AppState,
        route: &'a HostedRoute,
    ) -> Result<Order<'a>> {
        let leaving = self.prepared.leaving.as_ref().ok_or(Error::Internal)?;
        Ok(Order {
            model: &route.model,
            request: Arc::clone(&leaving.request),
            quote: route.quote,
            is_named: route.reason == Reason::Named,
            reason: route.reason.as_str(),
            caller_key: self.caller.key(&state.config),
        })
    }

    fn decide(&self, state: &AppState, is_kept: bool) -> Result<Route> {
        let Self { prepared, caller, leave } = self;
        let engine = &state.routable()?.model.engine;
        let hosted = state.hosted.as_deref();
        let named = prepared.hosted_model.as_deref();
        decide(&Question {
            asked: match named.and_then(|name| hosted?.find(name)) {
                Some(model) => Asked::Hosted(model),
                None => Asked::Any,
            },
            leave: *leave,
            is_kept,
            // Who has no keys has decided to let everyone in.
            caller_may: caller.key_index.is_none_or(|index| state.config.api_keys[index].may_host),
            num_prompt: prepared.prompt.len() as u64,
            images: prepared.turn.images.as_ref(),
            num_unrendered: prepared.leaving.as_ref().map_or(0, |leaving| leaving.num_unrendered),
            max_tokens: prepared.turn.max_tokens,
            num_answers: prepared.turn.n,
            context_len: engine.spec().context_len,
            num_waiting: engine.stats().waiting,
            is_healthy: engine.is_healthy(),
            triggers: state.config.triggers,
            hosted,
        })
    }
}

async fn read_body(state: &AppState, request: Request) -> Result<Bytes> {
    let body = Bytes::from_request(request, &());
    let body = tokio::time::timeout(BODY_TIMEOUT, body)
        .await
        .map_err(|_| Error::BodyTimeout { seconds: BODY_TIMEOUT.as_secs() })?;
    body.map_err(|rejection: BytesRejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Error::BodyTooLarge { max_bytes: state.config.max_body_bytes }
        }
        _ => Error::BodyBroken,
    })
}

/// What `POST /v1/route` answers.
#[derive(Debug, Serialize)]
pub(crate) struct RouteReport {
    backend: &'static str,
    reason: &'static str,
    model: String,
    /// Tokens of the rendered prompt.
    prompt_tokens: usize,
    /// Longest answer, in tokens.
    max_output_tokens: u32,
    /// Context of the local model, in tokens.
    local_context_tokens: u32,
    /// The most it can cost, in US dollars.
    estimated_cost_usd: f64,
    /// Fields of the request that a hosted model would not be sent.
    dropped: Vec<&'static str>,
}

/// Says who would answer a chat request now, why, and what it would cost at most, or refuses it as the request itself
/// would be refused. Nothing is sent or generated.
pub(crate) async fn dry_run(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Json<RouteReport>> {
    state.routable()?;
    let checked = check(&state, request).await?;
    match checked.route(&state).await? {
        Route::Local => local_report(&state, &checked.prepared),
        Route::Hosted(route) => {
            let hosted = state.hosted.as_ref().ok_or(Error::Internal)?;
            let foreseen = hosted.foresee(checked.order(&state, &route)?).await;
            match foreseen.map_err(Error::from) {
                Err(error) if route.stays_after(&error) => local_report(&state, &checked.prepared),
                foreseen => hosted_report(&state, &checked.prepared, route, foreseen?),
            }
        }
    }
    .map(Json)
}

fn local_report(state: &AppState, prepared: &Prepared) -> Result<RouteReport> {
    let ready = state.ready()?;
    let prompt_tokens = prepared.prompt.len();
    let local_context_tokens = ready.model.engine.spec().context_len;
    let room = (local_context_tokens as usize).saturating_sub(prompt_tokens);
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    if room == 0 {
        return Err(Error::ContextLength {
            prompt_len: prompt_tokens,
            context_len: local_context_tokens,
        });
    }
    Ok(RouteReport {
        backend: "local",
        reason: Reason::Fits.as_str(),
        model: prepared.variant.name.to_string(),
        prompt_tokens,
        max_output_tokens: prepared.max_tokens.min(room),
        local_context_tokens,
        estimated_cost_usd: 0.0,
        dropped: Vec::new(),
    })
}

fn hosted_report(
    state: &AppState,
    prepared: &Prepared,
    route: HostedRoute,
    foreseen: Foreseen,
) -> Result<RouteReport> {
    Ok(RouteReport {
        backend: "hosted",
        reason: route.reason.as_str(),
        model: route.model,
        prompt_tokens: prepared.prompt.len(),
        max_output_tokens: route.quote.max_output,
        local_context_tokens: state.routable()?.model.engine.spec().context_len,
        estimated_cost_usd: foreseen.estimate.as_usd(),
        dropped: foreseen.dropped,
    })
}
