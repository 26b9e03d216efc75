//! `harmonium compare`: local and hosted models side by side.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{SOON, Server, empty_dir, harmonium, interrupt, stderr, stdout, wait};

/// A prompt that must not become markup.
const SCRIPT: &str = "<script>alert(1)</script>";

/// Writes the lines of `p.jsonl`.
fn write_prompts(dir: &TempDir, prompts: &[Value]) {
    let lines: String = prompts.iter().map(|prompt| format!("{prompt}\n")).collect();
    fs::write(dir.path().join("p.jsonl"), lines).unwrap();
}

fn report(dir: &TempDir) -> Value {
    serde_json::from_slice(&fs::read(dir.path().join("compare/report.json")).unwrap()).unwrap()
}

/// A directory in which a second copy of nano, called tiny, has a small context, and what does not fit it goes to
/// the nano of `upstream`, which has a price here.
fn dir_with_hosted_leg(upstream: &Server) -> TempDir {
    let dir = empty_dir();
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/model/nano");
    let tiny = dir.path().join("tiny");
    fs::create_dir(&tiny).unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(nano.join(file), tiny.join(file)).unwrap();
    }
    let config = format!(
        r#"
        [model]
        name = "./tiny"
        context_len = 256
        [hosted]
        enabled = true
        default = "nano"
        [[hosted.models]]
        name = "nano"
        base_url = "{}"
        api_key_env = "UPSTREAM_KEY"
        context = 131072
        max_output = 1000
        price = {{ input = 1.0, cached = 0.25, output = 2.0 }}
        "#,
        upstream.url("/v1")
    );
    fs::write(dir.path().join("harmonium.toml"), config).unwrap();
    dir
}

fn compare(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = harmonium(dir, &[&["compare", "p.jsonl"], args].concat());
    command.env("UPSTREAM_KEY", "sk-upstream").stdin(Stdio::null()).output().unwrap()
}

/// What the answer's tokens cost by the price above.
fn expected_usd(answer: &Value) -> f64 {
    let tokens = |key: &str| answer["usage"][key].as_u64().unwrap() as f64;
    let fresh = tokens("prompt") - tokens("cached");
    (fresh + 0.25 * tokens("cached") + 2.0 * tokens("completion")) / 1e6
}

#[test]
fn local_and_hosted_answers_are_side_by_side_with_times_and_costs() {
    let upstream = Server::start(&[]);
    let dir = dir_with_hosted_leg(&upstream);
    let limits = json!({"temperature": 0, "reasoning_effort": "low", "max_completion_tokens": 80});
    let prompt = |id: &str, text: &str| {
        let mut prompt = limits.clone();
        prompt["id"] = id.into();
        prompt["prompt"] = text.into();
        prompt
    };
    let long = format!("{}{SCRIPT}", "word ".repeat(400));
    write_prompts(
        &dir,
        &[prompt("short", "What is the capital of France?"), prompt("long", &long)],
    );
    let output = compare(&dir, &["--models", "tiny,./tiny,nano", "--monthly-requests", "1000"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].ends_with("USD for 1000 requests"), "{lines:?}");
    for (line, name) in lines[1..].iter().zip(["tiny ", "./tiny ", "nano "]) {
        assert!(line.starts_with(name), "{lines:?}");
    }

    let report = report(&dir);
    assert_eq!(report["is_complete"], true);
    let [short, long] = [&report["prompts"][0], &report["prompts"][1]];
    for (index, (prompt, model, is_elsewhere, is_paid)) in [
        (short, 0, false, false),
        (short, 1, false, false),
        (short, 2, false, true),
        (long, 0, true, true),
        (long, 1, true, true),
        (long, 2, false, true),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = &prompt["answers"][model];
        assert_eq!(answer["error"], Value::Null, "{index}: {answer}");
        assert_eq!(answer["is_elsewhere"], is_elsewhere, "{index}: {answer}");
        let by = if is_paid { "nano" } else { "tiny" };
        assert_eq!(answer["answered_by"], by, "{index}: {answer}");
        let (ttft, total) =
            (answer["ttft_ms"].as_f64().unwrap(), answer["total_ms"].as_f64().unwrap());
        assert!(0.0 < ttft && ttft <= total, "{index}: {answer}");
        assert!(answer["tokens_per_s"].as_f64().unwrap() > 0.0, "{index}: {answer}");
        let cost = answer["cost_usd"].as_f64().unwrap();
        let expected = if is_paid { expected_usd(answer) } else { 0.0 };
        assert!((cost - expected).abs() < 1e-12, "{index}: {answer}");
    }
    for answer in short["answers"].as_array().unwrap() {
        assert!(answer["content"].as_str().unwrap().contains("Paris"), "{answer}");
        assert!(!answer["reasoning"].as_str().unwrap().is_empty(), "{answer}");
        assert_eq!(answer["finish_reason"], "stop");
    }
    assert_eq!(short["answers"][2]["dropped"], "reasoning_effort");
    let totals = &report["models"][2]["totals"];
    let costs = [short, long].map(|prompt| prompt["answers"][2]["cost_usd"].as_f64().unwrap());
    let month = totals["monthly_cost_usd"].as_f64().unwrap();
    assert!((month - costs.iter().sum::<f64>() / 2.0 * 1000.0).abs() < 1e-9, "{totals}");

    let page = fs::read_to_string(dir.path().join("compare/report.html")).unwrap();
    assert!(!page.contains("<script"), "a prompt became markup");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "the prompt is missing");
    assert!(page.contains("Paris") && page.contains("answered by nano"), "{page}");
}

