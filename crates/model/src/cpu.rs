//! Runs GPT-OSS on the processor: candle tensors for the residual, our own loops for everything that reads
//! stored weights or cached keys.
//!
//! One forward serves prefill, decode and mixed steps, and the sums of a row never depend on the rows beside it:
//! with the same tokens an answer is the same bit for bit, alone or in a crowd. Activations and accumulation are
//! float32. Keys and values lie in two pools of blocks taken when the executor is made; the system hands their
//! pages over as they are first written.

mod adapters;
mod attention;
mod experts;
mod forward;
mod kv_pool;
mod projections;
mod warm;

use std::thread::JoinHandle;

use candle_core::Tensor;
use harmonium_engine::{Batch, Executor, ExecutorError, ExecutorSpec, Sampled};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use self::forward::Model;
use crate::adapter::Adapter;
use crate::checkpoint::{Checkpoint, Contents};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::memory::{self, KvLimits};
use crate::profile::{self, Clock, OpTime, Profile};
use crate::simd::{Precision, Simd};
use crate::{batch, sampler};

/// Bound of [`CpuOptions::num_threads`].
const MAX_THREADS: usize = 1 << 12;

/// What a [`CpuExecutor`] may take of the machine.
#[derive(Debug, Clone)]
pub struct CpuOptions {
    /// Longest sequence in tokens; `None` takes the model's own bound, or what `kv_bytes` holds if that is less.
    pub context_len: Option<u32>,
    /// Memory for keys and values, in bytes.
    pub kv_bytes: u64,
    /// Most rows of one step.
    pub max_rows: u32,
    /// Most sequences of one step.
    pub max_sequences: u32,
    /// Positions in one block.
    pub block_size: u32,
    /// Threads; `None` takes one a core.
    pub num_threads: Option<usize>,
    /// How many ids the tokenizer knows. Rows of the vocabulary from here on are padding and never chosen.
    pub num_tokens: Option<u32>,
    /// How finely activations are rounded before they meet MXFP4 weights.
    pub precision: Precision,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self {
            context_len: None,
            kv_bytes: 1 << 30,
            max_rows: 512,
            max_sequences: 64,
            block_size: 16,
            num_threads: None,
            num_tokens: None,
            precision: Precision::default(),
        }
    }
}

impl CpuOptions {
    /// The `kv_bytes` in which one sequence of full length fits beside the windows of all others. Most sequences
    /// are far shorter than the context, so this is room for many. The other fields are taken as they are.
    pub fn kv_bytes_for_one_context(&self, config: &Config) -> u64 {
        memory::bytes_for_one_context(config, &self.limits())
    }

    /// Prefixes of chats end every few hundred tokens: one spare window block for four full ones covers them.
    fn limits(&self) -> KvLimits {
        KvLimits {
            context_len: self.context_len,
            kv_bytes: self.kv_bytes,
            max_rows: self.max_rows,
            max_sequences: self.max_sequences,
            block_size: self.block_size,
            element_bytes: 4,
            full_blocks_per_spare: 4,
        }
    }
}

/// Runs batches over a checkpoint on its own threads.
pub struct CpuExecutor {
    spec: ExecutorSpec,
    model: Model,
    threads: ThreadPool,
    num_tokens: usize,
    /// The step that was submitted.
    submitted: Option<Batch>,
    /// Brings mapped weights into memory; taken by whoever waits for it.
    warming: Option<JoinHandle<()>>,
}

