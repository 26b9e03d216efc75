//! What the CUDA executor takes of a device's memory: everything at start, nothing per step.
//!
//! Pure arithmetic over a config and options, so that it can be asked without a device.

use harmonium_cuda::ops::{
    Adjustment, HEAD_LEN, KvShape, MAX_ALTERNATIVES, MAX_VOCABULARY, RowTile, TokenLogprob, Wish,
    cuts_bytes, linear_scratch_bytes, masks_bytes, route_tiles_bytes, rows_per_tile, slices_bytes,
};
use harmonium_engine::ExecutorSpec;

use super::{CudaOptions, adapters};
use crate::adapter::Adapter;
use crate::config::{Config, LayerKind};
use crate::error::{Error, Result};
use crate::memory::{self, KvLimits};
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// Positions in a block: a power of two, and a prefix is shared in whole blocks.
const BLOCK_LEN: u32 = 16;
/// Most context length a spare window block must cover: prefixes end every few hundred tokens, in blocks of 16.
const FULL_BLOCKS_PER_SPARE: u64 = 32;
/// Rows of a sequence up to which each goes to the decode kernel by itself.
pub(super) const DECODE_ROWS: usize = 4;
/// Blocks that attention of single rows should have at least, two for each processor of an H100.
const WANTED_BLOCKS: usize = 264;
const MAX_SPLITS: usize = 64;
/// Positions of a window for each piece: two turns of a block's four warps at 16 keys.
const WINDOW_SPLIT: usize = 128;
/// Penalized and biased tokens of a step that the device has room for: those of 64 chats of a thousand tokens each. The
/// processor chooses for rows beyond that.
pub(super) const MAX_ADJUSTMENTS: usize = 1 << 16;
/// What the driver, its context and captured graphs take beside what is planned here.
const RESERVE_BYTES: u64 = 1 << 30;
/// Every buffer begins at a multiple of this.
const ALIGNMENT: u64 = 256;

/// One use of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanItem {
    /// What it is.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

/// How an executor would use a device's memory.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All uses, keys and values included.
    pub items: Vec<PlanItem>,
    /// Bytes of the device that may be used.
    pub memory_bytes: u64,
    /// Bounds of the executor.
    pub spec: ExecutorSpec,
    pub(super) sizes: Sizes,
}

impl Plan {
    /// Bytes of all uses.
    pub fn total_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// Positions that the full layers can keep, over all sequences.
    pub fn num_kv_tokens(&self) -> u64 {
        u64::from(self.spec.num_full_blocks) * u64::from(self.spec.block_size)
    }

    /// Sequences of full length that fit at the same time.
    pub fn num_full_sequences(&self) -> u64 {
        let blocks = u64::from(self.spec.context_len.div_ceil(self.spec.block_size));
        (u64::from(self.spec.num_full_blocks) / blocks).min(self.spec.max_sequences.into())
    }
}

/// Lengths, in bytes, of the buffers that steps work in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    pub(super) residual: usize,
    pub(super) normed: usize,
    pub(super) qkv: usize,
    pub(super) queries: usize,
    pub(super) attended: usize,
    pub(super) router_logits: usize,
    pub(super) experts: usize,
    pub(super) weights: usize,
    pub(super) grouped: usize,
    pub(super) route_tiles: usize,
    pub(super) inner: usize,
    pub(super) answers: usize,
    pub(super) gathered: usize,
    pub(super) logits: usize,
    pub(super) chosen: usize,
    pub(super) logprobs: usize,
    pub(super) adjustments: usize,
    pub(super) masks: usize,
    pub(super) slices: usize,
    pub(super) cuts: usize,
    pub(super) parts: usize,
    pub(super) stats: usize,
    pub(super) scratch: usize,
    pub(super) tickets: usize,
    pub(super) inputs: usize,
    pub(super) rotations: usize,
}

/// Into how many pieces the context of each of `num_rows` single rows is cut. Depends on nothing else, so that a
/// captured graph fits every step of its size. What a window sees is cut only if it is more than a block has on its way
/// at the same time: putting pieces together takes longer than the few bytes do.
pub(super) fn num_splits(num_rows: usize, num_kv_heads: usize, window: Option<u32>) -> usize {
    let filling = WANTED_BLOCKS.div_ceil((num_rows * num_kv_heads).max(1)).clamp(1, MAX_SPLITS);
    window.map_or(filling, |window| filling.min((window as usize).div_ceil(WINDOW_SPLIT).max(1)))
}

