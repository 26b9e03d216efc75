//! `harmonium gpu`: everything that needs the card, in one call of bounded time.
//!
//! Such machines are lent for minutes and keep nothing. So each part is this program again, in a process of its own: a
//! part that fails or takes too long is ended and said, and the next one begins on a sound driver, with the whole memory
//! of the card. What is printed last is a short table; what was found lies in one JSON file.

mod part;
mod report;

use std::fs;
use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::part::{Outcome, Part};
use self::report::Report;
use crate::cli::GpuArgs;
use crate::settings::{Device, Value as _};

/// Shares of the whole time that parts beside the measurements may take, in percent.
const CHECK_PERCENT: u32 = 25;
const SANITIZER_PERCENT: u32 = 20;
const VARIANTS_PERCENT: u32 = 15;
/// Of what is left, the share after which `bench engine` begins nothing more, so that it ends by itself.
const BENCH_PERCENT: u32 = 85;
/// What the report takes when everything else has ended.
const SPARE: Duration = Duration::from_secs(3);
/// Finds wild accesses of kernels on a card: a part of CUDA's toolkit.
const SANITIZERS: [&str; 2] = ["compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer"];

/// Checks and measures. Nothing that was measured counts before it is known to be right, so the checks come first.
pub(crate) fn run(args: &GpuArgs) -> Result<ExitCode> {
    if !matches!(args.device, Device::Cuda | Device::Host) {
        bail!("--device {}: it has no kernels; use cuda or host", args.device.show());
    }
    fs::create_dir_all(&args.out)
        .with_context(|| format!("--out {}: cannot create it", args.out.display()))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut session = Session {
        args,
        program: program.display().to_string(),
        end: Instant::now() + Duration::from_secs(args.seconds.into()),
        report: Report::new(args),
        parts: Vec::new(),
    };
    let mut out = io::stdout().lock();
    session.check(&mut out)?;
    session.sanitizer(&mut out)?;
    if args.variants {
        session.variants(&mut out)?;
    }
    session.bench(&mut out)?;
    session.report.write_summary(&session.parts, &mut out)?;
    let is_right = session.parts.iter().all(|part| part.outcome != Outcome::Failed);
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Session<'a> {
    args: &'a GpuArgs,
    program: String,
    end: Instant,
    report: Report<'a>,
    parts: Vec<Part>,
}

impl Session<'_> {
    /// Every kernel against float64, and whole forward passes against the processor.
    fn check(&mut self, out: &mut impl Write) -> Result<()> {
        let file = self.file("check.json");
        let command = self.command(&["check", "--out", &file]);
        self.part("check", CHECK_PERCENT, &command, out)
    }

    /// The kernels once more, every access watched.
    fn sanitizer(&mut self, out: &mut impl Write) -> Result<()> {
        let name = "sanitizer";
        if self.args.device == Device::Host {
            return self.leave_out(name, "the host device watches every access by itself");
        }
        let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        let Some(sanitizer) = SANITIZERS.into_iter().find(is_there) else {
            return self.leave_out(name, "compute-sanitizer is not installed");
        };
        let mut command: Vec<String> =
            [sanitizer, "--error-exitcode", "9"].map(str::to_owned).into();
        command.extend(self.command(&["check", "--kernels"]));
        self.part(name, SANITIZER_PERCENT, &command, out)
    }

    /// Kernels that do the same, side by side.
    fn variants(&mut self, out: &mut impl Write) -> Result<()> {
        let file = self.file("variants.json");
        let model = self.args.model.as_str();
        let command = self.command(&["bench", "kernels", "--model", model, "--out", &file]);
        self.part("variants", VARIANTS_PERCENT, &command, out)
    }

    /// The model, with all the time that is left.
    fn bench(&mut self, out: &mut impl Write) -> Result<()> {
        fn list<T: ToString>(numbers: &[T]) -> String {
            numbers.iter().map(T::to_string).collect::<Vec<_>>().join(",")
        }
        let args = self.args;
        let seconds = (self.left() * BENCH_PERCENT / 100).as_secs().max(1).to_string();
        let (file, steps) = (self.file("bench.json"), args.steps.to_string());
        let (batch, context, prefill) =
            (list(&args.batch), list(&args.context), list(&args.prefill));
        let command = self.command(&[
            "bench",
            "engine",
            "--model",
            &args.model,
            "--batch",
            &batch,
            "--context",
            &context,
            "--prefill",
            &prefill,
            "--steps",
            &steps,
            "--seconds",
            &seconds,
            "--out",
            &file,
        ]);
        self.part("bench", 100, &command, out)
    }

    /// This program with these words and the device.
    fn command(&self, words: &[&str]) -> Vec<String> {
        let device = self.args.device.show();
        let program = std::iter::once(self.program.as_str());
        let words = program.chain(words.iter().copied());
        words.chain(["--device", device.trim_matches('"')]).map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> String {
        self.args.out.join(name).display().to_string()
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).saturating_sub(SPARE)
    }

    /// Runs a part within its share of the whole time and what is left of it.
    fn part(
        &mut self,
        name: &'static str,
        percent: u32,
        command: &[String],
        out: &mut impl Write,
    ) -> Result<()> {
        writeln!(out, "== {name} ==")?;
        out.flush()?;
        let whole = Duration::from_secs(self.args.seconds.into());
        let limit = self.left().min(whole * percent / 100);
        let log = self.args.out.join(format!("{name}.txt"));
        let part = Part::run(name, command, limit, &log)?;
        out.write_all(fs::read_to_string(&log).unwrap_or_default().as_bytes())?;
        self.finish(part)
    }

    fn leave_out(&mut self, name: &'static str, why: &str) -> Result<()> {
        self.finish(Part::left_out(name, why))
    }

    /// The report is whole after every part.
    fn finish(&mut self, part: Part) -> Result<()> {
        self.parts.push(part);
        self.report.save(&self.parts)
    }
}
