//! Adapters on the real model: made here, served side by side, chosen by name.

use std::path::Path;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Server, ask, empty_dir, harmonium, run, stderr, stdout, with};

/// Nano's layers, and the widths of its residual and of its query heads together.
const NUM_LAYERS: usize = 4;
const HIDDEN: usize = 192;
const QUERIES: usize = 256;
const RANK: usize = 2;

/// Writes an adapter of nano that changes what attention gives back in every layer, enough to be seen in any answer;
/// another for each `seed`.
pub(crate) fn write_adapter(dir: &Path, seed: u32) {
    std::fs::create_dir(dir).unwrap();
    let config = json!({
        "peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["o_proj"],
        "base_model_name_or_path": "nano",
    });
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for layer in 0..NUM_LAYERS {
        for (side, shape) in [("A", [RANK, QUERIES]), ("B", [HIDDEN, RANK])] {
            let start = data.len();
            for at in 0..shape[0] * shape[1] {
                let mixed = (at as u32 + 1).wrapping_mul(2_654_435_761).wrapping_mul(2 * seed + 1);
                let value = (mixed >> 8) as f32 / (1 << 24) as f32 - 0.5;
                data.extend(value.to_le_bytes());
            }
            let name = format!(
                "base_model.model.model.layers.{layer}.self_attn.o_proj.lora_{side}.weight"
            );
            let entry =
                json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name, entry);
        }
    }
    let header = Value::from(header).to_string();
    let len = u64::try_from(header.len()).unwrap().to_le_bytes();
    let file = [&len, header.as_bytes(), &data].concat();
    std::fs::write(dir.join("adapter_model.safetensors"), file).unwrap();
}

fn question(model: &str) -> Value {
    with(ask("What is the capital of France?"), json!({"model": model, "max_tokens": 24}))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_adapters_and_the_model_itself_answer_side_by_side() {
    let dir = empty_dir();
    let flags = [("one", 1), ("two", 2)].map(|(name, seed)| {
        write_adapter(&dir.path().join(name), seed);
        format!("{name}={}", dir.path().join(name).display())
    });
    let plain = Server::start(&[]);
    let server = Server::start(&["--adapter", &flags[0], "--adapter", &flags[1]]);
    assert_eq!(server.banner[1], "adapters nano:one, nano:two");
    let ids: Vec<String> =
        server.client().models().await.unwrap().data.into_iter().map(|model| model.id).collect();
    assert_eq!(ids, ["nano", "nano:one", "nano:two"]);

    let names = ["nano", "nano:one", "nano:two"];
    let mut alone = Vec::new();
    for name in names {
        let answer = server.chat(&question(name)).await;
        assert_eq!(answer["model"], name);
        alone.push(answer["choices"].clone());
    }
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2], "{alone:?}");
    assert_eq!(alone[0], plain.chat(&question("nano")).await["choices"]);

    let crowd = names.iter().cycle().take(9).map(|name| {
        let server = &server;
        async move { server.chat(&question(name)).await["choices"].clone() }
    });
    for (index, answer) in join_all(crowd).await.iter().enumerate() {
        assert_eq!(*answer, alone[index % 3], "{}", names[index % 3]);
    }

    let unknown = server.post(&question("nano:three")).await;
    assert_eq!(unknown.status(), 404);
    let error: Value = unknown.json().await.unwrap();
    assert_eq!(error["error"]["code"], "model_not_found");
    assert!(error["error"]["message"].as_str().unwrap().contains("nano:three"), "{error}");
    server.wait_until_idle().await;
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_before_the_server_listens() {
    let dir = empty_dir();
    write_adapter(&dir.path().join("one"), 1);
    let file = dir.path().join("one/adapter_config.json");
    let config = std::fs::read_to_string(&file).unwrap().replace("\"r\":2", "\"r\":4");
    std::fs::write(file, config).unwrap();
    let output = run(&dir, &["serve", "--port", "0", "--adapter", "legal=one"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
    let message = stderr(&output);
    for word in ["adapter legal: ", "lora_A.weight", "[2, 256]", "r = 4", "[4, 256]"] {
        assert!(message.contains(word), "{word} is not in {message}");
    }
    let output = run(&dir, &["doctor", "--port", "0", "--adapter", "legal=one"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("FAIL  adapters       adapter legal: "),
        "{}",
        stdout(&output)
    );
}

#[test]
fn adapters_come_from_file_variable_or_flags() {
    let dir = empty_dir();
    let shown = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let line = stdout(&output).lines().find(|line| line.starts_with("model.adapters")).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    let text = "[model]\nadapters = [\"a=/file\"]\n";
    std::fs::write(dir.path().join("harmonium.toml"), text).unwrap();
    let mut command = harmonium(&dir, &["config"]);
    assert_eq!(shown(&mut command), "[\"a=/file\"] harmonium.toml:2");
    command.env("HARMONIUM_MODEL_ADAPTERS", "a=/one,b=/two");
    assert_eq!(shown(&mut command), "[\"a=/one\", \"b=/two\"] HARMONIUM_MODEL_ADAPTERS");
    command.args(["--adapter", "c=/x", "--adapter", "d=/y"]);
    assert_eq!(shown(&mut command), "[\"c=/x\", \"d=/y\"] --adapter");
    let output = run(&dir, &["serve", "--adapter", "a:b=/x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("\"a:b\""), "{}", stderr(&output));
}

#[test]
fn logits_doctor_and_models_know_adapters() {
    let dir = empty_dir();
    write_adapter(&dir.path().join("one"), 1);
    let logits = |more: &[&str], out: &str| {
        let fixed = ["logits", "--model", "nano", "--tokens", "1,2,3", "--out", out];
        let output = run(&dir, &[&fixed, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        std::fs::read(dir.path().join(out)).unwrap()
    };
    assert!(logits(&[], "plain") != logits(&["--adapter", "legal=one"], "adapted"));
    let output = run(&dir, &["doctor", "--port", "0", "--adapter", "legal=one"]);
    let expected = "ok    adapters       legal at one: o_proj in 4 layers, ";
    assert!(stdout(&output).contains(expected), "{}", stdout(&output));
    let output = run(&dir, &["models", "--adapter", "legal=one"]);
    assert!(stdout(&output).contains("nano:legal "), "{}", stdout(&output));
}
