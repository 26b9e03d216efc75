//! `harmonium check`: whether a device computes what it should.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use harmonium_cuda::check;
use harmonium_model::logits::{LogitsMode, logits};
use harmonium_model::{Checkpoint, Source};

use crate::cli::CheckArgs;
use crate::place::Place;

/// Bound of the relative error of nano's logits against the processor's float32: what enters a product is rounded to bf16
/// on a device, 2^-9 each time.
const FORWARD_TOLERANCE: f64 = 2e-2;
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
                let error = relative_error(&ours, &reference);
                writeln!(out, "{name}: relative error {error:.1e}, allowed {FORWARD_TOLERANCE:e}")?;
                if error <= FORWARD_TOLERANCE {
                    num_right += 1;
                } else {
                    wrong.push(format!("{name}: relative error {error:e}"));
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

/// The norm of the difference over the norm of the reference; a NaN in either gives a NaN, which no bound allows.
fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let mut differences = ours.iter().zip(reference).map(|(a, b)| f64::from(*a) - f64::from(*b));
    norm(&mut differences) / norm(&mut reference.iter().map(|value| f64::from(*value)))
}
