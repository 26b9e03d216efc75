//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use harmonium_openai::{ChatCompletion, Fold};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::answer::Answer;
use crate::constraint::constraint;
use crate::dispatch::Route;
use crate::error::{Error, Result};
use crate::hosted_answer::{HostedAnswer, Wanted};
use crate::prepare::Prepared;
use crate::reply::Reply;
use crate::route::{Checked, check};
use crate::state::AppState;
use crate::stream;
use crate::validate::UsageMode;

/// Answers a chat request, streamed or whole.
pub(crate) async fn completions(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response> {
    let arrived = Instant::now();
    // Before the body, so that a server that cannot answer does not read books.
    state.routable()?;
    let running = state.begin_answer();
    let checked = check(&state, request).await?;
    checked.keep(&state).await?;
    let route = checked.route(&state).await?;
    let is_stream = checked.prepared.turn.stream.is_some();
    let mut reply = start(&state, checked, route, arrived, running).await?;
    let (backend, reason) = reply.origin();
    state.metrics.count_answer(backend, reason.as_str());
    if is_stream {
        return Ok(stream::response(reply, state));
    }
    let whole = Json(whole(&mut reply).await?);
    // After the end, when the cost is known.
    Ok((reply.headers(), whole).into_response())
}

async fn start(
    state: &Arc<AppState>,
    checked: Checked,
    route: Route,
    arrived: Instant,
    running: TaskTrackerToken,
) -> Result<Reply> {
    let state = Arc::clone(state);
    let route = match route {
        Route::Local => return local(state, checked.prepared, arrived, running).await,
        Route::Hosted(route) => route,
    };
    let wanted = Wanted {
        reason: route.reason,
        usage_mode: checked.prepared.turn.stream.unwrap_or(UsageMode::AtEnd),
        arrived,
    };
    let order = checked.order(&state, &route)?;
    let asked = HostedAnswer::start(Arc::clone(&state), order, wanted, state.begin_answer()).await;
    match asked {
        Err(error) if route.stays_after(&error) => {
            local(state, checked.prepared, arrived, running).await
        }
        asked => Ok(Reply::Hosted(Box::new(asked?))),
    }
}

async fn local(
    state: Arc<AppState>,
    mut prepared: Prepared,
    arrived: Instant,
    running: TaskTrackerToken,
) -> Result<Reply> {
    let model = Arc::clone(&prepared.variant.name);
    let constraint = match prepared.turn.rules.take() {
        Some(rules) => Some(constraint(&state, rules).await?),
        None => None,
    };
    let answer = Answer::start(state, prepared, constraint, arrived, running)?;
    Ok(Reply::Local { answer: Box::new(answer), model })
}

/// Folds the stream: a whole answer is what its chunks add up to.
async fn whole(reply: &mut Reply) -> Result<ChatCompletion> {
    let mut fold = Fold::new();
    while let Some(chunk) = reply.next().await {
        fold.push(chunk?);
    }
    fold.finish().ok_or(Error::Internal)
}
