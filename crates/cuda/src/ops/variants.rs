//! Kernels that do the same, side by side: what the table in `choice` is set from.
//!
//! Inputs are random. Weights lie in the memory several times over and are taken in turn, so that no cache holds them, as
//! in a model, where other layers come between.

use super::choice::{self, DenseKernel, ExpertKernels};
use super::experts::experts_by;
use super::linear::linear_by;
use super::router::group_routes_for;
use super::{
    BF16, ExpertWeights, Experts, GroupRoutes, Linear, Output, ROUTE_TILE, Random, Router, fill,
    linear_scratch_bytes, random_key, router,
};
use crate::{Buffer, Device, Result};

/// Weights of one product together take at least as much, five times the level 2 cache of an H100.
const MIN_WEIGHT_BYTES: usize = 256 << 20;
/// Copies of small weights at most.
const MAX_COPIES: usize = 64;
/// Launches of a timed graph.
const LAUNCHES: usize = 8;
/// Timed replays, of which the median counts.
const REPLAYS: usize = 5;

/// One kernel for one number of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variant {
    /// The kernel, or the first of two.
    pub kernel: &'static str,
    /// Whether it is the one that serves this number of rows.
    pub is_chosen: bool,
    /// Time of one product (of both, for experts), in microseconds.
    pub microseconds: f32,
}

/// The sizes of one layer's experts.
#[derive(Debug, Clone, Copy)]
pub struct ExpertSizes {
    /// Experts there are.
    pub num_experts: usize,
    /// Experts of a row.
    pub chosen: usize,
    /// Width of a row.
    pub hidden: usize,
    /// Width inside an expert.
    pub intermediate: usize,
}

/// Every kernel that can make the dense product of `rows` rows, from bf16 to float32 as in the model.
pub fn dense(device: &Device, rows: usize, inputs: usize, outputs: usize) -> Result<Vec<Variant>> {
    let bf16 = Random::Bf16 { mean: 0.0, spread: 1.0 };
    let weight_len = outputs * inputs * BF16;
    let num_copies = num_copies(device, weight_len)?;
    let x = random(device, rows * inputs * BF16, bf16)?;
    let bias = random(device, outputs * BF16, bf16)?;
    let weights = random(device, weight_len * num_copies, bf16)?;
    let out = device.alloc(rows * outputs * size_of::<f32>())?;
    let scratch = device.alloc(linear_scratch_bytes(rows))?;
    device.zero(scratch.whole())?;
    let run = |kernel: DenseKernel, launch: usize| {
        let start = launch % num_copies * weight_len;
        let args = Linear {
            x: x.whole(),
            weight: weights.slice(start..start + weight_len)?,
            bias: Some(bias.whole()),
            out: Output::F32(out.whole()),
            rows,
            inputs,
            outputs,
            scratch: scratch.whole(),
        };
        linear_by(device, &args, kernel)
    };
    let chosen = choice::dense(rows, inputs, outputs).name;
    let variants = choice::all_dense(rows).map(|kernel| {
        let microseconds = time(device, |launch| run(kernel, launch))?;
        Ok(Variant { kernel: kernel.name, is_chosen: kernel.name == chosen, microseconds })
    });
    variants.collect()
}

/// Every pair of kernels of the experts on `rows` rows, routed at random. The lists of routes are there before, though the
/// kernels of one row take the time to choose for themselves.
pub fn experts(device: &Device, rows: usize, sizes: ExpertSizes) -> Result<Vec<Variant>> {
    let layer = ExpertLayer::new(device, rows, sizes)?;
    let num_routes = rows * sizes.chosen;
    let chosen = choice::experts(rows, sizes.chosen, sizes.num_experts, false).up.name;
    let variants = choice::all_experts(rows).map(|kernels| {
        let num_tiles = kernels.num_tiles(num_routes, sizes.num_experts);
        let tiles = device.alloc(num_tiles * ROUTE_TILE)?;
        layer.group(device, kernels, &tiles)?;
        let microseconds = time(device, |_| layer.run(device, kernels, &tiles))?;
        let kernel = kernels.up.name;
        Ok(Variant { kernel, is_chosen: kernel == chosen, microseconds })
    });
    variants.collect()
}

/// The experts of one layer and the routes to them. Of the published models one layer is far larger than any cache.
struct ExpertLayer {
    rows: usize,
    sizes: ExpertSizes,
    x: Buffer,
    up: [Buffer; 3],
    down: [Buffer; 3],
    logits: Buffer,
    routes: Buffer,
    grouped: Buffer,
    weights: Buffer,
    inner: Buffer,
    out: Buffer,
}

