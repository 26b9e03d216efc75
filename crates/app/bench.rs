//! `harmonium bench engine`: the model alone, step by step, against what memory allows.
//!
//! Contexts come first and batches within, so that each context is computed once. What does not fit the device or the
//! time is said and left out. The JSON file is whole after every measurement, so an end from outside loses little.
//! Its sibling [`load`] measures how long a start takes.

mod engine;
mod kernels;
mod load;
mod ops;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harmonium_bench::read_bandwidth;
use harmonium_harmony::Tokenizer;
use harmonium_model::profile::Profile;
use harmonium_model::{Checkpoint, CpuOptions};

use self::engine::Bench;
use crate::cli::{BenchAction, BenchArgs, BenchEngineArgs};
use crate::environment::Environment;
use crate::place::Place;
use crate::progress::Task;
use crate::settings::{Adapters, Auto, Positive, Resolved, Settings, SettingsArgs};
use crate::{adapters, find, logging, progress, stack};

/// Bytes copied on a device to measure its bandwidth, if it has as much room.
const COPY_BYTES: usize = 1 << 30;
/// Copies, of which the fastest counts.
const COPIES: usize = 5;

/// Measures what is asked for.
pub(crate) fn run(args: &BenchArgs, environment: &Environment) -> Result<ExitCode> {
    match &args.action {
        BenchAction::Engine(args) => engine(args, environment),
        BenchAction::Kernels(args) => kernels::run(args, environment),
        BenchAction::Load(args) => load::run(args, environment),
    }
}

fn engine(args: &BenchEngineArgs, environment: &Environment) -> Result<ExitCode> {
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let mut settings = Resolved::read(&SettingsArgs::default(), environment)?.settings;
    settings.model.name.clone_from(&args.model);
    settings.model.device = args.device;
    settings.model.activations = args.activations;
    settings.model.adapters = Adapters(args.adapter.clone());
    logging::start(&settings, environment)?;
    // Room for the largest batch.
    let largest = args.batch.iter().map(|size| size.get()).max().unwrap_or(1);
    let defaults = CpuOptions::default();
    at_least(&mut settings.engine.max_sequences, largest, defaults.max_sequences);
    at_least(&mut settings.engine.max_rows, largest, defaults.max_rows);
    let place = Place::of(settings.model.device)?;
    let bandwidth = bandwidth(&place)?;
    let checkpoint = Checkpoint::from_source(&find::configured(&settings, environment)?)?;
    let started = Instant::now();
    let mut executor = load(&settings, &checkpoint, &place)?;
    let load_seconds = started.elapsed().as_secs_f64();
    executor.settle();
    let (mut out, bytes) = (io::stdout().lock(), checkpoint.num_bytes() as f64 / 1e9);
    writeln!(out, "{} on {}", settings.model.name, place.name())?;
    for adapter in &args.adapter {
        writeln!(out, "adapter {} at {}", adapter.name, adapter.dir.display())?;
    }
    writeln!(out, "memory: {:.1} GB/s, {}", bandwidth / 1e9, measured_how(&place))?;
    writeln!(out, "loaded: {bytes:.2} GB of weights in {load_seconds:.2} s\n")?;
    let mut bench = Bench::new(args, checkpoint.config(), &place, bandwidth, end)?;
    bench.note("model", settings.model.name.as_str().into());
    let adapters: Vec<&str> = args.adapter.iter().map(|adapter| adapter.name.as_str()).collect();
    bench.note("adapters", adapters.into());
    bench.note("bandwidth_measured", measured_how(&place).into());
    bench.note("weight_bytes", checkpoint.num_bytes().into());
    bench.note("load_seconds", load_seconds.into());
    bench.decode(executor.as_mut(), &mut out)?;
    bench.prefill(executor.as_mut(), &mut out)?;
    bench.write_left_out(&mut out)?;
    Ok(ExitCode::SUCCESS)
}

/// Raises a bound that is less than `wanted`. Where it is left to the executor, it is at least `auto`.
fn at_least(bound: &mut Auto<Positive>, wanted: u32, auto: u32) {
    if wanted > bound.as_ref().map_or(auto, |bound| bound.get()) {
        *bound = Auto::Set(Positive::of(wanted));
    }
}

/// The executor, with its progress shown.
fn load(settings: &Settings, checkpoint: &Checkpoint, place: &Place) -> Result<Box<dyn Profile>> {
    let task = Task::new(format!("loading {}", settings.model.name));
    stack::block_on(async {
        let loading = {
            let (settings, checkpoint) = (settings.clone(), checkpoint.clone());
            let (place, task) = (place.clone(), task.clone());
            tokio::task::spawn_blocking(move || {
                let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json()?)
                    .context("cannot read the model's tokenizer")?;
                let adapters = adapters::open_all(&settings, checkpoint.config())?;
                stack::executor(&settings, &checkpoint, adapters, &tokenizer, &place, &task)
            })
        };
        progress::during(&task, loading).await.context("loading panicked")?
    })
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
