//! Shows that something long is still going on: a spinner on a terminal, plain lines otherwise.
//!
//! Work that ends within a second shows nothing. Everything goes to stderr, so that stdout stays clean.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

/// Work shorter than this is not worth a word.
const QUIET: Duration = Duration::from_secs(1);
/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Awaits `work` and shows `what` and the time passed while it lasts.
pub(crate) async fn during<T>(what: &str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let mut work = pin!(work);
    if let Some(output) = within(QUIET, work.as_mut()).await {
        return output;
    }
    if io::stderr().is_terminal() {
        let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
        spinner.set_style(
            ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .expect("the template is well formed"),
        );
        spinner.enable_steady_tick(Duration::from_millis(120));
        let output = work.await;
        spinner.finish_and_clear();
        return output;
    }
    loop {
        // Progress is a courtesy: if nobody can read it, the work goes on.
        let _ = writeln!(io::stderr().lock(), "{what} ({} s)", started.elapsed().as_secs());
        if let Some(output) = within(LINE_EVERY, work.as_mut()).await {
            return output;
        }
    }
}

async fn within<F: Future + Unpin>(limit: Duration, work: F) -> Option<F::Output> {
    tokio::select! {
        output = work => Some(output),
        () = sleep(limit) => None,
    }
}
