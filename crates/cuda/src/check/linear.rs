//! `linear` against float64.

use half::bf16;

use super::{BF16_ROUNDING, Case, Report, max_relative_error, random_bf16, random_f32, rms};
use crate::ops::{Cut, Linear, Output, linear, linear_cut, linear_scratch_bytes};
use crate::{Device, Result};

/// Rows, outputs and inputs. Every kernel with one row, with a part of its rows and of its outputs, and with several
/// tiles; inputs that end in half a step; the true widths of queries with keys and values, of the attention's output, of
/// the router and (with few inputs) of the vocabulary.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 32),
    (3, 50, 64),
    (8, 33, 416),
    (9, 40, 96),
    (16, 16, 32),
    (17, 70, 160),
    (32, 20, 2880),
    (33, 65, 96),
    (64, 128, 2880),
    (65, 32, 416),
    (70, 200, 32),
    (100, 2880, 64),
    (130, 64, 288),
    (256, 129, 96),
    (257, 130, 160),
    (300, 300, 64),
    (2, 5120, 2880),
    (1, 2880, 4096),
    (2, 128, 2880),
    (2, 201_088, 32),
    (40, 201_088, 32),
];

/// Rows, outputs, inputs, rows of a tile, and how the tiles are shared out: blocks with several pieces, whole and cut,
/// tiles of which each block has another part, and parts of uneven length.
const CUTS: &[(usize, usize, usize, usize, Cut)] = &[
    (33, 300, 320, 64, Cut { num_whole: 2, num_parts: 4, num_blocks: 2 }),
    (130, 128, 1120, 64, Cut { num_whole: 0, num_parts: 5, num_blocks: 7 }),
    (64, 40, 1056, 64, Cut { num_whole: 0, num_parts: 16, num_blocks: 16 }),
    (129, 140, 672, 128, Cut { num_whole: 1, num_parts: 3, num_blocks: 3 }),
    (100, 129, 480, 128, Cut { num_whole: 1, num_parts: 8, num_blocks: 1 }),
    (257, 200, 480, 256, Cut { num_whole: 3, num_parts: 2, num_blocks: 2 }),
    (256, 128, 320, 256, Cut { num_whole: 0, num_parts: 3, num_blocks: 3 }),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(rows, outputs, inputs) in SHAPES {
        for form in [Form::Bf16, Form::F32, Form::Added] {
            let name = format!("linear {rows}x{inputs} to {outputs} {form:?}");
            let shape = (rows, outputs, inputs);
            cases.push(Case::new(name, move |device| run(device, shape, form, linear)));
        }
    }
    for &(rows, outputs, inputs, tile, cut) in CUTS {
        let name = format!("linear {rows}x{inputs} to {outputs} in tiles of {tile}, {cut:?}");
        let shape = (rows, outputs, inputs);
        cases.push(Case::new(name, move |device| {
            // Twice: the first leaves the counters as it found them.
            run(device, shape, Form::F32, |device, args| {
                linear_cut(device, args, tile, cut)?;
                linear_cut(device, args, tile, cut)
            })
        }));
    }
    cases
}

/// How the result is stored. There is a bias but for [`Form::F32`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Bf16,
    F32,
    Added,
}

fn run(
    device: &Device,
    (rows, outputs, inputs): (usize, usize, usize),
    form: Form,
    multiply: impl Fn(&Device, &Linear<'_>) -> Result<()>,
) -> Result<Report> {
    let x = random_bf16(1, rows * inputs, 2.0);
    let weight = random_bf16(2, outputs * inputs, 1.0);
    let bias = random_bf16(3, outputs, 8.0);
    let (xs, weights, biases) =
        (device.alloc_from(&x)?, device.alloc_from(&weight)?, device.alloc_from(&bias)?);
    let before = random_f32(4, rows * outputs, 8.0);
    let out = match form {
        Form::Bf16 => device.alloc(rows * outputs * 2)?,
        Form::F32 => device.alloc(rows * outputs * 4)?,
        Form::Added => device.alloc_from(&before)?,
    };
    let scratch = device.alloc(linear_scratch_bytes(rows))?;
    device.zero(scratch.whole())?;
    let args = Linear {
        x: xs.whole(),
        weight: weights.whole(),
        bias: (form != Form::F32).then(|| biases.whole()),
        out: match form {
            Form::Bf16 => Output::Bf16(out.whole()),
            Form::F32 => Output::F32(out.whole()),
            Form::Added => Output::Added(out.whole()),
        },
        rows,
        inputs,
        outputs,
        scratch: scratch.whole(),
    };
    multiply(device, &args)?;
    let x: Vec<f64> = x.iter().map(|value| value.to_f64()).collect();
    let weight: Vec<f64> = weight.iter().map(|value| value.to_f64()).collect();
    let mut expected = Vec::with_capacity(rows * outputs);
    for row in x.chunks(inputs) {
        for (weight, bias) in weight.chunks(inputs).zip(&bias) {
            let sum: f64 = row.iter().zip(weight).map(|(a, b)| a * b).sum();
            expected.push(match form {
                Form::Bf16 => sum + bias.to_f64(),
                Form::F32 => sum,
                Form::Added => sum + bias.to_f64() + f64::from(before[expected.len()]),
            });
        }
    }
    // Sums of thousands of products in float32, in another order: far below a bf16's last place.
    let floor = rms(&expected);
    if form != Form::Bf16 {
        let max_error = max_relative_error(&device.read::<f32>(out.whole())?, &expected, floor)?;
        return Ok(Report { max_error, tolerance: 1e-5 });
    }
    let max_error = max_relative_error(&device.read::<bf16>(out.whole())?, &expected, floor)?;
    Ok(Report { max_error, tolerance: BF16_ROUNDING * 1.01 })
}
