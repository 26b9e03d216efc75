//! Shows that something long is still going on: a spinner or a bar on a terminal, plain lines otherwise.
//!
//! Work that ends within a second shows nothing, unless it has something to say. Everything goes to stderr, so that
//! stdout stays clean.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::machine::gib;

/// Work shorter than this is not worth a word.
const QUIET: Duration = Duration::from_secs(1);
/// Time between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(120);
/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Work that takes a while, and how far it is if it moves bytes. Told from any thread.
pub(crate) struct Task {
    what: String,
    num_done: AtomicU64,
    /// 0 until it is known.
    num_bytes: AtomicU64,
}

impl Task {
    /// Nothing is done yet.
    pub(crate) fn new(what: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { what: what.into(), num_done: 0.into(), num_bytes: 0.into() })
    }

    /// So many bytes are to be moved in all.
    pub(crate) fn expect(&self, num_bytes: u64) {
        self.num_bytes.store(num_bytes, Ordering::Relaxed);
    }

    /// So many more were moved.
    pub(crate) fn advance(&self, num_bytes: u64) {
        self.num_done.fetch_add(num_bytes, Ordering::Relaxed);
    }

    fn text(&self) -> String {
        let [done, all] = [&self.num_done, &self.num_bytes].map(|n| n.load(Ordering::Relaxed));
        if done == 0 || all == 0 {
            return self.what.clone();
        }
        format!("{}, {} of {}", self.what, gib(done.min(all)), gib(all))
    }
}

/// Awaits `work` and shows what it is and the time passed while it lasts.
pub(crate) async fn during<T>(task: &Task, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let mut work = pin!(work);
    if let Some(output) = within(QUIET, work.as_mut()).await {
        return output;
    }
    if io::stderr().is_terminal() {
        let spinner = ProgressBar::new_spinner();
        spinner.set_style(
            ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .expect("the template is well formed"),
        );
        loop {
            spinner.set_message(task.text());
            spinner.tick();
            if let Some(output) = within(TICK, work.as_mut()).await {
                spinner.finish_and_clear();
                return output;
            }
        }
    }
    loop {
        // Progress is a courtesy: if nobody can read it, the work goes on.
        let seconds = started.elapsed().as_secs();
        let _ = writeln!(io::stderr().lock(), "{} ({seconds} s)", task.text());
        if let Some(output) = within(LINE_EVERY, work.as_mut()).await {
            return output;
        }
    }
}

/// Work whose number of steps is known.
pub(crate) struct Steps {
    bar: ProgressBar,
    num_steps: u64,
    /// When the last plain line was due or written.
    spoke: Instant,
    is_terminal: bool,
}

impl Steps {
    /// Nothing is done yet.
    pub(crate) fn new(num_steps: u64) -> Self {
        let is_terminal = io::stderr().is_terminal();
        // The bar hides itself where there is no terminal.
        let bar = ProgressBar::new(num_steps).with_style(
            ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed}, {eta} left)")
                .expect("the template is well formed"),
        );
        bar.enable_steady_tick(Duration::from_secs(1));
        Self { bar, num_steps, spoke: Instant::now(), is_terminal }
    }

    /// A step begins.
    pub(crate) fn begin(&mut self, what: &str) {
        self.bar.set_message(harmless(what));
        if !self.is_terminal && self.spoke.elapsed() >= LINE_EVERY {
            self.spoke = Instant::now();
            self.say(&format!("{}/{} {what}", self.bar.position(), self.num_steps));
        }
    }

    /// A step has ended.
    pub(crate) fn done(&self) {
        self.bar.inc(1);
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
        });
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A text that may come from anywhere, as one line that does nothing to a terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

async fn within<F: Future + Unpin>(limit: Duration, work: F) -> Option<F::Output> {
    tokio::select! {
        output = work => Some(output),
        () = sleep(limit) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_says_how_far_it_is_once_it_is_known() {
        let task = Task::new("loading x");
        assert_eq!(task.text(), "loading x");
        task.expect(4 << 30);
        task.advance(1 << 30);
        assert_eq!(task.text(), "loading x, 1.0 GiB of 4.0 GiB");
    }
}
