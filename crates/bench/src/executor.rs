//! Decode and prefill of an executor, step by step, with batches of our own making.
//!
//! All sequences of a batch share the blocks of one context, as chats with the same beginning do, and go on in blocks of
//! their own. So a context of any length is computed once, and the batch reads as much as one of strangers.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harmonium_engine::{
    AdapterId, Batch, BlockId, Executor, ExecutorError, ExecutorSpec, Sample, SamplingParams, Span,
};

/// Steps that are run first and not counted.
const WARM_UP: u32 = 2;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// It is more than the executor was planned for.
    #[error("{what} {wanted} needs more than the {available} there are")]
    TooLarge {
        /// Of what there is too little.
        what: &'static str,
        /// What would be needed.
        wanted: u64,
        /// What there is.
        available: u64,
    },
    /// A step failed.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
}

/// One token for each of several sequences, some steps long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decode {
    /// Sequences in the batch.
    pub num_sequences: u32,
    /// Tokens before the first that is generated, rounded down to whole blocks.
    pub context_len: u32,
    /// Steps that are counted; as many as there is room for at the end of the executor's context.
    pub num_steps: u32,
}

/// Which context an executor's blocks hold, so that it is computed once for all batch sizes. Belongs to one executor, on
/// which nothing else runs between two decodings.
#[derive(Debug, Default)]
pub struct Context(Option<u32>);

/// The prompt of one sequence, in chunks as long as a step may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens of the prompt.
    pub num_tokens: u32,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Tokens, of all sequences together.
    pub num_tokens: u64,
    /// Steps they took.
    pub num_steps: u32,
    /// Time of these steps.
    pub elapsed: Duration,
}

impl Measured {
    /// Tokens a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.num_tokens as f64 / self.elapsed.as_secs_f64()
    }

    /// Seconds a step.
    pub fn step_seconds(&self) -> f64 {
        self.elapsed.as_secs_f64() / f64::from(self.num_steps)
    }
}

impl Decode {
    /// Computes the context unless it is there, warms up, and measures.
    pub fn run(
        &self,
        executor: &mut dyn Executor,
        context: &mut Context,
    ) -> Result<Measured, BenchError> {
        let mut steps = self.prepare(executor, context)?;
        for batch in steps.by_ref().take(WARM_UP as usize) {
            executor.run(&batch)?;
        }
        let (mut num_steps, started) = (0, Instant::now());
        for batch in steps {
            executor.run(&batch)?;
            num_steps += 1;
        }
        let num_tokens = u64::from(num_steps) * u64::from(self.num_sequences);
        Ok(Measured { num_tokens, num_steps, elapsed: started.elapsed() })
    }

    /// Computes the context unless it is there; what is left are the steps that decode, those that warm up first.
    pub fn prepare(
        &self,
        executor: &mut dyn Executor,
        context: &mut Context,
    ) -> Result<impl Iterator<Item = Batch> + use<>, BenchError> {
        let spec = executor.spec().clone();
        let shared = self.context_len / spec.block_size * spec.block_size;
        let room = spec.context_len.saturating_sub(shared).max(WARM_UP + 1);
        let num_generated = room.min(WARM_UP + self.num_steps);
        within("sequences", self.num_sequences.into(), spec.max_sequences.into())?;
        within("rows", self.num_sequences.into(), spec.max_rows.into())?;
        let layout = Layout::new(&spec, shared, num_generated, self.num_sequences)?;
        // Where the shared blocks lie depends on their number alone, and decoding writes to others.
        if context.0 != Some(shared) {
            context.0 = None;
            layout.prefill(executor, shared)?;
            context.0 = Some(shared);
        }
        let num_sequences = self.num_sequences;
        Ok((0..num_generated).map(move |step| layout.decode(&spec, shared + step, num_sequences)))
    }
}

impl Prefill {
    /// Measures. The first chunk warms up what there is to warm up, and counts.
    pub fn run(&self, executor: &mut dyn Executor) -> Result<Measured, BenchError> {
        let spec = executor.spec().clone();
        let layout = Layout::new(&spec, self.num_tokens, 0, 1)?;
        let started = Instant::now();
        let num_steps = layout.prefill(executor, self.num_tokens)?;
        let num_tokens = self.num_tokens.into();
        Ok(Measured { num_tokens, num_steps, elapsed: started.elapsed() })
    }

