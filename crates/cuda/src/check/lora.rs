//! `lora` against float64.

use half::bf16;

use super::{Case, Report, max_relative_error, random_bf16, random_f32, rms};
use crate::ops::{
    After, GroupRoutes, Linear, Lora, LoraRoutes, LoraWeights, NO_ADAPTER, Output, group_routes,
    linear, linear_scratch_bytes, lora_expand, lora_scratch_bytes, lora_shrink, route_tiles_bytes,
};
use crate::{Device, Result};

/// Sets by adapter: one without a set, and one whose set does not exist. Rows also name an adapter that does not exist.
const SETS: [u32; 5] = [2, 0, NO_ADAPTER, 1, 77];
const NUM_SETS: usize = 3;

/// A product and the rows that it is of.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    inputs: usize,
    outputs: usize,
    rank: usize,
    who: Who,
    to: To,
}

/// Which rows have an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    /// None.
    Nobody,
    /// All the same one.
    One,
    /// All in turn: each, none, and one that does not exist.
    Mixed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    /// A dense product, added to what is there.
    Rows,
    /// The up product of the experts: one row's inputs for all its routes, not added.
    Ups { chosen: usize, num_experts: usize },
    /// The down product: each route's own inputs and weight, added.
    Downs { chosen: usize, num_experts: usize },
}

const fn shape(rows: usize, sizes: [usize; 3], who: Who, to: To) -> Shape {
    let [inputs, outputs, rank] = sizes;
    Shape { rows, inputs, outputs, rank, who, to }
}

/// One row, parts of a tile and several; inputs that end in a step, a part and several; outputs that end in a block; ranks
/// that take a turn, a part of one and several; lists of each length of tiles; the true widths.
const SHAPES: &[Shape] = &[
    shape(1, [32, 8, 8], Who::One, To::Rows),
    shape(1, [2880, 5120, 24], Who::One, To::Rows),
    shape(3, [64, 40, 8], Who::Nobody, To::Rows),
    shape(5, [96, 129, 16], Who::Mixed, To::Rows),
    shape(16, [800, 130, 40], Who::Mixed, To::Rows),
    shape(17, [1600, 64, 72], Who::One, To::Rows),
    shape(40, [4096, 300, 32], Who::Mixed, To::Rows),
    shape(500, [64, 4112, 24], Who::Mixed, To::Rows),
    shape(2200, [32, 570, 8], Who::One, To::Rows),
    shape(1, [96, 64, 8], Who::One, To::Ups { chosen: 2, num_experts: 4 }),
    shape(1, [2880, 5760, 8], Who::One, To::Ups { chosen: 1, num_experts: 1 }),
    shape(2, [64, 32, 8], Who::Nobody, To::Ups { chosen: 2, num_experts: 4 }),
    shape(6, [96, 160, 16], Who::Mixed, To::Ups { chosen: 4, num_experts: 12 }),
    shape(37, [64, 200, 8], Who::Mixed, To::Ups { chosen: 1, num_experts: 3 }),
    shape(600, [32, 1028, 48], Who::Mixed, To::Ups { chosen: 2, num_experts: 3 }),
    shape(1, [64, 96, 8], Who::One, To::Downs { chosen: 3, num_experts: 5 }),
    shape(2, [64, 32, 8], Who::Nobody, To::Downs { chosen: 2, num_experts: 4 }),
    shape(9, [160, 96, 40], Who::Mixed, To::Downs { chosen: 4, num_experts: 12 }),
    shape(30, [96, 140, 16], Who::One, To::Downs { chosen: 2, num_experts: 5 }),
    shape(100, [64, 8300, 40], Who::Mixed, To::Downs { chosen: 2, num_experts: 3 }),
];

pub(super) fn cases() -> Vec<Case> {
    let case = |shape: &Shape| {
        let shape = *shape;
        let Shape { rows, inputs, outputs, rank, who, to } = shape;
        let name = format!("lora {rows}x{inputs} to {outputs} by {rank}, {who:?}, {to:?}");
        Case::new(name, move |device| run(device, &shape))
    };
    SHAPES.iter().map(case).collect()
}

impl Shape {
    /// The product that is added to, if it is a dense one: here of weights that are zero.
    fn product(&self, device: &Device, args: &Lora<'_>) -> Result<After> {
        if self.to != To::Rows {
            return Ok(After::Shrink);
        }
        let weight = device.alloc(self.outputs * self.inputs * 2)?;
        let scratch = device.alloc(linear_scratch_bytes(self.rows))?;
        device.zero(weight.whole())?;
        device.zero(scratch.whole())?;
        let product = Linear {
            x: args.x,
            weight: weight.whole(),
            bias: None,
            out: args.out,
            rows: self.rows,
            inputs: self.inputs,
            outputs: self.outputs,
            scratch: scratch.whole(),
        };
        linear(device, &product)?;
        Ok(After::Product)
    }

    fn chosen(&self) -> usize {
        match self.to {
            To::Rows => 1,
            To::Ups { chosen, .. } | To::Downs { chosen, .. } => chosen,
        }
    }

    fn num_experts(&self) -> usize {
        match self.to {
            To::Rows => 1,
            To::Ups { num_experts, .. } | To::Downs { num_experts, .. } => num_experts,
        }
    }

    fn num_units(&self) -> usize {
        self.rows * self.chosen()
    }

    fn adapter(&self, row: usize) -> u32 {
        match self.who {
            Who::Nobody => NO_ADAPTER,
            Who::One => 3,
            Who::Mixed if row % 7 == 6 => NO_ADAPTER,
            // One more than there are.
            Who::Mixed => (row % 7) as u32,
        }
    }

