//! Raw logits of given tokens, for comparison with other implementations.
//!
//! The tokens go through the very forward pass and block tables that serve requests, in one prefill, in chunks
//! or token by token.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use harmonium_cuda::Device;
use harmonium_engine::{AdapterId, Batch, BlockId, Executor, ExecutorError, ExecutorSpec, Span};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::adapter::Adapter;
use crate::checkpoint::Checkpoint;
use crate::cpu::{CpuExecutor, CpuOptions};
use crate::cuda::{CudaExecutor, CudaOptions};
use crate::error::{Error, Result};
use crate::simd::Precision;

/// How the tokens are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsMode {
    /// All in one prefill.
    All,
    /// In chunks of this many.
    Chunk(usize),
    /// This many of the last one by one, the others before them in one prefill.
    DecodeLast(usize),
}

/// What the tokens are run on.
#[derive(Clone, Copy)]
pub enum LogitsPlace<'a> {
    /// The processor, with activations rounded so finely before they meet MXFP4 weights.
    Cpu(Precision),
    /// A device.
    Device(&'a Device),
}

/// Most rows that a device takes at once; longer chunks are cut.
const MAX_DEVICE_ROWS: usize = 4096;

/// Logits of every token, row-major `[tokens, vocab_size]`.
pub fn logits(
    checkpoint: &Checkpoint,
    tokens: &[u32],
    mode: LogitsMode,
    place: LogitsPlace<'_>,
) -> Result<Vec<f32>> {
    logits_with(checkpoint, Vec::new(), tokens, mode, place)
}

/// The same of the model with an adapter, which was opened for its config.
pub fn adapted_logits(
    checkpoint: &Checkpoint,
    adapter: Adapter,
    tokens: &[u32],
    mode: LogitsMode,
    place: LogitsPlace<'_>,
) -> Result<Vec<f32>> {
    logits_with(checkpoint, vec![adapter], tokens, mode, place)
}

/// Logits with the first of these adapters, if there is one.
fn logits_with(
    checkpoint: &Checkpoint,
    adapters: Vec<Adapter>,
    tokens: &[u32],
    mode: LogitsMode,
    place: LogitsPlace<'_>,
) -> Result<Vec<f32>> {
    let mut chunks = chunks(checkpoint, tokens, mode)?;
    if matches!(place, LogitsPlace::Device(_)) {
        chunks = chunks.iter().flat_map(|chunk| chunk.chunks(MAX_DEVICE_ROWS)).collect();
    }
    let id = adapters.first().map(|_| AdapterId(0));
    let executor = match place {
        LogitsPlace::Device(device) => {
            let executor = device_executor(checkpoint, &adapters, device, &chunks)?;
            LogitsExecutor::Cuda(Box::new(executor))
        }
        LogitsPlace::Cpu(precision) => {
            let executor = cpu_executor(checkpoint, precision, &chunks)?;
            LogitsExecutor::Cpu(Box::new(executor.with_adapters(adapters)))
        }
    };
    run(executor, id, &chunks)
}

/// The tokens of each step.
fn chunks<'a>(
    checkpoint: &Checkpoint,
    tokens: &'a [u32],
    mode: LogitsMode,
) -> Result<Vec<&'a [u32]>> {
    let context_len = checkpoint.config().context_len;
    let len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    if len == 0 || len > context_len {
        let message = format!("{} are not from 1 to {context_len}", tokens.len());
        return Err(Error::Tokens(message));
    }
    let mut chunks = match mode {
        LogitsMode::All => vec![tokens],
        LogitsMode::Chunk(0) => return Err(Error::Tokens("a chunk of 0 tokens".to_owned())),
        LogitsMode::Chunk(chunk_len) => tokens.chunks(chunk_len).collect(),
        LogitsMode::DecodeLast(count) => {
            let (prefill, decoded) = tokens.split_at(tokens.len().saturating_sub(count));
            [prefill].into_iter().chain(decoded.chunks(1)).collect()
        }
    };
    chunks.retain(|chunk| !chunk.is_empty());
    Ok(chunks)
}

/// Runs chunks of one sequence in order.
fn run(
    mut executor: LogitsExecutor,
    adapter: Option<AdapterId>,
    chunks: &[&[u32]],
) -> Result<Vec<f32>> {
    let mut sequence = Sequence::new(executor.spec(), adapter);
    let num_tokens: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    let mut all = Vec::with_capacity(num_tokens * executor.spec().vocab_size as usize);
    for chunk in chunks {
        let batch = sequence.advance(chunk);
        let rows: Vec<usize> = (0..chunk.len()).collect();
        all.extend(executor.logits(&batch, &rows)?);
    }
    Ok(all)
}

