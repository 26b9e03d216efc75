//! `router`, `group_routes` and what does both with the product before them, against a sort.

use half::bf16;

use super::rms_norm::{EPS, reference};
use super::{BF16_ROUNDING, Case, Report, max_relative_error, random_bf16, random_f32, rms};
use crate::ops::{
    GroupRoutes, Lora, LoraWeights, NO_ADAPTER, Output, PADDING, Route, Router, group_routes,
    linear_scratch_bytes, lora_scratch_bytes, route, route_tile_len, route_tiles_bytes, router,
};
use crate::{Buffer, Device, Result};

/// Rows, experts and how many are chosen: all of them, fewer than a warp, the two published models, more than a warp
/// holds.
const CHOICES: &[(usize, usize, usize)] =
    &[(1, 1, 1), (3, 8, 8), (5, 6, 2), (9, 32, 4), (6, 128, 4), (4, 200, 5)];

/// Routes and experts: one route, a part of a block's threads, several turns of them; all routes to one expert, and to
/// the last. Each length of tiles, full ones and others.
const LISTS: &[(usize, usize, bool)] = &[
    (1, 1, false),
    (24, 32, false),
    (1000, 128, false),
    (2100, 128, false),
    (700, 5, true),
    (20, 4, true),
    (20, 5, true),
];

/// Rows, width, experts and how many are chosen: one of each, the true widths, the greatest, all rows that one launch takes, more, and
/// more routes than one tile for an expert, of each length.
const ROUTES: &[(usize, usize, usize, usize)] = &[
    (1, 32, 1, 1),
    (1, 2880, 128, 4),
    (1, 8192, 2, 2),
    (3, 2880, 32, 4),
    (16, 64, 128, 8),
    (13, 96, 3, 2),
    (16, 32, 16, 8),
    (9, 32, 5, 2),
    (17, 64, 32, 4),
];

/// Of those, ones whose routes are listed though there is one row, or whose logits an adapter changes.
const LISTED: &[(usize, usize, usize, usize)] = &[(1, 32, 1, 1), (1, 2880, 128, 4)];
const CHANGED: &[(usize, usize, usize, usize)] = &[(1, 64, 8, 2), (5, 96, 12, 3), (20, 64, 40, 4)];

/// What is asked of `route` beside its shape.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    Plain,
    Listed,
    Changed,
}

pub(super) fn cases() -> Vec<Case> {
    let choice = |&(rows, num_experts, chosen): &(usize, usize, usize)| {
        let name = format!("router {chosen} of {num_experts} experts, {rows} rows");
        Case::new(name, move |device| choose(device, rows, num_experts, chosen))
    };
    let list = |&(num_routes, num_experts, to_one): &(usize, usize, bool)| {
        let where_to = if to_one { " to one" } else { "" };
        let name = format!("group_routes {num_routes} to {num_experts} experts{where_to}");
        Case::new(name, move |device| group(device, num_routes, num_experts, to_one))
    };
    let route = |&(rows, width, num_experts, chosen): &(usize, usize, usize, usize), wish| {
        let name = format!("route {rows}x{width} to {chosen} of {num_experts} experts, {wish:?}");
        Case::new(name, move |device| run_route(device, [rows, width, num_experts, chosen], wish))
    };
    let routes = [(ROUTES, Wish::Plain), (LISTED, Wish::Listed), (CHANGED, Wish::Changed)];
    let routes = routes
        .into_iter()
        .flat_map(|(shapes, wish)| shapes.iter().map(move |shape| route(shape, wish)));
    let cases = CHOICES.iter().map(choice).chain(LISTS.iter().map(list));
    cases.chain(routes).collect()
}

