//! The forward pass: one function for prefill, decode and mixed steps.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Storage, Tensor};
use harmonium_engine::{Batch, ExecutorSpec};

use super::adapters::RowAdapters;
use super::attention::Attention;
use super::experts;
use super::kv_pool::{KvLayout, KvPool};
use crate::adapter::{Adapter, Target};
use crate::batch::{Slot, slots};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::weights::{Layer, Weights};
use crate::config::{Config, LayerKind};
use crate::product::{linear, product};
use crate::profile::{Clock, mark};
use crate::rope::{Rotary, Rotations};
use crate::simd::{Arranged, BF16_VECTORS, Simd};

/// Weights, caches and everything derived from the config.
pub(super) struct Model {
    checkpoint: Checkpoint,
    weights: Arc<Weights>,
    /// By [`harmonium_engine::AdapterId`].
    adapters: Arc<[Adapter]>,
    simd: Simd,
    rotary: Rotary,
    block_size: usize,
    /// Norm gains as tensors: two a layer, then the last one.
    gains: Vec<Tensor>,
    /// One a layer, in the group that its kind says.
    pools: Vec<KvPool>,
    /// Runs while a profile is made.
    pub(super) clock: Option<Clock>,
}

/// What every layer of a step shares.
struct Step<'a> {
    batch: &'a Batch,
    rotations: Rotations,
    full_slots: Vec<Slot>,
    window_slots: Vec<Slot>,
    /// Absent where no row has an adapter.
    adapters: Option<RowAdapters<'a>>,
}