    fn set(&self, row: usize) -> Option<usize> {
        let set = *SETS.get(self.adapter(row) as usize)? as usize;
        Some(set).filter(|set| *set < NUM_SETS)
    }

    fn expert(&self, route: usize) -> usize {
        // Rows go to neighbours, and some experts have none.
        (route % self.chosen() + route / self.chosen() / 5) % self.num_experts()
    }
}

impl Shape {
    /// What is added to `before`.
    fn reference(
        &self,
        x: &[bf16],
        a: &[bf16],
        b: &[bf16],
        weights: &[f32],
        before: &[f32],
    ) -> Vec<f64> {
        let Self { inputs, outputs, rank, to, .. } = *self;
        let mut expected = Vec::with_capacity(before.len());
        for (unit, before) in before.chunks(outputs).enumerate() {
            let row = unit / self.chosen();
            let Some(set) = self.set(row) else {
                expected.extend(before.iter().map(|value| f64::from(*value)));
                continue;
            };
            let x = &x[if matches!(to, To::Ups { .. }) { row } else { unit } * inputs..][..inputs];
            let pair = set * self.num_experts() + self.expert(unit);
            let inner = product(&a[pair * rank * inputs..][..rank * inputs], &to_f64(x));
            let gains = product(&b[pair * outputs * rank..][..outputs * rank], &inner);
            let weight = match to {
                To::Downs { .. } => f64::from(weights[unit]),
                To::Rows | To::Ups { .. } => 1.0,
            };
            let sums = before.iter().zip(gains);
            expected.extend(sums.map(|(before, gain)| f64::from(*before) + weight * gain));
        }
        expected
    }
}

/// Sums of thousands of products in float32, of which tensor cores cut off the last bits.
const TOLERANCE: f64 = 3e-5;

fn run(device: &Device, shape: &Shape) -> Result<Report> {
    let Shape { rows, inputs, outputs, rank, to, .. } = *shape;
    let (chosen, num_experts, num_units) = (shape.chosen(), shape.num_experts(), shape.num_units());
    let num_xs = if matches!(to, To::Ups { .. }) { rows } else { num_units };
    let x = random_bf16(1, num_xs * inputs, 2.0);
    let a = random_bf16(2, NUM_SETS * num_experts * rank * inputs, 1.0);
    let b = random_bf16(3, NUM_SETS * num_experts * outputs * rank, 1.0);
    let weights = random_f32(4, num_units, 1.0);
    let before = random_f32(5, num_units * outputs, 8.0);
    let adapters: Vec<u32> = (0..rows).map(|row| shape.adapter(row)).collect();
    let [x_buffer, a_buffer, b_buffer] =
        [device.alloc_from(&x)?, device.alloc_from(&a)?, device.alloc_from(&b)?];
    let (adapters, sets) = (device.alloc_from(&adapters)?, device.alloc_from(&SETS)?);
    let (weights_buffer, out) = (device.alloc_from(&weights)?, device.alloc_from(&before)?);
    let scratch = device.alloc(lora_scratch_bytes(num_units, inputs, rank))?;
    let routes: Vec<u32> = (0..num_units).map(|route| shape.expert(route) as u32).collect();
    let (routes, grouped) = (device.alloc_from(&routes)?, device.alloc(num_units * 4)?);
    let tiles = device.alloc(route_tiles_bytes(num_units, num_experts))?;
    if to != To::Rows {
        let (experts, grouped, tiles) = (routes.whole(), grouped.whole(), tiles.whole());
        let num_routes = num_units;
        group_routes(device, &GroupRoutes { experts, grouped, tiles, num_routes, num_experts })?;
    }
    let have_inputs = matches!(to, To::Downs { .. });
    let args = Lora {
        x: x_buffer.whole(),
        weights: LoraWeights {
            a: a_buffer.whole(),
            b: b_buffer.whole(),
            sets: sets.whole(),
            num_sets: NUM_SETS,
            num_adapters: SETS.len(),
            rank,
        },
        adapters: adapters.whole(),
        routes: (to != To::Rows).then(|| LoraRoutes {
            grouped: grouped.whole(),
            tiles: tiles.whole(),
            weights: have_inputs.then(|| weights_buffer.whole()),
            have_inputs,
            chosen,
            num_experts,
        }),
        scratch: scratch.whole(),
        out: match to {
            To::Ups { .. } => Output::F32(out.whole()),
            _ => Output::Added(out.whole()),
        },
        rows,
        inputs,
        outputs,
    };
    lora_shrink(device, &args)?;
    let after = shape.product(device, &args)?;
    lora_expand(device, &args, after)?;
    let before = if matches!(to, To::Ups { .. }) { vec![0.0; before.len()] } else { before };
    let expected = shape.reference(&x, &a, &b, &weights, &before);
    let ours = device.read::<f32>(out.whole())?;
    let mut units = ours.chunks(outputs).zip(before.chunks(outputs)).enumerate();
    let are_left =
        units.all(|(unit, (ours, before))| shape.set(unit / chosen).is_some() || ours == before);
    let error = max_relative_error(&ours, &expected, rms(&expected).max(1e-3))?;
    Ok(Report { max_error: if are_left { error } else { f64::INFINITY }, tolerance: TOLERANCE })
}

fn to_f64(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

/// A matrix, `[outputs, x.len()]`, times a vector.
fn product(matrix: &[bf16], x: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks(x.len());
    rows.map(|row| row.iter().zip(x).map(|(a, b)| a.to_f64() * b).sum()).collect()
}
