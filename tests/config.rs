//! Configuration as a person meets it: files, variables, flags, mistakes.

use crate::support::{empty_dir, harmonium, run, stderr, stdout};

#[test]
fn config_shows_every_layer_and_its_origin() {
    let dir = empty_dir();
    std::fs::write(dir.path().join("harmonium.toml"), "[server]\nport = 9001\n").unwrap();
    let output = harmonium(&dir, &["config", "--host", "0.0.0.0"])
        .env("HARMONIUM_ENGINE_MAX_WAITING", "7")
        .output()
        .unwrap();
    let row = |key: &str| -> Vec<String> {
        let text = stdout(&output);
        let line = text.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("no {key} in\n{text}"))
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(row("server.port"), ["server.port", "9001", "harmonium.toml:2"]);
    assert_eq!(row("server.host"), ["server.host", "\"0.0.0.0\"", "--host"]);
    let waiting = ["engine.max_waiting", "7", "HARMONIUM_ENGINE_MAX_WAITING"];
    assert_eq!(row("engine.max_waiting"), waiting);
    assert_eq!(row("model.name"), ["model.name", "\"nano\"", "default"]);
}

#[test]
fn unknown_key_names_file_line_and_nearest_key() {
    let dir = empty_dir();
    std::fs::write(dir.path().join("h.toml"), "[server]\n\nprot = 1\n").unwrap();
    let output = run(&dir, &["serve", "--config", "h.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "harmonium: h.toml:3: unknown key server.prot: did you mean server.port?\n"
    );
}

#[test]
fn wrong_value_names_origin_key_and_value() {
    let dir = empty_dir();
    std::fs::write(dir.path().join("h.toml"), "[engine]\nprefix_cache = \"maybe\"\n").unwrap();
    let output = run(&dir, &["serve", "--config", "h.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "harmonium: h.toml:2: engine.prefix_cache takes true or false, not \"maybe\"\n"
    );
}

#[test]
fn wrong_flag_is_wrong_usage() {
    let dir = empty_dir();
    let output = run(&dir, &["serve", "--port", "many"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("a whole number from 0 to 65535"), "{}", stderr(&output));
}

#[test]
fn example_files_are_valid() {
    let dir = empty_dir();
    let configs = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
    let mut num_files = 0;
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        let output = run(&dir, &["config", "--config", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}", stderr(&output));
        num_files += 1;
    }
    assert!(num_files >= 2);
}

#[test]
fn the_example_of_hosted_models_is_one() {
    let dir = empty_dir();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/hosted.toml");
    let output = run(&dir, &["config", "--config", example]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stdout(&output);
    let models = shown.lines().find(|line| line.starts_with("hosted.models")).unwrap();
    assert!(models.contains("gpt-6-luna") && models.contains("responses"), "{models}");
    // A key is missing, and nothing else.
    let output = harmonium(&dir, &["serve", "--config", example, "--model", "nano"])
        .env("HARMONIUM_HOSTED_ENABLED", "true")
        .env_remove("OPENAI_API_KEY")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("OPENAI_API_KEY"), "{}", stderr(&output));
}
