//! `router` and `group_routes` against a sort.

use super::{Case, Report, max_relative_error, random_f32};
use crate::ops::{GroupRoutes, PADDING, Router, group_routes, route_tiles_bytes, router};
use crate::{Device, Result};

/// Rows, experts and how many are chosen: all of them, fewer than a warp, the two published models.
const CHOICES: &[(usize, usize, usize)] =
    &[(1, 1, 1), (3, 8, 8), (5, 6, 2), (9, 32, 4), (6, 128, 4)];

/// Routes and experts: one route, a part of a block's threads, several turns of them; all routes to one expert, and to
/// the last.
const LISTS: &[(usize, usize, bool)] = &[
    (1, 1, false),
    (24, 32, false),
    (1000, 128, false),
    (1100, 128, false),
    (700, 5, true),
    (20, 4, true),
];

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
    CHOICES.iter().map(choice).chain(LISTS.iter().map(list)).collect()
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
    let listed: Vec<Vec<u32>> = (0..num_experts as u32)
        .map(|expert| {
            let routes = 0..num_routes as u32;
            routes.filter(|route| experts[*route as usize] == expert).collect()
        })
        .collect();
    // Above eight routes an expert, tiles are those of the kernels for many.
    let tile_len = if num_routes > 8 * num_experts { 64 } else { 8 };
    let (mut first, mut expected) = (0, Vec::new());
    for (expert, routes) in listed.iter().enumerate() {
        for tile in routes.chunks(tile_len) {
            expected.push([expert as u32, first, tile.len() as u32, 0]);
            first += tile.len() as u32;
        }
    }
    let is_grouped = device.read::<u32>(grouped.whole())?[..first as usize] == listed.concat();
    let tiles = device.read::<[u32; 4]>(tiles.whole())?;
    expected.resize(tiles.len(), [0; 4]);
    Ok(Report {
        max_error: if is_grouped && tiles == expected { 0.0 } else { 1.0 },
        tolerance: 0.0,
    })
}
