//! The server as the application sees it: make it, give it a model, let it serve, end it in order.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use harmonium_hosted::Hosted;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{ConfigError, ServerConfig};
use crate::connections;
use crate::routes;
use crate::state::{AppState, LocalModel, ReadyModel};

/// How long connections may take to send their last bytes once all answers have ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often hosted models are asked when they will be switched off.
const SHUTDOWN_DATE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// An OpenAI-compatible HTTP server. Clones are the same server.
#[derive(Debug, Clone)]
pub struct Server {
    state: Arc<AppState>,
}

impl Server {
    /// Checks the settings and makes a server that has no model yet. Without `hosted` nothing ever leaves it.
    pub fn new(config: ServerConfig, hosted: Option<Arc<Hosted>>) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { state: Arc::new(AppState::new(config, hosted)) })
    }

    /// Gives the server its model; from now on it is ready. The first model stays: later calls change nothing.
    pub fn set_ready(&self, model: LocalModel) {
        if self.state.model.set(ReadyModel::new(model)).is_err() {
            tracing::warn!("the server already has a model");
        }
    }

    /// The API as a service, for tests without a socket and for mounting elsewhere.
    pub fn router(&self) -> Router {
        routes::router(Arc::clone(&self.state))
    }

    /// Serves `listener` until `shutdown` resolves, then drains: new requests get 503 while the running answers
    /// end, within [`ServerConfig::drain_timeout`]; what still runs then is cancelled. Returns when all is sent.
    /// The engine is left running.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        let config = &self.state.config;
        let bounds = connections::Bounds {
            max_connections: config.max_connections,
            idle_timeout: config.idle_timeout,
        };
        let _watch = self.state.hosted.clone().map(|hosted| {
            AbortOnDropHandle::new(tokio::spawn(async move { watch(&hosted).await }))
        });
        let close = CancellationToken::new();
        let serving = connections::serve(listener, self.router(), bounds, close.clone());
        let mut serving = pin!(serving);
        // It ends only once `close` is cancelled.
        tokio::select! {
            () = &mut serving => return,
            () = shutdown => {}
        }
        // Connections are still accepted, so that whoever comes learns that it should go elsewhere.
        tokio::select! {
            () = &mut serving => return,
            () = self.state.drain(config.drain_timeout) => {}
        }
        close.cancel();
        if tokio::time::timeout(CLOSE_TIMEOUT, serving).await.is_err() {
            tracing::warn!("left connections that did not take their last bytes");
        }
    }
}

/// Keeps what the hosted models' upstreams say of them up to date. Never ends by itself.
async fn watch(hosted: &Hosted) {
    let mut days = tokio::time::interval(SHUTDOWN_DATE_INTERVAL);
    loop {
        days.tick().await;
        hosted.ask_shutdown_dates().await;
    }
}
