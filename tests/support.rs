//! Starts the binary and speaks to it. Every wait is bounded; a server ends with its test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use harmonium_openai::{Client, ClientConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for anything that should happen soon: generous, because CI machines are slow and busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Longest wait for a whole answer: the host device thinks for half a minute, longer beside other tests.
const ANSWER: Duration = Duration::from_secs(240);
/// Time between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(20);

/// Variables of other programs that have a meaning for this one.
const OTHERS: [&str; 10] = [
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
];

/// The binary in an empty directory, with nothing of the environment that could be a setting.
pub(crate) fn harmonium(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harmonium"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HARMONIUM_") {
            command.env_remove(name);
        }
    }
    command.args(args).current_dir(dir.path()).env("HOME", dir.path());
    for name in OTHERS {
        command.env_remove(name);
    }
    command
}

/// Runs the binary to its end.
pub(crate) fn run(dir: &TempDir, args: &[&str]) -> Output {
    harmonium(dir, args).stdin(Stdio::null()).output().unwrap()
}

/// An empty directory.
pub(crate) fn empty_dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    url: String,
    http: reqwest::Client,
    /// What it printed up to the line that names its address.
    pub(crate) banner: Vec<String>,
    _dir: TempDir,
}

impl Server {
    /// Starts `harmonium serve --port 0` with more arguments and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = empty_dir();
        let args = [&["serve", "--port", "0", "--log", "warn"], args].concat();
        let mut child = harmonium(&dir, &args).stdout(Stdio::piped()).spawn().unwrap();
        let banner = read_banner(child.stdout.take().unwrap());
        let url = banner.last().and_then(|line| line.strip_prefix("listening on "));
        let url = url.expect("the banner ends with the address").to_owned();
        let http = harmonium_openai::client::http().no_proxy().timeout(ANSWER).build().unwrap();
        Self { child, url, http, banner, _dir: dir }
    }

    /// The address of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// A typed client.
    pub(crate) fn client(&self) -> Client {
        let base_url = self.url("/v1");
        Client::new(ClientConfig { base_url, ..ClientConfig::default() }).unwrap()
    }

    /// Sends a chat request and returns the answer as it came.
    pub(crate) async fn post(&self, body: &Value) -> reqwest::Response {
        self.http.post(self.url("/v1/chat/completions")).json(body).send().await.unwrap()
    }

    /// Sends a chat request that must succeed.
    pub(crate) async fn chat(&self, body: &Value) -> Value {
        let response = self.post(body).await;
        let status = response.status();
        let value: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{value}");
        value
    }

    /// Asks for a path.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    /// The sum of a metric over all its label sets that contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let values: Vec<f64> = text
            .lines()
            .filter_map(|line| {
                let (key, value) = line.rsplit_once(' ')?;
                let found = key.split('{').next() == Some(name) && key.contains(labels);
                found.then(|| value.parse().unwrap())
            })
            .collect();
        assert!(!values.is_empty(), "no {name}{{{labels}}} in\n{text}");
        values.iter().sum()
    }

    /// Blocks of `group` that sequences hold.
    pub(crate) async fn blocks_used(&self, group: &str) -> f64 {
        self.metric("harmonium_kv_blocks_used", &format!("group=\"{group}\"")).await
    }

    /// Waits until no sequence holds a block.
    pub(crate) async fn wait_until_idle(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            let used = (self.blocks_used("full").await, self.blocks_used("window").await);
            if used == (0.0, 0.0) {
                return;
            }
            assert!(Instant::now() < deadline, "blocks in use (full, window): {used:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Waits until `/health` answers with this status.
    pub(crate) async fn wait_for_health(&self, status: u16) {
        let deadline = Instant::now() + SOON;
        while self.get("/health").await.status() != status {
            assert!(Instant::now() < deadline, "/health does not become {status}");
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, as some tests ask it to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends SIGINT, as Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

/// Waits for a process, but not for ever.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "the process does not end");
        std::thread::sleep(POLL);
    }
}

/// The lines up to the one with the address. A thread reads on, so that the server never blocks on its output.
fn read_banner(stdout: ChildStdout) -> Vec<String> {
    let (sender, receiver) = sync_channel(64);
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        while stdout.read_line(&mut line).is_ok_and(|len| len > 0) {
            let is_last = line.starts_with("listening on ");
            let _ = sender.send(std::mem::take(&mut line).trim_end().to_owned());
            if is_last {
                break;
            }
        }
        let _ = stdout.read_to_end(&mut Vec::new());
    });
    let deadline = Instant::now() + SOON;
    let mut banner = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = receiver.recv_timeout(left);
        banner.push(line.unwrap_or_else(|_| panic!("the server did not start: {banner:?}")));
        if banner.last().is_some_and(|line| line.starts_with("listening on ")) {
            return banner;
        }
    }
}

/// A greedy chat request with one user message.
pub(crate) fn ask(text: &str) -> Value {
    json!({
        "model": "nano",
        "temperature": 0,
        "messages": [{"role": "user", "content": text}],
    })
}

/// `request` with the keys of `more` added.
pub(crate) fn with(mut request: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(more);
    request
}

/// The text of the first choice.
pub(crate) fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_default()
}