#[test]
fn a_failed_answer_is_recorded_and_the_run_goes_on() {
    let server = Server::start(&[]);
    let dir = empty_dir();
    let wrong = json!({"prompt": "hi", "temperature": 9});
    let fine = json!({"prompt": "Hello!", "temperature": 0, "max_completion_tokens": 8});
    write_prompts(&dir, &[wrong, fine]);
    let output = compare(&dir, &["--models", "nano", "--url", &server.url("")]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let expected = "prompt 1 to nano failed: status 400: temperature";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    let report = report(&dir);
    let answers: Vec<&Value> = [0, 1].map(|i| &report["prompts"][i]["answers"][0]).into();
    assert!(answers[0]["error"].as_str().unwrap().starts_with("status 400"), "{report}");
    assert_eq!(answers[0]["cost_usd"], Value::Null);
    assert_eq!(answers[1]["error"], Value::Null);
    assert_eq!(answers[1]["finish_reason"], "length");
    let totals = &report["models"][0]["totals"];
    assert_eq!([&totals["num_answered"], &totals["num_failed"]], [1, 1]);
    assert!(stdout(&output).contains("no price"), "{}", stdout(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_reports_what_there_is() {
    let server = Server::start(&[]);
    let dir = empty_dir();
    let fine = json!({"prompt": "Hello!", "temperature": 0, "max_completion_tokens": 8});
    // For as long as its context lasts, which is longer than the test.
    let endless = json!({"prompt": "Hello!", "ignore_eos": true, "max_completion_tokens": 131_000});
    write_prompts(&dir, &[fine, endless, json!({"prompt": "never", "id": "never"})]);
    let args = ["compare", "p.jsonl", "--models", "nano", "--url", &server.url("")];
    let mut child = harmonium(&dir, &args).stdin(Stdio::null()).spawn().unwrap();
    let second = async {
        while server.metric("harmonium_time_to_first_token_seconds_count", "").await < 2.0 {}
    };
    tokio::time::timeout(SOON, second).await.expect("the second answer begins");
    interrupt(&child);
    assert_eq!(wait(&mut child).code(), Some(1));
    let report = report(&dir);
    assert_eq!(report["is_complete"], false);
    let prompts = report["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 2, "{report}");
    assert_eq!(prompts[0]["answers"][0]["error"], Value::Null);
    assert_eq!(prompts[1]["answers"][0]["error"], "interrupted");
    let page = fs::read_to_string(dir.path().join("compare/report.html")).unwrap();
    assert!(page.contains("Interrupted: not all prompts were sent."), "{page}");
    // Nobody is left to answer.
    server.wait_until_idle().await;
}

#[test]
fn wrong_prompts_and_models_are_refused_before_anything_is_sent() {
    let dir = empty_dir();
    write_prompts(&dir, &[json!("fine"), json!({"prompt": "a", "max_tokns": 3})]);
    let output = compare(&dir, &["--models", "nano"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("harmonium: p.jsonl:2: max_tokns"), "{}", stderr(&output));
    write_prompts(&dir, &[json!("fine")]);
    let output = compare(&dir, &["--models", "nano,gpt-4.1-mini"]);
    assert_eq!(output.status.code(), Some(1));
    for expected in ["no \"gpt-4.1-mini\"; the server has nano", "hosted.enabled = true"] {
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert!(!dir.path().join("compare/report.json").exists());
}
