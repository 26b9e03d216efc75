//! `harmonium check`: whether a device computes what it should.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use harmonium_cuda::check;
use harmonium_model::logits::{LogitsMode, logits, median_row_error};
use harmonium_model::{Checkpoint, Source};

use crate::cli::CheckArgs;
use crate::place::Place;

/// Bound of the relative error of nano's logits against the processor's float32, the median of all rows: what enters a
/// product is rounded to bf16 on a device, 2^-9 each time, and a row near a tie between two experts goes either way.
const FORWARD_TOLERANCE: f64 = 3e-2;
/// Tokens that are run through nano: more than its window, and several chunks.
const NUM_TOKENS: u32 = 300;

/// Runs every kernel against its reference in float64, then nano's whole forward pass against the processor.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let place = Place::of(args.device)?;
    let device = place.device().context("--device names no device with kernels: cuda or host")?;
    let mut out = io::stdout().lock();
    let (mut num_right, mut wrong) = (0, Vec::new());
    for case in check::all() {
        match case.run(device) {
            Ok(report) if report.is_right() => num_right += 1,
            Ok(report) => wrong.push(format!(
                "{}: error {:e}, allowed {:e}",
                case.name(),
                report.max_error,
                report.tolerance
            )),
            Err(error) => wrong.push(format!("{}: {error}", case.name())),
        }
    }
    let checkpoint = Checkpoint::from_source(&Source::Nano)?;
    let tokens: Vec<u32> =
        (0..NUM_TOKENS).map(|i| i * 7919 % checkpoint.config().vocab_size).collect();
    let reference = logits(&checkpoint, &tokens, LogitsMode::All, None)?;
    for (name, mode) in [
        ("nano, one prefill", LogitsMode::All),
        ("nano, chunks of 100", LogitsMode::Chunk(100)),
        ("nano, 40 tokens decoded", LogitsMode::DecodeLast(40)),
    ] {
        match logits(&checkpoint, &tokens, mode, Some(device)) {
            Ok(ours) => {
                let error = median_row_error(&ours, &reference, tokens.len());
                writeln!(
                    out,
                    "{name}: median of relative errors {error:.1e}, allowed {FORWARD_TOLERANCE:e}"
                )?;
                if error <= FORWARD_TOLERANCE {
                    num_right += 1;
                } else {
                    wrong.push(format!("{name}: median of relative errors {error:e}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    for line in &wrong {
        writeln!(out, "WRONG {line}")?;
    }
    writeln!(out, "{}: {num_right} right, {} wrong", place.name(), wrong.len())?;
    if !wrong.is_empty() {
        bail!("the device computes something else than it should");
    }
    Ok(ExitCode::SUCCESS)
}
