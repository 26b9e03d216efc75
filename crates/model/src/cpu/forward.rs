//! The forward pass: one function for prefill, decode and mixed steps.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Storage, Tensor};
use harmonium_engine::{Batch, ExecutorSpec};
use rayon::prelude::*;

use super::adapters::RowAdapters;
use super::attention::Attention;
use super::experts::Experts;
use super::kv_pool::{KvLayout, KvPool};
use super::projections::{LayerProjections, Projections};
use crate::adapter::{Adapter, Target};
use crate::batch::{Slot, slots};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::weights::{Layer, Weights};
use crate::config::LayerKind;
use crate::dense::DenseLinear;
use crate::mxfp4::BLOCK;
use crate::product::{arrange, product};
use crate::profile::{Clock, mark};
use crate::rope::{Rotary, Rotations};
use crate::simd::{Arranged, Precision, Simd};

/// Weights, caches and everything derived from the config.
pub(super) struct Model {
    checkpoint: Checkpoint,
    weights: Arc<Weights>,
    projections: Arc<Projections>,
    /// By [`harmonium_engine::AdapterId`].
    adapters: Arc<[Adapter]>,
    simd: Simd,
    precision: Precision,
    rotary: Rotary,
    block_size: usize,
    /// Norm gains: two a layer, then the last one.
    gains: Vec<Vec<f32>>,
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
    all: &'a Chosen,
}

/// One layer of a step.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    stored: &'a Layer,
    projections: &'a LayerProjections,
    /// Rows that it has to answer for.
    chosen: &'a Chosen,
}

/// Rows of a step whose output is wanted.
struct Chosen {
    rows: Vec<usize>,
    rotations: Rotations,
    /// Whether they are all rows of the step, in order.
    are_all: bool,
}

impl Chosen {
    /// These rows of the residual.
    fn of(&self, x: Tensor) -> Result<Tensor> {
        if self.are_all {
            return Ok(x);
        }
        let rows: Vec<u32> = self.rows.iter().map(|row| *row as u32).collect();
        x.index_select(&Tensor::new(rows.as_slice(), &Device::Cpu)?, 0)
    }
}

