//! `harmonium synth`: a checkpoint of random weights in a published shape.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use harmonium_model::synth::{SHARD_BYTES, Shape, Synth};

use crate::cli::{ShapeArg, SynthArgs};
use crate::machine::{self, gib};
use crate::progress::Steps;

/// Bytes that one step of the progress stands for.
const STEP: u64 = 1 << 30;
/// Room left on the disk beside the weights, for the small files.
const SPARE_BYTES: u64 = 256 << 20;

/// Writes the checkpoint and says where.
pub(crate) fn run(args: &SynthArgs) -> Result<ExitCode> {
    let mut shape = match args.shape {
        ShapeArg::GptOss20b => Shape::GPT_OSS_20B,
        ShapeArg::GptOss120b => Shape::GPT_OSS_120B,
    };
    if let Some(num_layers) = args.layers {
        shape.num_layers = num_layers;
    }
    let tokenizer = match &args.tokenizer {
        Some(file) => {
            Some(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?)
        }
        None => None,
    };
    let synth =
        Synth { shape, seed: args.seed, tokenizer: tokenizer.as_deref(), shard_bytes: SHARD_BYTES };
    let num_bytes = synth.num_bytes();
    let needed = num_bytes + SPARE_BYTES;
    if let Some(free) = machine::free_disk(&args.out).filter(|free| *free < needed) {
        let dir = args.out.display();
        bail!("--out {dir}: {} are needed, but only {} are free there", gib(needed), gib(free));
    }
    let started = Instant::now();
    let mut steps = Steps::new(num_bytes.div_ceil(STEP));
    let mut num_written = 0;
    synth.write(&args.out, |len| {
        let before = num_written / STEP;
        num_written += len;
        for _ in before..num_written / STEP {
            steps.done();
        }
        steps.begin("GiB of weights");
    })?;
    drop(steps);
    let seconds = started.elapsed().as_secs_f64();
    let dir = args.out.display();
    writeln!(io::stdout(), "wrote {} of weights to {dir} in {seconds:.1} s", gib(num_bytes))?;
    Ok(ExitCode::SUCCESS)
}
