//! `harmonium pull` against a hub with every fault we know of, and what `harmonium models` makes of the result.

mod fake_hub;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::pull::fake_hub::{COMMIT, FakeHub, Fault, NEXT_COMMIT, REPO, sent};
use crate::support::{empty_dir, harmonium, run, stderr, stdout, wait};

/// A token that must go to the hub alone.
const TOKEN: &str = "hf_secret";

/// Nano's files as a repository, the same contents under a second name, and a folder that serving does not need.
fn nano() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/model/nano");
    let names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
    let mut files: Vec<_> =
        names.iter().map(|name| ((*name).to_owned(), fs::read(dir.join(name)).unwrap())).collect();
    files.push(("same.json".to_owned(), files[0].1.clone()));
    files.push(("metal/model.bin".to_owned(), vec![0; 100]));
    files
}

fn command(dir: &TempDir, hub: &FakeHub, args: &[&str]) -> Command {
    let mut command = harmonium(dir, &[&["pull", REPO], args].concat());
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_TOKEN", TOKEN).env("NO_PROXY", "*");
    command.stdin(Stdio::null());
    command
}

fn pull(dir: &TempDir, hub: &FakeHub, args: &[&str]) -> Output {
    command(dir, hub, args).output().unwrap()
}

fn snapshot(dir: &TempDir) -> PathBuf {
    let cache = dir.path().join(".cache/huggingface/hub");
    cache.join("models--owner--tiny/snapshots").join(COMMIT)
}

