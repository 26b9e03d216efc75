//! `rms_norm` against float64.

use half::bf16;

use super::{BF16_ROUNDING, Case, Report, max_relative_error, random_bf16};
use crate::ops::{RmsNorm, rms_norm};
use crate::{Device, Result};

const EPS: f32 = 1e-5;

/// Rows and width: a single vector, a part of the block's threads, all of them, the true width, the greatest.
const SHAPES: &[(usize, usize)] = &[(1, 8), (3, 200), (2, 2048), (1, 2880), (5, 2880), (2, 8192)];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(rows, width) in SHAPES {
        for is_added in [false, true] {
            let what = if is_added { "added" } else { "alone" };
            let name = format!("rms_norm {rows}x{width} {what}");
            cases.push(Case::new(name, move |device| run(device, rows, width, is_added)));
        }
    }
    cases
}

fn run(device: &Device, rows: usize, width: usize, is_added: bool) -> Result<Report> {
    let x = random_bf16(1, rows * width, 2.0);
    let before = random_bf16(2, rows * width, 8.0);
    let gain = random_bf16(3, width, 1.5);
    let added = device.alloc_from(&x)?;
    let residual = device.alloc_from(&before)?;
    let gains = device.alloc_from(&gain)?;
    let out = device.alloc(rows * width * 2)?;
    let args = RmsNorm {
        x: is_added.then(|| added.whole()),
        residual: residual.whole(),
        gain: gains.whole(),
        out: out.whole(),
        rows,
        width,
        eps: EPS,
    };
    rms_norm(device, &args)?;
    // The sum of two bf16 is exact in float64, so its rounding is the kernel's.
    let sums: Vec<bf16> = before.iter().zip(&x).map(|(r, x)| sum(*r, *x, is_added)).collect();
    let expected_sums: Vec<f64> = sums.iter().map(|sum| sum.to_f64()).collect();
    let sum_error =
        max_relative_error(&device.read::<bf16>(residual.whole())?, &expected_sums, 1e-3)?;
    let expected: Vec<f64> =
        expected_sums.chunks(width).flat_map(|row| reference(row, &gain)).collect();
    let error = max_relative_error(&device.read::<bf16>(out.whole())?, &expected, 1e-3)?;
    // The residual must be exact: any error in it is more than the tolerance.
    let max_error = if sum_error == 0.0 { error } else { f64::INFINITY };
    Ok(Report { max_error, tolerance: BF16_ROUNDING * 1.01 })
}

fn sum(residual: bf16, x: bf16, is_added: bool) -> bf16 {
    if is_added { bf16::from_f64(residual.to_f64() + x.to_f64()) } else { residual }
}

fn reference(row: &[f64], gain: &[bf16]) -> Vec<f64> {
    let mean = row.iter().map(|value| value * value).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
    row.iter().zip(gain).map(|(value, gain)| value * scale * gain.to_f64()).collect()
}