/// Plans the memory of an executor with these adapters, all opened for this config. Fails if the weights do not fit, or no
/// context beside them.
pub fn plan(
    config: &Config,
    adapters: &[Adapter],
    options: &CudaOptions,
    memory_bytes: u64,
) -> Result<Plan> {
    check(config, options)?;
    let context_len = options.context_len.unwrap_or(config.context_len);
    let weights = weight_items(config);
    let sizes = sizes(config, options, context_len);
    let mut items = weights;
    items.extend(sizes.items());
    if !adapters.is_empty() {
        let bytes = adapters::num_bytes(config, adapters, options.max_rows as usize);
        items.push(PlanItem { name: "adapters", bytes });
    }
    items.push(PlanItem { name: "driver and graphs", bytes: RESERVE_BYTES });
    let taken: u64 = items.iter().map(|item| item.bytes).sum();
    let left = memory_bytes.saturating_sub(taken);
    let limits = limits(options, options.kv_bytes.map_or(left, |kv_bytes| kv_bytes.min(left)));
    let least = KvLimits { context_len: Some(BLOCK_LEN.min(context_len)), ..limits.clone() };
    let needed = taken + memory::bytes_for_one_context(config, &least);
    if needed > memory_bytes {
        let message = format!(
            "{memory_bytes} bytes are too few: weights and buffers take {taken}, with keys and values of the \
             shortest context {needed}"
        );
        return Err(Error::Option { option: "memory_bytes", message });
    }
    let mut spec = memory::plan(config, &limits)?;
    spec.num_adapters = u32::try_from(adapters.len()).expect("no memory holds so many");
    let kind_bytes = |kind: LayerKind, num_blocks: u32| PlanItem {
        name: match kind {
            LayerKind::Full => "keys and values, full layers",
            LayerKind::Window => "keys and values, window layers",
        },
        bytes: config.layers.iter().filter(|layer| **layer == kind).count() as u64
            * u64::from(num_blocks)
            * u64::from(BLOCK_LEN)
            * config.kv_size() as u64
            * 4,
    };
    items.push(kind_bytes(LayerKind::Full, spec.num_full_blocks));
    items.push(kind_bytes(LayerKind::Window, spec.num_window_blocks));
    Ok(Plan { items, memory_bytes, spec, sizes })
}

/// The least memory for keys and values in which one sequence of full length fits beside the windows of all others.
pub(super) fn kv_bytes_for_one_context(config: &Config, options: &CudaOptions) -> u64 {
    memory::bytes_for_one_context(config, &limits(options, 0))
}

fn limits(options: &CudaOptions, kv_bytes: u64) -> KvLimits {
    KvLimits {
        context_len: options.context_len,
        kv_bytes,
        max_rows: options.max_rows,
        max_sequences: options.max_sequences,
        block_size: BLOCK_LEN,
        element_bytes: 2,
        full_blocks_per_spare: FULL_BLOCKS_PER_SPARE,
    }
}

/// What no kernel can take.
fn check(config: &Config, options: &CudaOptions) -> Result<()> {
    let refuse = |option, message| Err(Error::Option { option, message });
    if config.head_dim as usize != HEAD_LEN {
        return refuse("head_dim", format!("{} is not the kernels' {HEAD_LEN}", config.head_dim));
    }
    if config.num_heads / config.num_kv_heads > 16 {
        let message = format!("{} for {} key heads", config.num_heads, config.num_kv_heads);
        return refuse("num_heads", message);
    }
    if config.experts_per_token > 8 {
        return refuse("experts_per_token", format!("{} is over 8", config.experts_per_token));
    }
    if config.hidden_size > 8192 {
        return refuse("hidden_size", format!("{} is over 8192", config.hidden_size));
    }
    if config.vocab_size as usize > MAX_VOCABULARY {
        let message = format!("{} is over {MAX_VOCABULARY}", config.vocab_size);
        return refuse("vocab_size", message);
    }
    for (option, number, max) in
        [("max_rows", options.max_rows, 1 << 16), ("max_sequences", options.max_sequences, 1 << 12)]
    {
        if number == 0 || number > max {
            return refuse(option, format!("{number} is not from 1 to {max}"));
        }
    }
    Ok(())
}