/// Every file that serving needs is here, byte for byte, and nothing is left over.
fn assert_complete(dir: &TempDir, files: &[(String, Vec<u8>)]) {
    let wanted: Vec<_> = files.iter().filter(|(path, _)| !path.starts_with("metal")).collect();
    for (path, contents) in &wanted {
        assert!(fs::read(snapshot(dir).join(path)).unwrap() == *contents, "{path} differs");
    }
    assert_eq!(fs::read_dir(snapshot(dir)).unwrap().count(), wanted.len());
    let contents: BTreeSet<&[u8]> = wanted.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let blobs = snapshot(dir).join("../../blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), contents.len());
}

#[test]
fn a_pulled_model_is_listed_verified_run_and_removed() {
    let dir = empty_dir();
    let hub = FakeHub::start(nano(), |_, _| None);
    let output = pull(&dir, &hub, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        Path::new(stdout(&output).trim()).canonicalize().unwrap(),
        snapshot(&dir).canonicalize().unwrap()
    );
    assert_complete(&dir, &nano());
    let bearer = format!("Bearer {TOKEN}");
    let (own, others): (Vec<_>, Vec<_>) =
        hub.seen().into_iter().partition(|seen| seen.host.starts_with("127.0.0.1"));
    assert!(!own.is_empty() && own.iter().all(|seen| seen.authorization.as_ref() == Some(&bearer)));
    assert!(!others.is_empty(), "no redirect was followed");
    for seen in others {
        assert!(seen.path.starts_with("/cdn/") && seen.authorization.is_none(), "{seen:?}");
    }

    let num_sent = hub.sent();
    let again = pull(&dir, &hub, &["--json"]);
    assert_eq!(hub.sent(), num_sent, "files that are here were fetched again");
    let events: Vec<Value> =
        stdout(&again).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.first().unwrap()["event"], "listed");
    assert_eq!(events.last().unwrap()["event"], "pulled");
    assert_eq!(events.last().unwrap()["fetched_bytes"], 0);

    let listed: Value = serde_json::from_str(stdout(&run(&dir, &["models", "--json"]))).unwrap();
    let row = &listed["cached"][0];
    assert_eq!((&row["name"], &row["state"]), (&REPO.into(), &"complete".into()), "{listed}");
    assert_eq!(row["devices"][0], "cpu");
    let logits = ["logits", "--model", REPO, "--tokens", "1,2,3", "--out", "l.safetensors"];
    assert!(run(&dir, &logits).status.success());

    assert!(run(&dir, &["models", "verify", REPO]).status.success());
    let blob = snapshot(&dir).join("model.safetensors").canonicalize().unwrap();
    let mut damaged = fs::read(&blob).unwrap();
    damaged[100] ^= 1;
    fs::write(&blob, damaged).unwrap();
    let verified = run(&dir, &["models", "verify", REPO, "--repair"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(
        stdout(&verified).contains("model.safetensors: its digest is"),
        "{}",
        stdout(&verified)
    );
    assert!(pull(&dir, &hub, &[]).status.success());
    assert_complete(&dir, &nano());

    for (answer, is_gone) in [("", false), ("n\n", false), ("y\n", true)] {
        let mut command = harmonium(&dir, &["models", "remove", REPO]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        assert_eq!(wait(&mut child).success(), is_gone, "after {answer:?}");
        assert_eq!(!snapshot(&dir).exists(), is_gone, "after {answer:?}");
    }
}

#[test]
fn passing_faults_are_mended() {
    /// What the `n`-th request for the weights meets.
    type Fate = fn(usize) -> Option<Fault>;
    let is_weights = |path: &str| path == "/cdn/model.safetensors";
    let cases: [(&str, Fate); 7] = [
        ("status 500", |n| (n == 0).then_some(Fault::Status(500))),
        // Signed addresses end; the hub gives new ones.
        ("status 403 Forbidden from localhost", |n| (n == 0).then_some(Fault::Status(403))),
        ("trying again", |n| (n == 0).then_some(Fault::Truncated((3 << 20) + 7))),
        ("fetching 5.66 MB of it again", |n| (n == 0).then_some(Fault::Corrupt)),
        ("instead of bytes 0-", |n| (n == 0).then_some(Fault::OtherRange)),
        ("done", |_| Some(Fault::IgnoresRanges)),
        ("trying again", |n| {
            let len = if n == 0 { (3 << 20) + 7 } else { usize::MAX };
            Some(Fault::IgnoresRangesAndEnds(len))
        }),
    ];
    for (said, fault) in cases {
        let dir = empty_dir();
        let hub = FakeHub::start(nano(), move |path, n| fault(n).filter(|_| is_weights(path)));
        let output = pull(&dir, &hub, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
        assert_complete(&dir, &nano());
    }
}

/// A pull that must fail, with these words in its last line. Returns the directory it left.
fn assert_fails(hub: &FakeHub, words: &[&str]) -> TempDir {
    let dir = empty_dir();
    let output = pull(&dir, hub, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let last = stderr(&output).lines().last().unwrap();
    for word in words {
        assert!(last.contains(word), "{last:?} lacks {word:?}");
    }
    assert!(!stderr(&output).contains(TOKEN));
    dir
}

#[test]
fn a_hub_that_refuses_is_told_clearly() {
    let cases: [(Fault, &[&str]); 6] = [
        (Fault::Status(401), &[REPO, "401", "the token in HF_TOKEN"]),
        (Fault::Gated(401), &[REPO, "401", "accept the terms at", "/owner/tiny"]),
        (Fault::Gated(403), &[REPO, "403", "accept the terms at", "/owner/tiny"]),
        (Fault::Status(404), &["owner/tiny at main", "404"]),
        (Fault::Status(503), &["given up after 5 tries", "503"]),
        (Fault::Huge, &["bytes are to be fetched, but only", "--cache-dir"]),
    ];
    for (fault, words) in cases {
        let is_list = |path: &str| path.starts_with("/api/");
        assert_fails(&FakeHub::start(nano(), move |path, _| is_list(path).then_some(fault)), words);
    }
}

#[test]
fn a_half_pulled_model_is_called_that_everywhere() {
    let is_weights = |path: &str| path.ends_with("/model.safetensors");
    let corrupt = move |path: &str, _: usize| is_weights(path).then_some(Fault::Corrupt);
    let words = ["model.safetensors", "fetched 3 times", "digest"];
    assert_fails(&FakeHub::start(nano(), corrupt), &words);
    let moved = move |path: &str, _: usize| is_weights(path).then_some(Fault::OtherCommit);
    let words = ["model.safetensors", "has changed", "pull again"];
    let dir = assert_fails(&FakeHub::start(nano(), moved), &words);

    let serve = run(&dir, &["serve", "--port", "0", "--model", REPO]);
    assert!(stderr(&serve).contains("in part only"), "{}", stderr(&serve));
    let doctor = run(&dir, &["doctor", "--port", "0", "--model", REPO]);
    let advice = "`harmonium pull owner/tiny` to go on";
    assert!(stdout(&doctor).contains(advice), "{}", stdout(&doctor));
    assert!(stdout(&run(&dir, &["models"])).contains("not complete"));
    let verified = run(&dir, &["models", "verify", REPO]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(stdout(&verified).contains("model.safetensors: missing"), "{}", stdout(&verified));
}

#[test]
fn a_revision_that_moves_during_a_pull_is_told() {
    let dir = empty_dir();
    let has_moved = |path: &str, n| path.starts_with("/api/") && n > 0;
    let hub =
        FakeHub::start(nano(), move |path, n| has_moved(path, n).then_some(Fault::OtherCommit));
    let output = pull(&dir, &hub, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("main has moved to {NEXT_COMMIT}")));
    assert_complete(&dir, &nano());
}

#[test]
fn the_layout_and_the_token_are_those_of_other_tools() {
    let dir = empty_dir();
    let home = dir.path().join("home");
    let repo = home.join("hub/models--owner--tiny");
    // What another tool has pulled: contents and the link to them.
    let weights = nano().into_iter().find(|(path, _)| path == "model.safetensors").unwrap().1;
    let digest = ring::digest::digest(&ring::digest::SHA256, &weights);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(repo.join("blobs")).unwrap();
    fs::write(repo.join("blobs").join(&digest), &weights).unwrap();
    fs::write(home.join("token"), "hf_stored\n").unwrap();

    let hub = FakeHub::start(nano(), |_, _| None);
    let mut command = command(&dir, &hub, &["--revision", "main"]);
    let output = command.env_remove("HF_TOKEN").env("HF_HOME", &home).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(repo.join("snapshots").join(COMMIT).join("model.safetensors"));
    assert_eq!(link.unwrap(), Path::new("../../blobs").join(&digest));
    assert!(hub.seen().iter().all(|seen| !seen.path.ends_with("model.safetensors")));
    assert_eq!(hub.seen()[0].authorization.as_deref(), Some("Bearer hf_stored"));
}

#[test]
fn without_a_network_nothing_hangs() {
    let dir = empty_dir();
    let endpoint = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let mut command = harmonium(&dir, &["pull", REPO, "--endpoint", &endpoint]);
    let output = command.env("NO_PROXY", "*").output().unwrap();
    assert!(stderr(&output).contains("cannot reach 127.0.0.1"), "{}", stderr(&output));
    let mut command = harmonium(&dir, &["pull"]);
    let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(stderr(&output).contains("HF_HUB_OFFLINE is set"), "{}", stderr(&output));
}

#[test]
fn two_pulls_do_not_tread_on_each_other() {
    let dir = empty_dir();
    let is_weights = |path: &str| path == "/cdn/model.safetensors";
    let hub = FakeHub::start(nano(), move |path, _| is_weights(path).then_some(Fault::Held));
    let mut first = command(&dir, &hub, &[]);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    hub.wait_until(|seen| seen.iter().any(|seen| is_weights(&seen.path)));
    for args in [&["pull", REPO][..], &["models", "remove", REPO, "--yes"]] {
        let mut second = harmonium(&dir, args);
        let output = second.env("HF_ENDPOINT", hub.endpoint()).env("NO_PROXY", "*").output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("another pull is at work on it"), "{}", stderr(&output));
    }
    hub.release();
    assert!(wait(&mut first).success());
    assert_complete(&dir, &nano());
}

#[test]
fn a_file_that_another_tool_is_fetching_is_left_to_it() {
    let dir = empty_dir();
    let hub = FakeHub::start(nano(), |_, _| None);
    assert!(pull(&dir, &hub, &[]).status.success());
    let blob = snapshot(&dir).join("model.safetensors").canonicalize().unwrap();
    let digest = blob.file_name().unwrap().to_str().unwrap().to_owned();
    fs::remove_file(&blob).unwrap();
    let locks = dir.path().join(".cache/huggingface/hub/.locks/models--owner--tiny");
    let held = fs::File::open(locks.join(format!("{digest}.lock"))).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let output = pull(&dir, &hub, &[]);
    assert!(stderr(&output).contains("model.safetensors: another pull"), "{}", stderr(&output));
    drop(held);
    assert!(pull(&dir, &hub, &[]).status.success());
    assert_complete(&dir, &nano());
}

/// xorshift: the same bytes and the same moments in every run.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn a_pull_killed_twenty_times_ends_with_the_right_bytes() {
    const LEN: usize = 24 << 20;
    const NUM_KILLS: usize = 20;
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut files = vec![("config.json".to_owned(), b"{}".to_vec())];
    for index in 0..3 {
        let bytes = (0..LEN / 8).flat_map(|_| random(&mut seed).to_le_bytes()).collect();
        files.push((format!("model-{index}.safetensors"), bytes));
    }
    let dir = empty_dir();
    let hub = FakeHub::start(files.clone(), |_, _| None);
    for kill in 0..NUM_KILLS {
        // From 0.1 to 10 MiB after the last kill, each order of magnitude as likely as the other.
        let share = (random(&mut seed) >> 11) as f64 / (1u64 << 53) as f64;
        let after = (0.1 * 100f64.powf(share) * f64::from(1 << 20)) as usize;
        let from = hub.sent();
        let mut child =
            command(&dir, &hub, &["--jobs", "1"]).stderr(Stdio::null()).spawn().unwrap();
        let mut has_ended = false;
        hub.wait_until(|seen| {
            has_ended = child.try_wait().unwrap().is_some();
            has_ended || sent(seen) >= from + after
        });
        assert!(!has_ended, "the pull was over before kill {kill}");
        child.kill().unwrap();
        wait(&mut child);
    }
    let num_seen = hub.seen().len();
    let output = pull(&dir, &hub, &["--jobs", "1", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_complete(&dir, &files);
    // What had arrived before the kills is not asked for again.
    let listed: Value = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
    let missing = listed["files"].as_array().unwrap().iter().map(|file| &file["missing_bytes"]);
    let missing: u64 = missing.map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(sent(&hub.seen()[num_seen..]) as u64, missing);
    let kept = (3 * LEN) as u64 - missing;
    assert!(kept > 10 << 20, "only {kept} bytes were kept");
}
