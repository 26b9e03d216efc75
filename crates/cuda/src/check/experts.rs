//! `experts` against float64.

use half::bf16;

use super::{Case, Report, max_relative_error, random_bf16, random_f32, rms};
use crate::ops::{ExpertWeights, Experts, GroupRoutes, experts, group_routes};
use crate::{Buffer, Device, Result};

const LIMIT: f32 = 7.0;
const ALPHA: f32 = 1.702;

/// One layer's experts and the rows that go to them.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    rows: usize,
    chosen: usize,
    num_experts: usize,
    hidden: usize,
    intermediate: usize,
    to: To,
}

#[derive(Clone, Copy, PartialEq)]
enum To {
    /// Every expert in turn.
    All,
    /// The even ones: the others have no rows.
    Even,
    /// The last one.
    One,
}

/// Both kernels: one row, part of a tile, several tiles, an expert without rows, all rows to one, a width that does not
/// fill a step of four blocks, the true widths.
const SHAPES: &[Shape] = &[
    Shape {
        name: "one row",
        rows: 1,
        chosen: 2,
        num_experts: 4,
        hidden: 64,
        intermediate: 32,
        to: To::All,
    },
    Shape {
        name: "empty experts",
        rows: 6,
        chosen: 4,
        num_experts: 12,
        hidden: 96,
        intermediate: 160,
        to: To::Even,
    },
    Shape {
        name: "several tiles",
        rows: 21,
        chosen: 1,
        num_experts: 3,
        hidden: 32,
        intermediate: 64,
        to: To::One,
    },
    Shape {
        name: "many rows",
        rows: 75,
        chosen: 2,
        num_experts: 3,
        hidden: 96,
        intermediate: 160,
        to: To::All,
    },
    Shape {
        name: "many rows to one",
        rows: 130,
        chosen: 1,
        num_experts: 4,
        hidden: 64,
        intermediate: 96,
        to: To::One,
    },
    Shape {
        name: "many rows, empty experts",
        rows: 90,
        chosen: 2,
        num_experts: 6,
        hidden: 64,
        intermediate: 96,
        to: To::Even,
    },
    Shape {
        name: "true widths",
        rows: 2,
        chosen: 1,
        num_experts: 2,
        hidden: 2880,
        intermediate: 2880,
        to: To::All,
    },
    Shape {
        name: "many rows, true widths",
        rows: 18,
        chosen: 1,
        num_experts: 2,
        hidden: 2880,
        intermediate: 2880,
        to: To::One,
    },
];

pub(super) fn cases() -> Vec<Case> {
    let case = |shape: &Shape| {
        let shape = *shape;
        let Shape { name, rows, chosen, num_experts, hidden, intermediate, .. } = shape;
        let name = format!(
            "experts {name}: {rows} rows to {chosen} of {num_experts}, {hidden} to {intermediate}"
        );
        Case::new(name, move |device| run(device, &shape))
    };
    SHAPES.iter().map(case).collect()
}

/// One product of all experts, as stored and as numbers.
struct Weights {
    values: Vec<f64>,
    bias: Vec<bf16>,
    buffers: [Buffer; 3],
}

impl Weights {
    fn new(
        device: &Device,
        seed: u64,
        num_experts: usize,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let num_blocks = num_experts * outputs * inputs / 32;
        let blocks: Vec<u8> = (0..num_blocks * 16).map(|_| random.u8(..)).collect();
        // Sums of some units, so that both clamps of the activation are reached; and the smallest scale there is.
        let around = 124 - (inputs as f64).log2() as u8 / 2;
        let scales: Vec<u8> = (0..num_blocks)
            .map(|block| if block % 50 == 7 { 0 } else { random.u8(around..around + 4) })
            .collect();
        let bias = random_bf16(seed + 1, num_experts * outputs, 2.0);
        let value = |index: usize| {
            const VALUES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            let nibble = blocks[index / 2] >> (index % 2 * 4) & 15;
            let magnitude = VALUES[usize::from(nibble & 7)];
            let scale = 2f64.powi(i32::from(scales[index / 32]) - 127);
            if nibble & 8 == 0 { magnitude * scale } else { -magnitude * scale }
        };
        let values = (0..num_blocks * 32).map(value).collect();
        let buffers =
            [device.alloc_from(&blocks)?, device.alloc_from(&scales)?, device.alloc_from(&bias)?];
        Ok(Self { values, bias, buffers })
    }

