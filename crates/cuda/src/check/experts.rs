//! `experts` against float64.

use half::bf16;

use super::{BF16_ROUNDING, Case, Report, max_relative_error, random_bf16, random_f32, rms};
use crate::ops::{
    ExpertWeights, Experts, GroupRoutes, arrange_blocks, experts, group_routes, route_tiles_bytes,
};
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
    /// Expert e gets the e-th of these, and the last one what is left.
    Uneven(&'static [usize]),
}

/// Each pair of kernels: part of a tile, several tiles, an expert without rows, all rows to one, widths that do not fill a
/// step or the last block, the true widths. Routes an expert, on average, choose the pair.
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
        name: "one row to some",
        rows: 1,
        chosen: 4,
        num_experts: 12,
        hidden: 96,
        intermediate: 160,
        to: To::Even,
    },
    Shape {
        name: "one row, more experts than a warp holds",
        rows: 1,
        chosen: 3,
        num_experts: 200,
        hidden: 32,
        intermediate: 32,
        to: To::Even,
    },
    Shape {
        name: "one row, true widths",
        rows: 1,
        chosen: 2,
        num_experts: 2,
        hidden: 2880,
        intermediate: 2880,
        to: To::All,
    },
    Shape {
        name: "two tiles, the rest empty",
        rows: 9,
        chosen: 1,
        num_experts: 9,
        hidden: 96,
        intermediate: 160,
        to: To::One,
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
        num_experts: 6,
        hidden: 32,
        intermediate: 64,
        to: To::One,
    },
    Shape {
        name: "some rows",
        rows: 9,
        chosen: 2,
        num_experts: 3,
        hidden: 64,
        intermediate: 32,
        to: To::All,
    },
    Shape {
        name: "some rows, empty experts",
        rows: 20,
        chosen: 4,
        num_experts: 12,
        hidden: 96,
        intermediate: 160,
        to: To::Even,
    },
    Shape {
        name: "some rows to one",
        rows: 37,
        chosen: 1,
        num_experts: 3,
        hidden: 32,
        intermediate: 64,
        to: To::One,
    },
    Shape {
        name: "some rows, tiles of some widths",
        rows: 93,
        chosen: 1,
        num_experts: 8,
        hidden: 608,
        intermediate: 160,
        to: To::Uneven(&[1, 7, 8, 9, 15, 16, 17]),
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
        name: "tiles of every width",
        rows: 560,
        chosen: 1,
        num_experts: 8,
        hidden: 416,
        intermediate: 128,
        to: To::Uneven(&[16, 17, 40, 60, 75, 96, 110]),
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
        name: "few rows, true widths",
        rows: 4,
        chosen: 1,
        num_experts: 2,
        hidden: 2880,
        intermediate: 2880,
        to: To::All,
    },
    Shape {
        name: "some rows, true widths",
        rows: 11,
        chosen: 1,
        num_experts: 2,
        hidden: 2880,
        intermediate: 2880,
        to: To::All,
    },
    Shape {
        name: "many rows, true widths",
        rows: 33,
        chosen: 1,
        num_experts: 2,
        hidden: 2880,
        intermediate: 2880,
        to: To::One,
    },
];

/// Scales at the ends of what is exact, and the first that are not: one row of the down product each in turn.
const BOUNDS: [u8; 4] = [34, 160, 161, 255];