impl Model {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        weights: &Arc<Weights>,
        spec: &ExecutorSpec,
        simd: Simd,
        precision: Precision,
    ) -> crate::error::Result<Self> {
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
            .cloned()
            .collect();
        Ok(Self {
            simd,
            precision,
            projections: Arc::new(Projections::new(weights, simd)?),
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

    /// Runs a checked batch and returns the logits of some of its rows, `[rows, vocab]`. Of the others, only keys and
    /// values are wanted from the last layer, and nothing after it.
    pub(super) fn forward(&mut self, batch: &Batch, rows: &[usize]) -> Result<Tensor> {
        let (weights, adapters) = (Arc::clone(&self.weights), Arc::clone(&self.adapters));
        let projections = Arc::clone(&self.projections);
        let all = self.chosen(batch, (0..batch.tokens.len()).collect());
        let sampled = self.chosen(batch, rows.to_vec());
        let step = Step {
            batch,
            rotations: self.rotary.at(&batch.positions),
            full_slots: slots(batch, LayerKind::Full, self.block_size),
            window_slots: slots(batch, LayerKind::Window, self.block_size),
            adapters: RowAdapters::of(batch, &adapters, self.simd),
            all: &all,
        };
        let mut x = self.embed(batch)?;
        mark(&mut self.clock, "embedding");
        let layers = weights.layers.iter().zip(&projections.layers).enumerate();
        for (index, (stored, of_layer)) in layers {
            let chosen = if index + 1 == weights.layers.len() { &sampled } else { &all };
            let place = Place { index, stored, projections: of_layer, chosen };
            let queries = self.queries(&step, place, &x)?;
            if chosen.rows.is_empty() {
                break;
            }
            x = chosen.of(x)?;
            x = (&x + self.attention(&step, place, &queries)?)?;
            x = (&x + self.mlp(&step, place, &x)?)?;
        }
        let vocab = self.checkpoint.config().vocab_size as usize;
        if rows.is_empty() {
            return Tensor::zeros((0, vocab), DType::F32, &Device::Cpu);
        }
        let normed = self.norm(&x, self.gains.len() - 1)?;
        mark(&mut self.clock, "norm");
        let logits = product(&projections.lm_head, &self.arranged(&normed));
        mark(&mut self.clock, "logits");
        Tensor::from_vec(logits, (rows.len(), vocab), &Device::Cpu)
    }

    fn chosen(&self, batch: &Batch, rows: Vec<usize>) -> Chosen {
        let positions: Vec<u32> = rows.iter().map(|row| batch.positions[*row]).collect();
        let are_all = rows.iter().copied().eq(0..batch.tokens.len());
        Chosen { rotations: self.rotary.at(&positions), rows, are_all }
    }

    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let embedding = &self.weights.embedding;
        let mut rows = vec![0.0; batch.tokens.len() * embedding.num_cols];
        for (token, row) in batch.tokens.iter().zip(rows.chunks_exact_mut(embedding.num_cols)) {
            embedding.widen_row(*token as usize, row);
        }
        Tensor::from_vec(rows, (batch.tokens.len(), embedding.num_cols), &Device::Cpu)
    }

    /// Rotated queries of the chosen rows. Writes the keys and values of all rows on the way.
    fn queries(&mut self, step: &Step<'_>, place: Place<'_>, x: &Tensor) -> Result<Vec<f32>> {
        let Place { index, projections, chosen, .. } = place;
        let config = self.checkpoint.config();
        let normed = self.norm(x, 2 * index)?;
        let all = self.arranged(&normed);
        let hidden = config.hidden_size as usize;
        let of_chosen = (!chosen.are_all).then(|| {
            arrange(self.simd, chosen.rows.len(), hidden, |index, row| {
                row.fill(&normed[chosen.rows[index] * hidden..][..hidden]);
            })
        });
        mark(&mut self.clock, "norm");
        let mut jobs = vec![(&projections.key, &all), (&projections.value, &all)];
        if !chosen.rows.is_empty() {
            jobs.push((&projections.query, of_chosen.as_ref().unwrap_or(&all)));
        }
        let mut answers = DenseLinear::run_all(&jobs).into_iter();
        let mut next = || answers.next().unwrap_or_default();
        let (mut keys, mut values, mut queries) = (next(), next(), next());
        if let Some(adapters) = &step.adapters {
            let of_all = adapters.layer(index, &step.all.rows);
            of_all.add(Target::Key, &normed, hidden, &mut keys);
            of_all.add(Target::Value, &normed, hidden, &mut values);
            let of_chosen = adapters.layer(index, &chosen.rows);
            let inputs = chosen.rows.iter().map(|row| &normed[row * hidden..][..hidden]);
            of_chosen.add_to_expert(Target::Query, 0, inputs.enumerate(), &mut queries);
        }
        mark(&mut self.clock, "qkv");
        step.rotations.apply(&mut keys);
        if !queries.is_empty() {
            chosen.rotations.apply(&mut queries);
        }
        let slots = match config.layers[index] {
            LayerKind::Full => &step.full_slots,
            LayerKind::Window => &step.window_slots,
        };
        self.pools[index].write(slots, &keys, &values);
        Ok(queries)
    }

    /// What attention adds to the residual of the chosen rows.
    fn attention(&mut self, step: &Step<'_>, place: Place<'_>, queries: &[f32]) -> Result<Tensor> {
        let Place { index, stored, projections, chosen } = place;
        let config = self.checkpoint.config();
        let attention = Attention {
            simd: self.simd,
            kind: config.layers[index],
            window: config.window as usize,
            block_size: self.block_size,
            head_dim: config.head_dim as usize,
            num_kv_heads: config.num_kv_heads as usize,
            sinks: &stored.sinks,
            pool: &self.pools[index],
        };
        let attended = attention.run(step.batch, &chosen.rows, queries);
        mark(&mut self.clock, "attention");
        let width = config.query_size();
        let inputs = arrange(self.simd, chosen.rows.len(), width, |index, row| {
            row.fill(&attended[index * width..][..width]);
        });
        let mut output = projections.output.run(&inputs);
        if let Some(adapters) = &step.adapters {
            let adapters = adapters.layer(index, &chosen.rows);
            adapters.add(Target::Output, &attended, width, &mut output);
        }
        mark(&mut self.clock, "attention output");
        let shape = (chosen.rows.len(), config.hidden_size as usize);
        Tensor::from_vec(output, shape, &Device::Cpu)
    }

    /// What the experts add to the residual.
    fn mlp(&mut self, step: &Step<'_>, place: Place<'_>, x: &Tensor) -> Result<Tensor> {
        let Place { index, stored, projections, chosen } = place;
        let config = self.checkpoint.config();
        let adapters = step.adapters.as_ref().map(|of| of.layer(index, &chosen.rows));
        let normed = self.norm(x, 2 * index + 1)?;
        mark(&mut self.clock, "norm");
        let mut router_logits = projections.router.run(&self.arranged(&normed));
        if let Some(adapters) = adapters {
            let hidden = config.hidden_size as usize;
            adapters.add(Target::Router, &normed, hidden, &mut router_logits);
        }
        let (simd, precision) = (self.simd, self.precision);
        let experts = Experts { simd, precision, config, layer: stored, adapters, x: &normed };
        let answers = experts.run(&router_logits, &mut self.clock);
        Tensor::from_vec(answers, x.dims(), &Device::Cpu)
    }

    /// Rows of the residual's width in the order that dense products read.
    fn arranged(&self, rows: &[f32]) -> Arranged {
        let width = self.checkpoint.config().hidden_size as usize;
        arrange(self.simd, rows.len() / width, width, |index, row| {
            row.fill(&rows[index * width..][..width]);
        })
    }

    /// RMS norm: rows scaled to a mean square of one, times the gain.
    fn norm(&self, x: &Tensor, gain: usize) -> Result<Vec<f32>> {
        let (gain, epsilon) = (&self.gains[gain], self.checkpoint.config().rms_norm_eps);
        with_values(x, |x| {
            let mut out = vec![0.0; x.len()];
            out.par_chunks_mut(gain.len())
                .zip(x.par_chunks(gain.len()))
                .for_each(|(out, x)| norm_row(x, gain, epsilon, out));
            out
        })
    }
}

/// One row of an RMS norm.
fn norm_row(x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut squares = [0.0_f32; BLOCK];
    for x in x.as_chunks::<BLOCK>().0 {
        for (square, x) in squares.iter_mut().zip(x) {
            *square += x * x;
        }
    }
    let root = (squares.iter().sum::<f32>() / x.len() as f32 + epsilon).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x / root * gain;
    }
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
