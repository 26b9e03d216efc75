//! `harmonium check`: whether a device computes what it should.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use harmonium_cuda::{Device, check};
use harmonium_model::logits::{LogitsMode, LogitsPlace, adapted_logits, logits, median_row_error};
use harmonium_model::synth::{AdapterTargets, SHARD_BYTES, Shape, Synth, SynthAdapter};
use harmonium_model::{Checkpoint, Precision, Source};
use serde_json::{Value, json};

use crate::cli::CheckArgs;
use crate::place::Place;

/// Bound of the relative error of logits against the processor's float32, the median of all rows: what enters a product is
/// rounded to bf16 on a device, 2^-9 each time, and a row near a tie between two experts goes either way.
const FORWARD_TOLERANCE: f64 = 3e-2;
/// Tokens that are run through a model: more than its window, and several chunks.
const NUM_TOKENS: u32 = 300;

/// Runs every kernel against its reference in float64, then whole forward passes against the processor.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let place = Place::of(args.device)?;
    let device = place.device().context("--device names no device with kernels: cuda or host")?;
    let mut out = io::stdout().lock();
    let mut findings = Findings::default();
    findings.kernels(device);
    if !args.kernels {
        let nano = Checkpoint::from_source(&Source::Nano)?;
        findings.forward("nano", [&nano, &nano], None, device, &mut out)?;
        let synth =
            Synth { shape: Shape::SMALL, seed: 0, tokenizer: None, shard_bytes: SHARD_BYTES };
        let made = Checkpoint::synthetic(Shape::SMALL)?;
        let both = [&made, &synth.checkpoint()?];
        findings.forward("synthetic:small", both, None, device, &mut out)?;
        let (shape, targets) = (Shape::SMALL, AdapterTargets::All);
        let adapter = SynthAdapter { shape, rank: 9, targets, seed: 1 };
        findings.forward("synthetic:small, adapted", both, Some(&adapter), device, &mut out)?;
    }
    for line in &findings.wrong {
        writeln!(out, "WRONG {line}")?;
    }
    let (num_right, num_wrong) = (findings.num_right, findings.wrong.len());
    writeln!(out, "{}: {num_right} right, {num_wrong} wrong", place.name())?;
    if let Some(file) = &args.out {
        findings.write(file, &place)?;
    }
    if num_wrong > 0 {
        bail!("the device computes something else than it should");
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Findings {
    num_right: u32,
    wrong: Vec<String>,
    forward: Vec<Value>,
}

impl Findings {
    fn kernels(&mut self, device: &Device) {
        for case in check::all() {
            match case.run(device) {
                Ok(report) if report.is_right() => self.num_right += 1,
                Ok(report) => self.wrong.push(format!(
                    "{}: error {:e}, allowed {:e}",
                    case.name(),
                    report.max_error,
                    report.tolerance
                )),
                Err(error) => self.wrong.push(format!("{}: {error}", case.name())),
            }
        }
    }

    /// Compares the device's logits with those of the same weights on the processor, the second of the two.
    fn forward(
        &mut self,
        model: &str,
        [on_device, on_cpu]: [&Checkpoint; 2],
        adapter: Option<&SynthAdapter>,
        device: &Device,
        out: &mut impl Write,
    ) -> Result<()> {
        let tokens: Vec<u32> =
            (0..NUM_TOKENS).map(|i| i * 7919 % on_cpu.config().vocab_size).collect();
        let run = |checkpoint, mode, place| match adapter {
            Some(adapter) => adapted_logits(checkpoint, adapter.adapter()?, &tokens, mode, place),
            None => logits(checkpoint, &tokens, mode, place),
        };
        let reference = run(on_cpu, LogitsMode::All, LogitsPlace::Cpu(Precision::Float32))?;
        for (how, mode) in [
            ("one prefill", LogitsMode::All),
            ("chunks of 100", LogitsMode::Chunk(100)),
            ("40 tokens decoded", LogitsMode::DecodeLast(40)),
        ] {
            let name = format!("{model}, {how}");
            let error = match run(on_device, mode, LogitsPlace::Device(device)) {
                Ok(ours) => median_row_error(&ours, &reference, tokens.len()),
                Err(error) => {
                    self.wrong.push(format!("{name}: {error}"));
                    continue;
                }
            };
            writeln!(
                out,
                "{name}: median of relative errors {error:.1e}, allowed {FORWARD_TOLERANCE:e}"
            )?;
            self.forward.push(json!({"name": name, "error": error, "allowed": FORWARD_TOLERANCE}));
            if error <= FORWARD_TOLERANCE {
                self.num_right += 1;
            } else {
                self.wrong.push(format!("{name}: median of relative errors {error:e}"));
            }
        }
        Ok(())
    }

    fn write(&self, file: &Path, place: &Place) -> Result<()> {
        let report = json!({
            "device": place.facts()?,
            "right": self.num_right,
            "wrong": self.wrong,
            "forward": self.forward,
        });
        fs::write(file, format!("{report:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}
