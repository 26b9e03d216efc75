//! The GPU's whole path without a GPU: engine, plan, kernels, block tables, on the host device.

use futures_util::future::join_all;
use serde_json::json;

use crate::adapters::write_adapter;
use crate::support::{Server, ask, content, empty_dir, run, stderr, stdout, with};

const CAPITALS: [(&str, &str); 3] = [("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome")];

/// Three chats share a cache that does not hold two to their ends, so that one is preempted and computed again; and all begin with the
/// same blocks.
#[tokio::test(flavor = "multi_thread")]
async fn nano_answers_chats_through_preemption_and_prefix_hits() {
    let dir = empty_dir();
    let config = dir.path().join("small.toml");
    let settings = "[engine]\nkv_cache_mib = 1\nmax_sequences = 64\nmax_rows = 512\n";
    std::fs::write(&config, settings).unwrap();
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

/// The model and an adapter of it in the same steps: each answers as it does alone, and on its own.
#[tokio::test(flavor = "multi_thread")]
async fn adapters_answer_beside_the_model() {
    let dir = empty_dir();
    write_adapter(&dir.path().join("one"), 1);
    let flag = format!("one={}", dir.path().join("one").display());
    let args = ["--device", "host", "--context", "320", "--adapter", &flag];
    let server = Server::start(&args);
    assert!(server.banner.iter().any(|line| line == "adapters nano:one"), "{:?}", server.banner);
    let question = |model: &str| {
        let more = json!({"model": model, "max_tokens": 40, "reasoning_effort": "low"});
        with(ask("What is the capital of France?"), more)
    };
    let (plain, adapted) = (question("nano"), question("nano:one"));
    let answers = join_all([&plain, &adapted, &plain].map(|request| server.chat(request))).await;
    let [first, other, last] = &answers[..] else { panic!("{answers:?}") };
    assert!(content(first).contains("Paris") && content(last).contains("Paris"), "{answers:?}");
    assert_eq!(other["model"], "nano:one");
    assert_ne!(first["choices"], other["choices"]);
    server.wait_until_idle().await;
}

/// All that is done on a card, on the host device: every kernel and whole forward passes are right, and the report has
/// every field.
#[test]
fn gpu_checks_and_measures_the_host_device_and_writes_a_report() {
    let dir = empty_dir();
    #[rustfmt::skip]
    let output = run(&dir, &[
        "gpu", "--device", "host", "--model", "synthetic:small", "--seconds", "1200", "--batch", "1,3", "--context",
        "0,40", "--prefill", "70", "--steps", "2", "--out", "out",
    ]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains(", 0 wrong\n") && text.ends_with("report: out/report.json\n"), "{text}");
    let report = std::fs::read(dir.path().join("out/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let parts: Vec<[&str; 2]> = report["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| ["name", "outcome"].map(|key| part[key].as_str().unwrap()))
        .collect();
    assert_eq!(parts, [["check", "done"], ["sanitizer", "left out"], ["bench", "done"]]);
    assert_eq!(report["device"]["name"], "host device");
    assert_eq!(report["seconds_allowed"], 1200);
    assert!(report["device"]["memory_bytes"].as_u64().unwrap() > 0);
    assert!(report["seconds_taken"].as_f64().unwrap() > 0.0);
    // Known on a card, and to builds of `cargo xtask gpu`; but there is a place for each.
    for field in ["commit", "nvidia_smi_before", "nvidia_smi_after", "variants"] {
        assert!(report.get(field).is_some(), "{field}: {report}");
    }
    assert!(report["device"].get("card").is_some(), "{report}");
    assert_eq!(report["check"]["wrong"], serde_json::json!([]));
    assert_eq!(report["check"]["forward"].as_array().unwrap().len(), 9);
    let bench = &report["bench"];
    let steps = bench["decode"].as_array().unwrap();
    let steps: Vec<_> = steps.iter().map(|step| json!([step["context"], step["batch"]])).collect();
    assert_eq!(steps, [[0, 1], [0, 3], [40, 1], [40, 3]].map(|pair| json!(pair)));
    assert_eq!(bench["prefill"][0]["tokens"], 70);
    assert_eq!(bench["left_out"], json!([]));
    let operations = bench["operations"][1]["operations"].as_array().unwrap();
    let experts = operations.iter().find(|row| row["operation"] == "experts up").unwrap();
    assert_eq!(experts["kernel"], "experts_up_few_8");
    assert_eq!(experts["calls"], 2);
    assert!(experts["ms"].as_f64().unwrap() > 0.0 && experts["bytes"].as_f64().unwrap() > 0.0);
}

#[test]
fn kernels_are_measured_side_by_side() {
    let dir = empty_dir();
    let args =
        ["bench", "kernels", "--device", "host", "--model", "nano", "--rows", "1,100", "--out"];
    let output = run(&dir, &[&args[..], &["out.json"]].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let report = std::fs::read(dir.path().join("out.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let products = report["products"].as_array().unwrap();
    assert_eq!(products.len(), 8);
    for product in products {
        let variants = product["variants"].as_array().unwrap();
        let num_in_use = variants.iter().filter(|variant| variant["in_use"] == true).count();
        assert!(variants.len() >= 2 && num_in_use == 1, "{product}");
        assert!(variants.iter().all(|variant| variant["us"].as_f64().unwrap() > 0.0), "{product}");
    }
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
