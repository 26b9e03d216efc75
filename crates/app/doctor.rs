//! `harmonium doctor`: what works on this machine, and what to do about what does not.
//!
//! One line a finding. A finding that keeps `harmonium serve` from working is a failure and makes the exit
//! code 1; a warning is something that works but will disappoint.

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use harmonium_harmony::Tokenizer;
use harmonium_model::product::Simd;
use harmonium_model::{Checkpoint, Source};

use crate::environment::Environment;
use crate::machine::{self, gib};
use crate::place::Place;
use crate::settings::{Device, NamedAdapter, Resolved, Settings, SettingsArgs};
use crate::{adapters, find, hosted, stack};

/// Less free disk than this fits no published checkpoint: the 20B model's shards are 12.8 GiB.
const SMALLEST_DOWNLOAD: u64 = 14 << 30;
/// Less free memory than this is little even for the embedded model.
const LITTLE_MEMORY: u64 = 1 << 30;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
struct Finding {
    level: Level,
    topic: &'static str,
    text: String,
    /// What a person can do about it.
    advice: Option<String>,
}

impl Finding {
    fn ok(topic: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, topic, text: text.into(), advice: None }
    }

    fn warn(topic: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, topic, text: text.into(), advice: Some(advice.into()) }
    }

    fn fail(topic: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, topic, text: text.into(), advice: Some(advice.into()) }
    }
}

/// Looks at everything and reports each finding as soon as it is made.
pub(crate) fn run(args: &SettingsArgs, environment: &Environment) -> Result<ExitCode> {
    let mut report = Report { out: io::stdout().lock(), has_failed: false };
    report.add(machine())?;
    let resolved = match Resolved::read(args, environment) {
        Ok(resolved) => resolved,
        Err(error) => {
            let advice = "correct it; `harmonium config --annotated` shows every key";
            report.add(Finding::fail("configuration", format!("{error:#}"), advice))?;
            return Ok(report.exit_code());
        }
    };
    for finding in configuration(&resolved) {
        report.add(finding)?;
    }
    report.add(device(&resolved.settings))?;
    report.add(model(&resolved.settings, environment))?;
    for finding in adapters(&resolved.settings, environment) {
        report.add(finding)?;
    }
    report.add(hosted(&resolved.settings, environment))?;
    report.add(disk(&resolved.settings, environment))?;
    report.add(port(&resolved.settings))?;
    Ok(report.exit_code())
}

struct Report<W> {
    out: W,
    has_failed: bool,
}

impl<W: Write> Report<W> {
    fn add(&mut self, finding: Finding) -> io::Result<()> {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        self.has_failed |= finding.level == Level::Fail;
        writeln!(self.out, "{level:4}  {:13}  {}", finding.topic, finding.text)?;
        if let Some(advice) = finding.advice {
            writeln!(self.out, "{:21}-> {advice}", "")?;
        }
        Ok(())
    }

