//! `POST /v1/chat/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use harmonium_openai::{ChatCompletion, Fold};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::error::{Error, Result};
use crate::prepare::prepare;
use crate::state::AppState;
use crate::stream;

/// A body that takes longer to arrive is not worth its connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// Answers a chat request, streamed or whole.
pub(crate) async fn completions(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response> {
    let arrived = Instant::now();
    // Before the body, so that a server that cannot answer does not read books.
    state.ready()?;
    let running = state.begin_answer();
    let body = read_body(&state, request).await?;
    let prepared = prepare(&state, body).await?;
    let is_stream = prepared.turn.stream.is_some();
    let answer = Answer::start(Arc::clone(&state), prepared, arrived, running)?;
    if is_stream {
        return Ok(stream::response(answer, state));
    }
    Ok(Json(whole(answer).await?).into_response())
}

/// Folds the stream: a whole answer is what its chunks add up to.
async fn whole(mut answer: Answer) -> Result<ChatCompletion> {
    let mut fold = Fold::new();
    while let Some(chunk) = answer.next().await {
        fold.push(chunk?);
    }
    fold.finish().ok_or(Error::Internal)
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