pub(super) fn cases() -> Vec<Case> {
    let case = |shape: &Shape, is_added: bool| {
        let shape = *shape;
        let Shape { name, rows, chosen, num_experts, hidden, intermediate, .. } = shape;
        let added = if is_added { ", added to" } else { "" };
        let name = format!(
            "experts {name}: {rows} rows to {chosen} of {num_experts}, {hidden} to {intermediate}{added}"
        );
        Case::new(name, move |device| run(device, &shape, is_added))
    };
    let bounds = |rows| {
        Case::new(format!("experts bounds of scales: {rows} rows"), move |device| {
            bounds(device, rows)
        })
    };
    let plain = SHAPES.iter().map(|shape| case(shape, false));
    let narrow = SHAPES.iter().filter(|shape| shape.hidden < 2880);
    let added = narrow.map(|shape| case(shape, true));
    plain.chain(added).chain([1, 3, 10, 20].map(bounds)).collect()
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
        // Sums of some units, so that both clamps of the activation are reached; and the smallest scale there is.
        let around = 124 - (inputs as f64).log2() as u8 / 2;
        let scale = |block| if block % 50 == 7 { 0 } else { random.u8(around..around + 4) };
        let scales = (0..num_experts * outputs * inputs / 32).map(scale).collect();
        Self::with(device, seed, scales, random_bf16(seed + 1, num_experts * outputs, 2.0))
    }

    /// Random blocks with these scales.
    fn with(device: &Device, seed: u64, scales: Vec<u8>, bias: Vec<bf16>) -> Result<Self> {
        let mut random = fastrand::Rng::with_seed(seed + 2);
        let blocks: Vec<u8> = (0..scales.len() * 16).map(|_| random.u8(..)).collect();
        let value = |index: usize| {
            const VALUES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            let nibble = blocks[index / 2] >> (index % 2 * 4) & 15;
            let magnitude = VALUES[usize::from(nibble & 7)];
            let scale = 2f64.powi(i32::from(scales[index / 32]) - 127);
            if nibble & 8 == 0 { magnitude * scale } else { -magnitude * scale }
        };
        let values = (0..scales.len() * 32).map(value).collect();
        let buffers =
            [device.alloc_from(&blocks)?, device.alloc_from(&scales)?, device.alloc_from(&bias)?];
        arrange_blocks(device, buffers[0].whole())?;
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

impl Shape {
    fn expert(&self, route: usize) -> usize {
        match self.to {
            To::All => route % self.num_experts,
            To::Even => route * 2 % self.num_experts,
            To::One => self.num_experts - 1,
            To::Uneven(counts) => {
                let ends = counts.iter().scan(0, |end, count| {
                    *end += count;
                    Some(*end)
                });
                ends.take_while(|end| *end <= route).count()
            }
        }
    }

    /// Logits by which a row alone is routed as here: one less for each route, and NaN for other experts.
    fn logits(&self) -> Vec<f32> {
        let mut logits = vec![f32::NAN; self.rows * self.num_experts];
        for route in 0..self.chosen {
            logits[self.expert(route)] = -(route as f32);
        }
        logits
    }

    /// Weights of the routes: random, but for a row alone the softmax of its logits.
    fn weights(&self) -> Vec<f32> {
        if self.rows > 1 {
            return random_f32(2, self.rows * self.chosen, 1.0);
        }
        let exponentials: Vec<f64> =
            (0..self.chosen).map(|route| (-(route as f64)).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        exponentials.into_iter().map(|value| (value / sum) as f32).collect()
    }

    /// What is added to the up products of all routes, some units; or nothing.
    fn added(&self, is_added: bool) -> Vec<f32> {
        let len = if is_added { self.rows * self.chosen * 2 * self.intermediate } else { 0 };
        random_f32(9, len, 3.0)
    }

    /// Inner values and answers of all routes, as the device makes them.
    fn answers(
        &self,
        device: &Device,
        x: &[bf16],
        weights: &[f32],
        added: &[f32],
        up: &Weights,
        down: &Weights,
    ) -> Result<(Vec<bf16>, Vec<f32>)> {
        let Self { rows, chosen, num_experts, hidden, intermediate, .. } = *self;
        let num_routes = rows * chosen;
        let routes: Vec<u32> = (0..num_routes).map(|route| self.expert(route) as u32).collect();
        let (x, weights) = (device.alloc_from(x)?, device.alloc_from(weights)?);
        let (routes, logits) = (device.alloc_from(&routes)?, device.alloc_from(&self.logits())?);
        let grouped = device.alloc(num_routes * 4)?;
        let tiles = device.alloc(route_tiles_bytes(num_routes, num_experts))?;
        let inner = device.alloc(num_routes * intermediate * 2)?;
        let out = device.alloc(num_routes * hidden * 4)?;
        let group = GroupRoutes {
            experts: routes.whole(),
            grouped: grouped.whole(),
            tiles: tiles.whole(),
            num_routes,
            num_experts,
        };
        group_routes(device, &group)?;
        let added = if added.is_empty() { None } else { Some(device.alloc_from(added)?) };
        let args = Experts {
            x: x.whole(),
            up: up.arguments(),
            down: down.arguments(),
            logits: logits.whole(),
            grouped: grouped.whole(),
            tiles: tiles.whole(),
            weights: weights.whole(),
            added: added.as_ref().map(Buffer::whole),
            down_change: None,
            listed: added.is_some(),
            next: Some(up.buffers[0].whole()),
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
        Ok((device.read(inner.whole())?, device.read(out.whole())?))
    }

    /// The same in float64. Answers are of the inner values that the device has made, so that each product is judged
    /// alone.
    fn reference(
        &self,
        x: &[bf16],
        inner: &[bf16],
        weights: &[f32],
        added: &[f32],
        up: &Weights,
        down: &Weights,
    ) -> (Vec<f64>, Vec<f64>) {
        let Self { rows, chosen, hidden, intermediate, .. } = *self;
        let (mut inners, mut outs) = (Vec::new(), Vec::new());
        for route in 0..rows * chosen {
            let x: Vec<f64> =
                x[route / chosen * hidden..][..hidden].iter().map(|value| value.to_f64()).collect();
            let mut both = up.product(self.expert(route), 2 * intermediate, &x);
            let added = added.iter().skip(route * both.len());
            both.iter_mut().zip(added).for_each(|(sum, added)| *sum += f64::from(*added));
            inners.extend(both.chunks(2).map(|pair| activate(pair[0], pair[1])));
            let inner = &inner[route * intermediate..][..intermediate];
            let inner: Vec<f64> = inner.iter().map(|value| value.to_f64()).collect();
            let answer = down.product(self.expert(route), hidden, &inner);
            outs.extend(answer.into_iter().map(|value| value * f64::from(weights[route])));
        }
        (inners, outs)
    }
}

/// Of answers: sums of thousands of products in float32, in another order, of which tensor cores cut off the last bits.
const TOLERANCE: f64 = 3e-5;

fn run(device: &Device, shape: &Shape, is_added: bool) -> Result<Report> {
    let Shape { rows, num_experts, hidden, intermediate, .. } = *shape;
    let x = random_bf16(1, rows * hidden, 2.0);
    let (weights, added) = (shape.weights(), shape.added(is_added));
    let up = Weights::new(device, 3, num_experts, 2 * intermediate, hidden)?;
    let down = Weights::new(device, 5, num_experts, hidden, intermediate)?;
    let (inner, out) = shape.answers(device, &x, &weights, &added, &up, &down)?;
    let (inners, outs) = shape.reference(&x, &inner, &weights, &added, &up, &down);
    let inner_error = max_relative_error(&inner, &inners, rms(&inners))?;
    let out_error = max_relative_error(&out, &outs, rms(&outs))?;
    // Each by what is allowed: inner values are rounded once, to bf16.
    let max_error = (out_error / TOLERANCE).max(inner_error / (BF16_ROUNDING * 1.01));
    Ok(Report { max_error, tolerance: 1.0 })
}

/// Answers of scales at the bounds are exact, those beyond are not finite.
fn bounds(device: &Device, rows: usize) -> Result<Report> {
    let (hidden, intermediate) = (64, 32);
    let name = "bounds";
    let shape = Shape { name, rows, chosen: 1, num_experts: 1, hidden, intermediate, to: To::One };
    let x = random_bf16(1, rows * hidden, 2.0);
    let weights = if rows == 1 { shape.weights() } else { vec![1.0; rows] };
    let up = Weights::new(device, 3, 1, 2 * intermediate, hidden)?;
    let scales = BOUNDS.into_iter().cycle().take(hidden).collect();
    let down = Weights::with(device, 5, scales, vec![bf16::ZERO; hidden])?;
    let (inner, out) = shape.answers(device, &x, &weights, &[], &up, &down)?;
    let (_, outs) = shape.reference(&x, &inner, &weights, &[], &up, &down);
    let of = |values: &[f64], bound: usize| -> Vec<f64> {
        values.iter().skip(bound).step_by(BOUNDS.len()).copied().collect()
    };
    let out: Vec<f64> = out.into_iter().map(f64::from).collect();
    let mut max_error = 0.0f64;
    for bound in 0..2 {
        let expected = of(&outs, bound);
        max_error = max_error.max(max_relative_error(&of(&out, bound), &expected, rms(&expected))?);
    }
    let is_finite = (2..BOUNDS.len()).any(|bound| of(&out, bound).into_iter().any(f64::is_finite));
    Ok(Report {
        max_error: if is_finite { f64::INFINITY } else { max_error },
        tolerance: TOLERANCE,
    })
}

fn activate(gate: f64, up: f64) -> f64 {
    let (limit, alpha) = (f64::from(LIMIT), f64::from(ALPHA));
    let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
    gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
}
