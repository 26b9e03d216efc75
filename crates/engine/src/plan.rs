//! Plan: which rows run in the next step.
//!
//! Rows are given in order of arrival: first to the running sequences, then to waiting ones that
//! are admitted with what is left of the token budget and the blocks. A prompt that outgrows either
//! is taken in chunks, and nobody is admitted behind it until it is through. So only the youngest
//! running sequence can be inside its prompt, all others decode, and a long prompt slows answers in
//! progress but never stops them. An admitted sequence gets full blocks for all its tokens at once;
//! answers and windows grow block by block.
//!
//! Why every sequence ends. A sequence that finds no block for its next row preempts younger ones,
//! youngest first. The oldest therefore lacks blocks only when it runs alone, and alone it always
//! fits, because `submit` refuses what the pools cannot hold. Rows it is given first. Each step
//! thus brings the oldest sequence at least one row nearer to its end.

use crate::executor::Batch;
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Schedules rows and fills `batch` with them. The batch is empty only if there are no
    /// sequences.
    pub(crate) fn plan(&mut self, batch: &mut Batch) {
        let mut budget = self.spec.max_rows as usize;
        let mut index = 0;
        while index < self.running.len() {
            self.make_room(index);
            self.schedule(index, &mut budget);
            index += 1;
        }
        self.admit(&mut budget);
        self.fill(batch);
    }

    /// Preempts sequences younger than the one at `index` until it has a slot for a row, or none is
    /// younger: then it keeps what it has and misses this step.
    fn make_room(&mut self, index: usize) {
        while index + 1 < self.running.len() && self.num_rows_that_fit(index) == 0 {
            self.preempt_youngest();
        }
    }

    /// Gives the sequence at `index` as many rows as it wants and budget and blocks allow.
    fn schedule(&mut self, index: usize, budget: &mut usize) {
        let num_rows = self.num_rows_that_fit(index).min(*budget);
        let sequence = &mut self.running[index];
        sequence.num_scheduled = num_rows.min(sequence.num_remaining());
        *budget -= sequence.num_scheduled;
        let end = sequence.scheduled_positions().end;
        self.cache.extend(&mut sequence.tables, end);
    }

    fn num_rows_that_fit(&self, index: usize) -> usize {
        let sequence = &self.running[index];
        self.cache.num_rows_that_fit(&sequence.tables, sequence.num_computed)
    }

    /// Moves sequences from waiting to running while there is room.
    fn admit(&mut self, budget: &mut usize) {
        while *budget > 0 && self.running.len() < self.spec.max_sequences as usize {
            let Some(sequence) = self.waiting.front_mut() else { break };
            // One spare block for each running sequence, or the newcomer would be preempted as soon
            // as they grow. Alone it needs no such grace and is always admitted.
            let num_spare = self.running.len();
            let admitted = self.cache.admit(&mut sequence.tables, &sequence.tokens, num_spare);
            let Some(num_cached_tokens) = admitted else { break };
            sequence.num_computed = num_cached_tokens;
            if sequence.is_new() {
                self.outbox.push(sequence.start(num_cached_tokens));
                self.totals.prompt_tokens += sequence.num_prompt_tokens() as u64;
                self.totals.cached_tokens += num_cached_tokens as u64;
            }
            self.running.extend(self.waiting.pop_front());
            self.schedule(self.running.len() - 1, budget);
        }
    }

    /// Writes the flat arrays of the scheduled rows.
    fn fill(&self, batch: &mut Batch) {
        batch.tokens.clear();
        batch.positions.clear();
        batch.spans.clear();
        batch.full_blocks.clear();
        batch.window_blocks.clear();
        batch.samples.clear();
        let scheduled = self.running.iter().filter(|sequence| sequence.num_scheduled > 0);
        scheduled.for_each(|sequence| sequence.write_to(batch));
        assert!(self.is_empty() || !batch.spans.is_empty(), "a step without rows");
        assert!(
            self.running.iter().chain(&self.waiting).is_sorted_by_key(|sequence| sequence.arrival),
            "the line is out of order"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use crate::executor::{Batch, ExecutorSpec};
    use crate::fake::{FakeExecutor, Record, predict};
    use crate::handle::EngineConfig;
    use crate::request::FinishReason;
    use crate::testing::{Answer, SteppedEngine, prompt, request, small_spec};

    fn recorded(spec: ExecutorSpec) -> (SteppedEngine, Record) {
        let (executor, record) = FakeExecutor::new(spec).with_record(1000);
        (SteppedEngine::new(executor, EngineConfig::default()), record)
    }

    fn batches(record: &Record) -> Vec<Batch> {
        record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rows of each sequence in each step.
    fn rows(record: &Record) -> Vec<Vec<usize>> {
        let lens = |batch: &Batch| batch.spans.iter().map(|span| span.rows.len()).collect();
        batches(record).iter().map(lens).collect()
    }

    #[test]
    fn a_long_prompt_is_taken_in_chunks_of_the_token_budget() {
        let (mut engine, record) = recorded(small_spec());
        engine.answer(request(prompt(1, 40), 3));
        assert_eq!(rows(&record), [[16], [16], [8], [1], [1]]);
        let num_samples: Vec<_> =
            batches(&record).iter().map(|batch| batch.samples.len()).collect();
        assert_eq!(num_samples, [0, 0, 1, 1, 1]);
    }

    #[test]
    fn decode_goes_on_beside_a_long_prompt() {
        let (mut engine, record) = recorded(ExecutorSpec { max_rows: 6, ..small_spec() });
        let _first = engine.submit(request(prompt(1, 3), 5));
        engine.step();
        let _second = engine.submit(request(prompt(2, 12), 2));
        engine.run(100);
        assert_eq!(rows(&record), [vec![3], vec![1, 5], vec![1, 5], vec![1, 2], vec![1, 1]]);
    }

    #[test]
    fn what_a_prompt_leaves_of_the_budget_admits_the_next() {
        let (mut engine, record) = recorded(ExecutorSpec { max_rows: 8, ..small_spec() });
        let _streams = [(1, 20), (2, 3), (3, 30)]
            .map(|(start, len)| engine.submit(request(prompt(start, len), 2)));
        engine.run(100);
        assert_eq!(rows(&record)[..4], [vec![8], vec![8], vec![4, 3, 1], vec![1, 1, 6]]);
    }

    #[test]
    fn no_step_has_more_sequences_than_the_executor_takes() {
        let (mut engine, record) = recorded(ExecutorSpec { max_sequences: 2, ..small_spec() });
        let _streams = [1, 2, 3].map(|start| engine.submit(request(prompt(start, 4), 2)));
        engine.run(100);
        assert_eq!(rows(&record), [vec![4, 4], vec![1, 1], vec![4], vec![1]]);
    }

    #[test]
    fn a_small_request_does_not_overtake_a_large_one_that_waits_for_blocks() {
        let spec = ExecutorSpec { num_full_blocks: 8, context_len: 33, ..small_spec() };
        let (mut engine, _) = recorded(spec);
        let _running = engine.submit(request(prompt(1, 16), 8));
        engine.step();
        let mut large = engine.submit(request(prompt(2, 20), 1));
        let mut small = engine.submit(request(prompt(3, 1), 1));
        let (mut large_answer, mut small_answer) = (Answer::default(), Answer::default());
        while small_answer.num_cached_tokens.is_none() {
            engine.step();
            large_answer.collect(&mut large);
            small_answer.collect(&mut small);
            assert!(large_answer.num_cached_tokens >= small_answer.num_cached_tokens);
        }
        assert_eq!(engine.handle.stats().preemptions, 0);
    }

    #[test]
    fn a_preempted_sequence_goes_on_where_it_was() {
        let spec = ExecutorSpec { num_full_blocks: 6, context_len: 25, ..small_spec() };
        let (mut engine, _) = recorded(spec.clone());
        let requests = [1, 2].map(|start| request(prompt(start, 5), 16));
        let mut streams = requests.clone().map(|request| engine.submit(request));
        engine.run(60);
        for (request, stream) in requests.iter().zip(&mut streams) {
            let mut answer = Answer::default();
            answer.collect(stream);
            assert_eq!(answer.tokens, predict(request, 16, spec.vocab_size));
            assert_eq!(answer.end, Some(Ok(FinishReason::Length)));
        }
        assert!(engine.handle.stats().preemptions > 0);
    }

    #[test]
    fn the_oldest_sequence_is_never_preempted() {
        let spec = ExecutorSpec { num_full_blocks: 6, context_len: 25, ..small_spec() };
        let (mut engine, record) = recorded(spec);
        let _streams = [1, 2, 3].map(|start| engine.submit(request(prompt(start, 5), 16)));
        engine.run(100);
        let oldest: Vec<_> = batches(&record).iter().map(|batch| batch.positions[0]).collect();
        // One prefill from position 0, then decode without a gap until the last computed position,
        // 5 + 16 - 2.
        assert_eq!(oldest[0], 0);
        assert!(oldest[1..16].iter().copied().eq(5..20));
    }

    #[test]
    fn a_small_window_pool_shrinks_chunks() {
        let (mut engine, record) = recorded(ExecutorSpec { num_window_blocks: 3, ..small_spec() });
        let answer = engine.answer(request(prompt(1, 40), 2));
        assert_eq!(answer.end, Some(Ok(FinishReason::Length)));
        // 3 blocks of 4 at first; from then on, the window holds 2 of them, and 7 positions back
        // from a block's first one are always in 2 blocks.
        let expected: Vec<_> = std::iter::once(vec![12]).chain(vec![vec![4]; 7]).collect();
        assert_eq!(rows(&record)[..8], expected);
    }

    #[test]
    fn no_more_sequences_run_than_a_step_has_rows() {
        let (mut engine, _) = recorded(ExecutorSpec { max_rows: 2, ..small_spec() });
        let _streams = [1, 2, 3].map(|start| engine.submit(request(prompt(start, 1), 9)));
        (0..3).for_each(|_| engine.step());
        let stats = engine.handle.stats();
        assert_eq!((stats.running, stats.waiting), (2, 1));
    }

    #[test]
    fn admission_leaves_running_sequences_a_block_to_grow_into() {
        let spec = ExecutorSpec { num_full_blocks: 6, context_len: 25, ..small_spec() };
        let (mut engine, _) = recorded(spec);
        let _running = engine.submit(request(prompt(1, 5), 8));
        engine.step();
        // 4 blocks are free and 4 are needed, but the running sequence will soon need one.
        let _waiting = engine.submit(request(prompt(2, 16), 8));
        engine.run(30);
        assert_eq!(engine.handle.stats().preemptions, 0);
    }

    #[test]
    fn generation_ends_with_the_context() {
        let (mut engine, record) = recorded(ExecutorSpec { context_len: 20, ..small_spec() });
        let answer = engine.answer(request(prompt(1, 18), 100));
        assert_eq!((answer.tokens.len(), answer.end), (2, Some(Ok(FinishReason::Length))));
        let positions = batches(&record).into_iter().flat_map(|batch| batch.positions);
        assert_eq!(positions.max(), Some(18));
    }
}
