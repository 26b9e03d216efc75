//! Rules about the repository itself that must hold, so they are code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

use crate::support::{empty_dir, run, stdout};

/// Which crates of ours a crate may depend on; the binary may depend on all.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "harmonium-server",
        &["harmonium-openai", "harmonium-harmony", "harmonium-engine", "harmonium-hosted"],
    ),
    ("harmonium-hosted", &["harmonium-openai"]),
    ("harmonium-hub", &[]),
    ("harmonium-model", &["harmonium-engine", "harmonium-cuda"]),
    ("harmonium-cuda", &[]),
    ("harmonium-bench", &["harmonium-engine"]),
    ("harmonium-engine", &[]),
    ("harmonium-harmony", &[]),
    ("harmonium-openai", &[]),
    ("xtask", &["harmonium-openai"]),
];

/// The only places where `unsafe` may be allowed: the device seam, SIMD, and the mapping of weight files.
const UNSAFE_PLACES: &[&str] = &[
    "crates/cuda/",
    "crates/model/src/simd.rs",
    "crates/model/src/simd/",
    "crates/model/src/checkpoint/bytes.rs",
];

/// Written in two parts, so that this file does not find itself.
const ALLOW_UNSAFE: &str = concat!("(unsafe", "_code)");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["crates", "tests", "xtask", "benches"].map(|dir| root().join(dir)).into();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 50, "only {} files: the search is broken", files.len());
    files
}

#[test]
fn crates_depend_only_where_the_arrows_point() {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec().unwrap();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    for package in &metadata.packages {
        if package.name.as_str() == "harmonium" {
            continue;
        }
        let arrows = ARROWS.iter().find(|(name, _)| package.name == *name);
        let (_, allowed) = arrows.unwrap_or_else(|| panic!("no arrows for {}", package.name));
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            assert!(
                !ours.contains(name) || allowed.contains(&name),
                "{} may not depend on {name}",
                package.name
            );
        }
    }
}

#[test]
fn unsafe_is_allowed_only_in_its_places() {
    let mut found = 0;
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains(ALLOW_UNSAFE) {
            continue;
        }
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
        let is_allowed = UNSAFE_PLACES.iter().any(|place| relative.starts_with(place));
        assert!(is_allowed, "{relative} may not contain unsafe code");
        found += 1;
    }
    assert!(found > 0, "no unsafe code at all: the search is broken");
}

#[test]
fn modules_open_with_what_they_are() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} has no module header", path.display());
    }
}

#[test]
fn every_setting_is_in_the_annotated_file_with_its_default_and_a_comment() {
    let annotated = fs::read_to_string(root().join("configs/harmonium.toml")).unwrap();
    let lines: Vec<&str> = annotated.lines().collect();
    let output = run(&empty_dir(), &["config"]);
    let rows = stdout(&output).lines().filter(|line| !line.starts_with('#'));
    let mut num_settings = 0;
    for row in rows {
        let (name, rest) = row.split_once(' ').unwrap();
        let value = rest.trim().strip_suffix("default").unwrap().trim();
        let (section, key) = name.split_once('.').unwrap();
        let from = lines.iter().position(|line| *line == format!("[{section}]")).unwrap();
        let assignment = format!("{key} = {value}");
        let at = lines[from..].iter().position(|line| *line == assignment);
        let at = at.unwrap_or_else(|| panic!("no {assignment:?} below [{section}]")) + from;
        assert!(lines[at - 1].starts_with("# "), "{name} has no comment");
        num_settings += 1;
    }
    assert!(num_settings > 10, "only {num_settings} settings: the search is broken");
}

#[test]
fn architecture_page_is_short() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.lines().count() <= 200);
}