/// The median over rows of ‖ours − reference‖ / ‖reference‖. A row that is no number counts as infinitely wrong.
pub fn median_row_error(ours: &[f32], reference: &[f32], num_rows: usize) -> f64 {
    let row_len = (reference.len() / num_rows.max(1)).max(1);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let rows = ours.chunks(row_len).zip(reference.chunks(row_len));
    let mut errors: Vec<f64> = rows
        .map(|(ours, reference)| {
            let pairs = ours.iter().zip(reference);
            let difference = norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
            let error = difference / norm(&mut reference.iter().map(|value| f64::from(*value)));
            if error.is_nan() { f64::INFINITY } else { error }
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    errors.get(errors.len() / 2).copied().unwrap_or(f64::INFINITY)
}

fn cpu_executor(
    checkpoint: &Checkpoint,
    precision: Precision,
    chunks: &[&[u32]],
) -> Result<CpuExecutor> {
    let (len, max_rows) = lens(chunks);
    let options = CpuOptions {
        context_len: Some(len),
        // Taken page by page as positions are written, so a generous bound costs nothing.
        kv_bytes: 1 << 40,
        max_rows,
        max_sequences: 1,
        precision,
        ..CpuOptions::default()
    };
    CpuExecutor::new(checkpoint, &options)
}

fn device_executor(
    checkpoint: &Checkpoint,
    adapters: &[Adapter],
    device: &Device,
    chunks: &[&[u32]],
) -> Result<CudaExecutor> {
    let (len, max_rows) = lens(chunks);
    let mut options = CudaOptions {
        context_len: Some(len),
        max_rows,
        max_sequences: 64,
        ..CudaOptions::default()
    };
    options.kv_bytes = Some(options.kv_bytes_for_one_context(checkpoint.config()));
    CudaExecutor::new(device, checkpoint, adapters, &options, &|_| ())
}

/// Tokens of all chunks and of the longest.
fn lens(chunks: &[&[u32]]) -> (u32, u32) {
    let narrow = |len| u32::try_from(len).expect("all together fit a context");
    let all = chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
    let longest = chunks.iter().map(|chunk| chunk.len()).max().unwrap_or(1);
    (narrow(all), narrow(longest))
}

/// The executor of one sequence, wherever it runs.
enum LogitsExecutor {
    Cpu(Box<CpuExecutor>),
    Cuda(Box<CudaExecutor>),
}

impl LogitsExecutor {
    fn spec(&self) -> &ExecutorSpec {
        match self {
            Self::Cpu(executor) => executor.spec(),
            Self::Cuda(executor) => executor.spec(),
        }
    }

    fn logits(&mut self, batch: &Batch, rows: &[usize]) -> Result<Vec<f32>, ExecutorError> {
        match self {
            Self::Cpu(executor) => executor.logits(batch, rows),
            Self::Cuda(executor) => executor.logits(batch, rows),
        }
    }
}

/// Writes logits as tensor `logits`, float32 `[tokens, vocab_size]`, to a safetensors file.
pub fn write(file: &Path, logits: &[f32], vocab_size: usize) -> Result<()> {
    let failed = |message: String| Error::File { file: file.to_owned(), message };
    if vocab_size == 0 || !logits.len().is_multiple_of(vocab_size) {
        return Err(failed(format!("{} logits are no rows of {vocab_size}", logits.len())));
    }
    let bytes: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![logits.len() / vocab_size, vocab_size];
    let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(|e| failed(e.to_string()))?;
    safetensors::serialize_to_file(HashMap::from([("logits", view)]), None, file)
        .map_err(|e| failed(e.to_string()))
}

/// All tokens of one sequence as one step.
#[cfg(all(test, feature = "host-device"))]
pub(crate) fn prefill(spec: &ExecutorSpec, tokens: &[u32]) -> Batch {
    Sequence::new(spec, None).advance(tokens)
}

/// One sequence that holds its blocks as the engine would: window blocks go back once no row sees them.
struct Sequence {
    block_size: usize,
    window: usize,
    len: usize,
    full_blocks: Vec<BlockId>,
    window_blocks: VecDeque<BlockId>,
    window_first_block: usize,
    /// The block freed last is taken first, so tables are soon out of order.
    free_full: Vec<BlockId>,
    free_window: Vec<BlockId>,
    adapter: Option<AdapterId>,
}

impl Sequence {
    fn new(spec: &ExecutorSpec, adapter: Option<AdapterId>) -> Self {
        Self {
            block_size: spec.block_size as usize,
            window: spec.window as usize,
            len: 0,
            full_blocks: Vec::new(),
            window_blocks: VecDeque::new(),
            window_first_block: 0,
            free_full: (0..spec.num_full_blocks).collect(),
            free_window: (0..spec.num_window_blocks).collect(),
            adapter,
        }
    }

    /// The batch that runs the next tokens.
    fn advance(&mut self, tokens: &[u32]) -> Batch {
        let oldest_seen = (self.len + 1).saturating_sub(self.window);
        while self.window_first_block < oldest_seen / self.block_size {
            self.free_window.extend(self.window_blocks.pop_front());
            self.window_first_block += 1;
        }
        let positions = self.len..self.len + tokens.len();
        let num_blocks = positions.end.div_ceil(self.block_size);
        let take = "the executor was planned for all tokens at once";
        while self.full_blocks.len() < num_blocks {
            self.full_blocks.push(self.free_full.pop().expect(take));
        }
        while self.window_first_block + self.window_blocks.len() < num_blocks {
            self.window_blocks.push_back(self.free_window.pop().expect(take));
        }
        self.len = positions.end;
        Batch {
            tokens: tokens.to_vec(),
            positions: positions.map(|position| position as u32).collect(),
            spans: vec![Span {
                rows: 0..tokens.len(),
                full_blocks: 0..self.full_blocks.len(),
                window_blocks: 0..self.window_blocks.len(),
                window_first_block: self.window_first_block as u32,
                adapter: self.adapter,
            }],
            full_blocks: self.full_blocks.clone(),
            window_blocks: self.window_blocks.iter().copied().collect(),
            samples: Vec::new(),
        }
    }
}
