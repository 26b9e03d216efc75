//! Adapters on a device: for each product of each layer the matrices of all adapters that change it, side by side.
//!
//! Rows of a step name their adapter, so one step serves the base and all adapters together, and a captured graph any
//! mixture of them. Matrices are bf16 here, padded to the greatest rank among those that change the same product.

use half::bf16;
use harmonium_cuda::ops::{
    Lora, LoraRoutes, LoraWeights, NO_ADAPTER, Output, RANK_MULTIPLE, lora_scratch_bytes,
};
use harmonium_cuda::{Buffer, BufferSlice, Device};
use rayon::prelude::*;

use super::plan::aligned;
use crate::adapter::{Adapter, LowRank, Target};
use crate::config::Config;
use crate::error::Result;

/// A product of the forward pass, of which queries, keys and values are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    Qkv,
    Output,
    Router,
    Up,
    Down,
}

/// How many there are in a layer.
const NUM_PRODUCTS: usize = 5;

impl Product {
    const ALL: [Self; NUM_PRODUCTS] = [Self::Qkv, Self::Output, Self::Router, Self::Up, Self::Down];

    /// The products of a checkpoint that it consists of: their outputs follow one another.
    fn targets(self) -> &'static [Target] {
        match self {
            Self::Qkv => &[Target::Query, Target::Key, Target::Value],
            Self::Output => &[Target::Output],
            Self::Router => &[Target::Router],
            Self::Up => &[Target::GateUp],
            Self::Down => &[Target::Down],
        }
    }
}

/// The adapters' changes of one product of one layer, before they are on a device.
struct Changes<'a> {
    layer: usize,
    product: Product,
    /// The adapters that change it, each with its place among all.
    members: Vec<(usize, &'a Adapter)>,
    num_adapters: usize,
    num_experts: usize,
    rank: usize,
    inputs: usize,
    outputs: usize,
}

impl<'a> Changes<'a> {
    /// `None` if no adapter changes the product.
    fn new(
        config: &Config,
        adapters: &'a [Adapter],
        layer: usize,
        product: Product,
    ) -> Option<Self> {
        let targets = product.targets();
        let rank = |adapter: &Adapter| -> usize {
            let changes = targets.iter().filter_map(|target| adapter.change(layer, *target, 0));
            changes.map(LowRank::rank).sum()
        };
        let members: Vec<_> =
            adapters.iter().enumerate().filter(|(_, adapter)| rank(adapter) > 0).collect();
        let greatest = members.iter().map(|(_, adapter)| rank(adapter)).max()?;
        Some(Self {
            layer,
            product,
            members,
            num_adapters: adapters.len(),
            num_experts: targets[0].num_experts(config),
            rank: greatest.next_multiple_of(RANK_MULTIPLE),
            inputs: targets[0].shape(config)[1],
            outputs: targets.iter().map(|target| target.shape(config)[0]).sum(),
        })
    }

    /// Those of all products of a layer.
    fn of_layer(
        config: &Config,
        adapters: &'a [Adapter],
        layer: usize,
    ) -> [Option<Self>; NUM_PRODUCTS] {
        Product::ALL.map(|product| Self::new(config, adapters, layer, product))
    }

    /// Elements of all A and of all B.
    fn lens(&self) -> [usize; 2] {
        let num_ranks = self.members.len() * self.num_experts * self.rank;
        [num_ranks * self.inputs, num_ranks * self.outputs]
    }

    /// Bytes it takes on a device.
    fn num_bytes(&self) -> u64 {
        let matrices: u64 = self.lens().iter().map(|len| aligned(2 * *len as u64)).sum();
        matrices + aligned(4 * self.num_adapters as u64)
    }

    /// A and B of every set and expert. Where a product consists of several, their ranks follow one another, and an output
    /// takes only those of its own.
    fn matrices(&self, config: &Config) -> [Vec<bf16>; 2] {
        let [a_len, b_len] = self.lens();
        let (mut a, mut b) = (vec![bf16::ZERO; a_len], vec![bf16::ZERO; b_len]);
        let pairs = a
            .par_chunks_mut(self.rank * self.inputs)
            .zip(b.par_chunks_mut(self.rank * self.outputs))
            .enumerate();
        pairs.for_each(|(index, (a, b))| {
            let (_, adapter) = self.members[index / self.num_experts];
            let (mut first_rank, mut first_output) = (0, 0);
            for target in self.product.targets() {
                if let Some(change) = adapter.change(self.layer, *target, index % self.num_experts)
                {
                    let a = a[first_rank * self.inputs..].chunks_exact_mut(self.inputs);
                    for (rank, row) in a.take(change.rank()).enumerate() {
                        fill(row, change.a_row(rank));
                    }
                    let b = b[first_output * self.rank..].chunks_exact_mut(self.rank);
                    for (output, row) in b.take(change.num_outputs()).enumerate() {
                        fill(&mut row[first_rank..], change.b_row(output));
                    }
                    first_rank += change.rank();
                }
                first_output += target.shape(config)[0];
            }
        });
        [a, b]
    }

    /// Which set is each adapter's.
    fn sets(&self) -> Vec<u32> {
        let mut sets = vec![NO_ADAPTER; self.num_adapters];
        for (set, (adapter, _)) in self.members.iter().enumerate() {
            sets[*adapter] = set as u32;
        }
        sets
    }
}

fn fill(to: &mut [bf16], values: impl Iterator<Item = f32>) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to = bf16::from_f32(value));
}

