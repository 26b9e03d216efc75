//! An executor with no model behind it: it answers from a script and holds the scheduler to the
//! contract.
//!
//! It keeps real block pools. Each row writes its token, position and a digest of everything before
//! it into the slot its block table names, and each step then reads back all that its rows may see,
//! through the tables: a block that was freed too early, shared wrongly or written twice ends the
//! run with [`ExecutorError::Fatal`] naming the position. The default answers depend on the adapter
//! and on every token before them, so that a prefix taken from the wrong prompt or computed with the
//! wrong adapter shows as a wrong answer. It behaves as a device does that works beside its caller: a
//! step takes its time from `submit` on, and nothing of it is done, seen or wrong before `collect`.
//! A mask moves an answer to the next token that it allows. HTTP, scheduler and load tests use it; timing and faults can be set.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::executor::{
    AdapterId, Batch, BlockId, Executor, ExecutorError, ExecutorSpec, Logprobs, Sample, Sampled,
    Span, TokenId,
};
use crate::mask::TokenMask;
use crate::request::Request;
use crate::sampling::SamplingParams;
use crate::seed::{mix, token_seed};

/// Bounds that suit most tests; change what matters with `ExecutorSpec { window: 8, ..fake::spec()
/// }`.
pub fn spec() -> ExecutorSpec {
    ExecutorSpec {
        vocab_size: 1024,
        context_len: 4096,
        window: 128,
        block_size: 16,
        num_full_blocks: 4096,
        num_window_blocks: 1024,
        max_rows: 512,
        max_sequences: 64,
        num_adapters: 0,
    }
}

/// The answer that a [`FakeExecutor`] without a script gives to `request`, stop tokens not
/// considered. It is shorter than asked for where the request's constraint allows no more.
pub fn predict(request: &Request, num_tokens: usize, vocab_size: u32) -> Vec<TokenId> {
    let mut digest = request
        .prompt
        .iter()
        .fold(empty_digest(request.adapter), |digest, &token| extend_digest(digest, token));
    let mut constraint = request.constraint.clone();
    (0..num_tokens)
        .map_while(|index| {
            let mask = constraint.as_mut().map_or(Ok(None), |constraint| constraint.mask()).ok()?;
            let seed = token_seed(request.seed, index);
            let token = digest_token(digest, seed, &request.sampling, vocab_size);
            let token = next_allowed(token, mask.as_ref(), vocab_size)?;
            digest = extend_digest(digest, token);
            if let Some(constraint) = &mut constraint {
                // What cannot go on shows where the next mask is wanted.
                let _ = constraint.advance(token);
            }
            Some(token)
        })
        .collect()
}

/// What goes wrong in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`ExecutorError::Step`].
    Step,
    /// [`ExecutorError::Fatal`].
    Fatal,
    /// A panic.
    Panic,
}

impl Fault {
    fn strike(self, step: u64) -> ExecutorError {
        let message = format!("injected into step {step}");
        match self {
            Self::Step => ExecutorError::Step(message),
            Self::Fatal => ExecutorError::Fatal(message),
            Self::Panic => panic!("{message}"),
        }
    }
}

/// The batches an executor ran, for tests to look at.
pub type Record = Arc<Mutex<Vec<Batch>>>;

type Script = Box<dyn Fn(&[TokenId]) -> TokenId + Send>;

/// See the module.
pub struct FakeExecutor {
    spec: ExecutorSpec,
    script: Option<Script>,
    step_time: Duration,
    row_time: Duration,
    faults: BTreeMap<u64, Fault>,
    refusals: BTreeMap<u64, Fault>,
    record: Option<(Record, usize)>,
    num_steps: u64,
    /// The step under way and when it is over.
    under_way: Option<(Batch, Instant)>,
    full: Pool,
    window: Pool,
}

impl FakeExecutor {
    /// Answers with pseudo-random tokens: a function of all tokens before and, unless greedy, of
    /// the seed.
    pub fn new(spec: ExecutorSpec) -> Self {
        Self {
            full: Pool::new("full", spec.num_full_blocks, spec.block_size),
            window: Pool::new("window", spec.num_window_blocks, spec.block_size),
            spec,
            script: None,
            step_time: Duration::ZERO,
            row_time: Duration::ZERO,
            faults: BTreeMap::new(),
            refusals: BTreeMap::new(),
            record: None,
            num_steps: 0,
            under_way: None,
        }
    }