    fn arguments(&self) -> ExpertWeights<'_> {
        let [blocks, scales, bias] = &self.buffers;
        ExpertWeights { blocks: blocks.whole(), scales: scales.whole(), bias: bias.whole() }
    }

    /// The expert's product of one row, with its bias.
    fn product(&self, expert: usize, outputs: usize, x: &[f64]) -> Vec<f64> {
        let from = expert * outputs * x.len();
        let rows = self.values[from..from + outputs * x.len()].chunks(x.len());
        rows.zip(&self.bias[expert * outputs..])
            .map(|(row, bias)| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>() + bias.to_f64())
            .collect()
    }
}

fn run(device: &Device, shape: &Shape) -> Result<Report> {
    let Shape { rows, chosen, num_experts, hidden, intermediate, to, .. } = *shape;
    let num_routes = rows * chosen;
    let expert = |route: usize| match to {
        To::All => route % num_experts,
        To::Even => route * 2 % num_experts,
        To::One => num_experts - 1,
    };
    let routes: Vec<u32> = (0..num_routes).map(|route| expert(route) as u32).collect();
    let x = random_bf16(1, rows * hidden, 2.0);
    let weights = random_f32(2, num_routes, 1.0);
    let up = Weights::new(device, 3, num_experts, 2 * intermediate, hidden)?;
    let down = Weights::new(device, 5, num_experts, hidden, intermediate)?;
    let (xs, shares) = (device.alloc_from(&x)?, device.alloc_from(&weights)?);
    let routes_buffer = device.alloc_from(&routes)?;
    let (grouped, offsets) = (device.alloc(num_routes * 4)?, device.alloc((num_experts + 1) * 4)?);
    let inner = device.alloc(num_routes * intermediate * 2)?;
    let out = device.alloc(num_routes * hidden * 4)?;
    let group = GroupRoutes {
        experts: routes_buffer.whole(),
        grouped: grouped.whole(),
        offsets: offsets.whole(),
        num_routes,
        num_experts,
    };
    group_routes(device, &group)?;
    let args = Experts {
        x: xs.whole(),
        up: up.arguments(),
        down: down.arguments(),
        grouped: grouped.whole(),
        offsets: offsets.whole(),
        weights: shares.whole(),
        inner: inner.whole(),
        out: out.whole(),
        rows,
        chosen,
        num_experts,
        hidden,
        intermediate,
        limit: LIMIT,
        alpha: ALPHA,
    };
    experts(device, &args)?;
    let (mut inners, mut outs) = (Vec::new(), Vec::new());
    for route in 0..num_routes {
        let x: Vec<f64> =
            x[route / chosen * hidden..][..hidden].iter().map(|value| value.to_f64()).collect();
        let both = up.product(expert(route), 2 * intermediate, &x);
        let inner: Vec<f64> = both.chunks(2).map(|pair| activate(pair[0], pair[1])).collect();
        // The kernel hands bf16 on; the reference takes the same numbers, so that each product is judged alone.
        let handed: Vec<f64> = inner.iter().map(|value| bf16::from_f64(*value).to_f64()).collect();
        let answer = down.product(expert(route), hidden, &handed);
        outs.extend(answer.into_iter().map(|value| value * f64::from(weights[route])));
        inners.extend(inner);
    }
    let inner_error =
        max_relative_error(&device.read::<bf16>(inner.whole())?, &inners, rms(&inners))?;
    let out_error = max_relative_error(&device.read::<f32>(out.whole())?, &outs, rms(&outs))?;
    let max_error = inner_error.max(out_error);
    // One rounding to bf16 is 1/256 of the value at most. An inner value that float32 sums round to the other
    // neighbour moves an answer by far less than another.
    Ok(Report { max_error, tolerance: 2.0 / 256.0 })
}

fn activate(gate: f64, up: f64) -> f64 {
    let (limit, alpha) = (f64::from(LIMIT), f64::from(ALPHA));
    let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
    gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
}
