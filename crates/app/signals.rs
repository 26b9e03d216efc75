//! SIGTERM and SIGINT: the first asks to end in good order, the second ends at once.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process that a signal ended: 128 plus the signal's number.
const EXIT_ON_SECOND: i32 = 130;

/// A token that the first signal cancels. From then on a second signal ends the process.
pub(crate) fn shutdown() -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        for received in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if received > 0 {
                std::process::exit(EXIT_ON_SECOND);
            }
            first.cancel();
        }
    });
    Ok(token)
}
