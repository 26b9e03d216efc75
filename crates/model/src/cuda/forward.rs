//! The forward pass on a device: one function for prefill, decode and mixed steps.

mod attention;
mod mlp;

use std::ops::Range;

use harmonium_cuda::ops::{
    After, Embedding, KvShape, Linear, Lora, LoraRoutes, MAX_ALTERNATIVES, Output, RmsNorm, Sample,
    TokenLogprob, cuts_bytes, embedding, linear, lora_expand, lora_shrink, masks_bytes, rms_norm,
    sample, slices_bytes,
};
use harmonium_cuda::{Buffer, BufferSlice, Device, Graph, Profile, Result};

use super::adapters::{Base, DeviceAdapters, Product};
use super::plan::{Plan, Sizes, kv_shape};
use super::step::Step;
use super::weights::{DeviceLinear, DeviceWeights};
use crate::config::{Config, LayerKind};
use crate::rope::Rotary;

/// Bytes of a bf16 and of a word.
const BF16: usize = 2;
const WORD: usize = 4;

/// Weights, caches and the buffers that steps work in.
pub(super) struct Model {
    pub(super) device: Device,
    config: Config,
    weights: DeviceWeights,
    adapters: Option<DeviceAdapters>,
    /// Keys and values of each layer.
    caches: Vec<[Buffer; 2]>,
    full: KvShape,
    window: KvShape,
    context_len: usize,
    /// How many ids may be chosen.
    num_tokens: usize,
    buffers: Buffers,
}

/// One for each field of [`Sizes`].
struct Buffers {
    residual: Buffer,
    normed: Buffer,
    qkv: Buffer,
    queries: Buffer,
    attended: Buffer,
    router_logits: Buffer,
    experts: Buffer,
    weights: Buffer,
    grouped: Buffer,
    route_tiles: Buffer,
    inner: Buffer,
    answers: Buffer,
    gathered: Buffer,
    logits: Buffer,
    chosen: Buffer,
    logprobs: Buffer,
    adjustments: Buffer,
    masks: Buffer,
    slices: Buffer,
    cuts: Buffer,
    parts: Buffer,
    stats: Buffer,
    scratch: Buffer,
    tickets: Buffer,
    inputs: Buffer,
    rotations: Buffer,
}

impl Buffers {
    fn new(device: &Device, sizes: &Sizes) -> Result<Self> {
        let alloc = |bytes| device.alloc(bytes);
        let zeroed = |bytes| {
            let buffer = device.alloc(bytes)?;
            device.zero(buffer.whole())?;
            Ok(buffer)
        };
        Ok(Self {
            residual: alloc(sizes.residual)?,
            normed: alloc(sizes.normed)?,
            qkv: alloc(sizes.qkv)?,
            queries: alloc(sizes.queries)?,
            attended: alloc(sizes.attended)?,
            router_logits: alloc(sizes.router_logits)?,
            experts: alloc(sizes.experts)?,
            weights: alloc(sizes.weights)?,
            grouped: alloc(sizes.grouped)?,
            route_tiles: alloc(sizes.route_tiles)?,
            inner: alloc(sizes.inner)?,
            answers: alloc(sizes.answers)?,
            gathered: alloc(sizes.gathered)?,
            logits: alloc(sizes.logits)?,
            chosen: alloc(sizes.chosen)?,
            logprobs: alloc(sizes.logprobs)?,
            adjustments: alloc(sizes.adjustments)?,
            masks: alloc(sizes.masks)?,
            slices: alloc(sizes.slices)?,
            cuts: alloc(sizes.cuts)?,
            parts: alloc(sizes.parts)?,
            stats: alloc(sizes.stats)?,
            scratch: zeroed(sizes.scratch)?,
            tickets: zeroed(sizes.tickets)?,
            inputs: alloc(sizes.inputs)?,
            rotations: alloc(sizes.rotations)?,
        })
    }
}

/// The first bytes of a buffer.
fn first(buffer: &Buffer, num_bytes: usize) -> Result<BufferSlice<'_>> {
    buffer.slice(0..num_bytes)
}

impl Model {
    pub(super) fn new(
        device: &Device,
        config: &Config,
        weights: DeviceWeights,
        adapters: Option<DeviceAdapters>,
        plan: &Plan,
        num_tokens: usize,
    ) -> Result<Self> {
        let (full, window) = (
            kv_shape(config, &plan.spec, LayerKind::Full),
            kv_shape(config, &plan.spec, LayerKind::Window),
        );
        let cache = |kind: &LayerKind| {
            let num_blocks = match kind {
                LayerKind::Full => full.num_blocks,
                LayerKind::Window => window.num_blocks,
            };
            let bytes = num_blocks * full.block_len * config.kv_size() * BF16;
            Ok([device.alloc(bytes)?, device.alloc(bytes)?])
        };
        let caches = config.layers.iter().map(cache).collect::<Result<_>>()?;
        let buffers = Buffers::new(device, &plan.sizes)?;
        let context_len = buffers.rotations.len() / (config.head_dim as usize * WORD);
        let positions: Vec<u32> = (0..context_len as u32).collect();
        let rotations = Rotary::new(&config.rope, config.head_dim as usize).at(&positions);
        let rotations: Vec<[f32; 2]> =
            rotations.values().iter().map(|(cos, sin)| [*cos, *sin]).collect();
        device.upload(&buffers.rotations, 0, bytemuck::cast_slice(&rotations))?;
        Ok(Self {
            device: device.clone(),
            config: config.clone(),
            weights,
            adapters,
            caches,
            full,
            window,
            context_len,
            num_tokens,
            buffers,
        })
    }

