//! `argmax` against a search.

use super::{Case, Report, random_f32};
use crate::ops::{Argmax, NO_TOKEN, argmax};
use crate::{Device, Result};

/// Rows, width and vocabulary: a single number, less than a block's threads, padding at the end, the true width.
const SHAPES: &[(usize, usize, usize)] =
    &[(1, 1, 1), (3, 700, 700), (4, 5000, 4111), (2, 201_088, 200_019)];

pub(super) fn cases() -> Vec<Case> {
    let case = |&(rows, width, vocabulary): &(usize, usize, usize)| {
        let name = format!("argmax {rows}x{width} of {vocabulary}");
        Case::new(name, move |device| run(device, rows, width, vocabulary))
    };
    SHAPES.iter().map(case).collect()
}

/// The error is the number of wrong rows. Numbers are rounded so that there are ties; the last of several rows holds a
/// NaN, and what is beyond the vocabulary would win.
fn run(device: &Device, rows: usize, width: usize, vocabulary: usize) -> Result<Report> {
    let mut logits: Vec<f32> =
        random_f32(1, rows * width, 300.0).into_iter().map(f32::round).collect();
    for row in logits.chunks_mut(width) {
        row[vocabulary..].fill(1e9);
    }
    if rows > 1 {
        logits[(rows - 1) * width + vocabulary / 2] = f32::NAN;
    }
    let expected = logits.chunks(width).map(|row| {
        let row = &row[..vocabulary];
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let index = row.iter().position(|value| *value == best).unwrap_or(0) as u32;
        if row.iter().any(|value| value.is_nan()) { NO_TOKEN } else { index }
    });
    let buffer = device.alloc_from(&logits)?;
    let tokens = device.alloc(rows * 4)?;
    let args = Argmax { logits: buffer.whole(), tokens: tokens.whole(), rows, width, vocabulary };
    argmax(device, &args)?;
    let actual = device.read::<u32>(tokens.whole())?;
    let num_wrong = actual.iter().zip(expected).filter(|(a, b)| **a != *b).count();
    Ok(Report { max_error: num_wrong as f64, tolerance: 0.0 })
}
