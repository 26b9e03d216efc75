//! The HTTP API that a subcommand is a client of: a running server's, or that of one started for it.
//!
//! The started server is the one that `harmonium serve` starts, on a free port of this machine, so that there is
//! one path from text to model.

use anyhow::{Context, Result};
use harmonium_openai::{Client, ClientConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::logging;
use crate::settings::{OrNone, Resolved, Settings, SettingsArgs};
use crate::stack::Stack;

/// Reads the settings for [`Api::connect`] and starts logging.
pub(crate) fn settings(args: &SettingsArgs, environment: &Environment) -> Result<Settings> {
    let resolved = Resolved::read(args, environment)?;
    let mut settings = resolved.settings.clone();
    if !resolved.is_given("server.log") {
        // Between a question and its answer only problems are of interest.
        settings.server.log = "warn".to_owned();
    }
    logging::start(&settings, environment)?;
    Ok(settings)
}

/// A server to ask.
pub(crate) struct Api {
    /// Asks it.
    pub(crate) client: Client,
    /// The server, if it was started here.
    local: Option<Stack>,
}

impl Api {
    /// Takes the server at `url`, or starts one with `settings` and waits until it is ready.
    pub(crate) async fn connect(
        url: Option<&str>,
        settings: Settings,
        environment: &Environment,
    ) -> Result<Self> {
        let (base_url, local) = match url {
            Some(url) => (base_url(url), None),
            None => {
                let stack = start_locally(settings, environment).await?;
                (base_url(&stack.url()), Some(stack))
            }
        };
        let api_key = url.and_then(|_| environment.get("HARMONIUM_API_KEY")).map(str::to_owned);
        let config = ClientConfig { base_url, api_key, ..ClientConfig::default() };
        Ok(Self { client: Client::new(config)?, local })
    }

    /// Ends the server, if it was started here, in good order.
    pub(crate) async fn end(self) -> Result<()> {
        match self.local {
            Some(stack) => stack.end().await,
            None => Ok(()),
        }
    }
}

async fn start_locally(mut settings: Settings, environment: &Environment) -> Result<Stack> {
    // Only this process knows the port, and it sends no key.
    settings.server.api_key_file = OrNone::None;
    let listener =
        TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on 127.0.0.1")?;
    Stack::start(&settings, environment, listener, CancellationToken::new()).await
}

/// The address of the API under a server's address, which may name the version already.
fn base_url(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.ends_with("/v1") { url.to_owned() } else { format!("{url}/v1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_an_address_may_be_left_out() {
        for url in ["http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/"] {
            assert_eq!(base_url(url), "http://a:1/v1");
        }
    }
}