/// Rounded logits, so that there are ties; the second row holds a NaN, which is never chosen while there are numbers, and
/// the last of three or more is padding.
fn choose(device: &Device, rows: usize, num_experts: usize, chosen: usize) -> Result<Report> {
    let mut logits: Vec<f32> =
        random_f32(1, rows * num_experts, 6.0).into_iter().map(f32::round).collect();
    if rows > 1 {
        logits[num_experts] = f32::NAN;
    }
    let mut positions = vec![7; rows];
    if rows > 2 {
        positions[rows - 1] = PADDING;
    }
    let (buffer, places) = (device.alloc_from(&logits)?, device.alloc_from(&positions)?);
    let (experts, weights) = (device.alloc(rows * chosen * 4)?, device.alloc(rows * chosen * 4)?);
    let args = Router {
        logits: buffer.whole(),
        positions: places.whole(),
        experts: experts.whole(),
        weights: weights.whole(),
        rows,
        num_experts,
        chosen,
    };
    router(device, &args)?;
    let (mut order, shares) = choices(&logits, num_experts, chosen);
    let num_real = if rows > 2 { (rows - 1) * chosen } else { order.len() };
    order[num_real..].fill(PADDING);
    let is_same = device.read::<u32>(experts.whole())? == order;
    let weights = device.read::<f32>(weights.whole())?;
    let error = max_relative_error(&weights[..num_real], &shares[..num_real], 1e-3)?;
    // exp in float32 with the card's fast instruction: two units in the last place and a half.
    Ok(Report { max_error: if is_same { error } else { f64::INFINITY }, tolerance: 1e-5 })
}

fn group(device: &Device, num_routes: usize, num_experts: usize, to_one: bool) -> Result<Report> {
    let mut random = fastrand::Rng::with_seed(2);
    let mut expert = || if to_one { 3 } else { random.u32(0..num_experts as u32) };
    let mut experts: Vec<u32> = (0..num_routes).map(|_| expert()).collect();
    // Two routes of a row that pads.
    if num_routes > 2 {
        experts[num_routes - 2..].fill(PADDING);
    }
    let buffer = device.alloc_from(&experts)?;
    let grouped = device.alloc(num_routes * 4)?;
    let tiles = device.alloc(route_tiles_bytes(num_routes, num_experts))?;
    let args = GroupRoutes {
        experts: buffer.whole(),
        grouped: grouped.whole(),
        tiles: tiles.whole(),
        num_routes,
        num_experts,
    };
    group_routes(device, &args)?;
    let (listed, mut expected) = lists(&experts, num_experts);
    let is_grouped = device.read::<u32>(grouped.whole())?[..listed.len()] == listed;
    let tiles = device.read::<[u32; 4]>(tiles.whole())?;
    expected.resize(tiles.len(), [0; 4]);
    Ok(Report {
        max_error: if is_grouped && tiles == expected { 0.0 } else { 1.0 },
        tolerance: 0.0,
    })
}

/// The best experts of each row of logits and the softmax over them.
fn choices(logits: &[f32], num_experts: usize, chosen: usize) -> (Vec<u32>, Vec<f64>) {
    let (mut order, mut shares) = (Vec::new(), Vec::new());
    for row in logits.chunks(num_experts) {
        let value =
            |expert: usize| if row[expert].is_nan() { f32::NEG_INFINITY } else { row[expert] };
        let mut all: Vec<usize> = (0..num_experts).collect();
        all.sort_by(|a, b| value(*b).total_cmp(&value(*a)));
        all.truncate(chosen);
        let exp = |expert: &usize| f64::from(value(*expert) - value(all[0])).exp();
        let sum: f64 = all.iter().map(exp).sum();
        shares.extend(all.iter().map(|expert| exp(expert) / sum));
        order.extend(all.iter().map(|expert| *expert as u32));
    }
    (order, shares)
}