    /// Answers with what `script` says about all tokens so far, prompt included.
    pub fn with_script(mut self, script: impl Fn(&[TokenId]) -> TokenId + Send + 'static) -> Self {
        self.script = Some(Box::new(script));
        self
    }

    /// Answers every prompt with `answer`, then `stop_token`. How far an answer has come is read
    /// from the sequence itself: a prompt that ends with the beginning of `answer` gets the rest of
    /// it.
    pub fn with_answer(self, answer: Vec<TokenId>, stop_token: TokenId) -> Self {
        self.with_script(move |seen| {
            let num_said = (1..=answer.len().min(seen.len()))
                .rev()
                .find(|&num_said| seen.ends_with(&answer[..num_said]))
                .unwrap_or(0);
            answer.get(num_said).copied().unwrap_or(stop_token)
        })
    }

    /// Makes a step last `step_time`, and `row_time` more for each row.
    pub fn with_timing(mut self, step_time: Duration, row_time: Duration) -> Self {
        self.step_time = step_time;
        self.row_time = row_time;
        self
    }

    /// Lets something go wrong in the step with this index, counted from 0: it shows in `collect`,
    /// and leaves garbage where the rows were to be written.
    pub fn with_fault(mut self, step: u64, fault: Fault) -> Self {
        self.faults.insert(step, fault);
        self
    }

    /// The same, but in `submit`: the step does not start.
    pub fn with_refusal(mut self, step: u64, fault: Fault) -> Self {
        self.refusals.insert(step, fault);
        self
    }

    /// Keeps the first `max_batches` batches where the caller can see them.
    pub fn with_record(mut self, max_batches: usize) -> (Self, Record) {
        let record = Record::default();
        self.record = Some((Arc::clone(&record), max_batches));
        (self, record)
    }

    /// Writes the rows of one span; returns an error message if a slot was written in this step
    /// before.
    fn write(&mut self, batch: &Batch, span: &Span) -> Result<(), String> {
        let tables = Tables::new(batch, span)?;
        for row in span.rows.clone() {
            let (token, position) = (batch.tokens[row], batch.positions[row]);
            if token >= self.spec.vocab_size {
                return Err(format!("row {row} has token {token} outside of the vocabulary"));
            }
            let before = match position.checked_sub(1) {
                None => empty_digest(span.adapter),
                Some(previous) => self.full.read(tables.full, 0, previous)?.digest,
            };
            let digest = extend_digest(before, token);
            let slot = Slot { position, token, digest, step: self.num_steps };
            self.full.write(tables.full, 0, slot)?;
            self.window.write(tables.window, span.window_first_block, slot)?;
        }
        Ok(())
    }

