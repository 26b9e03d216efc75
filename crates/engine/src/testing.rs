//! What the crate's tests share: requests in one line, and an engine that takes a step when it is
//! told to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::executor::{ExecutorError, ExecutorSpec, TokenId};
use crate::fake::FakeExecutor;
use crate::handle::{EngineConfig, Handle, Submission, TokenStream, assemble};
use crate::request::{EngineError, Event, FinishReason, Request};
use crate::sampling::SamplingParams;
use crate::sequence::Sequence;
use crate::step_loop::StepLoop;

/// Longest that a test waits for another thread.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Small bounds: blocks of 4, a window of 8, two adapters.
pub(crate) fn small_spec() -> ExecutorSpec {
    ExecutorSpec {
        vocab_size: 100,
        context_len: 64,
        window: 8,
        block_size: 4,
        num_full_blocks: 64,
        num_window_blocks: 64,
        max_rows: 16,
        max_sequences: 8,
        num_adapters: 2,
    }
}

/// A greedy request that no token stops.
pub(crate) fn request(prompt: impl Into<Vec<TokenId>>, max_tokens: u32) -> Request {
    Request {
        prompt: prompt.into(),
        adapter: None,
        max_tokens,
        sampling: Arc::new(SamplingParams::greedy()),
        seed: 0,
        stop_tokens: Arc::new([]),
        ignore_stop: false,
        constraint: None,
    }
}

/// `len` tokens, different for each `start`.
pub(crate) fn prompt(start: TokenId, len: u32) -> Vec<TokenId> {
    (0..len).map(|index| (start * 31 + index * 7) % 100).collect()
}

/// What a request has received.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) num_cached_tokens: Option<u32>,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) end: Option<Result<FinishReason, EngineError>>,
}

impl Answer {
    /// Adds an event, in the one order that events can have.
    pub(crate) fn add(&mut self, event: Event) {
        assert_eq!(self.end, None, "an event after the last");
        match event {
            Event::Started { num_cached_tokens } => {
                assert_eq!(self.num_cached_tokens.replace(num_cached_tokens), None, "two starts");
            }
            Event::Token { token, .. } => {
                assert!(self.num_cached_tokens.is_some(), "a token before the start");
                self.tokens.push(token);
            }
            Event::Finished { reason } => self.end = Some(Ok(reason)),
            Event::Failed(error) => self.end = Some(Err(error)),
        }
    }

    /// Adds what is there already.
    pub(crate) fn collect(&mut self, stream: &mut TokenStream) {
        while let Some(event) = stream.try_next() {
            self.add(event);
        }
    }
}

/// Reads a stream of a running engine to its end.
pub(crate) async fn read(stream: &mut TokenStream) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap() {
        answer.add(event);
    }
    answer
}

/// An engine without its thread.
pub(crate) struct SteppedEngine {
    pub(crate) handle: Handle,
    step_loop: StepLoop,
    /// How the step under way began.
    begun: Option<Result<(), ExecutorError>>,
}

impl SteppedEngine {
    pub(crate) fn new(executor: FakeExecutor, config: EngineConfig) -> Self {
        let (handle, step_loop) = assemble(Box::new(executor), config);
        Self { handle, step_loop, begun: None }
    }

    /// With a prefix cache and room for all requests.
    pub(crate) fn with_spec(spec: ExecutorSpec) -> Self {
        Self::new(FakeExecutor::new(spec), EngineConfig::default())
    }

    pub(crate) fn submit(&self, request: Request) -> TokenStream {
        self.handle.submit(request).unwrap()
    }

    /// Half a step, in the order of the engine's thread: the first half, or the second if one is
    /// under way. Every block is accounted for after each.
    pub(crate) fn half_step(&mut self) {
        match self.begun.take() {
            Some(begun) => self.step_loop.end_step(begun),
            None => {
                self.step_loop.take_requests();
                self.begun = Some(self.step_loop.begin_step());
                self.step_loop.deliver();
            }
        }
        let scheduler = self.step_loop.scheduler();
        assert!(self.handle.is_healthy(), "{:?}", self.handle.submit(request([1], 1)));
        let (running, waiting) = (&scheduler.running, &scheduler.waiting);
        scheduler.cache.assert_held_by(running.iter().map(|sequence| &sequence.tables));
        assert!(waiting.iter().all(|sequence| sequence.tables.full.is_empty()));
        if self.begun.is_some() {
            assert!(running.iter().chain(waiting).all(|sequence| !sequence.is_cancelled()));
        }
    }

    /// What is left of a step, or a whole one, and the news of it.
    pub(crate) fn step(&mut self) {
        if self.begun.is_none() {
            self.half_step();
        }
        self.half_step();
        self.step_loop.deliver();
    }

    /// Steps until nothing is left to do and returns how many that took.
    pub(crate) fn run(&mut self, max_steps: usize) -> usize {
        self.step_loop.take_requests();
        let mut num_steps = 0;
        while !self.step_loop.scheduler().is_empty() {
            assert!(num_steps < max_steps, "not done after {max_steps} steps");
            self.step();
            num_steps += 1;
        }
        self.step_loop.deliver();
        num_steps
    }

    /// Submits one request, runs it alone and returns its answer.
    pub(crate) fn answer(&mut self, request: Request) -> Answer {
        let mut stream = self.submit(request);
        self.run(10_000);
        let mut answer = Answer::default();
        answer.collect(&mut stream);
        answer
    }
}

/// A waiting sequence whose stream nobody reads.
pub(crate) fn sequence(request: Request) -> Sequence {
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let num_answer_tokens = request.max_tokens as usize;
    let (events, _) = mpsc::channel(1);
    Sequence::new(1, Submission { request, constrained: None, num_answer_tokens, events, place })
}
