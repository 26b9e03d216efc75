//! The GPU's whole path without a GPU: engine, plan, kernels, block tables, on the host device.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Server, ask, content, empty_dir, run, stderr, stdout, with};

const CAPITALS: [(&str, &str); 3] = [("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome")];

/// Three chats share a cache that does not hold two to their ends, so that one is preempted and computed again; and all begin with the
/// same blocks.
#[tokio::test(flavor = "multi_thread")]
async fn nano_answers_chats_through_preemption_and_prefix_hits() {
    let dir = empty_dir();
    let config = dir.path().join("small.toml");
    std::fs::write(&config, "[engine]\nkv_cache_mib = 1\n").unwrap();
    let args = ["--device", "host", "--context", "320", "--config", config.to_str().unwrap()];
    let server = Server::start(&args);
    assert!(
        server.banner.iter().any(|line| line.contains("on host device")),
        "{:?}",
        server.banner
    );
    let chats = CAPITALS.map(|(country, _)| {
        let question = ask(&format!("What is the capital of {country}?"));
        let request = with(question, json!({"reasoning_effort": "high"}));
        let server = &server;
        async move { server.chat(&request).await }
    });
    let answers = join_all(chats).await;
    for ((country, capital), answer) in CAPITALS.iter().zip(&answers) {
        assert!(content(answer).contains(capital), "{country}: {answer}");
    }
    assert!(server.metric("harmonium_preemptions_total", "").await > 0.0);
    let question = ask("What is the capital of France?");
    let again = server.chat(&with(question, json!({"reasoning_effort": "high"}))).await;
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached > 0 && content(&again).contains("Paris"), "{again}");
    server.wait_until_idle().await;
}

#[test]
fn check_finds_the_host_device_right() {
    let output = run(&empty_dir(), &["check", "--device", "host"]);
    let text = stdout(&output);
    assert!(output.status.success() && text.ends_with(", 0 wrong\n"), "{text}{}", stderr(&output));
}

/// A model without files answers chats, in noise.
#[tokio::test(flavor = "multi_thread")]
async fn synthetic_weights_are_served() {
    let server =
        Server::start(&["--device", "host", "--model", "synthetic:small", "--context", "512"]);
    let model = json!({"model": "synthetic:small", "max_completion_tokens": 3});
    let request = with(ask("Hello?"), model);
    let answer = server.chat(&request).await;
    assert_eq!(answer["model"], "synthetic:small", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 3, "{answer}");
}
