//! The subcommands as a person meets them.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use crate::support::{Server, empty_dir, harmonium, run, stderr, stdout, wait};

#[test]
fn serve_says_what_it_serves_and_where() {
    let server = Server::start(&[]);
    assert!(server.banner[0].starts_with("model nano on cpu"), "{:?}", server.banner);
    assert!(!server.url("").ends_with(":0"), "{:?}", server.banner);
}

#[test]
fn taken_port_is_one_clear_line() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let output = run(&empty_dir(), &["serve", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("harmonium: cannot listen on 127.0.0.1:{port}: ");
    assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
}

#[test]
fn cuda_is_refused_and_cpu_is_offered() {
    let output = run(&empty_dir(), &["serve", "--port", "0", "--device", "cuda"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no card: this binary was built without"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("use cpu or auto"), "{}", stderr(&output));
}

#[test]
fn unknown_model_is_one_clear_line() {
    let output = run(&empty_dir(), &["serve", "--port", "0", "--model", "owner/no-such-model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("owner/no-such-model"), "{}", stderr(&output));
}

#[test]
fn doctor_reports_every_topic_and_decides_the_exit_code() {
    let dir = empty_dir();
    let output = run(&dir, &["doctor", "--port", "0"]);
    assert!(output.status.success(), "{}", stdout(&output));
    for topic in ["machine", "configuration", "device", "model", "disk", "port"] {
        assert!(stdout(&output).contains(topic), "{topic} is missing in\n{}", stdout(&output));
    }
    let output = run(&dir, &["doctor", "--port", "0", "--model", "./nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("FAIL  model"), "{}", stdout(&output));
}

#[test]
fn models_are_listed_with_prices_before_the_hosted_leg_is_enabled() {
    let dir = empty_dir();
    let output = run(&dir, &["models"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 2, "{}", stdout(&output));
    let output = run(&dir, &["models", "--hosted"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("USD for 131073 in + 1000 out"), "{lines:?}");
    assert!(lines[1].starts_with("nano ") && lines[1].contains(" 131072 "), "{lines:?}");
    for expected in ["gpt-4.1-mini ", " 1047576 ", " 0.40 ", " 0.054029 ", "api.openai.com"] {
        assert!(lines[2].contains(expected), "{expected} is missing in {lines:?}");
    }
    let output = run(&dir, &["models", "--hosted", "--json"]);
    let listing: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(listing["models"][0]["pricing"], serde_json::Value::Null);
    assert_eq!(listing["models"][1]["overflow_cost_usd"], 0.054_029_2);
}

#[test]
fn logits_of_all_modes_have_the_right_shape_and_agree() {
    let dir = empty_dir();
    let tokens = "1,2,3,4,5,6,7,8,9,10";
    let mut all = Vec::new();
    for (name, mode) in
        [("all", &[][..]), ("chunk", &["--chunk", "3"]), ("decode", &["--decode-last", "4"])]
    {
        let out = format!("{name}.safetensors");
        let fixed = ["logits", "--model", "nano", "--tokens", tokens, "--out", &out];
        let output = run(&dir, &[&fixed, mode].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        all.push(read_logits(&std::fs::read(dir.path().join(&out)).unwrap(), 10));
    }
    for other in &all[1..] {
        let difference: f64 =
            all[0].iter().zip(other).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let norm = all[0].iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().sqrt();
        assert!(difference <= 1e-5 * norm, "{difference} of {norm}");
    }
}

/// The values of tensor `logits`, after checking type and shape in the safetensors header.
fn read_logits(file: &[u8], num_tokens: u64) -> Vec<f32> {
    let (len, rest) = file.split_at(8);
    let header_len = usize::try_from(u64::from_le_bytes(len.try_into().unwrap())).unwrap();
    let (header, data) = rest.split_at(header_len);
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    assert_eq!(header["logits"]["dtype"], "F32");
    assert_eq!(header["logits"]["shape"][0], num_tokens);
    let vocab_size = header["logits"]["shape"][1].as_u64().unwrap();
    let values: Vec<f32> =
        data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(values.len() as u64, num_tokens * vocab_size);
    assert!(values.iter().all(|value| value.is_finite()));
    values
}

#[test]
fn logits_refuse_tokens_outside_the_vocabulary() {
    let dir = empty_dir();
    let args = ["logits", "--model", "nano", "--tokens", "1,99999999", "--out", "x.safetensors"];
    let output = run(&dir, &args);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("99999999"), "{}", stderr(&output));
}

#[test]
fn piped_chat_prints_just_the_answers() {
    let dir = empty_dir();
    let mut child = harmonium(&dir, &["chat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"What is the capital of France?\n/effort low\nWhat is 2+2?\n").unwrap();
    drop(stdin);
    wait(&mut child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("Paris"), "{lines:?}");
    assert!(lines[1].contains('4'), "{lines:?}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn closed_stdout_is_not_a_panic() {
    let dir = empty_dir();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = harmonium(&dir, &["config", "--annotated"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn plan_needs_neither_gpu_nor_weights() {
    let output = run(&empty_dir(), &["plan", "--model", "gpt-oss-120b", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert!(plan["kv_tokens"].as_u64().unwrap() >= 420_000, "{plan}");
    assert_eq!(plan["context_len"], 131_072);
    assert!(plan["total_bytes"].as_u64() <= plan["memory_bytes"].as_u64(), "{plan}");
    let output = run(&empty_dir(), &["plan", "--gpu-memory", "40GB"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("too few"), "{}", stderr(&output));
    let output = run(&empty_dir(), &["plan", "--gpu-memory", "40 apples"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn synth_overwrites_nothing() {
    let dir = empty_dir();
    std::fs::write(dir.path().join("mine"), "text").unwrap();
    let output = run(&dir, &["synth", "--shape", "gpt-oss-20b", "--layers", "1", "--out", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nothing is overwritten"), "{}", stderr(&output));
}

#[test]
fn bench_measures_the_model_alone_and_says_what_it_leaves_out() {
    let dir = empty_dir();
    let args = [
        "bench",
        "engine",
        "--device",
        "cpu",
        "--batch",
        "1,3",
        "--context",
        "32,1000000",
        "--prefill",
        "40",
        "--steps",
        "2",
        "--out",
        "out.json",
    ];
    let output = run(&dir, &args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("context 1000000: left out"), "{}", stdout(&output));
    let text = std::fs::read_to_string(dir.path().join("out.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let batches: Vec<_> =
        report["decode"].as_array().unwrap().iter().map(|row| &row["batch"]).collect();
    assert_eq!(batches, [1, 3]);
    assert!(report["prefill"][0]["tokens_per_s"].as_f64().unwrap() > 0.0, "{report}");
    let batches: Vec<_> =
        report["operations"].as_array().unwrap().iter().map(|row| &row["batch"]).collect();
    assert_eq!(batches, [1, 3]);
    assert!(report["operations"][0]["sum_ms"].as_f64().unwrap() > 0.0, "{report}");
    assert!(stdout(&output).contains("attention output"), "{}", stdout(&output));
}

#[test]
fn synthetic_weights_are_no_business_of_the_processor() {
    let dir = empty_dir();
    let synthetic = "synthetic:gpt-oss-20b";
    for args in [
        &["bench", "engine", "--device", "cpu", "--model", synthetic][..],
        &["logits", "--device", "cpu", "--model", synthetic, "--tokens", "1", "--out", "x"],
    ] {
        let output = run(&dir, args);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("made on a device"), "{}", stderr(&output));
    }
    let output = run(&dir, &["plan", "--model", synthetic, "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = run(&dir, &["doctor", "--model", synthetic, "--device", "cpu", "--port", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("made on a device"), "{}", stdout(&output));
}

#[test]
fn bench_load_measures_a_start_with_cold_and_warm_files() {
    let dir = empty_dir();
    // Copied, so that other tests' servers do not find their model gone from memory.
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/model/nano");
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(model).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    let args = ["bench", "load", "--model", "copy", "--device", "cpu", "--context", "2048"];
    let output = run(&dir, &[&args[..], &["--out", "out.json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = std::fs::read_to_string(dir.path().join("out.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (start, name) in report["starts"].as_array().unwrap().iter().zip(["cold", "warm"]) {
        assert_eq!(start["start"], name);
        let number = |field: &str| start[field].as_f64().unwrap();
        assert!(
            number("ready_s") > 0.0 && number("answer_s") >= number("first_token_s"),
            "{start}"
        );
        assert!(number("peak_bytes") > report["weight_bytes"].as_f64().unwrap() / 2.0, "{report}");
    }
    assert_eq!(report["starts"].as_array().unwrap().len(), 2, "{report}");
}