/// The routes by expert, and their tiles.
fn lists(experts: &[u32], num_experts: usize) -> (Vec<u32>, Vec<[u32; 4]>) {
    let tile_len = route_tile_len(experts.len(), num_experts);
    let (mut listed, mut tiles) = (Vec::new(), Vec::new());
    for expert in 0..num_experts as u32 {
        let routes = 0..experts.len() as u32;
        let routes: Vec<u32> = routes.filter(|route| experts[*route as usize] == expert).collect();
        for tile in routes.chunks(tile_len) {
            tiles.push([expert, listed.len() as u32, tile.len() as u32, 0]);
            listed.extend(tile);
        }
    }
    (listed, tiles)
}

/// An adapter of the router's product, which all rows but the first have.
struct Change {
    a: Vec<bf16>,
    b: Vec<bf16>,
    buffers: [Buffer; 5],
}

impl Change {
    const RANK: usize = 8;

    fn new(device: &Device, rows: usize, width: usize, num_experts: usize) -> Result<Self> {
        let a = random_bf16(6, Self::RANK * width, 1.0);
        let b = random_bf16(7, num_experts * Self::RANK, 1.0);
        let mut adapters = vec![0; rows];
        if rows > 1 {
            adapters[0] = NO_ADAPTER;
        }
        let scratch = lora_scratch_bytes(rows, width, Self::RANK);
        let buffers = [
            device.alloc_from(&a)?,
            device.alloc_from(&b)?,
            device.alloc_from(&[0u32])?,
            device.alloc_from(&adapters)?,
            device.alloc(scratch)?,
        ];
        Ok(Self { a, b, buffers })
    }

    fn argument<'a>(&'a self, args: &Route<'a>) -> Lora<'a> {
        let [a, b, sets, adapters, scratch] = &self.buffers;
        let (a, b, sets) = (a.whole(), b.whole(), sets.whole());
        Lora {
            x: args.normed,
            weights: LoraWeights { a, b, sets, num_sets: 1, num_adapters: 1, rank: Self::RANK },
            adapters: adapters.whole(),
            routes: None,
            scratch: scratch.whole(),
            out: Output::Added(args.logits),
            rows: args.rows,
            inputs: args.width,
            outputs: args.num_experts,
        }
    }
}

/// The greatest error of logits, judged by the rows `x` that the device has normalized.
fn logits_error(
    logits: &[f32],
    x: &[bf16],
    weight: &[bf16],
    bias: &[bf16],
    change: Option<&Change>,
) -> Result<f64> {
    let (width, num_rows) = (weight.len() / bias.len(), logits.len() / bias.len());
    let product = |x: &[bf16], weight: &[bf16]| {
        x.iter().zip(weight).map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>()
    };
    let mut expected = Vec::with_capacity(logits.len());
    for (row, x) in x.chunks(width).enumerate() {
        let change = change.filter(|_| row > 0 || num_rows == 1);
        let inner: Vec<f64> = change.map_or_else(Vec::new, |change| {
            change.a.chunks(width).map(|weight| product(x, weight)).collect()
        });
        for (expert, (weight, bias)) in weight.chunks(width).zip(bias).enumerate() {
            let gains = change.into_iter().flat_map(|change| &change.b[expert * Change::RANK..]);
            let gain: f64 = gains.zip(&inner).map(|(b, inner)| b.to_f64() * inner).sum();
            expected.push(product(x, weight) + bias.to_f64() + gain);
        }
    }
    max_relative_error(logits, &expected, rms(&expected))
}

/// The greatest error of the routes' weights by these logits; infinite if choice or lists are not exact.
fn lists_error(device: &Device, args: &Route<'_>, logits: &[f32]) -> Result<f64> {
    let Route { rows, num_experts, chosen, .. } = *args;
    let (mut order, shares) = choices(logits, num_experts, chosen);
    let num_real = if rows > 2 { (rows - 1) * chosen } else { rows * chosen };
    order[num_real..].fill(PADDING);
    let weights = device.read::<f32>(args.weights)?;
    let share_error = max_relative_error(&weights[..num_real], &shares[..num_real], 1e-3)?;
    let (listed, mut expected_tiles) = lists(&order, num_experts);
    let tiles = device.read::<[u32; 4]>(args.tiles)?;
    expected_tiles.resize(tiles.len(), [0; 4]);
    let is_same = device.read::<u32>(args.experts)? == order
        && device.read::<u32>(args.grouped)?[..listed.len()] == listed
        && tiles == expected_tiles
        && device.read::<u32>(args.scratch.slice(0..4)?)? == [0];
    Ok(if is_same { share_error } else { f64::INFINITY })
}

