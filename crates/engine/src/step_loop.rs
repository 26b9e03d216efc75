//! The engine thread: the only owner of the executor and of all scheduler state.
//!
//! It steps while there are sequences and sleeps on the inbox otherwise; it never spins. While the
//! executor works on a step, the thread tells the clients what the step before brought. Between two
//! steps, when the executor idles, it resolves, applies, takes new requests and plans. Cancelled
//! sequences are looked for at the start of each step. None can be missed in sleep: the thread
//! sleeps only when no sequence is waiting or running, and a request that arrives wakes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::executor::{Batch, Executor, ExecutorError, ExecutorSpec};
use crate::handle::{Message, Shared};
use crate::request::EngineError;
use crate::resolve::{resolve, resolve_failure};
use crate::run::{collect, panic_message, submit};
use crate::scheduler::{Letter, Scheduler};

/// See the module.
pub(crate) struct StepLoop {
    executor: Box<dyn Executor>,
    inbox: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    scheduler: Scheduler,
    /// The arrays of the step under way, kept so that steps in steady state allocate little.
    batch: Batch,
}

impl StepLoop {
    /// An idle engine.
    ///
    /// # Panics
    /// If the bounds of the executor leave no room for a single row: that is a bug of the executor.
    pub(crate) fn new(
        executor: Box<dyn Executor>,
        inbox: mpsc::Receiver<Message>,
        shared: Arc<Shared>,
        prefix_cache: bool,
    ) -> Self {
        let ExecutorSpec { window, block_size, max_rows, max_sequences, .. } = shared.spec;
        assert!(window > 0 && block_size > 0, "window {window}, block size {block_size}");
        assert!(max_rows > 0 && max_sequences > 0, "{max_rows} rows, {max_sequences} sequences");
        let scheduler = Scheduler::new(shared.spec.clone(), prefix_cache);
        shared.publish(scheduler.stats());
        Self { executor, inbox, shared, scheduler, batch: Batch::default() }
    }

    /// The life of the engine thread.
    pub(crate) fn run(&mut self) {
        // A panic here is a bug of the scheduler. Its sequences end with an error when their
        // channels are dropped, and the reason is known by then.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_until_ended())) {
            let message = panic_message(&*panic);
            tracing::error!(message, "the engine has a bug");
            self.shared.end(message);
        }
    }

    fn run_until_ended(&mut self) {
        loop {
            self.take_requests();
            if let Some(error) = self.shared.ending() {
                return self.shut_down(&error);
            }
            if !self.scheduler.is_empty() {
                let begun = self.begin_step();
                self.deliver();
                self.end_step(begun);
                continue;
            }
            self.deliver();
            match self.inbox.blocking_recv() {
                Some(message) => self.accept(message),
                // All handles are gone, and with them everyone who could ask.
                None => return,
            }
        }
    }

    /// Empties the inbox. Its senders need places among the waiting, so it cannot be refilled
    /// without end.
    pub(crate) fn take_requests(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            self.accept(message);
        }
    }

    fn accept(&mut self, message: Message) {
        match message {
            Message::Submit(submission) => self.scheduler.add(*submission),
            Message::Wake => {}
        }
    }

    /// The first half of a step: plans it and hands it to the executor. Until the second half the
    /// running sequences stay as they are.
    pub(crate) fn begin_step(&mut self) -> Result<(), ExecutorError> {
        self.scheduler.drop_cancelled();
        self.scheduler.plan(&mut self.batch);
        if self.batch.spans.is_empty() {
            return Ok(());
        }
        self.scheduler.totals.steps += 1;
        submit(&mut *self.executor, &self.batch)
    }

    /// The second half: waits for the tokens of a step that was begun with this outcome, resolves
    /// and applies.
    pub(crate) fn end_step(&mut self, begun: Result<(), ExecutorError>) {
        if self.batch.spans.is_empty() {
            return;
        }
        let running = &self.scheduler.running;
        let effects = match begun.and_then(|()| collect(&mut *self.executor, &self.batch)) {
            Ok(sampled) => resolve(running, sampled),
            Err(error @ ExecutorError::Step(_)) => {
                tracing::error!(%error, sequences = self.batch.spans.len(), "sequences lost");
                self.scheduler.totals.step_failures += 1;
                resolve_failure(running, &EngineError::Step(error.to_string()))
            }
            Err(error @ ExecutorError::Fatal(_)) => {
                tracing::error!(%error, "the engine ends");
                self.scheduler.totals.step_failures += 1;
                // The loop sees it before the next step.
                return self.shared.end(error.to_string());
            }
        };
        self.scheduler.apply(effects);
    }

    /// Publishes the numbers, then sends what is in the outbox: a client that has seen its end
    /// finds it counted.
    pub(crate) fn deliver(&mut self) {
        self.shared.publish(self.scheduler.stats());
        self.scheduler.outbox.drain(..).for_each(Letter::send);
    }

    /// Ends everything, the requests still in the inbox included.
    fn shut_down(&mut self, error: &EngineError) {
        self.inbox.close();
        // Returns `None` once those who were about to send have done so or seen that it is closed.
        while let Some(message) = self.inbox.blocking_recv() {
            self.accept(message);
        }
        self.scheduler.fail_all(error);
        self.deliver();
    }

    /// What the steps decide with.
    #[cfg(test)]
    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}