fn weight_items(config: &Config) -> Vec<PlanItem> {
    let wide = |number: u32| u64::from(number);
    let (hidden, inner) = (wide(config.hidden_size), wide(config.intermediate_size));
    let (query, kv) = (config.query_size() as u64, config.kv_size() as u64);
    let (layers, experts) = (config.layers.len() as u64, wide(config.num_experts));
    let qkv = query + 2 * kv;
    let attention = qkv * hidden + qkv + hidden * query + hidden + wide(config.num_heads);
    let dense = attention + 2 * hidden + experts * hidden + experts;
    let mxfp4 = |outputs: u64, inputs: u64| {
        outputs * inputs / BLOCK as u64 * (BLOCK_BYTES as u64 + 1) + outputs * 2
    };
    let expert = mxfp4(2 * inner, hidden) + mxfp4(hidden, inner);
    let vocabulary = wide(config.vocab_size) * hidden;
    vec![
        PlanItem { name: "experts", bytes: layers * experts * expert },
        PlanItem { name: "attention, routers, norms", bytes: (layers * dense + hidden) * 2 },
        PlanItem { name: "embedding and output", bytes: 2 * vocabulary * 2 },
    ]
}

/// The shape of one layer's cache.
pub(super) fn kv_shape(config: &Config, spec: &ExecutorSpec, kind: LayerKind) -> KvShape {
    let num_blocks = match kind {
        LayerKind::Full => spec.num_full_blocks,
        LayerKind::Window => spec.num_window_blocks,
    };
    KvShape {
        num_heads: config.num_heads as usize,
        num_kv_heads: config.num_kv_heads as usize,
        block_len: spec.block_size as usize,
        num_blocks: num_blocks as usize,
    }
}

fn sizes(config: &Config, options: &CudaOptions, context_len: u32) -> Sizes {
    let (rows, sequences) = (options.max_rows as usize, options.max_sequences as usize);
    let (hidden, heads) = (config.hidden_size as usize, config.num_heads as usize);
    let routes = rows * config.experts_per_token as usize;
    let (num_kv_heads, num_experts) = (config.num_kv_heads as usize, config.num_experts as usize);
    let shape =
        KvShape { num_heads: heads, num_kv_heads, block_len: BLOCK_LEN as usize, num_blocks: 1 };
    // One row alone is cut into the most pieces; many rows are not cut at all.
    let single_rows = rows.min(sequences * DECODE_ROWS);
    let num_parts = (single_rows + WANTED_BLOCKS.div_ceil(num_kv_heads) + MAX_SPLITS) * heads;
    let blocks_of = |positions: usize| positions.div_ceil(BLOCK_LEN as usize);
    let tables = sequences * blocks_of(context_len as usize)
        + sequences * (blocks_of(config.window as usize) + 3)
        + blocks_of(rows);
    // More rows may need fewer tiles, of other kernels.
    let route_tiles = (1..=rows)
        .map(|rows| route_tiles_bytes(rows * config.experts_per_token as usize, num_experts))
        .max()
        .unwrap_or(0);
    let tiles = rows / rows_per_tile(&shape) + 2 * sequences + single_rows;
    Sizes {
        residual: rows * hidden * 4,
        normed: rows * hidden * 2,
        qkv: rows * shape.qkv_len() * 4,
        queries: rows * shape.query_len() * 2,
        attended: rows * shape.query_len() * 2,
        router_logits: rows * config.num_experts as usize * 4,
        experts: routes * 4,
        weights: routes * 4,
        grouped: routes * 4,
        route_tiles,
        inner: routes * config.intermediate_size as usize * 2,
        answers: routes * hidden * 4,
        gathered: sequences * hidden * 2,
        logits: sequences * config.vocab_size as usize * 4,
        chosen: sequences * 4,
        logprobs: sequences * (1 + MAX_ALTERNATIVES) * size_of::<TokenLogprob>(),
        adjustments: MAX_ADJUSTMENTS * size_of::<Adjustment>(),
        masks: masks_bytes(sequences, config.vocab_size as usize),
        slices: slices_bytes(sequences, config.vocab_size as usize),
        cuts: cuts_bytes(sequences),
        parts: num_parts * HEAD_LEN * 4,
        stats: num_parts * 2 * 4,
        scratch: linear_scratch_bytes(rows),
        tickets: single_rows * num_kv_heads * 4,
        inputs: (6 * rows + tables) * 4
            + sequences * size_of::<Wish>()
            + 2 * tiles * size_of::<RowTile>()
            + 4096,
        rotations: context_len as usize * HEAD_LEN * 4,
    }
}