/// The choice and the lists, which one row does without unless they are wanted, are exact for the logits that the device has found. The last of
/// three or more rows is padding; the weights of two experts are the same, so that there are ties.
fn run_route(
    device: &Device,
    [rows, width, num_experts, chosen]: [usize; 4],
    wish: Wish,
) -> Result<Report> {
    let residual = random_f32(1, rows * width, 8.0);
    let gain = random_bf16(4, width, 1.5);
    let (mut weight, mut bias) =
        (random_bf16(2, num_experts * width, 1.0), random_bf16(3, num_experts, 1.0));
    if num_experts > 2 {
        weight.copy_within(width..2 * width, 2 * width);
        bias[2] = bias[1];
    }
    let mut positions = vec![7; rows];
    if rows > 2 {
        positions[rows - 1] = PADDING;
    }
    let num_routes = rows * chosen;
    let (residual_buffer, gain_buffer) = (device.alloc_from(&residual)?, device.alloc_from(&gain)?);
    let (normed, weight_buffer) = (device.alloc(rows * width * 2)?, device.alloc_from(&weight)?);
    let (bias_buffer, positions) = (device.alloc_from(&bias)?, device.alloc_from(&positions)?);
    let (experts, weights) = (device.alloc(num_routes * 4)?, device.alloc(num_routes * 4)?);
    let (logits, grouped) = (device.alloc(rows * num_experts * 4)?, device.alloc(num_routes * 4)?);
    let tiles = device.alloc(route_tiles_bytes(num_routes, num_experts))?;
    let scratch = device.alloc(linear_scratch_bytes(rows))?;
    device.zero(scratch.whole())?;
    let change = Change::new(device, rows, width, num_experts)?;
    let change = (wish == Wish::Changed).then_some(&change);
    let mut args = Route {
        residual: residual_buffer.whole(),
        gain: gain_buffer.whole(),
        eps: EPS,
        normed: normed.whole(),
        weight: weight_buffer.whole(),
        bias: bias_buffer.whole(),
        positions: positions.whole(),
        logits: logits.whole(),
        change: None,
        listed: wish == Wish::Listed,
        experts: experts.whole(),
        weights: weights.whole(),
        grouped: grouped.whole(),
        tiles: tiles.whole(),
        scratch: scratch.whole(),
        rows,
        width,
        num_experts,
        chosen,
    };
    args.change = change.map(|change| change.argument(&args));
    // Twice: what a launch leaves behind must not disturb the next.
    route(device, &args)?;
    device.zero(grouped.whole())?;
    route(device, &args)?;
    let logits = device.read::<f32>(logits.whole())?;
    let x = device.read::<bf16>(normed.whole())?;
    let residual: Vec<f64> = residual.into_iter().map(f64::from).collect();
    let normal: Vec<f64> = residual.chunks(width).flat_map(|row| reference(row, &gain)).collect();
    if max_relative_error(&x, &normal, 1e-3)? > BF16_ROUNDING * 1.01 {
        return Ok(Report { max_error: f64::INFINITY, tolerance: 0.0 });
    }
    let error = logits_error(&logits, &x, &weight, &bias, change)?;
    if rows == 1 && wish != Wish::Listed {
        return Ok(Report { max_error: error, tolerance: 1e-5 });
    }
    let max_error = error.max(lists_error(device, &args, &logits)?);
    // Sums in float32, and exp with the card's fast instruction.
    Ok(Report { max_error, tolerance: 1e-5 })
}
