//! Runs GPT-OSS on a CUDA device: the card, or the host device that runs the same kernels for tests.
//!
//! Weights are copied once, in the checkpoint's layout but for the bits within MXFP4 blocks; everything else a step works
//! in is taken when the executor is made (see [`plan`]). What enters a product, keys and values are bf16; the
//! residual stream, sums and the softmax are float32.

mod adapters;
#[cfg(test)]
#[cfg(feature = "host-device")]
mod choices;
mod forward;
#[cfg(test)]
#[cfg(feature = "host-device")]
mod parity;
mod plan;
mod step;
mod synthetic;
mod weights;
mod wishes;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use harmonium_cuda::ops::{MAX_ALTERNATIVES, NO_TOKEN, rows_per_tile};
use harmonium_cuda::{Device, Graph};
use harmonium_engine::{Batch, Executor, ExecutorError, ExecutorSpec, Logprobs, Sample, Sampled};

use self::adapters::DeviceAdapters;
use self::forward::Model;
use self::plan::MAX_ADJUSTMENTS;
pub use self::plan::{Plan, PlanItem, plan};
use self::step::Step;
use self::weights::DeviceWeights;
use self::wishes::Wishes;
use crate::adapter::Adapter;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::profile::{self, OpTime, Profile};
use crate::{batch, sampler};

/// What a [`CudaExecutor`] may take of a device.
#[derive(Debug, Clone)]
pub struct CudaOptions {
    /// Longest sequence in tokens; `None` takes the model's own bound, or what fits if that is less.
    pub context_len: Option<u32>,
    /// Most memory for keys and values, in bytes; `None` takes all that is left.
    pub kv_bytes: Option<u64>,
    /// Most rows of one step.
    pub max_rows: u32,
    /// Most sequences of one step.
    pub max_sequences: u32,
    /// How many ids the tokenizer knows. Rows of the vocabulary from here on are padding and never chosen.
    pub num_tokens: Option<u32>,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            context_len: None,
            kv_bytes: None,
            max_rows: 2048,
            max_sequences: 256,
            num_tokens: None,
        }
    }
}

impl CudaOptions {
    /// The `kv_bytes` in which one sequence of full length fits beside the windows of all others. The other fields are
    /// taken as they are.
    pub fn kv_bytes_for_one_context(&self, config: &Config) -> u64 {
        plan::kv_bytes_for_one_context(config, self)
    }
}

/// What decides which kernels a decode step runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct GraphKind {
    rows: usize,
    /// Whether a row chooses among less than all tokens.
    truncates: bool,
    /// Whether a row has an adapter.
    is_adapted: bool,
}

/// Runs batches on a device.
pub struct CudaExecutor {
    spec: ExecutorSpec,
    /// Decode steps, captured when their kind first occurs. Before the model, whose memory they use.
    graphs: BTreeMap<GraphKind, Graph>,
    model: Model,
    vocab_size: usize,
    num_tokens: usize,
    /// What is wished of the step under way.
    samples: Vec<Sample>,
}

impl CudaExecutor {
    /// Plans the device's memory, copies weights and adapters and takes all buffers. Spans name an adapter by its place in
    /// `adapters`, all of them opened for this model's config. `progress` is told, from any thread, how many bytes of
    /// weights more are there.
    pub fn new(
        device: &Device,
        checkpoint: &Checkpoint,
        adapters: &[Adapter],
        options: &CudaOptions,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        let config = checkpoint.config();
        let plan = plan(config, adapters, options, device.memory()?.free as u64)?;
        let num_tokens = options.num_tokens.unwrap_or(config.vocab_size);
        if num_tokens == 0 || num_tokens > config.vocab_size {
            let message =
                format!("{num_tokens} is not from 1 to the {} rows there are", config.vocab_size);
            return Err(Error::Option { option: "num_tokens", message });
        }
        tracing::debug!(device = device.name(), ?plan, "planned");
        let started = Instant::now();
        let weights = DeviceWeights::new(device, checkpoint, progress)?;
        device.synchronize()?;
        let (bytes, seconds) = (checkpoint.num_bytes(), started.elapsed().as_secs_f64());
        tracing::info!(bytes, seconds, "weights are on the device");
        let max_rows = options.max_rows as usize;
        let adapters = DeviceAdapters::new(device, config, adapters, max_rows)?;
        let model = Model::new(device, config, weights, adapters, &plan, num_tokens as usize)?;
        Ok(Self {
            spec: plan.spec,
            graphs: BTreeMap::new(),
            model,
            vocab_size: config.vocab_size as usize,
            num_tokens: num_tokens as usize,
            samples: Vec::new(),
        })
    }

