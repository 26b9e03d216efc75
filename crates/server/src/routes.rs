//! Which path goes where, and what every answer passes through.
//!
//! A trailing slash changes nothing; model ids may contain slashes. Everything that is no route is an error in
//! the protocol's form.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::error::{Error, Result};
use crate::state::AppState;
use crate::{auth, chat, models, reply, request_id, route};

const ROUTES: &str = "POST /v1/chat/completions, POST /v1/route, GET /v1/models, GET /v1/models/{id}, GET /health, GET /metrics";

/// The whole API over `state`.
pub(crate) fn router(state: Arc<AppState>) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/chat/completions/", post(chat::completions))
        .route("/v1/route", post(route::dry_run))
        .route("/v1/route/", post(route::dry_run))
        .route("/v1/models", get(models::list))
        .route("/v1/models/", get(models::list))
        .route("/v1/models/{*id}", get(models::show))
        .route_layer(from_fn_with_state(Arc::clone(&state), auth::require_key));
    let open = Router::new()
        .route("/health", get(health))
        .route("/health/", get(health))
        .route("/metrics", get(metrics))
        .route("/metrics/", get(metrics));
    let mut router = api
        .merge(open)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(state.config.max_body_bytes))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            // The panic hook has printed what and where.
            Error::Internal.into_response()
        }));
    if let Some(cors) = cors(&state.config.cors_origins) {
        router = router.layer(cors);
    }
    router.layer(from_fn_with_state(Arc::clone(&state), request_id::identify)).with_state(state)
}

/// `None` if browsers of other origins may not call. The origins were checked when the server was made.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = if origins.is_empty() {
        return None;
    } else if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let ours = ["x-request-id", "retry-after", "x-should-retry"].map(HeaderName::from_static);
    let exposed = ours.into_iter().chain(reply::HEADERS);
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods(AllowMethods::list([Method::GET, Method::POST]))
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(ExposeHeaders::list(exposed)),
    )
}

/// 200 once requests can be answered.
async fn health(State(state): State<Arc<AppState>>) -> Result<Response> {
    state.routable()?;
    Ok(Json(json!({"status": "ok"})).into_response())
}

async fn metrics(State(state): State<Arc<AppState>>, request: Request) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text";
    // The two text formats differ where we write nothing; a browser shows only the older one.
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let kind = if accepts.is_some_and(|accept| accept.contains(OPEN_METRICS)) {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    if let Some(hosted) = &state.hosted {
        match hosted.spent().await {
            Ok(spent) => state.metrics.set_hosted_spent(spent),
            Err(error) => tracing::error!(%error, "the record of spending is not available"),
        }
    }
    ([(header::CONTENT_TYPE, kind)], state.metrics.expose()).into_response()
}

async fn unknown_path(uri: Uri) -> Error {
    Error::UnknownPath { path: uri.path().to_owned(), known: ROUTES }
}

async fn wrong_method(method: Method, uri: Uri) -> Error {
    Error::WrongMethod { path: uri.path().to_owned(), method: method.to_string() }
}
