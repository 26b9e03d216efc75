//! `x-request-id`: one id for each request, in the answer and in the log.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use tracing::Instrument;
use uuid::Uuid;

use crate::error::ErrorCode;
use crate::state::AppState;

const HEADER: &str = "x-request-id";
const MAX_LEN: usize = 128;

/// Gives the request an id (the client's own, if it is a usable one), and logs and counts the answer.
pub(crate) async fn identify(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let id = request
        .headers()
        .get(HEADER)
        .filter(|id| is_usable(id.as_bytes()))
        .cloned()
        .unwrap_or_else(generate);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());

    let started = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    response.headers_mut().insert(HEADER, id);

    let status = response.status().as_u16();
    let route = route.as_ref().map_or("unmatched", |route| route.as_str());
    state.metrics.count_request(route.trim_end_matches('/'), status);
    let error = response.extensions().get::<ErrorCode>().map(|code| code.0);
    if let Some(code) = error {
        state.metrics.count_error(code);
    }
    let ms = started.elapsed().as_millis();
    span.in_scope(|| tracing::info!(%method, path, status, ms, error, "answered"));
    response
}

fn generate() -> HeaderValue {
    HeaderValue::from_str(&format!("req_{}", Uuid::new_v4().simple()))
        .expect("letters and digits make a header value")
}

fn is_usable(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    (1..=MAX_LEN).contains(&id.len()) && id.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_plain_ids_are_taken_over() {
        assert!(is_usable(b"trace-1:a.b_C"));
        for unusable in [&b""[..], b"a b", b"a\"b", "é".as_bytes(), &[b'x'; 129]] {
            assert!(!is_usable(unusable), "{unusable:?}");
        }
        assert!(is_usable(generate().as_bytes()));
    }
}