    /// Runs a step up to the last norm.
    fn step(&self, batch: &Batch, wanted: &[usize], wishes: Wishes) -> Result<Step, ExecutorError> {
        let step = self.upload_step(batch, wanted, wishes)?;
        self.model.forward(&step).map_err(lost)?;
        Ok(step)
    }

    /// Uploads a step of any rows.
    fn upload_step(
        &self,
        batch: &Batch,
        wanted: &[usize],
        wishes: Wishes,
    ) -> Result<Step, ExecutorError> {
        batch::check(batch, &self.spec).map_err(ExecutorError::Step)?;
        let per_tile = rows_per_tile(self.model.shape());
        let step = Step::new(batch, wanted, wishes, &self.spec, per_tile, batch.tokens.len());
        self.model.upload(&step).map_err(lost)?;
        Ok(step)
    }

    /// Runs a step and returns the logits of some of its rows, `[rows, vocab]`.
    pub(crate) fn logits(
        &mut self,
        batch: &Batch,
        rows: &[usize],
    ) -> Result<Vec<f32>, ExecutorError> {
        let step = self.step(batch, rows, Wishes::default())?;
        let mut all = Vec::with_capacity(rows.len() * self.vocab_size);
        // There is room for the logits of as many rows as a step has sequences, and a part begins at a multiple of four.
        let together = self.spec.max_sequences as usize / 4 * 4;
        if together == 0 {
            return Err(ExecutorError::Step("logits need room for four sequences".to_owned()));
        }
        for start in (0..rows.len()).step_by(together) {
            let range = start..rows.len().min(start + together);
            self.model.project(&step, range.clone()).map_err(lost)?;
            all.extend(self.model.logits(0..range.len()).map_err(lost)?);
        }
        Ok(all)
    }

    /// A step of single rows, replayed from a graph.
    fn decode(
        &mut self,
        batch: &Batch,
        rows: &[usize],
        wishes: Wishes,
    ) -> Result<(), ExecutorError> {
        let step = self.decode_step(batch, rows, wishes)?;
        let Step { rows, truncates, is_adapted, .. } = step;
        let graph = match self.graphs.entry(GraphKind { rows, truncates, is_adapted }) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.model.capture(&step).map_err(lost)?),
        };
        graph.replay().map_err(lost)
    }

    /// Uploads a step of single rows, padded to the size of a graph.
    fn decode_step(
        &self,
        batch: &Batch,
        rows: &[usize],
        wishes: Wishes,
    ) -> Result<Step, ExecutorError> {
        batch::check(batch, &self.spec).map_err(ExecutorError::Step)?;
        let max = self.spec.max_sequences.min(self.spec.max_rows) as usize;
        let size = graph_size(rows.len()).min(max);
        let per_tile = rows_per_tile(self.model.shape());
        let step = Step::new(batch, rows, wishes, &self.spec, per_tile, size);
        self.model.upload(&step).map_err(lost)?;
        Ok(step)
    }

    /// What was chosen for each sample of the last step. The processor chooses for a row that the device has no token for:
    /// one whose adjustments did not fit, or one that is an error.
    fn chosen(&self, samples: &[Sample]) -> Result<Vec<Sampled>, ExecutorError> {
        let tokens = self.model.tokens(samples.len()).map_err(lost)?;
        let has_logprobs = samples.iter().any(|sample| sample.params.logprobs.is_some());
        let logprobs = match has_logprobs {
            true => self.model.logprobs(samples.len()).map_err(lost)?,
            false => Vec::new(),
        };
        let mut logprobs = logprobs.chunks(1 + MAX_ALTERNATIVES);
        let mut all = Vec::with_capacity(samples.len());
        for (index, (sample, token)) in samples.iter().zip(tokens).enumerate() {
            let row = logprobs.next();
            all.push(if token == NO_TOKEN {
                let logits = self.model.logits(index..index + 1).map_err(lost)?;
                sampler::sample(&logits[..self.num_tokens], sample)?
            } else {
                let num_top =
                    sample.params.logprobs.map(|num| usize::from(num).min(self.num_tokens));
                let logprobs = num_top.zip(row).map(|(num_top, row)| Logprobs {
                    chosen: row[0].logprob,
                    top: row[1..=num_top].iter().map(|one| (one.token, one.logprob)).collect(),
                });
                Sampled { token, logprobs }
            });
        }
        Ok(all)
    }
}