/// Bytes of what steps with adapters work in.
#[derive(Default)]
struct WorkSizes {
    scratch: usize,
    /// What is added to the up product of all routes.
    added: usize,
}

impl WorkSizes {
    fn of<'a>(
        config: &Config,
        rows: usize,
        changes: impl Iterator<Item = &'a Changes<'a>>,
    ) -> Self {
        let mut sizes = Self::default();
        for change in changes {
            let num_units = match change.product {
                Product::Up | Product::Down => rows * config.experts_per_token as usize,
                Product::Qkv | Product::Output | Product::Router => rows,
            };
            let scratch = lora_scratch_bytes(num_units, change.inputs, change.rank);
            sizes.scratch = sizes.scratch.max(scratch);
            if change.product == Product::Up {
                sizes.added = num_units * change.outputs * 4;
            }
        }
        sizes
    }
}

/// Bytes that adapters and their work take on a device, for steps of up to that many rows.
pub(super) fn num_bytes(config: &Config, adapters: &[Adapter], rows: usize) -> u64 {
    let layers = 0..config.layers.len();
    let all: Vec<_> =
        layers.flat_map(|layer| Changes::of_layer(config, adapters, layer)).flatten().collect();
    let work = WorkSizes::of(config, rows, all.iter());
    let matrices: u64 = all.iter().map(Changes::num_bytes).sum();
    matrices + aligned(work.scratch as u64) + aligned(work.added as u64)
}

/// What the adapters change in one product.
struct Change {
    a: Buffer,
    b: Buffer,
    sets: Buffer,
    num_sets: usize,
    num_adapters: usize,
    rank: usize,
    inputs: usize,
    outputs: usize,
}

/// All adapters of an executor.
pub(super) struct DeviceAdapters {
    layers: Vec<[Option<Change>; NUM_PRODUCTS]>,
    scratch: Buffer,
    /// What is added to the up product of each route; absent if no adapter changes it.
    added: Option<Buffer>,
}

/// A product of some rows, as it was computed without adapters.
pub(super) struct Base<'a> {
    pub(super) layer: usize,
    pub(super) product: Product,
    /// Its inputs.
    pub(super) x: BufferSlice<'a>,
    /// The adapter of each row.
    pub(super) adapters: BufferSlice<'a>,
    /// Of a product of experts.
    pub(super) routes: Option<LoraRoutes<'a>>,
    pub(super) out: Output<'a>,
    pub(super) rows: usize,
}

impl DeviceAdapters {
    /// Copies them to a device; `None` if they change nothing.
    pub(super) fn new(
        device: &Device,
        config: &Config,
        adapters: &[Adapter],
        max_rows: usize,
    ) -> Result<Option<Self>> {
        let layers = 0..config.layers.len();
        let layers: Vec<_> =
            layers.map(|layer| Changes::of_layer(config, adapters, layer)).collect();
        let work = WorkSizes::of(config, max_rows, layers.iter().flatten().flatten());
        if work.scratch == 0 {
            return Ok(None);
        }
        let mut on_device = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let mut changes = [const { None }; NUM_PRODUCTS];
            for (to, from) in changes.iter_mut().zip(layer) {
                let Some(from) = from else { continue };
                let name = format!("adapters of layers.{index}.{:?}", from.product);
                *to = Some(Change::new(device, config, from).map_err(|error| error.of(&name))?);
            }
            on_device.push(changes);
        }
        let added = (work.added > 0).then(|| device.alloc(work.added)).transpose()?;
        Ok(Some(Self { layers: on_device, scratch: device.alloc(work.scratch)?, added }))
    }

    fn find(&self, layer: usize, product: Product) -> Option<&Change> {
        self.layers[layer][product as usize].as_ref()
    }

    /// Whether some adapter changes the experts of a layer.
    pub(super) fn change_experts(&self, layer: usize) -> bool {
        [Product::Up, Product::Down].iter().any(|of| self.find(layer, *of).is_some())
    }

    /// Where what is added to the up products of a layer lies, if an adapter changes them.
    pub(super) fn added(&self, layer: usize) -> Option<&Buffer> {
        self.added.as_ref().filter(|_| self.find(layer, Product::Up).is_some())
    }

    /// What they add to a product, if anything.
    pub(super) fn change<'a>(&'a self, base: Base<'a>) -> Option<Lora<'a>> {
        let change = self.find(base.layer, base.product)?;
        let Base { x, adapters, routes, out, rows, .. } = base;
        let (inputs, outputs) = (change.inputs, change.outputs);
        let weights = LoraWeights {
            a: change.a.whole(),
            b: change.b.whole(),
            sets: change.sets.whole(),
            num_sets: change.num_sets,
            num_adapters: change.num_adapters,
            rank: change.rank,
        };
        let scratch = self.scratch.whole();
        Some(Lora { x, weights, adapters, routes, scratch, out, rows, inputs, outputs })
    }
}

impl Change {
    fn new(device: &Device, config: &Config, from: &Changes<'_>) -> harmonium_cuda::Result<Self> {
        let [a, b] = from.matrices(config);
        Ok(Self {
            a: device.alloc_from(&a)?,
            b: device.alloc_from(&b)?,
            sets: device.alloc_from(&from.sets())?,
            num_sets: from.members.len(),
            num_adapters: from.num_adapters,
            rank: from.rank,
            inputs: from.inputs,
            outputs: from.outputs,
        })
    }
}