    /// Reads everything that the span's rows may see, as attention would.
    fn verify(&self, batch: &Batch, span: &Span) -> Result<(), String> {
        let tables = Tables::new(batch, span)?;
        let positions = &batch.positions[span.rows.clone()];
        let (first, last) = (positions[0], positions[positions.len() - 1]);
        if !positions.iter().copied().eq(first..=last) || last >= self.spec.context_len {
            return Err(format!("a span has the positions {positions:?}"));
        }
        let first_in_window = (first + 1).saturating_sub(self.spec.window);
        let mut digest = empty_digest(span.adapter);
        for position in 0..=last {
            let slot = self.full.read(tables.full, 0, position)?;
            digest = extend_digest(digest, slot.token);
            if slot.digest != digest {
                return Err(format!("full position {position} does not follow from those before"));
            }
            if position < first && slot.step == self.num_steps {
                return Err(format!("position {position} is seen before its step is over"));
            }
            if position >= first_in_window {
                let seen = self.window.read(tables.window, span.window_first_block, position)?;
                if seen.digest != digest {
                    return Err(format!("window position {position} differs from the full one"));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, batch: &Batch) -> Result<(), String> {
        let num_rows = batch.tokens.len();
        if num_rows > self.spec.max_rows as usize || batch.positions.len() != num_rows {
            return Err(format!("{num_rows} rows, {} positions", batch.positions.len()));
        }
        if batch.spans.len() > self.spec.max_sequences as usize {
            return Err(format!("{} sequences", batch.spans.len()));
        }
        let mut next_row = 0;
        for span in &batch.spans {
            if span.rows.start != next_row || span.rows.is_empty() {
                return Err(format!("rows {:?} do not follow row {next_row}", span.rows));
            }
            next_row = span.rows.end;
            if span.adapter.is_some_and(|AdapterId(id)| id >= self.spec.num_adapters) {
                return Err(format!("there is no {:?}", span.adapter));
            }
        }
        if next_row != num_rows || num_rows == 0 {
            return Err(format!("spans cover {next_row} of {num_rows} rows"));
        }
        // All rows are written before any is read: whoever reads what another sequence writes in
        // the same step sees the other's content.
        batch.spans.iter().try_for_each(|span| self.write(batch, span))?;
        batch.spans.iter().try_for_each(|span| self.verify(batch, span))
    }

    fn sample(&self, batch: &Batch, sample: &Sample) -> Result<Sampled, String> {
        let span = batch.spans.iter().find(|span| span.rows.contains(&sample.row));
        let span = span.ok_or_else(|| format!("sampled row {} is in no span", sample.row))?;
        let tables = Tables::new(batch, span)?;
        let position = batch.positions[sample.row];
        let token = match &self.script {
            None => {
                let digest = self.full.read(tables.full, 0, position)?.digest;
                digest_token(digest, sample.seed, &sample.params, self.spec.vocab_size)
            }
            Some(script) => {
                let seen = (0..=position)
                    .map(|position| Ok(self.full.read(tables.full, 0, position)?.token))
                    .collect::<Result<Vec<_>, String>>()?;
                script(&seen)
            }
        };
        let vocab_size = self.spec.vocab_size;
        let token = next_allowed(token, sample.mask.as_deref(), vocab_size)
            .ok_or_else(|| format!("the mask of row {} allows nothing", sample.row))?;
        // Half of the probability for the chosen token, half of the rest for its successor, and so
        // on.
        let logprobs = sample.params.logprobs.map(|num_top| {
            let logprob = |rank: u8| -f32::from(rank + 1) * std::f32::consts::LN_2;
            let candidate = |rank: u8| (token + u32::from(rank)) % self.spec.vocab_size;
            let top = (0..num_top).map(|rank| (candidate(rank), logprob(rank))).collect();
            Logprobs { chosen: logprob(0), top }
        });
        Ok(Sampled { token, logprobs })
    }
}

impl Executor for FakeExecutor {
    fn spec(&self) -> &ExecutorSpec {
        &self.spec
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        if let Some((record, max_batches)) = &self.record {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if record.len() < *max_batches {
                record.push(batch.clone());
            }
        }
        if self.under_way.is_some() {
            return Err(broken("two steps are under way".to_owned()));
        }
        let step = self.num_steps;
        self.num_steps += 1;
        if let Some(fault) = self.refusals.get(&step) {
            return Err(fault.strike(step));
        }
        let num_rows = u32::try_from(batch.tokens.len()).unwrap_or(u32::MAX);
        let time = self.step_time + self.row_time * num_rows;
        self.under_way = Some((batch.clone(), Instant::now() + time));
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Sampled>, ExecutorError> {
        let step = self.under_way.take();
        let (batch, end) = step.ok_or_else(|| broken("no step is under way".to_owned()))?;
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        self.check(&batch).map_err(broken)?;
        let step = self.num_steps - 1;
        if let Some(fault) = self.faults.get(&step) {
            self.full.spoil(self.num_steps);
            self.window.spoil(self.num_steps);
            return Err(fault.strike(step));
        }
        batch.samples.iter().map(|sample| self.sample(&batch, sample).map_err(broken)).collect()
    }
}

fn broken(message: String) -> ExecutorError {
    ExecutorError::Fatal(format!("broken contract: {message}"))
}

/// The two block tables of one span.
struct Tables<'a> {
    full: &'a [BlockId],
    window: &'a [BlockId],
}

impl<'a> Tables<'a> {
    fn new(batch: &'a Batch, span: &Span) -> Result<Self, String> {
        let full = batch.full_blocks.get(span.full_blocks.clone());
        let window = batch.window_blocks.get(span.window_blocks.clone());
        match (full, window) {
            (Some(full), Some(window)) => Ok(Self { full, window }),
            _ => Err("a block table is outside of the batch".to_owned()),
        }
    }
}

/// What one cache position holds, in place of keys and values.
#[derive(Debug, Clone, Copy)]
struct Slot {
    position: u32,
    token: TokenId,
    /// Of the adapter and all tokens up to this one.
    digest: u64,
    /// When it was written.
    step: u64,
}

/// The memory of one group.
struct Pool {
    group: &'static str,
    block_size: u32,
    slots: Vec<Option<Slot>>,
}

impl Pool {
    fn new(group: &'static str, num_blocks: u32, block_size: u32) -> Self {
        let slots = vec![None; num_blocks as usize * block_size as usize];
        Self { group, block_size, slots }
    }

    /// Index of the slot of `position`, through a table whose first entry is block `first` of the
    /// sequence.
    fn slot_index(&self, table: &[BlockId], first: u32, position: u32) -> Result<usize, String> {
        (position / self.block_size)
            .checked_sub(first)
            .and_then(|entry| table.get(entry as usize))
            .map(|&block| block as usize * self.block_size as usize)
            .map(|start| start + (position % self.block_size) as usize)
            .filter(|&index| index < self.slots.len())
            .ok_or_else(|| format!("{} position {position} has no block", self.group))
    }

    fn read(&self, table: &[BlockId], first: u32, position: u32) -> Result<Slot, String> {
        self.slots[self.slot_index(table, first, position)?]
            .filter(|slot| slot.position == position)
            .ok_or_else(|| format!("{} position {position} holds something else", self.group))
    }

    fn write(&mut self, table: &[BlockId], first: u32, slot: Slot) -> Result<(), String> {
        let index = self.slot_index(table, first, slot.position)?;
        if self.slots[index].is_some_and(|other| other.step == slot.step) {
            return Err(format!("{} position {} is written twice", self.group, slot.position));
        }
        self.slots[index] = Some(slot);
        Ok(())
    }

    /// Destroys what was written in `step`.
    fn spoil(&mut self, step: u64) {
        for slot in &mut self.slots {
            if slot.is_some_and(|slot| slot.step == step) {
                *slot = None;
            }
        }
    }
}

/// Before the first token.
fn empty_digest(adapter: Option<AdapterId>) -> u64 {
    adapter.map_or(0, |AdapterId(id)| mix(u64::from(id) + 1))
}

fn extend_digest(digest: u64, token: TokenId) -> u64 {
    mix(digest ^ (u64::from(token) + 1))
}

/// The first token from `token` on, around the end of the vocabulary, that the mask allows.
fn next_allowed(token: TokenId, mask: Option<&TokenMask>, vocab_size: u32) -> Option<TokenId> {
    let Some(mask) = mask else { return Some(token) };
    (token..vocab_size).chain(0..token.min(vocab_size)).find(|token| mask.allows(*token))
}

fn digest_token(digest: u64, seed: u64, params: &SamplingParams, vocab_size: u32) -> TokenId {
    let digest = if params.temperature == 0.0 { digest } else { mix(digest ^ seed) };
    let token = digest % u64::from(vocab_size);
    u32::try_from(token).expect("a remainder of a u32 fits into one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SteppedEngine, prompt, request, small_spec};
    use crate::{EngineConfig, FinishReason};

    /// The rows `positions` of `tokens`, in the blocks of these tables.
    fn batch(tokens: &[TokenId], first: u32, full: &[BlockId], window: &[BlockId]) -> Batch {
        Batch {
            tokens: tokens.to_vec(),
            positions: (first..).take(tokens.len()).collect(),
            spans: vec![Span {
                rows: 0..tokens.len(),
                full_blocks: 0..full.len(),
                window_blocks: 0..window.len(),
                window_first_block: 0,
                adapter: None,
            }],
            full_blocks: full.to_vec(),
            window_blocks: window.to_vec(),
            samples: Vec::new(),
        }
    }

    fn check_broken(executor: &mut FakeExecutor, batch: &Batch, expected: &str) {
        match executor.run(batch) {
            Err(ExecutorError::Fatal(message)) => {
                assert_eq!(message, format!("broken contract: {expected}"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_row_that_cannot_see_what_it_must_is_noticed() {
        let mut executor = FakeExecutor::new(small_spec());
        executor.run(&batch(&[1, 2, 3, 4], 0, &[5], &[6])).unwrap();
        executor.run(&batch(&[5], 4, &[5, 7], &[6, 8])).unwrap();
        let next = |full: &[BlockId], window: &[BlockId]| batch(&[6], 5, full, window);
        check_broken(&mut executor, &next(&[5], &[6, 8]), "full position 4 has no block");
        check_broken(
            &mut executor,
            &next(&[5, 9], &[6, 8]),
            "full position 4 holds something else",
        );
        check_broken(&mut executor, &next(&[5, 7], &[6]), "window position 5 has no block");
        check_broken(
            &mut executor,
            &next(&[5, 7], &[9, 8]),
            "window position 0 holds something else",
        );
        executor.run(&next(&[5, 7], &[6, 8])).unwrap();
    }

    #[test]
    fn content_of_another_sequence_is_noticed() {
        let mut executor = FakeExecutor::new(small_spec());
        executor.run(&batch(&[1, 2, 3, 4], 0, &[0], &[0])).unwrap();
        executor.run(&batch(&[5], 4, &[0, 1], &[0, 1])).unwrap();
        executor.run(&batch(&[9, 2, 3, 4], 0, &[2], &[2])).unwrap();
        let broken = "full position 4 does not follow from those before";
        check_broken(&mut executor, &batch(&[6], 5, &[2, 1], &[2, 1]), broken);
        let broken = "window position 0 differs from the full one";
        check_broken(&mut executor, &batch(&[6], 5, &[0, 1], &[2, 1]), broken);
    }

    #[test]
    fn what_another_adapter_computed_is_noticed() {
        let mut executor = FakeExecutor::new(small_spec());
        let with = |adapter, mut batch: Batch| {
            batch.spans[0].adapter = adapter;
            batch
        };
        let [first, second] = [0, 1].map(|id| Some(AdapterId(id)));
        executor.run(&with(first, batch(&[1, 2, 3, 4], 0, &[0], &[0]))).unwrap();
        let next = batch(&[5], 4, &[0, 1], &[0, 1]);
        let broken = "full position 0 does not follow from those before";
        check_broken(&mut executor, &next, broken);
        check_broken(&mut executor, &with(second, next.clone()), broken);
        executor.run(&with(first, next.clone())).unwrap();
        let none = Some(AdapterId(2));
        check_broken(&mut executor, &with(none, next), "there is no Some(AdapterId(2))");
    }

    #[test]
    fn two_sequences_that_write_one_block_are_noticed() {
        let mut executor = FakeExecutor::new(small_spec());
        let mut two = batch(&[1, 1], 0, &[0], &[0]);
        two.positions[1] = 0;
        two.spans[0].rows = 0..1;
        two.spans.push(Span { rows: 1..2, ..two.spans[0].clone() });
        check_broken(&mut executor, &two, "full position 0 is written twice");
    }

    #[test]
    fn two_steps_at_a_time_or_none_are_noticed() {
        let fatal = |message: &str| format!("executor lost: broken contract: {message}");
        let mut executor = FakeExecutor::new(small_spec());
        let error = executor.collect().unwrap_err();
        assert_eq!(error.to_string(), fatal("no step is under way"));
        executor.submit(&batch(&[1], 0, &[0], &[0])).unwrap();
        let error = executor.submit(&batch(&[1], 0, &[0], &[0])).unwrap_err();
        assert_eq!(error.to_string(), fatal("two steps are under way"));
    }

    #[test]
    fn an_answer_is_told_to_its_end_and_stopped() {
        let executor = FakeExecutor::new(small_spec()).with_answer(vec![7, 8, 7, 9], 50);
        let mut engine = SteppedEngine::new(executor, EngineConfig::default());
        let mut stopping = request(prompt(1, 5), 20);
        stopping.stop_tokens = [50].into();
        let answer = engine.answer(stopping);
        assert_eq!(answer.tokens, [7, 8, 7, 9, 50]);
        assert_eq!(answer.end, Some(Ok(FinishReason::Stop)));
    }

    #[test]
    fn logprobs_are_as_many_as_were_asked_for() {
        let mut executor = FakeExecutor::new(small_spec()).with_script(|_| 99);
        let params = SamplingParams { logprobs: Some(2), ..SamplingParams::greedy() };
        let sample =
            Sample { row: 0, params: params.into(), seed: 0, counts: Vec::new(), mask: None };
        let batch = Batch { samples: vec![sample], ..batch(&[1], 0, &[0], &[0]) };
        let sampled = executor.run(&batch).unwrap();
        let logprobs = sampled[0].logprobs.as_ref().unwrap();
        assert_eq!(logprobs.top, [(99, 0.5_f32.ln()), (0, 0.25_f32.ln())]);
        assert_eq!(logprobs.chosen, 0.5_f32.ln());
    }

    #[test]
    fn answers_follow_the_seed_unless_greedy() {
        let greedy = request(prompt(1, 5), 8);
        let sampled = Request { sampling: SamplingParams::default().into(), ..greedy.clone() };
        let answers = |request: &Request| {
            [1, 2].map(|seed| predict(&Request { seed, ..request.clone() }, 8, 100))
        };
        let [first, second] = answers(&greedy);
        assert_eq!(first, second);
        let [first, second] = answers(&sampled);
        assert_ne!(first, second);
    }
}
