//! A streamed answer as server-sent events.
//!
//! The status and the first chunk leave at once. While no token comes (a long prefill, a full queue) comments
//! keep proxies and clients from giving up. An engine that fails in the middle ends the stream with an error
//! frame; only a complete answer ends with `[DONE]`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use harmonium_openai::sse;
use serde::Serialize;

use crate::reply::Reply;
use crate::state::AppState;

/// Asks nginx not to collect the answer before passing it on.
const NO_BUFFERING: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

/// The response that sends `reply` as it comes. Dropping its body drops the reply.
pub(crate) fn response(reply: Reply, state: Arc<AppState>) -> Response {
    let origin = reply.headers();
    let frames = stream::unfold(Some(reply), move |reply| {
        let state = Arc::clone(&state);
        async move { frame(reply?, &state).await }
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
        NO_BUFFERING,
    ];
    (headers, origin, Body::from_stream(frames)).into_response()
}

type Frame = (std::result::Result<Bytes, Infallible>, Option<Reply>);

/// The next bytes, and the answer unless it has ended.
async fn frame(mut answer: Reply, state: &AppState) -> Option<Frame> {
    let Ok(next) = tokio::time::timeout(state.config.keep_alive_interval, answer.next()).await
    else {
        return Some((Ok(sse::encode_comment("keep-alive")), Some(answer)));
    };
    let mut out = Vec::new();
    let rest = match next {
        Some(Ok(chunk)) => {
            encode(&chunk, &mut out);
            // One token may make several chunks: they share a write.
            while let Some(chunk) = answer.next_ready() {
                encode(&chunk, &mut out);
            }
            Some(answer)
        }
        Some(Err(error)) => {
            state.metrics.count_error(error.code());
            tracing::warn!(%error, "ended a stream with an error");
            encode(&error.body(), &mut out);
            None
        }
        None => {
            sse::encode_data_into(sse::DONE, &mut out);
            None
        }
    };
    Some((Ok(out.into()), rest))
}

fn encode(value: &impl Serialize, out: &mut Vec<u8>) {
    let json = serde_json::to_string(value).expect("wire types have string keys only");
    sse::encode_data_into(&json, out);
}