    fn exit_code(&self) -> ExitCode {
        if self.has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn machine() -> Finding {
    let cores = machine::num_cores();
    let level = Simd::detect();
    let Some(memory) = machine::memory() else {
        return Finding::ok("machine", format!("{cores} cores, {level}"));
    };
    let (total, free) = (gib(memory.total), gib(memory.available));
    let text = format!("{cores} cores, {level}, {total} of memory, {free} free");
    if memory.available < LITTLE_MEMORY {
        return Finding::warn(
            "machine",
            text,
            "end other programs before a larger model is loaded",
        );
    }
    Finding::ok("machine", text)
}

fn configuration(resolved: &Resolved) -> Vec<Finding> {
    let text = match &resolved.file {
        Some(path) => format!("read from {}", path.display()),
        None => "no file: defaults, environment and flags".to_owned(),
    };
    let advice = "rename or unset the variable";
    let warnings = resolved.warnings.iter();
    std::iter::once(Finding::ok("configuration", text))
        .chain(warnings.map(|text| Finding::warn("configuration", text, advice)))
        .collect()
}

/// Looks at settings and keys only: nothing is sent.
fn hosted(settings: &Settings, environment: &Environment) -> Finding {
    if !settings.hosted.enabled {
        return Finding::ok("hosted", "off: no request leaves this machine");
    }
    let config = hosted::config(settings, environment)
        .and_then(|config| config.check().map(|()| config).map_err(Into::into));
    match config {
        Ok(config) => {
            let names: Vec<_> = config.models.iter().map(|model| model.name.as_str()).collect();
            let ledger = config.ledger.display();
            Finding::ok("hosted", format!("{}, spending in {ledger}", names.join(", ")))
        }
        Err(error) => Finding::fail(
            "hosted",
            format!("{error:#}"),
            "correct it, or set hosted.enabled to false",
        ),
    }
}

fn device(settings: &Settings) -> Finding {
    let place = match Place::of(settings.model.device) {
        Ok(place) => place,
        Err(error) => {
            return Finding::fail("device", format!("{error:#}"), "set model.device to auto");
        }
    };
    if settings.model.device == Device::Auto
        && machine::has_nvidia_gpu()
        && let Err(error) = harmonium_cuda::Device::card(0)
    {
        let text = format!("cpu; there is an NVIDIA GPU, but {error}");
        return Finding::warn("device", text, "set model.device to cpu to stop this warning");
    }
    Finding::ok("device", place.name())
}

fn model(settings: &Settings, environment: &Environment) -> Finding {
    match describe_model(settings, environment) {
        Ok((text, num_bytes)) => match machine::memory() {
            Some(memory) if memory.total < num_bytes => {
                let advice = "it will be read from disk again and again: use a smaller model";
                Finding::warn("model", format!("{text}; more than the memory"), advice)
            }
            _ => Finding::ok("model", text),
        },
        Err(error) => {
            let advice = "set model.name (--model) to nano, a directory or a model that `harmonium pull` has downloaded";
            Finding::fail("model", format!("{error:#}"), advice)
        }
    }
}

/// One line an adapter; none where the model cannot be read, which is a finding of its own.
fn adapters(settings: &Settings, environment: &Environment) -> Vec<Finding> {
    let fail = |error: anyhow::Error| {
        let advice = "correct model.adapters (--adapter), or leave the adapter out";
        Finding::fail("adapters", format!("{error:#}"), advice)
    };
    if let Err(error) = adapters::check(settings) {
        return vec![fail(error)];
    }
    let source = find::configured(settings, environment);
    let checkpoint = source.and_then(|source| Ok(Checkpoint::from_source(&source)?));
    let Ok(checkpoint) = checkpoint else { return Vec::new() };
    let finding = |adapter: &NamedAdapter| match adapters::open(adapter, checkpoint.config()) {
        Ok(opened) => {
            let NamedAdapter { name, dir } = adapter;
            let (what, bytes) = (opened.describe(), size(opened.num_bytes()));
            Finding::ok("adapters", format!("{name} at {}: {what}, {bytes}", dir.display()))
        }
        Err(error) => fail(error),
    };
    settings.model.adapters.0.iter().map(finding).collect()
}

/// One line about the configured model, and the bytes that its weights take of this machine's memory.
fn describe_model(settings: &Settings, environment: &Environment) -> Result<(String, u64)> {
    let source = find::configured(settings, environment)?;
    let checkpoint = Checkpoint::from_source(&source)?;
    // A device that is not there has its own line.
    if let Ok(place) = Place::of(settings.model.device) {
        stack::check_place(settings, &checkpoint, &place)?;
    }
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json()?)?;
    let config = checkpoint.config();
    let place = match &source {
        Source::Nano => "inside this program".to_owned(),
        Source::Directory(path) => format!("at {}", path.display()),
        Source::Synthetic(_) => "made on the device".to_owned(),
    };
    let taken = if checkpoint.is_synthetic() { 0 } else { checkpoint.num_bytes() };
    let text = format!(
        "{} {place}: {} layers, {} experts, {} tokens of context, {} known tokens, {} of weights",
        settings.model.name,
        config.layers.len(),
        config.num_experts,
        config.context_len,
        tokenizer.vocab_size(),
        size(checkpoint.num_bytes()),
    );
    Ok((text, taken))
}

fn size(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    if bytes < GIB { format!("{} MiB", bytes >> 20) } else { gib(bytes) }
}

fn disk(settings: &Settings, environment: &Environment) -> Finding {
    let cache = settings.model.hf_cache.as_ref().cloned().or_else(|| environment.hf_cache());
    let Some(cache) = cache else {
        let advice = "set model.hf_cache, or HOME";
        return Finding::warn("disk", "no place for a Hugging Face cache", advice);
    };
    let state = if cache.is_dir() { "" } else { " (not there yet)" };
    let place = format!("Hugging Face cache {}{state}", cache.display());
    match machine::free_disk(Path::new(&cache)) {
        Some(free) if free < SMALLEST_DOWNLOAD => {
            let text = format!("{place}: {} free", gib(free));
            let advice = "too little for gpt-oss-20b (13 GiB): free some or set model.hf_cache";
            Finding::warn("disk", text, advice)
        }
        Some(free) => Finding::ok("disk", format!("{place}: {} free", gib(free))),
        None => Finding::ok("disk", place),
    }
}

fn port(settings: &Settings) -> Finding {
    let (host, port) = (settings.server.host.as_str(), settings.server.port);
    match TcpListener::bind((host, port)) {
        Ok(_) => Finding::ok("port", format!("{host}:{port} is free")),
        Err(error) => Finding::fail(
            "port",
            format!("cannot listen on {host}:{port}: {error}"),
            "set server.port (--port) to another one, or 0 for any",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_decides_the_exit_code_and_a_warning_does_not() {
        let mut report = Report { out: Vec::new(), has_failed: false };
        report.add(Finding::warn("disk", "little", "free some")).unwrap();
        assert!(!report.has_failed);
        report.add(Finding::fail("port", "taken", "take another")).unwrap();
        assert!(report.has_failed);
        let text = String::from_utf8(report.out).unwrap();
        assert!(text.contains("FAIL  port           taken\n"), "{text}");
        assert!(text.contains("-> take another\n"), "{text}");
    }

    #[test]
    fn taken_port_is_a_failure() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut settings = Settings::default();
        settings.server.port = listener.local_addr().unwrap().port();
        assert_eq!(port(&settings).level, Level::Fail);
    }
}