    /// The step that ends the prompt. What it reads of the steps before is there after [`Prefill::run`].
    pub fn last_step(&self, spec: &ExecutorSpec) -> Result<Batch, BenchError> {
        let layout = Layout::new(spec, self.num_tokens, 0, 1)?;
        let first = self.num_tokens.saturating_sub(1) / spec.max_rows * spec.max_rows;
        Ok(layout.chunk(spec, first..self.num_tokens, self.num_tokens))
    }
}

fn within(what: &'static str, wanted: u64, available: u64) -> Result<(), BenchError> {
    if wanted > available {
        return Err(BenchError::TooLarge { what, wanted, available });
    }
    Ok(())
}

/// Which blocks hold what.
struct Layout {
    block_len: u32,
    window: u32,
    /// Blocks of the shared context, numbered as they follow each other.
    num_shared: u32,
    /// Window blocks that the shared context takes in turn.
    num_in_turn: u32,
    /// Blocks of each sequence's own.
    num_own: u32,
}

impl Layout {
    fn new(
        spec: &ExecutorSpec,
        shared: u32,
        num_generated: u32,
        num_sequences: u32,
    ) -> Result<Self, BenchError> {
        let blocks = |positions: u32| positions.div_ceil(spec.block_size);
        let layout = Self {
            block_len: spec.block_size,
            window: spec.window,
            num_shared: blocks(shared),
            // A chunk and the window before it, and one block more at either end.
            num_in_turn: blocks(spec.window + spec.max_rows.min(shared.max(1))) + 2,
            num_own: blocks(num_generated),
        };
        let own = u64::from(num_sequences) * u64::from(layout.num_own);
        let len = u64::from(shared) + u64::from(num_generated);
        within("context", len, spec.context_len.into())?;
        within("blocks", u64::from(layout.num_shared) + own, spec.num_full_blocks.into())?;
        let window_blocks = u64::from(layout.num_in_turn) + own;
        within("window blocks", window_blocks, spec.num_window_blocks.into())?;
        Ok(layout)
    }

    /// The first block of positions that a row at `position` sees through the window.
    fn first_seen(&self, position: u32) -> u32 {
        (position + 1).saturating_sub(self.window) / self.block_len
    }

    fn window_block(&self, block: u32) -> BlockId {
        block % self.num_in_turn
    }

    /// Runs the first `len` tokens of the shared context and returns the number of steps.
    fn prefill(&self, executor: &mut dyn Executor, len: u32) -> Result<u32, BenchError> {
        let spec = executor.spec().clone();
        let mut num_steps = 0;
        let mut first = 0;
        while first < len {
            let end = len.min(first + spec.max_rows);
            executor.run(&self.chunk(&spec, first..end, len))?;
            num_steps += 1;
            first = end;
        }
        Ok(num_steps)
    }

    /// Positions of the shared context in one step; the one that ends the `len` tokens is sampled from.
    fn chunk(&self, spec: &ExecutorSpec, positions: Range<u32>, len: u32) -> Batch {
        let num_blocks = positions.end.div_ceil(self.block_len);
        let first_block = self.first_seen(positions.start);
        let window_blocks: Vec<BlockId> =
            (first_block..num_blocks).map(|block| self.window_block(block)).collect();
        let rows = 0..positions.len();
        let is_last = positions.end == len;
        Batch {
            tokens: positions.clone().map(|position| token(position, spec)).collect(),
            positions: positions.collect(),
            spans: vec![Span {
                rows: rows.clone(),
                full_blocks: 0..num_blocks as usize,
                window_blocks: 0..window_blocks.len(),
                window_first_block: first_block,
                adapter: adapter(0, spec),
            }],
            full_blocks: (0..num_blocks).collect(),
            window_blocks,
            samples: if is_last { vec![sample(rows.end - 1)] } else { Vec::new() },
        }
    }

    /// One row for each sequence, at `position`.
    fn decode(&self, spec: &ExecutorSpec, position: u32, num_sequences: u32) -> Batch {
        let mut batch = Batch::default();
        let first_block = self.first_seen(position);
        let own = position / self.block_len - self.num_shared + 1;
        for sequence in 0..num_sequences {
            let own: Range<BlockId> = sequence * self.num_own..sequence * self.num_own + own;
            let row = sequence as usize;
            let (full_start, window_start) = (batch.full_blocks.len(), batch.window_blocks.len());
            batch.full_blocks.extend(0..self.num_shared);
            batch.full_blocks.extend(own.clone().map(|block| self.num_shared + block));
            let shared = first_block.min(self.num_shared)..self.num_shared;
            batch.window_blocks.extend(shared.map(|block| self.window_block(block)));
            let hidden = first_block.saturating_sub(self.num_shared);
            batch.window_blocks.extend(own.skip(hidden as usize).map(|b| self.num_in_turn + b));
            // Sequences differ from here on, so that they go to different experts.
            batch.tokens.push(token(position ^ (sequence + 1) << 12, spec));
            batch.positions.push(position);
            batch.spans.push(Span {
                rows: row..row + 1,
                full_blocks: full_start..batch.full_blocks.len(),
                window_blocks: window_start..batch.window_blocks.len(),
                window_first_block: first_block,
                adapter: adapter(sequence, spec),
            });
            batch.samples.push(sample(row));
        }
        batch
    }
}