impl Model {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        weights: &Arc<Weights>,
        spec: &ExecutorSpec,
        simd: Simd,
    ) -> Result<Self> {
        let config = checkpoint.config();
        let layout = KvLayout {
            block_size: spec.block_size as usize,
            num_kv_heads: config.num_kv_heads as usize,
            head_dim: config.head_dim as usize,
        };
        let pool = |kind: &LayerKind| match kind {
            LayerKind::Full => KvPool::new(layout, spec.num_full_blocks as usize),
            LayerKind::Window => KvPool::new(layout, spec.num_window_blocks as usize),
        };
        let gains = weights
            .layers
            .iter()
            .flat_map(|layer| [&layer.attention_norm, &layer.mlp_norm])
            .chain([&weights.norm])
            .map(|gain| Tensor::new(gain.as_slice(), &Device::Cpu))
            .collect::<Result<_>>()?;
        Ok(Self {
            simd,
            rotary: Rotary::new(&config.rope, layout.head_dim),
            block_size: layout.block_size,
            gains,
            pools: config.layers.iter().map(pool).collect(),
            clock: None,
            checkpoint: checkpoint.clone(),
            weights: Arc::clone(weights),
            adapters: Arc::from([]),
        })
    }

    /// Takes other adapters, all of them read for this model's config.
    pub(super) fn set_adapters(&mut self, adapters: Vec<Adapter>) {
        self.adapters = adapters.into();
    }

    /// Runs a checked batch and returns the logits of some of its rows, `[rows, vocab]`. Only those rows are
    /// multiplied by the output matrix.
    pub(super) fn forward(&mut self, batch: &Batch, rows: &[usize]) -> Result<Tensor> {
        let adapters = Arc::clone(&self.adapters);
        let step = Step {
            batch,
            rotations: self.rotary.at(&batch.positions),
            full_slots: slots(batch, LayerKind::Full, self.block_size),
            window_slots: slots(batch, LayerKind::Window, self.block_size),
            adapters: RowAdapters::of(batch, &adapters, self.simd),
        };
        let (checkpoint, weights) = (self.checkpoint.clone(), Arc::clone(&self.weights));
        let config = checkpoint.config();
        let mut x = self.embed(batch)?;
        mark(&mut self.clock, "embedding");
        for (index, layer) in weights.layers.iter().enumerate() {
            x = (&x + self.attention(&step, index, layer, config, &x)?)?;
            x = (&x + self.mlp(&step, index, layer, config, &x)?)?;
        }
        let vocab = config.vocab_size as usize;
        if rows.is_empty() {
            return Tensor::zeros((0, vocab), DType::F32, &Device::Cpu);
        }
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let x = x.index_select(&Tensor::new(rows.as_slice(), &Device::Cpu)?, 0)?;
        let x = self.norm(&x, self.gains.len() - 1, config)?;
        mark(&mut self.clock, "norm");
        let logits = product(self.simd, &weights.lm_head, &arranged(&x)?);
        mark(&mut self.clock, "logits");
        Tensor::from_vec(logits, (rows.len(), vocab), &Device::Cpu)
    }

    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let embedding = &self.weights.embedding;
        let mut rows = vec![0.0; batch.tokens.len() * embedding.num_cols];
        for (token, row) in batch.tokens.iter().zip(rows.chunks_exact_mut(embedding.num_cols)) {
            embedding.widen_row(*token as usize, row);
        }
        Tensor::from_vec(rows, (batch.tokens.len(), embedding.num_cols), &Device::Cpu)
    }

    /// What attention adds to the residual. Writes the rows' keys and values on the way.
    fn attention(
        &mut self,
        step: &Step<'_>,
        index: usize,
        layer: &Layer,
        config: &Config,
        x: &Tensor,
    ) -> Result<Tensor> {
        let simd = self.simd;
        let adapters = step.adapters.as_ref().map(|adapters| adapters.layer(index));
        let normed = self.norm(x, 2 * index, config)?;
        let inputs = arranged(&normed)?;
        mark(&mut self.clock, "norm");
        let mut queries = linear(simd, &layer.query, &inputs);
        let mut keys = linear(simd, &layer.key, &inputs);
        let mut values = linear(simd, &layer.value, &inputs);
        if let Some(adapters) = adapters {
            with_values(&normed, |normed| {
                adapters.add(Target::Query, normed, &mut queries);
                adapters.add(Target::Key, normed, &mut keys);
                adapters.add(Target::Value, normed, &mut values);
            })?;
        }
        mark(&mut self.clock, "qkv");
        step.rotations.apply(&mut queries);
        step.rotations.apply(&mut keys);
        let kind = config.layers[index];
        let slots = match kind {
            LayerKind::Full => &step.full_slots,
            LayerKind::Window => &step.window_slots,
        };
        self.pools[index].write(slots, &keys, &values);
        mark(&mut self.clock, "rope");
        let attention = Attention {
            simd,
            kind,
            window: config.window as usize,
            block_size: self.block_size,
            head_dim: config.head_dim as usize,
            num_kv_heads: config.num_kv_heads as usize,
            sinks: &layer.sinks,
            pool: &self.pools[index],
        };
        let attended = attention.run(step.batch, &queries);
        mark(&mut self.clock, "attention");
        let width = config.query_size();
        let inputs = Arranged::new(attended.chunks_exact(width), width);
        let mut output = linear(simd, &layer.output, &inputs);
        if let Some(adapters) = adapters {
            adapters.add(Target::Output, &attended, &mut output);
        }
        mark(&mut self.clock, "attention output");
        Tensor::from_vec(output, x.dims(), &Device::Cpu)
    }

    /// What the experts add to the residual.
    fn mlp(
        &mut self,
        step: &Step<'_>,
        index: usize,
        layer: &Layer,
        config: &Config,
        x: &Tensor,
    ) -> Result<Tensor> {
        let adapters = step.adapters.as_ref().map(|adapters| adapters.layer(index));
        let normed = self.norm(x, 2 * index + 1, config)?;
        mark(&mut self.clock, "norm");
        let mut router_logits = linear(self.simd, &layer.router, &arranged(&normed)?);
        let (simd, clock) = (self.simd, &mut self.clock);
        let answers = with_values(&normed, |normed| {
            if let Some(adapters) = adapters {
                adapters.add(Target::Router, normed, &mut router_logits);
            }
            mark(clock, "router");
            experts::run(simd, config, layer, adapters, normed, &router_logits, clock)
        })?;
        Tensor::from_vec(answers, x.dims(), &Device::Cpu)
    }

    /// RMS norm: rows scaled to a mean square of one, times the gain.
    fn norm(&self, x: &Tensor, gain: usize, config: &Config) -> Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let root = (mean_square + f64::from(config.rms_norm_eps))?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(&self.gains[gain])
    }
}

/// The rows of a matrix in the order that dense products read.
fn arranged(rows: &Tensor) -> Result<Arranged<BF16_VECTORS>> {
    let width = rows.dim(D::Minus1)?;
    with_values(rows, |values| Arranged::new(values.chunks_exact(width), width))
}

/// Lends the values of a contiguous float32 tensor.
pub(super) fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => {
            Ok(read(&storage.as_slice::<f32>()?[start..end]))
        }
        _ => candle_core::bail!("not a contiguous tensor on the CPU: {layout:?}"),
    }
}