#[cfg(test)]
mod tests {
    use crate::executor::ExecutorSpec;
    use crate::fake::{FakeExecutor, Fault};
    use crate::handle::EngineConfig;
    use crate::request::EngineError;
    use crate::testing::{Answer, SteppedEngine, prompt, request, small_spec};

    #[test]
    fn a_follow_up_turn_hits_the_answer_before_it() {
        let mut engine = SteppedEngine::with_spec(small_spec());
        let first = engine.answer(request(prompt(1, 10), 11));
        let turn = [prompt(1, 10), first.tokens, prompt(2, 5)].concat();
        let second = engine.answer(request(turn, 1));
        // Of 21 tokens the last was never computed: 5 full blocks.
        assert_eq!((first.num_cached_tokens, second.num_cached_tokens), (Some(0), Some(20)));
        let stats = engine.handle.stats();
        assert_eq!((stats.prompt_tokens, stats.cached_tokens), (36, 20));
        assert_eq!((stats.generated_tokens, stats.finished), (12, 2));
    }

    #[test]
    fn a_dropped_stream_frees_its_blocks_in_the_next_step() {
        let mut engine = SteppedEngine::with_spec(small_spec());
        let dropped = engine.submit(request(prompt(1, 20), 30));
        let mut kept = engine.submit(request(prompt(2, 6), 30));
        (0..5).for_each(|_| engine.step());
        drop(dropped);
        engine.step();
        let stats = engine.handle.stats();
        assert_eq!((stats.running, stats.cancelled, stats.full_blocks_used), (1, 1, 3));
        engine.run(100);
        let mut answer = Answer::default();
        answer.collect(&mut kept);
        assert_eq!(answer.tokens.len(), 30);
    }

    #[test]
    fn a_request_that_still_waits_is_cancelled_too() {
        let mut engine =
            SteppedEngine::with_spec(ExecutorSpec { max_sequences: 1, ..small_spec() });
        let _running = engine.submit(request(prompt(1, 4), 30));
        let waiting = engine.submit(request(prompt(2, 4), 30));
        engine.step();
        assert_eq!(engine.handle.stats().waiting, 1);
        drop(waiting);
        engine.step();
        let stats = engine.handle.stats();
        assert_eq!((stats.running, stats.waiting, stats.cancelled), (1, 0, 1));
    }

    #[test]
    fn a_failed_step_ends_its_sequences_and_no_others() {
        let executor = || FakeExecutor::new(ExecutorSpec { max_rows: 4, ..small_spec() });
        check_failed_step(executor().with_fault(1, Fault::Step));
        check_failed_step(executor().with_refusal(1, Fault::Step));
    }

    fn check_failed_step(executor: FakeExecutor) {
        let mut engine = SteppedEngine::new(executor, EngineConfig::default());
        let requests = [request(prompt(1, 8), 2), request(prompt(2, 8), 2)];
        let mut streams = requests.map(|request| engine.submit(request));
        engine.run(20);
        let ends = streams.each_mut().map(|stream| {
            let mut answer = Answer::default();
            answer.collect(stream);
            answer.end
        });
        let message = "step failed: injected into step 1".to_owned();
        assert_eq!(ends[0], Some(Err(EngineError::Step(message))));
        assert!(matches!(ends[1], Some(Ok(_))));
        let stats = engine.handle.stats();
        assert_eq!((stats.finished, stats.failed, stats.step_failures), (1, 1, 1));
        assert_eq!((stats.full_blocks_used, stats.window_blocks_used), (0, 0));
    }
}
