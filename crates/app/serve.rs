//! `harmonium serve`: the HTTP server in front of a model.
//!
//! It listens first and loads then, so that a taken port is known at once and `/health` can tell loading from
//! broken. It ends in good order on the first SIGTERM or SIGINT and at once on the second.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harmonium_engine::Handle;
use tokio::net::TcpListener;

use crate::environment::Environment;
use crate::settings::{Resolved, Settings, SettingsArgs};
use crate::stack::{self, Stack};
use crate::{logging, signals};

/// How often the engine's health is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// Serves until a signal or a fatal error.
pub(crate) fn run(args: &SettingsArgs, environment: &Environment) -> Result<ExitCode> {
    let resolved = Resolved::read(args, environment)?;
    logging::start(&resolved.settings, environment)?;
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    stack::block_on(serve(&resolved.settings, environment))
}

async fn serve(settings: &Settings, environment: &Environment) -> Result<ExitCode> {
    let shutdown = signals::shutdown()?;
    let (host, port) = (settings.server.host.as_str(), settings.server.port);
    let listener = TcpListener::bind((host, port))
        .await
        .with_context(|| format!("cannot listen on {host}:{port}"))?;
    let stack = tokio::select! {
        stack = Stack::start(settings, environment, listener, shutdown.clone()) => stack?,
        () = shutdown.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    // Whether anybody reads this is not the server's business.
    let _ = announce(&stack, settings);
    let engine = stack.model().engine.clone();
    let stands_in = settings.hosted.enabled && settings.hosted.when_unhealthy;
    tokio::select! {
        result = stack.wait() => result.map(|()| ExitCode::SUCCESS),
        () = lost(&engine), if !stands_in && !shutdown.is_cancelled() => {
            bail!("the engine is lost; the log says why")
        }
    }
}

/// Says on stdout what is served, where, and how to try it.
fn announce(stack: &Stack, settings: &Settings) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let name = &stack.model().name;
    let url = stack.url();
    let authorization = match settings.server.api_key_file.as_ref() {
        Some(_) => " -H \"Authorization: Bearer $KEY\"",
        None => "",
    };
    let context_len = stack.model().engine.spec().context_len;
    writeln!(out, "model {name} on {}, context {context_len} tokens", stack.device())?;
    let adapters = &stack.model().adapters;
    if !adapters.is_empty() {
        let ids: Vec<String> = adapters.iter().map(|adapter| format!("{name}:{adapter}")).collect();
        writeln!(out, "adapters {}", ids.join(", "))?;
    }
    if settings.hosted.enabled {
        let budget = &settings.hosted.budget;
        let limit =
            |usd: Option<f64>| usd.map_or("no limit".to_owned(), |usd| format!("{usd} USD"));
        writeln!(
            out,
            "hosted {} for what does not fit; budget {} a day, {} a month",
            settings.hosted.default,
            limit(budget.day_usd),
            limit(budget.month_usd)
        )?;
    }
    writeln!(out, "listening on {url}")?;
    writeln!(
        out,
        "\ntry:\n  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{authorization} \\"
    )?;
    writeln!(
        out,
        "    -d '{{\"model\": \"{name}\", \"messages\": [{{\"role\": \"user\", \"content\": \"What is the capital of France?\"}}]}}'"
    )?;
    out.flush()
}

/// Resolves once the engine can no longer run anything.
async fn lost(engine: &Handle) {
    while engine.is_healthy() {
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}