/// Sequences take the executor's adapters in turn, if it has any.
fn adapter(sequence: u32, spec: &ExecutorSpec) -> Option<AdapterId> {
    sequence.checked_rem(spec.num_adapters).map(AdapterId)
}

/// Some token for each position, spread over the vocabulary.
fn token(position: u32, spec: &ExecutorSpec) -> u32 {
    position.wrapping_mul(2_654_435_761) % spec.vocab_size
}

fn sample(row: usize) -> Sample {
    Sample {
        row,
        params: Arc::new(SamplingParams::greedy()),
        seed: 0,
        counts: Vec::new(),
        mask: None,
    }
}

#[cfg(test)]
mod tests {
    use harmonium_engine::fake::{self, FakeExecutor};

    use super::*;

    /// The fake executor reads back everything that a row may see, through the block tables, and fails on the first
    /// position that is not what the sequence had there.
    fn executor() -> FakeExecutor {
        FakeExecutor::new(ExecutorSpec {
            window: 24,
            max_rows: 40,
            num_window_blocks: 40,
            ..fake::spec()
        })
    }

    #[test]
    fn contexts_of_any_length_are_decoded_through_valid_tables() {
        for context_len in [0, 15, 16, 64, 130, 1000] {
            let decode = Decode { num_sequences: 5, context_len, num_steps: 30 };
            let measured = decode.run(&mut executor(), &mut Context::default()).unwrap();
            assert_eq!((measured.num_tokens, measured.num_steps), (150, 30));
        }
    }

    #[test]
    fn sequences_take_adapters_in_turn() {
        let spec = ExecutorSpec { num_adapters: 2, ..fake::spec() };
        let layout = Layout::new(&spec, 0, 4, 3).unwrap();
        let batch = layout.decode(&spec, 0, 3);
        let taken: Vec<_> = batch.spans.iter().map(|span| span.adapter).collect();
        assert_eq!(taken, [0, 1, 0].map(|id| Some(AdapterId(id))));
        assert_eq!(layout.chunk(&spec, 0..4, 4).spans[0].adapter, Some(AdapterId(0)));
    }

    #[test]
    fn steps_end_with_the_context() {
        let decode = Decode { num_sequences: 2, context_len: 4095, num_steps: 30 };
        let measured = decode.run(&mut executor(), &mut Context::default()).unwrap();
        assert_eq!((measured.num_tokens, measured.num_steps), (28, 14));
    }

    #[test]
    fn a_context_is_computed_once_for_all_batch_sizes() {
        let mut executor = executor();
        let mut context = Context::default();
        for (context_len, num_sequences) in [(130, 1), (130, 7), (64, 3), (130, 2)] {
            // Fails if a block does not hold what it should.
            Decode { num_sequences, context_len, num_steps: 20 }
                .run(&mut executor, &mut context)
                .unwrap();
        }
    }

    #[test]
    fn prompts_are_cut_into_steps() {
        let measured = Prefill { num_tokens: 100 }.run(&mut executor()).unwrap();
        assert_eq!((measured.num_tokens, measured.num_steps), (100, 3));
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_both_numbers() {
        let decode = Decode { num_sequences: 5, context_len: 4109, num_steps: 30 };
        let run = |decode: Decode| decode.run(&mut executor(), &mut Context::default());
        let message = run(decode).unwrap_err().to_string();
        assert!(message.contains("4099") && message.contains("4096"), "{message}");
        let decode = Decode { num_sequences: 65, context_len: 0, num_steps: 1 };
        assert!(matches!(run(decode), Err(BenchError::TooLarge { .. })));
        let prefill = Prefill { num_tokens: 5000 };
        assert!(matches!(prefill.run(&mut executor()), Err(BenchError::TooLarge { .. })));
    }
}
