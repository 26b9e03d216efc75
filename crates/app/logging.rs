//! Log lines on stderr, as the settings ask.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::environment::Environment;
use crate::settings::{LogFormat, Settings};

/// Starts logging for the rest of the process.
pub(crate) fn start(settings: &Settings, environment: &Environment) -> Result<()> {
    let filter = EnvFilter::try_new(&settings.server.log)
        .with_context(|| format!("server.log: {:?} is not a log filter", settings.server.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match settings.server.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => {
            let colors = io::stderr().is_terminal() && environment.get("NO_COLOR").is_none();
            builder.with_ansi(colors).with_target(false).try_init()
        }
    }
    .map_err(|error| anyhow!("cannot start logging: {error}"))
}
