//! Clients that vanish: nothing of theirs stays behind, and nobody else notices.

use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{Server, ask, content, with};

#[tokio::test(flavor = "multi_thread")]
async fn vanishing_clients_leave_no_blocks_and_the_others_finish() {
    const NUM_REQUESTS: usize = 1000;
    /// Below the bound of the queue: this test is about leaving, not about waiting.
    const NUM_PARALLEL: usize = 96;
    let server = Arc::new(Server::start(&[]));
    let question = "What is the capital of France?";
    let alone = server.chat(&ask(question)).await;
    let alone = content(&alone).to_owned();

    let places = Arc::new(Semaphore::new(NUM_PARALLEL));
    let mut running = JoinSet::new();
    for index in 0..NUM_REQUESTS {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let server = Arc::clone(&server);
        running.spawn(async move {
            let _place = place;
            let options = json!({"reasoning_effort": "low", "seed": index});
            let request = with(ask(question), options);
            match index % 4 {
                // Half of the clients stay, with whole answers and with streams.
                0 => {
                    let answer = server.chat(&request).await;
                    assert!(content(&answer).contains("Paris"), "{answer}");
                }
                1 => {
                    let text = server.post(&with(request, json!({"stream": true}))).await;
                    let text = text.text().await.unwrap();
                    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
                }
                // The others leave: in the middle of a stream, or without waiting for the answer at all.
                2 => {
                    let response = server.post(&with(request, json!({"stream": true}))).await;
                    let mut bytes = response.bytes_stream();
                    bytes.next().await.unwrap().unwrap();
                }
                _ => {
                    let answer = server.post(&request);
                    let soon = std::time::Duration::from_millis((index % 13) as u64);
                    let _ = tokio::time::timeout(soon, answer).await;
                }
            }
        });
    }
    while let Some(result) = running.join_next().await {
        result.unwrap();
    }
    server.wait_until_idle().await;
    let after = server.chat(&ask(question)).await;
    assert_eq!(content(&after), alone);
}
