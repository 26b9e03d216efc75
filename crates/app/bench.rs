//! `harmonium bench engine`: the model alone, step by step, against what memory allows.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use harmonium_bench::{Decode, Measured, Prefill, read_bandwidth};
use harmonium_engine::Executor;
use harmonium_harmony::Tokenizer;
use harmonium_model::{Checkpoint, traffic};
use serde_json::{Value, json};

use crate::cli::{BenchAction, BenchArgs, BenchEngineArgs};
use crate::environment::Environment;
use crate::place::Place;
use crate::settings::{Positive, Resolved, Settings, SettingsArgs};
use crate::table::Table;
use crate::{find, logging, stack};

/// Bytes copied on a device to measure its bandwidth, if it has as much room.
const COPY_BYTES: usize = 1 << 30;
/// Copies, of which the fastest counts.
const COPIES: usize = 5;

/// Measures what is asked for.
pub(crate) fn run(args: &BenchArgs, environment: &Environment) -> Result<ExitCode> {
    match &args.action {
        BenchAction::Engine(args) => engine(args, environment),
    }
}

fn engine(args: &BenchEngineArgs, environment: &Environment) -> Result<ExitCode> {
    let mut settings = Resolved::read(&SettingsArgs::default(), environment)?.settings;
    settings.model.name.clone_from(&args.model);
    settings.model.device = args.device;
    logging::start(&settings, environment)?;
    // Room for the largest batch.
    let largest = args.batch.iter().map(|size| size.get()).max().unwrap_or(1);
    settings.engine.max_sequences = Positive::of(largest.max(settings.engine.max_sequences.get()));
    settings.engine.max_rows = Positive::of(largest.max(settings.engine.max_rows.get()));
    let place = Place::of(settings.model.device)?;
    let bandwidth = bandwidth(&place)?;
    let checkpoint = Checkpoint::from_source(&find::configured(&settings, environment)?)?;
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json()?)
        .context("cannot read the model's tokenizer")?;
    let mut executor = stack::executor(&settings, &checkpoint, &tokenizer, &place)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{} on {}", settings.model.name, place.name())?;
    writeln!(out, "memory: {:.1} GB/s, {}\n", bandwidth / 1e9, measured_how(&place))?;
    let bench = Bench { args, checkpoint: &checkpoint, place: &place, bandwidth };
    let decode = bench.decode(executor.as_mut(), &mut out)?;
    let prefill = bench.prefill(executor.as_mut(), &mut out)?;
    if let Some(file) = &args.out {
        let report = bench.report(&settings, &decode, &prefill);
        fs::write(file, format!("{report:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench<'a> {
    args: &'a BenchEngineArgs,
    checkpoint: &'a Checkpoint,
    place: &'a Place,
    bandwidth: f64,
}

impl Bench<'_> {
    /// One row a batch size and context. What does not fit is said and left out.
    fn decode(&self, executor: &mut dyn Executor, out: &mut impl Write) -> Result<Vec<Value>> {
        let mut table =
            Table::new(&["decode", "context", "tok/s", "ms a step", "GB a step", "of roofline"]);
        let mut values = Vec::new();
        let element_bytes = if self.place.device().is_some() { 2 } else { 4 };
        for num_sequences in self.args.batch.iter().map(|size| size.get()) {
            for &context_len in &self.args.context {
                let decode = Decode { num_sequences, context_len, num_steps: self.args.steps };
                let name = format!("batch {num_sequences}");
                let measured = match decode.run(executor) {
                    Ok(measured) => measured,
                    Err(error @ harmonium_bench::BenchError::TooLarge { .. }) => {
                        writeln!(out, "{name}, context {context_len}: left out, {error}")?;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let config = self.checkpoint.config();
                let bytes =
                    traffic::decode_bytes(config, num_sequences, context_len, element_bytes);
                let share = bytes / measured.step_seconds() / self.bandwidth;
                table.row(vec![
                    name,
                    context_len.to_string(),
                    format!("{:.1}", measured.tokens_per_second()),
                    format!("{:.2}", measured.step_seconds() * 1e3),
                    format!("{:.2}", bytes / 1e9),
                    format!("{:.0} %", share * 100.0),
                ]);
                values.push(json!({
                    "batch": num_sequences,
                    "context": context_len,
                    "steps": measured.num_steps,
                    "tokens_per_s": measured.tokens_per_second(),
                    "step_ms": measured.step_seconds() * 1e3,
                    "bytes_per_step": bytes,
                    "roofline_share": share,
                }));
            }
        }
        if !values.is_empty() {
            table.write(out)?;
            writeln!(out)?;
        }
        Ok(values)
    }

    /// One row a prompt length.
    fn prefill(&self, executor: &mut dyn Executor, out: &mut impl Write) -> Result<Vec<Value>> {
        let mut table = Table::new(&["prefill", "steps", "tok/s", "s"]);
        let mut values = Vec::new();
        for num_tokens in self.args.prefill.iter().map(|len| len.get()) {
            let name = format!("{num_tokens} tokens");
            let measured: Measured = match (Prefill { num_tokens }).run(executor) {
                Ok(measured) => measured,
                Err(error @ harmonium_bench::BenchError::TooLarge { .. }) => {
                    writeln!(out, "{name}: left out, {error}")?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            table.row(vec![
                name,
                measured.num_steps.to_string(),
                format!("{:.1}", measured.tokens_per_second()),
                format!("{:.2}", measured.elapsed.as_secs_f64()),
            ]);
            values.push(json!({
                "tokens": num_tokens,
                "steps": measured.num_steps,
                "tokens_per_s": measured.tokens_per_second(),
                "seconds": measured.elapsed.as_secs_f64(),
            }));
        }
        if !values.is_empty() {
            table.write(out)?;
        }
        Ok(values)
    }

    fn report(&self, settings: &Settings, decode: &[Value], prefill: &[Value]) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": settings.model.name,
            "device": self.place.name(),
            "bandwidth_bytes_per_s": self.bandwidth,
            "bandwidth_measured": measured_how(self.place),
            "decode": decode,
            "prefill": prefill,
        })
    }
}

fn measured_how(place: &Place) -> &'static str {
    match place {
        Place::Cpu => "all cores reading a large buffer",
        Place::Device(_) => "copying on the device, reads and writes counted",
    }
}

/// Bytes a second that the memory gives.
fn bandwidth(place: &Place) -> Result<f64> {
    let Some(device) = place.device() else { return Ok(read_bandwidth()) };
    let len = COPY_BYTES.min(device.memory()?.free / 4);
    let (from, to) = (device.alloc(len)?, device.alloc(len)?);
    device.zero(from.whole())?;
    let mut fastest = f32::INFINITY;
    for _ in 0..COPIES {
        let started = device.event()?;
        device.copy(from.whole(), to.whole())?;
        fastest = fastest.min(device.event()?.elapsed_ms(&started)?);
    }
    Ok(2.0 * len as f64 / (f64::from(fastest) / 1e3))
}