impl CpuExecutor {
    /// Plans memory and starts the threads. Weights stay where the checkpoint has them; what is mapped of files is
    /// brought into memory meanwhile.
    pub fn new(checkpoint: &Checkpoint, options: &CpuOptions) -> Result<Self> {
        let config = checkpoint.config();
        let Contents::Stored(weights) = checkpoint.contents() else {
            let message =
                "synthetic ones are made on a device; for the processor they must lie in files";
            return Err(Error::Option { option: "weights", message: message.to_owned() });
        };
        if options.num_threads.is_some_and(|num| !(1..=MAX_THREADS).contains(&num)) {
            let message =
                format!("{} is not from 1 to {MAX_THREADS}", options.num_threads.unwrap_or(0));
            return Err(Error::Option { option: "num_threads", message });
        }
        let spec = memory::plan(config, &options.limits())?;
        let num_tokens = options.num_tokens.unwrap_or(config.vocab_size);
        if num_tokens == 0 || num_tokens > config.vocab_size {
            let message =
                format!("{num_tokens} is not from 1 to the {} rows there are", config.vocab_size);
            return Err(Error::Option { option: "num_tokens", message });
        }
        let threads = ThreadPoolBuilder::new()
            .num_threads(options.num_threads.unwrap_or(0))
            .thread_name(|index| format!("cpu-executor-{index}"))
            .build()
            .map_err(|e| Error::Option { option: "num_threads", message: e.to_string() })?;
        let simd = Simd::detect();
        let model =
            threads.install(|| Model::new(checkpoint, weights, &spec, simd, options.precision))?;
        let warming = warm::start(weights);
        tracing::debug!(?simd, threads = threads.current_num_threads(), ?spec, "planned");
        let num_tokens = num_tokens as usize;
        Ok(Self { spec, model, threads, num_tokens, submitted: None, warming })
    }

    /// Runs spans that name an adapter with it; ids are the places in `adapters`, all of them opened for this model's
    /// config.
    pub fn with_adapters(mut self, adapters: Vec<Adapter>) -> Self {
        self.spec.num_adapters = u32::try_from(adapters.len()).expect("no memory holds so many");
        self.model.set_adapters(adapters);
        self
    }

    /// Runs a step and returns the logits of some of its rows, `[rows, vocab]`.
    pub(crate) fn logits(
        &mut self,
        batch: &Batch,
        rows: &[usize],
    ) -> Result<Vec<f32>, ExecutorError> {
        let logits = self.forward(batch, rows)?;
        forward::with_values(&logits, <[f32]>::to_vec)
            .map_err(|e| ExecutorError::Step(e.to_string()))
    }

    fn forward(&mut self, batch: &Batch, rows: &[usize]) -> Result<Tensor, ExecutorError> {
        batch::check(batch, &self.spec).map_err(ExecutorError::Step)?;
        let model = &mut self.model;
        self.threads
            .install(|| model.forward(batch, rows))
            .map_err(|e| ExecutorError::Step(e.to_string()))
    }
}

impl Executor for CpuExecutor {
    fn spec(&self) -> &ExecutorSpec {
        &self.spec
    }

    /// Only keeps the step: it is computed on this thread, whose caller first has clients to tell of the step before.
    fn submit(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        self.submitted = Some(batch.clone());
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Sampled>, ExecutorError> {
        let batch = self.submitted.take();
        let batch = batch.ok_or_else(|| ExecutorError::Step("no step is under way".to_owned()))?;
        let rows: Vec<usize> = batch.samples.iter().map(|sample| sample.row).collect();
        let logits = self.forward(&batch, &rows)?;
        let num_tokens = self.num_tokens;
        self.threads.install(|| {
            forward::with_values(&logits, |logits| {
                logits
                    .par_chunks(self.spec.vocab_size as usize)
                    .zip(&batch.samples)
                    .map(|(logits, sample)| sampler::sample(&logits[..num_tokens], sample))
                    .collect()
            })
            .map_err(|e| ExecutorError::Step(e.to_string()))?
        })
    }
}

impl Profile for CpuExecutor {
    fn settle(&mut self) {
        // A thread that panicked has read what it has read.
        self.warming.take().map(JoinHandle::join);
    }

    fn profile(&mut self, batch: &Batch, repeats: u32) -> Result<Vec<OpTime>, ExecutorError> {
        self.model.clock = Some(Clock::start());
        let steps = (0..repeats).try_for_each(|_| {
            self.run(batch)?;
            profile::mark(&mut self.model.clock, "sample");
            if let Some(clock) = &mut self.model.clock {
                clock.end();
            }
            Ok(())
        });
        let clock = self.model.clock.take();
        steps.map(|()| clock.map_or_else(Vec::new, Clock::medians))
    }
}