impl Sizes {
    fn items(&self) -> [PlanItem; 5] {
        let sum = |sizes: &[usize]| sizes.iter().map(|size| aligned(*size as u64)).sum::<u64>();
        [
            PlanItem {
                name: "activations",
                bytes: sum(&[
                    self.residual,
                    self.normed,
                    self.qkv,
                    self.queries,
                    self.attended,
                    self.router_logits,
                    self.experts,
                    self.weights,
                    self.grouped,
                    self.route_tiles,
                    self.inner,
                    self.answers,
                ]),
            },
            PlanItem { name: "logits", bytes: sum(&[self.gathered, self.logits]) },
            PlanItem {
                name: "sampling",
                bytes: sum(&[self.chosen, self.logprobs, self.adjustments, self.slices, self.cuts]),
            },
            PlanItem {
                name: "sums in parts",
                bytes: sum(&[self.parts, self.stats, self.tickets, self.scratch]),
            },
            PlanItem {
                name: "inputs and rotations",
                bytes: sum(&[self.inputs, self.masks, self.rotations]),
            },
        ]
    }
}

pub(super) fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{AdapterTargets, Shape, SynthAdapter};

    fn config(shape: Shape) -> Config {
        shape.to_config().unwrap()
    }

    /// `nvidia-smi` of an H100 80GB: 81,559 MiB.
    const H100: u64 = 81_559 << 20;

    #[test]
    fn weights_take_what_the_files_take() {
        let bytes = |config| weight_items(&config).iter().map(|item| item.bytes).sum::<u64>();
        // `metadata.total_size` of the index of gpt-oss-20b, and the same sum for gpt-oss-120b.
        assert_eq!(bytes(config(Shape::GPT_OSS_20B)), 13_761_264_768);
        assert_eq!(bytes(config(Shape::GPT_OSS_120B)), 65_248_815_744);
    }

    #[test]
    fn an_h100_holds_120b_with_420_000_positions_and_the_full_context() {
        let plan = plan(&config(Shape::GPT_OSS_120B), &[], &CudaOptions::default(), H100).unwrap();
        assert!(plan.num_kv_tokens() >= 420_000, "{}", plan.num_kv_tokens());
        assert_eq!(plan.spec.context_len, 131_072);
        assert_eq!(plan.num_full_sequences(), plan.num_kv_tokens() / 131_072);
        assert!(plan.total_bytes() <= H100 && plan.total_bytes() > H100 / 100 * 99, "{plan:?}");
    }

    #[test]
    fn a_card_that_is_too_small_is_refused_with_both_numbers() {
        let message =
            plan(&config(Shape::GPT_OSS_120B), &[], &CudaOptions::default(), 40 << 30).unwrap_err();
        let message = message.to_string();
        assert!(message.contains("42949672960 bytes are too few"), "{message}");
    }

    #[test]
    fn adapters_take_room_from_keys_and_values() {
        let (shape, targets) = (Shape::SMALL, AdapterTargets::All);
        let adapter = |rank| SynthAdapter { shape, rank, targets, seed: 0 }.adapter().unwrap();
        let with = |adapters: &[Adapter]| {
            let plan = plan(&config(shape), adapters, &CudaOptions::default(), 4 << 30).unwrap();
            let item = plan.items.iter().find(|item| item.name == "adapters");
            let kv_bytes: u64 = plan.items.iter().rev().take(2).map(|item| item.bytes).sum();
            (item.map_or(0, |item| item.bytes), kv_bytes, plan.spec.num_adapters)
        };
        let (none, two) = (with(&[]), with(&[adapter(8), adapter(3)]));
        assert_eq!((none.0, none.2, two.2), (0, 0, 2));
        // Both have 8 ranks there, three times as many for queries, keys and values: numbers of a layer's A and B.
        let (hidden, inner, experts) = (128, 96, 8);
        let dense = 24 * (hidden + 512) + 8 * (256 + hidden) + 8 * (hidden + experts);
        let sparse = experts * 8 * (hidden + 2 * inner + inner + hidden);
        assert!(two.0 >= 2 * 2 * 2 * (dense + sparse), "{two:?}");
        // To whole blocks.
        assert!((none.1 - two.1).abs_diff(two.0) <= 1 << 20, "{none:?} {two:?}");
    }

    #[test]
    fn few_rows_fill_the_card_and_many_are_not_cut() {
        assert_eq!(num_splits(1, 8, None), 33);
        assert_eq!(num_splits(33, 8, None), 1);
        assert_eq!(num_splits(10_000, 8, None), 1);
        assert_eq!([128, 129, 100_000].map(|window| num_splits(1, 8, Some(window))), [1, 2, 33]);
        for rows in 1..600 {
            let parts = rows * num_splits(rows, 8, None);
            assert!(parts <= rows + WANTED_BLOCKS / 8 + MAX_SPLITS, "{rows} rows: {parts}");
        }
    }
}