impl ExpertLayer {
    fn new(device: &Device, rows: usize, sizes: ExpertSizes) -> Result<Self> {
        let ExpertSizes { num_experts, chosen, hidden, intermediate } = sizes;
        let (word, num_routes) = (size_of::<f32>(), rows * chosen);
        let bf16 = Random::Bf16 { mean: 0.0, spread: 1.0 };
        let product = |outputs: usize, inputs: usize| {
            let blocks = num_experts * outputs * inputs / 32;
            Ok([
                random(device, blocks * 16, Random::Bytes)?,
                random(device, blocks, Random::Scales { exponent: -7 })?,
                random(device, num_experts * outputs * BF16, bf16)?,
            ])
        };
        // Any bits of four bytes serve as logits but those of NaN and infinity, which bf16 in both halves never has.
        let logits = random(device, rows * num_experts * word, bf16)?;
        let positions = device.alloc(rows * word)?;
        device.zero(positions.whole())?;
        let layer = Self {
            rows,
            sizes,
            x: random(device, rows * hidden * BF16, bf16)?,
            up: product(2 * intermediate, hidden)?,
            down: product(hidden, intermediate)?,
            logits,
            routes: device.alloc(num_routes * word)?,
            grouped: device.alloc(num_routes * word)?,
            weights: device.alloc(num_routes * word)?,
            inner: device.alloc(num_routes * intermediate * BF16)?,
            out: device.alloc(num_routes * hidden * word)?,
        };
        let args = Router {
            logits: layer.logits.whole(),
            positions: positions.whole(),
            experts: layer.routes.whole(),
            weights: layer.weights.whole(),
            rows,
            num_experts,
            chosen,
        };
        router(device, &args)?;
        Ok(layer)
    }

    /// Lists the routes and tiles for these kernels.
    fn group(&self, device: &Device, kernels: ExpertKernels, tiles: &Buffer) -> Result<()> {
        let args = GroupRoutes {
            experts: self.routes.whole(),
            grouped: self.grouped.whole(),
            tiles: tiles.whole(),
            num_routes: self.rows * self.sizes.chosen,
            num_experts: self.sizes.num_experts,
        };
        group_routes_for(device, &args, kernels)
    }

    fn run(&self, device: &Device, kernels: ExpertKernels, tiles: &Buffer) -> Result<()> {
        fn product([blocks, scales, bias]: &[Buffer; 3]) -> ExpertWeights<'_> {
            ExpertWeights { blocks: blocks.whole(), scales: scales.whole(), bias: bias.whole() }
        }
        let ExpertSizes { num_experts, chosen, hidden, intermediate } = self.sizes;
        let args = Experts {
            x: self.x.whole(),
            up: product(&self.up),
            down: product(&self.down),
            logits: self.logits.whole(),
            grouped: self.grouped.whole(),
            tiles: tiles.whole(),
            weights: self.weights.whole(),
            added: None,
            down_change: None,
            listed: false,
            next: None,
            inner: self.inner.whole(),
            out: self.out.whole(),
            rows: self.rows,
            chosen,
            num_experts,
            hidden,
            intermediate,
            limit: 7.0,
            alpha: 1.702,
        };
        experts_by(device, &args, kernels)
    }
}

/// How often weights of this length lie in the memory. The host device has no caches to mislead.
fn num_copies(device: &Device, num_bytes: usize) -> Result<usize> {
    if device.is_host() {
        return Ok(1);
    }
    let room = device.memory()?.free / 2 / num_bytes;
    Ok(MIN_WEIGHT_BYTES.div_ceil(num_bytes).min(MAX_COPIES).min(room).max(1))
}

fn random(device: &Device, num_bytes: usize, values: Random) -> Result<Buffer> {
    let buffer = device.alloc(num_bytes)?;
    fill(device, buffer.whole(), values, random_key(num_bytes as u64, "variants"))?;
    Ok(buffer)
}

/// Microseconds of one launch.
fn time(device: &Device, launch: impl Fn(usize) -> Result<()>) -> Result<f32> {
    let launches = if device.is_host() { 1 } else { LAUNCHES };
    let graph = device.capture(|_| (0..launches).try_for_each(&launch))?;
    graph.replay()?;
    let mut times = Vec::with_capacity(REPLAYS);
    for _ in 0..REPLAYS {
        let started = device.event()?;
        graph.replay()?;
        times.push(device.event()?.elapsed_ms(&started)?);
    }
    times.sort_by(f32::total_cmp);
    Ok(times[REPLAYS / 2] * 1e3 / launches as f32)
}
