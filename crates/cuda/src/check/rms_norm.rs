//! `rms_norm` against float64.

use half::bf16;

use super::{BF16_ROUNDING, Case, Report, max_relative_error, random_bf16, random_f32};
use crate::ops::{RmsNorm, rms_norm};
use crate::{Device, Result};

pub(super) const EPS: f32 = 1e-5;

/// Rows and width: a single vector, a part of the block's threads, all of them, the true width, the greatest.
const SHAPES: &[(usize, usize)] = &[(1, 8), (3, 200), (2, 2048), (1, 2880), (5, 2880), (2, 8192)];
/// Parts that are added: none, as attention adds its own; one; what four experts give.
const PARTS: &[usize] = &[0, 1, 4];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(rows, width) in SHAPES {
        for &num_parts in PARTS {
            let name = format!("rms_norm {rows}x{width} {num_parts} parts");
            cases.push(Case::new(name, move |device| run(device, rows, width, num_parts)));
        }
    }
    cases
}

fn run(device: &Device, rows: usize, width: usize, num_parts: usize) -> Result<Report> {
    let x = random_f32(1, rows * num_parts.max(1) * width, 2.0);
    let before = random_f32(2, rows * width, 8.0);
    let gain = random_bf16(3, width, 1.5);
    let added = device.alloc_from(&x)?;
    let residual = device.alloc_from(&before)?;
    let gains = device.alloc_from(&gain)?;
    let out = device.alloc(rows * width * 2)?;
    let args = RmsNorm {
        x: (num_parts > 0).then(|| added.whole()),
        num_parts: num_parts.max(1),
        residual: residual.whole(),
        gain: gains.whole(),
        out: out.whole(),
        rows,
        width,
        eps: EPS,
    };
    rms_norm(device, &args)?;
    let sum = |index: usize| {
        let (row, column) = (index / width, index % width);
        let part = |part: usize| f64::from(x[(row * num_parts + part) * width + column]);
        f64::from(before[index]) + (0..num_parts).map(part).sum::<f64>()
    };
    let expected_sums: Vec<f64> = (0..rows * width).map(sum).collect();
    let sums = device.read::<f32>(residual.whole())?;
    let sum_error = max_relative_error(&sums, &expected_sums, 1.0)?;
    let expected: Vec<f64> =
        expected_sums.chunks(width).flat_map(|row| reference(row, &gain)).collect();
    let error = max_relative_error(&device.read::<bf16>(out.whole())?, &expected, 1e-3)?;
    // The residual is a sum of at most five float32 numbers.
    let max_error = if sum_error < 1e-6 { error } else { f64::INFINITY };
    Ok(Report { max_error, tolerance: BF16_ROUNDING * 1.01 })
}

/// A row normalized, with [`EPS`].
pub(super) fn reference(row: &[f64], gain: &[bf16]) -> Vec<f64> {
    let mean = row.iter().map(|value| value * value).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
    row.iter().zip(gain).map(|(value, gain)| value * scale * gain.to_f64()).collect()
}
