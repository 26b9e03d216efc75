//! The upstream key is seen by the upstream only: every answer and every line of the log that the suite makes, at every
//! level, is searched for it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once};

use serde_json::json;
use tracing::Level;

use crate::hosted::Leg;
use crate::upstream::far_away;

/// The key that every stand-in for a hosted model is asked with.
pub(crate) const KEY: &str = "sk-upstream-secret";

static LEAK: Mutex<Option<String>> = Mutex::new(None);
static NUM_LINES: AtomicUsize = AtomicUsize::new(0);

/// Fails if `text`, which somebody may see, has the key in it.
pub(crate) fn check(text: &str) {
    assert!(!text.contains(KEY), "the key is shown: {text}");
}

/// From now on the log of this process is searched. It is one for all tests.
pub(crate) fn watch_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_ansi(false);
        log.with_writer(|| Watch).init();
    });
}

/// Fails if the key has been logged by any test so far.
pub(crate) fn check_log() {
    let leak = LEAK.lock().unwrap().clone();
    assert_eq!(leak, None, "the key is in the log");
}

/// Takes whole lines, as the subscriber writes them.
struct Watch;

impl io::Write for Watch {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        NUM_LINES.fetch_add(1, Ordering::Relaxed);
        if let Some(leak) = leak(line) {
            LEAK.lock().unwrap().get_or_insert(leak);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line, if it has the key in it.
fn leak(line: &[u8]) -> Option<String> {
    let line = String::from_utf8_lossy(line);
    line.contains(KEY).then(|| line.into_owned())
}

#[tokio::test]
async fn the_log_is_searched() {
    let leg = Leg::start(|_| far_away()).await;
    assert_eq!(leg.long(json!({})).await.status, 200);
    assert!(NUM_LINES.load(Ordering::Relaxed) > 0);
    assert!(leak(b"TRACE sent nothing\n").is_none());
    assert!(leak(format!("TRACE sent {KEY}\n").as_bytes()).is_some());
}
