//! `linear` against float64.

use half::bf16;

use super::{BF16_ROUNDING, Case, Report, max_relative_error, random_bf16, rms};
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
        for is_float in [false, true] {
            let form = if is_float { "float32 alone" } else { "bf16 with bias" };
            let name = format!("linear {rows}x{inputs} to {outputs} {form}");
            let shape = (rows, outputs, inputs);
            cases.push(Case::new(name, move |device| run(device, shape, is_float, linear)));
        }
    }
    for &(rows, outputs, inputs, tile, cut) in CUTS {
        let name = format!("linear {rows}x{inputs} to {outputs} in tiles of {tile}, {cut:?}");
        let shape = (rows, outputs, inputs);
        cases.push(Case::new(name, move |device| {
            // Twice: the first leaves the counters as it found them.
            run(device, shape, true, |device, args| {
                linear_cut(device, args, tile, cut)?;
                linear_cut(device, args, tile, cut)
            })
        }));
    }
    cases
}

fn run(
    device: &Device,
    (rows, outputs, inputs): (usize, usize, usize),
    is_float: bool,
    multiply: impl Fn(&Device, &Linear<'_>) -> Result<()>,
) -> Result<Report> {
    let x = random_bf16(1, rows * inputs, 2.0);
    let weight = random_bf16(2, outputs * inputs, 1.0);
    let bias = random_bf16(3, outputs, 8.0);
    let (xs, weights, biases) =
        (device.alloc_from(&x)?, device.alloc_from(&weight)?, device.alloc_from(&bias)?);
    let out = device.alloc(rows * outputs * if is_float { 4 } else { 2 })?;
    let scratch = device.alloc(linear_scratch_bytes(rows))?;
    device.zero(scratch.whole())?;
    let args = Linear {
        x: xs.whole(),
        weight: weights.whole(),
        bias: (!is_float).then(|| biases.whole()),
        out: if is_float { Output::F32(out.whole()) } else { Output::Bf16(out.whole()) },
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
            expected.push(if is_float { sum } else { sum + bias.to_f64() });
        }
    }
    // Sums of thousands of products in float32, in another order: far below a bf16's last place.
    let floor = rms(&expected);
    if is_float {
        let max_error = max_relative_error(&device.read::<f32>(out.whole())?, &expected, floor)?;
        return Ok(Report { max_error, tolerance: 1e-5 });
    }
    let max_error = max_relative_error(&device.read::<bf16>(out.whole())?, &expected, floor)?;
    Ok(Report { max_error, tolerance: BF16_ROUNDING * 1.01 })
}