    pub(super) fn shape(&self) -> &KvShape {
        &self.full
    }

    /// Uploads what a step tells the device.
    pub(super) fn upload(&self, step: &Step) -> Result<()> {
        self.device.upload(&self.buffers.inputs, 0, &step.bytes)?;
        let others: [(&Buffer, &[u8]); 2] = [
            (&self.buffers.adjustments, bytemuck::cast_slice(&step.adjustments)),
            (&self.buffers.masks, bytemuck::cast_slice(&step.masks)),
        ];
        for (to, bytes) in others.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            self.device.upload(to, 0, bytes)?;
        }
        Ok(())
    }

    /// A step of single rows, all of them wanted, as a graph that serves every other step of as many rows, unless that
    /// truncates and this does not.
    pub(super) fn capture(&self, step: &Step) -> Result<Graph> {
        self.device.capture(|_| {
            self.forward(step)?;
            self.choose(step)
        })
    }

    /// The same, with a clock behind every operation.
    pub(super) fn profile(&self, step: &Step) -> Result<Profile> {
        self.device.profile(|_| {
            self.forward(step)?;
            self.choose(step)
        })
    }

    /// Logits of rows that were projected last, `[rows, vocab]`.
    pub(super) fn logits(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let row_bytes = self.config.vocab_size as usize * WORD;
        let range = rows.start * row_bytes..rows.end * row_bytes;
        self.device.read(self.buffers.logits.slice(range)?)
    }

    /// Tokens of the rows that were chosen for last.
    pub(super) fn tokens(&self, num_rows: usize) -> Result<Vec<u32>> {
        self.device.read(first(&self.buffers.chosen, num_rows * WORD)?)
    }

    /// How many routes of the last layer each expert had in the last step, which had that many rows.
    #[cfg(all(test, feature = "host-device"))]
    pub(super) fn routes_per_expert(&self, rows: usize) -> Result<Vec<u32>> {
        let chosen = self.config.experts_per_token as usize;
        let bytes =
            harmonium_cuda::ops::route_tiles_bytes(rows * chosen, self.config.num_experts as usize);
        let tiles = self.device.read::<[u32; 4]>(first(&self.buffers.route_tiles, bytes)?)?;
        let mut num_routes = vec![0; self.config.num_experts as usize];
        for [expert, _, num, _] in tiles {
            num_routes[expert as usize] += num;
        }
        Ok(num_routes)
    }

    /// Log-probabilities of the same rows, `[rows, 1 + MAX_ALTERNATIVES]`: the chosen token's, then those of the best ones,
    /// as far as they were wished.
    pub(super) fn logprobs(&self, num_rows: usize) -> Result<Vec<TokenLogprob>> {
        let row_bytes = (1 + MAX_ALTERNATIVES) * size_of::<TokenLogprob>();
        self.device.read(first(&self.buffers.logprobs, num_rows * row_bytes)?)
    }

    /// Runs what was uploaded, up to the last norm.
    pub(super) fn forward(&self, step: &Step) -> Result<()> {
        let (b, rows) = (&self.buffers, step.rows);
        let hidden = self.config.hidden_size as usize;
        let row_bytes = rows * hidden * WORD;
        embedding(
            &self.device,
            &Embedding {
                tokens: b.inputs.slice(step.tokens.clone())?,
                table: self.weights.embedding.whole(),
                out: Output::F32(first(&b.residual, row_bytes)?),
                rows,
                vocabulary: self.config.vocab_size as usize,
                width: hidden,
            },
        )?;
        self.device.mark("embedding")?;
        let chosen = self.config.experts_per_token as usize;
        let answers = first(&b.answers, row_bytes * chosen)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let added = (index > 0).then_some((answers, chosen));
            self.norm(rows, added, &layer.attention_norm)?;
            self.attention(step, index, layer)?;
            let next = self.weights.layers.get(index + 1).map(|layer| &layer.qkv.weight);
            self.mlp(step, index, layer, next.unwrap_or(&self.weights.lm_head))?;
        }
        self.norm(rows, Some((answers, chosen)), &self.weights.norm)
    }

    /// Adds parts to the residual and normalizes it.
    fn norm(
        &self,
        rows: usize,
        added: Option<(BufferSlice<'_>, usize)>,
        gain: &Buffer,
    ) -> Result<()> {
        let width = self.config.hidden_size as usize;
        let len = rows * width;
        let args = RmsNorm {
            x: added.map(|(x, _)| x),
            num_parts: added.map_or(1, |(_, num_parts)| num_parts),
            residual: first(&self.buffers.residual, len * WORD)?,
            gain: gain.whole(),
            out: first(&self.buffers.normed, len * BF16)?,
            rows,
            width,
            eps: self.config.rms_norm_eps,
        };
        rms_norm(&self.device, &args)?;
        self.device.mark("norm")
    }

    fn linear(
        &self,
        rows: usize,
        x: BufferSlice<'_>,
        weights: &DeviceLinear,
        out: Output<'_>,
    ) -> Result<()> {
        let args = Linear {
            x,
            weight: weights.weight.whole(),
            bias: Some(weights.bias.whole()),
            out,
            rows,
            inputs: weights.inputs,
            outputs: weights.outputs,
            scratch: self.buffers.scratch.whole(),
        };
        linear(&self.device, &args)
    }

    /// What the step's adapters add to a product, if anything.
    fn change<'a>(
        &'a self,
        step: &Step,
        layer: usize,
        product: Product,
        x: BufferSlice<'a>,
        out: Output<'a>,
        routes: Option<LoraRoutes<'a>>,
    ) -> Result<Option<Lora<'a>>> {
        let Some(all) = self.adapters(step) else { return Ok(None) };
        let adapters = self.buffers.inputs.slice(step.adapters.clone())?;
        Ok(all.change(Base { layer, product, x, adapters, routes, out, rows: step.rows }))
    }

    /// What comes before a product that a change is added to.
    fn shrink(&self, change: Option<&Lora<'_>>) -> Result<()> {
        let Some(change) = change else { return Ok(()) };
        lora_shrink(&self.device, change)?;
        self.device.mark("adapters")
    }

    /// What comes after it.
    fn expand(&self, change: Option<&Lora<'_>>, after: After) -> Result<()> {
        let Some(change) = change else { return Ok(()) };
        lora_expand(&self.device, change, after)?;
        self.device.mark("adapters")
    }

    /// The adapters, if a row of the step has one.
    fn adapters(&self, step: &Step) -> Option<&DeviceAdapters> {
        self.adapters.as_ref().filter(|_| step.is_adapted)
    }

    /// Chooses the tokens that follow the wanted rows of the last step.
    pub(super) fn choose(&self, step: &Step) -> Result<()> {
        let num_rows = step.wanted.len() / WORD;
        if num_rows == 0 {
            return Ok(());
        }
        self.project(step, 0..num_rows)?;
        let b = &self.buffers;
        let width = self.config.vocab_size as usize;
        let num_reported = num_rows * (1 + MAX_ALTERNATIVES);
        sample(
            &self.device,
            &Sample {
                logits: first(&b.logits, num_rows * width * WORD)?,
                wishes: b.inputs.slice(step.wishes.clone())?,
                adjustments: b.adjustments.whole(),
                masks: first(&b.masks, masks_bytes(num_rows, self.num_tokens))?,
                tokens: first(&b.chosen, num_rows * WORD)?,
                logprobs: first(&b.logprobs, num_reported * size_of::<TokenLogprob>())?,
                slices: first(&b.slices, slices_bytes(num_rows, self.num_tokens))?,
                cuts: first(&b.cuts, cuts_bytes(num_rows))?,
                rows: num_rows,
                width,
                vocabulary: self.num_tokens,
                truncates: step.truncates,
            },
        )?;
        self.device.mark("sample")
    }

    /// Computes logits of some of the wanted rows of the last step. `range` begins at a multiple of four and is no
    /// longer than there are sequences in a step.
    pub(super) fn project(&self, step: &Step, range: Range<usize>) -> Result<()> {
        let (b, rows) = (&self.buffers, range.len());
        let wanted = b.inputs.slice(step.wanted.clone())?;
        let wanted = wanted.slice(range.start * WORD..range.end * WORD)?;
        let (hidden, width) = (self.config.hidden_size as usize, self.config.vocab_size as usize);
        let gathered = first(&b.gathered, rows * hidden * BF16)?;
        // The wanted rows are taken from the normed ones as tokens are from the embedding.
        embedding(
            &self.device,
            &Embedding {
                tokens: wanted,
                table: first(&b.normed, step.rows * hidden * BF16)?,
                out: Output::Bf16(gathered),
                rows,
                vocabulary: step.rows,
                width: hidden,
            },
        )?;
        self.device.mark("embedding")?;
        let logits = first(&b.logits, rows * width * WORD)?;
        linear(
            &self.device,
            &Linear {
                x: gathered,
                weight: self.weights.lm_head.whole(),
                bias: None,
                out: Output::F32(logits),
                rows,
                inputs: hidden,
                outputs: width,
                scratch: b.scratch.whole(),
            },
        )?;
        self.device.mark("logits")
    }
}
