//! The server as the application sees it: make it, give it a model, let it serve, end it in order.

use std::future::{Future, IntoFuture};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, ServerConfig};
use crate::routes;
use crate::state::{AppState, LocalModel, ReadyModel};

/// How long connections may take to send their last bytes once all answers have ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An OpenAI-compatible HTTP server. Clones are the same server.
#[derive(Debug, Clone)]
pub struct Server {
    state: Arc<AppState>,
}

impl Server {
    /// Checks the settings and makes a server that has no model yet.
    pub fn new(config: ServerConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { state: Arc::new(AppState::new(config)) })
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
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        // Tokens are small writes that must not wait for each other.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot disable write coalescing");
            }
        });
        let close = CancellationToken::new();
        let serving = axum::serve(listener, self.router())
            .with_graceful_shutdown(close.clone().cancelled_owned());
        let mut serving = pin!(serving.into_future());
        tokio::select! {
            result = &mut serving => return result,
            () = shutdown => {}
        }
        // Connections are still accepted, so that whoever comes learns that it should go elsewhere.
        tokio::select! {
            result = &mut serving => return result,
            () = self.state.drain(self.state.config.drain_timeout) => {}
        }
        close.cancel();
        tokio::time::timeout(CLOSE_TIMEOUT, serving).await.unwrap_or(Ok(()))
    }
}
