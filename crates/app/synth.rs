//! `harmonium synth`: a checkpoint or an adapter of random weights in a published shape.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use harmonium_model::synth::{AdapterTargets, SHARD_BYTES, Shape, Synth, SynthAdapter};

use crate::cli::{LoraTargetsArg, ShapeArg, SynthArgs};
use crate::machine::{self, gib};
use crate::progress::Steps;

/// Bytes that one step of the progress stands for.
const STEP: u64 = 1 << 30;
/// Room left on the disk beside the weights, for the small files.
const SPARE_BYTES: u64 = 256 << 20;

/// Writes what is asked for and says where.
pub(crate) fn run(args: &SynthArgs) -> Result<ExitCode> {
    let mut shape = match args.shape {
        ShapeArg::GptOss20b => Shape::GPT_OSS_20B,
        ShapeArg::GptOss120b => Shape::GPT_OSS_120B,
    };
    if let Some(num_layers) = args.layers {
        shape.num_layers = num_layers;
    }
    let seed = args.seed;
    if let Some(rank) = args.lora_rank {
        let targets = match args.lora_targets {
            LoraTargetsArg::Attention => AdapterTargets::Attention,
            LoraTargetsArg::All => AdapterTargets::All,
        };
        let adapter = SynthAdapter { shape, rank, targets, seed };
        return write(&args.out, adapter.num_bytes(), |progress| {
            adapter.write(&args.out, progress)
        });
    }
    let tokenizer = match &args.tokenizer {
        Some(file) => {
            Some(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?)
        }
        None => None,
    };
    let synth = Synth { shape, seed, tokenizer: tokenizer.as_deref(), shard_bytes: SHARD_BYTES };
    write(&args.out, synth.num_bytes(), |progress| synth.write(&args.out, progress))
}

/// Writes so many bytes to a directory and says how it went.
fn write(
    out: &Path,
    num_bytes: u64,
    write: impl FnOnce(&mut dyn FnMut(u64)) -> harmonium_model::Result<()>,
) -> Result<ExitCode> {
    let dir = out.display();
    let needed = num_bytes + SPARE_BYTES;
    if let Some(free) = machine::free_disk(out).filter(|free| *free < needed) {
        bail!("--out {dir}: {} are needed, but only {} are free there", gib(needed), gib(free));
    }
    let started = Instant::now();
    let mut steps = Steps::new(num_bytes.div_ceil(STEP));
    let mut num_written = 0;
    write(&mut |len| {
        let before = num_written / STEP;
        num_written += len;
        for _ in before..num_written / STEP {
            steps.done();
        }
        steps.begin("GiB of weights");
    })?;
    drop(steps);
    let seconds = started.elapsed().as_secs_f64();
    writeln!(io::stdout(), "wrote {} of weights to {dir} in {seconds:.1} s", gib(num_bytes))?;
    Ok(ExitCode::SUCCESS)
}
