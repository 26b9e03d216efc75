//! `embedding` against the table itself.

use half::bf16;

use super::{Case, Report, random_bf16};
use crate::ops::{Embedding, Output, embedding};
use crate::{Device, Result};

/// Rows, vocabulary and width: one vector, more tokens than the table has rows, the true width.
const SHAPES: &[(usize, usize, usize)] = &[(1, 1, 8), (70, 9, 1032), (4, 33, 2880)];

pub(super) fn cases() -> Vec<Case> {
    let case = |&(rows, vocabulary, width): &(usize, usize, usize)| {
        [false, true].map(|is_float| {
            let form = if is_float { "float32" } else { "bf16" };
            let name = format!("embedding {rows} of {vocabulary}x{width} as {form}");
            Case::new(name, move |device| run(device, [rows, vocabulary, width], is_float))
        })
    };
    SHAPES.iter().flat_map(case).collect()
}

/// The last of several tokens is outside of the vocabulary. The error is the number of wrong elements.
fn run(device: &Device, [rows, vocabulary, width]: [usize; 3], is_float: bool) -> Result<Report> {
    let table = random_bf16(4, vocabulary * width, 4.0);
    let mut tokens: Vec<u32> = (0..rows).map(|row| (row * 7 % vocabulary) as u32).collect();
    if rows > 1 {
        tokens[rows - 1] = vocabulary as u32;
    }
    let tables = device.alloc_from(&table)?;
    let wanted = device.alloc_from(&tokens)?;
    let out = device.alloc(rows * width * if is_float { 4 } else { 2 })?;
    let args = Embedding {
        tokens: wanted.whole(),
        table: tables.whole(),
        out: if is_float { Output::F32(out.whole()) } else { Output::Bf16(out.whole()) },
        rows,
        vocabulary,
        width,
    };
    embedding(device, &args)?;
    let actual: Vec<f32> = if is_float {
        device.read(out.whole())?
    } else {
        device.read::<bf16>(out.whole())?.into_iter().map(bf16::to_f32).collect()
    };
    let mut num_wrong = 0;
    for (token, row) in tokens.iter().zip(actual.chunks(width)) {
        let from = *token as usize * width;
        let expected = table.get(from..from + width);
        num_wrong += match expected {
            Some(expected) => row.iter().zip(expected).filter(|(a, b)| **a != b.to_f32()).count(),
            None => row.iter().filter(|value| !value.is_nan()).count(),
        };
    }
    Ok(Report { max_error: num_wrong as f64, tolerance: 0.0 })
}