impl Executor for CudaExecutor {
    fn spec(&self) -> &ExecutorSpec {
        &self.spec
    }

    /// Returns when the work is in the device's queue. The arrays are copied on the way there, and nothing that the
    /// host has to wait for is in the queue before them.
    fn submit(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let rows: Vec<usize> = batch.samples.iter().map(|sample| sample.row).collect();
        if rows.len() > self.spec.max_sequences as usize {
            let message = format!("{} samples, over {}", rows.len(), self.spec.max_sequences);
            return Err(ExecutorError::Step(message));
        }
        let wishes = Wishes::new(&batch.samples, self.num_tokens, MAX_ADJUSTMENTS);
        if is_decode(batch) {
            self.decode(batch, &rows, wishes)?;
        } else {
            let step = self.step(batch, &rows, wishes)?;
            self.model.choose(&step).map_err(lost)?;
        }
        self.samples.clone_from(&batch.samples);
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Sampled>, ExecutorError> {
        self.chosen(&self.samples)
    }
}

impl Profile for CudaExecutor {
    fn profile(&mut self, batch: &Batch, repeats: u32) -> Result<Vec<OpTime>, ExecutorError> {
        let rows: Vec<usize> = batch.samples.iter().map(|sample| sample.row).collect();
        let wishes = Wishes::new(&batch.samples, self.num_tokens, MAX_ADJUSTMENTS);
        let step = match is_decode(batch) {
            true => self.decode_step(batch, &rows, wishes)?,
            false => self.upload_step(batch, &rows, wishes)?,
        };
        let profile = self.model.profile(&step).map_err(lost)?;
        let mut times = profile::Repeats::default();
        for _ in 0..repeats {
            for timing in profile.run(&self.model.device).map_err(lost)? {
                times.add(timing.op, timing.kernel, f64::from(timing.ms) / 1e3);
            }
            times.end();
        }
        Ok(times.medians())
    }
}

/// Builds the arrays that a step of single rows uploads, and says how many bytes they are: what the processor does for such
/// a step while the device waits, for a benchmark.
pub fn build_arrays(batch: &Batch, spec: &ExecutorSpec) -> usize {
    let rows: Vec<usize> = batch.samples.iter().map(|sample| sample.row).collect();
    let wishes = Wishes::new(&batch.samples, spec.vocab_size as usize, MAX_ADJUSTMENTS);
    // Single rows need no tiles, whatever their size would be.
    Step::new(batch, &rows, wishes, spec, 1, rows.len()).bytes.len()
}

/// Whether every sequence has one row, and every row is wanted.
fn is_decode(batch: &Batch) -> bool {
    let wanted = batch.samples.iter().map(|sample| sample.row);
    batch.spans.len() == batch.tokens.len() && wanted.eq(0..batch.tokens.len())
}

/// Rows of the graph that serves `num_rows`: every size up to four, then steps that waste little.
fn graph_size(num_rows: usize) -> usize {
    match num_rows {
        0..=4 => num_rows,
        5..=32 => num_rows.next_multiple_of(4),
        33..=128 => num_rows.next_multiple_of(16),
        _ => num_rows.next_multiple_of(32),
    }
}

/// A device that failed once is not trusted again.
fn lost(error: harmonium_cuda::Error) -> ExecutorError {
    ExecutorError::Fatal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_are_few_and_waste_little() {
        let sizes: std::collections::BTreeSet<usize> = (1..=256).map(graph_size).collect();
        assert!(sizes.len() <= 24, "{sizes:?}");
        for num_rows in 1..=256 {
            let size = graph_size(num_rows);
            assert!(
                size >= num_rows && size - num_rows <= num_rows.max(6) / 2,
                "{num_rows}: {size}"
            );
        }
    }
}
