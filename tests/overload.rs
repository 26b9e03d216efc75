//! More requests than the server takes: the surplus is told to come back, the rest is answered.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Server, ask, with};

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_answers_429_and_the_others_finish() {
    const NUM_REQUESTS: usize = 24;
    /// So many that all requests arrive while the first is being answered.
    const NUM_TOKENS: u32 = 600;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.toml");
    std::fs::write(&path, "[engine]\nmax_waiting = 2\nmax_sequences = 1\n").unwrap();
    let server = Arc::new(Server::start(&["--config", path.to_str().unwrap()]));
    let mut running = JoinSet::new();
    for _ in 0..NUM_REQUESTS {
        let server = Arc::clone(&server);
        running.spawn(async move {
            let long = json!({"ignore_eos": true, "max_completion_tokens": NUM_TOKENS});
            let response = server.post(&with(ask("Hello!"), long)).await;
            let status = response.status().as_u16();
            let retry_after = response.headers().get("retry-after").is_some();
            (status, retry_after, response.json::<Value>().await.unwrap())
        });
    }
    let (mut answered, mut refused) = (0, 0);
    while let Some(result) = running.join_next().await {
        match result.unwrap() {
            (200, _, body) => {
                assert_eq!(body["usage"]["completion_tokens"], NUM_TOKENS);
                answered += 1;
            }
            (429, retry_after, body) => {
                assert!(retry_after, "{body}");
                assert_eq!(body["error"]["type"], "rate_limit_error", "{body}");
                refused += 1;
            }
            (status, _, body) => panic!("status {status}: {body}"),
        }
    }
    // Both waiting places are filled at least; all others may arrive before the first of the two runs.
    assert!(answered >= 2, "{answered} answered, {refused} refused");
    assert!(refused >= 1, "{answered} answered, {refused} refused");
    server.wait_until_idle().await;
}
