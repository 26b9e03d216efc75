//! `harmonium bench load`: from the command to the first token, and the memory that takes.
//!
//! It starts this very binary as `harmonium serve`, a process of its own, as an operator does: once after the system was
//! told to forget what it holds of the model's files, once after they were read through. What a start read from the disk
//! is reported beside its time, so that a cold start that was none shows.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harmonium_model::Source;
use harmonium_openai::{ChatRequest, Client, ClientConfig};
use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cli::BenchLoadArgs;
use crate::environment::Environment;
use crate::machine::gib;
use crate::progress::Steps;
use crate::settings::{Resolved, SettingsArgs, Value};
use crate::table::Table;
use crate::{find, stack};

/// Longest wait for a server to listen, and then for its answer: 65 GB from a slow disk.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Longest wait for a server to end after it was asked to.
const END: Duration = Duration::from_secs(30);
/// Bytes read at a time to fill the page cache.
const READ_BYTES: usize = 1 << 22;

/// How the model's files lie when a server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Cold,
    Warm,
}

/// What one start took.
struct Measured {
    /// From the command to the line that says where it listens.
    ready: Duration,
    /// From the request to the first token of the answer.
    first_token: Duration,
    /// From the request to the end of the answer.
    answer: Duration,
    memory: Memory,
}

/// What the system says of a process, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    /// Most that was resident at one time, mapped files included.
    peak: u64,
    /// Resident and of no file: what nobody else can use.
    anonymous: u64,
    /// Read from a disk since the start.
    read: u64,
}

/// Starts and measures a server, cold and warm.
pub(super) fn run(args: &BenchLoadArgs, environment: &Environment) -> Result<ExitCode> {
    let mut settings = Resolved::read(&SettingsArgs::default(), environment)?.settings;
    settings.model.name.clone_from(&args.model);
    let files = weight_files(&find::configured(&settings, environment)?)?;
    let num_bytes: u64 = files.iter().map(|(_, num_bytes)| num_bytes).sum();
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {} of weights in {} files\n", args.model, gib(num_bytes), files.len())?;
    let mut table =
        Table::new(&["start", "ready s", "first token s", "answer s", "peak", "anonymous", "read"]);
    let mut report = Vec::new();
    for (start, name) in [(Start::Cold, "cold"), (Start::Warm, "warm")] {
        if files.is_empty() && start == Start::Cold {
            continue; // A model inside the binary has nothing to forget.
        }
        prepare(start, &files)?;
        let measured = stack::block_on(measure(args))?;
        table.row(measured.row(name));
        report.push(measured.json(name));
    }
    table.write(&mut out)?;
    if let Some(file) = &args.out {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": args.model,
            "weight_bytes": num_bytes,
            "starts": report,
        });
        fs::write(file, format!("{report:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The files that hold a model's weights, with their lengths.
fn weight_files(source: &Source) -> Result<Vec<(PathBuf, u64)>> {
    let Source::Directory(dir) = source else { return Ok(Vec::new()) };
    let read = || format!("cannot read {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let len = fs::metadata(&path).with_context(read)?.len();
            files.push((path, len));
        }
    }
    Ok(files)
}

/// Brings the files into the state a start wants.
fn prepare(start: Start, files: &[(PathBuf, u64)]) -> Result<()> {
    let mut steps = Steps::new(files.len() as u64);
    for (path, _) in files {
        steps.begin(&path.display().to_string());
        let context = || format!("cannot read {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        match start {
            Start::Cold => {
                // Pages that are not on the disk yet could not be forgotten.
                file.sync_all().with_context(context)?;
                fadvise(&file, 0, None, Advice::DontNeed).with_context(context)?;
            }
            Start::Warm => {
                let mut buffer = vec![0; READ_BYTES];
                while file.read(&mut buffer).with_context(context)? > 0 {}
            }
        }
        steps.done();
    }
    Ok(())
}

async fn measure(args: &BenchLoadArgs) -> Result<Measured> {
    let binary = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(binary);
    command.args(["serve", "--port", "0", "--log", "warn", "--model", &args.model]);
    command.args(["--device", args.device.show().trim_matches('"')]);
    if let Some(context) = args.context {
        command.args(["--context", &context.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let started = Instant::now();
    let mut child = command.spawn().context("cannot start a server")?;
    let url =
        timeout(PATIENCE, listening(&mut child)).await.context("waiting for the server")??;
    let ready = started.elapsed();
    let base_url = format!("{url}/v1");
    let client = Client::new(ClientConfig { base_url, ..ClientConfig::default() })?;
    let (first_token, answer) =
        timeout(PATIENCE, ask(&client)).await.context("waiting for the answer")??;
    let memory = Memory::of(child.id().context("the server has ended")?)?;
    end(child).await?;
    Ok(Measured { ready, first_token, answer, memory })
}

/// The address a server prints once it is ready.
async fn listening(child: &mut Child) -> Result<String> {
    let stdout = child.stdout.take().context("the server's output is not ours")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(url) = line.strip_prefix("listening on ") {
            let url = url.to_owned();
            // Whatever it says later must not fill the pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(url);
        }
    }
    bail!("the server ended before it listened")
}

/// Asks for a short answer; how long its first token and its end took.
async fn ask(client: &Client) -> Result<(Duration, Duration)> {
    let request: ChatRequest = serde_json::from_value(json!({
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_completion_tokens": 16,
    }))?;
    let started = Instant::now();
    let mut stream = client.chat_stream(&request).await?;
    let mut first = None;
    while let Some(chunk) = stream.next().await {
        if chunk?.choices.iter().any(|choice| choice.delta.says_something()) {
            first.get_or_insert_with(|| started.elapsed());
        }
    }
    let answer = started.elapsed();
    // Noise may be held back until its end, where it is no Harmony.
    Ok((first.unwrap_or(answer), answer))
}

async fn end(mut child: Child) -> Result<()> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    kill_process(pid.context("the server has ended")?, Signal::TERM)?;
    timeout(END, child.wait()).await.context("waiting for the server to end")??;
    Ok(())
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = Path::new("/proc").join(pid.to_string()).join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self::parse(&read("status")?, &read("io")?))
    }

    fn parse(status: &str, io: &str) -> Self {
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        Self {
            peak: field(status, "VmHWM") * 1024,
            anonymous: field(status, "RssAnon") * 1024,
            read: field(io, "read_bytes"),
        }
    }
}

impl Measured {
    fn row(&self, start: &str) -> Vec<String> {
        let seconds = |duration: Duration| format!("{:.2}", duration.as_secs_f64());
        vec![
            start.to_owned(),
            seconds(self.ready),
            seconds(self.first_token),
            seconds(self.answer),
            gib(self.memory.peak),
            gib(self.memory.anonymous),
            gib(self.memory.read),
        ]
    }

    fn json(&self, start: &str) -> Json {
        json!({
            "start": start,
            "ready_s": self.ready.as_secs_f64(),
            "first_token_s": self.first_token.as_secs_f64(),
            "answer_s": self.answer.as_secs_f64(),
            "peak_bytes": self.memory.peak,
            "anonymous_bytes": self.memory.anonymous,
            "read_bytes": self.memory.read,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nRssAnon:\t     3 kB\nRssFile:\t 9 kB\n";
        let io = "rchar: 7\nread_bytes: 4096\nwrite_bytes: 1\n";
        let expected = Memory { peak: 2 << 20, anonymous: 3072, read: 4096 };
        assert_eq!(Memory::parse(status, io), expected);
    }
}
