//! The engine as its callers see it: start it, submit requests, read their events.
//!
//! Everything here runs on the caller's threads and never blocks. What a caller shares with the
//! engine thread is the bounded inbox, one bounded event channel a request, and [`Shared`]. A
//! request occupies one of [`EngineConfig::max_waiting`] places from `submit` to its first
//! admission, wherever it waits; without a free place `submit` answers [`EngineError::Overloaded`]
//! at once.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::constraint::Constrained;
use crate::executor::{Executor, ExecutorSpec};
use crate::kv_cache::max_context_len;
use crate::request::{EngineError, Event, Request};
use crate::stats::Stats;
use crate::step_loop::StepLoop;
use crate::validate::validate;

/// Choices of the operator; the executor's own bounds are in [`ExecutorSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most requests that wait for their first admission, at least 1.
    pub max_waiting: usize,
    /// Whether sequences share the blocks of equal prefixes.
    pub prefix_cache: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_waiting: 1024, prefix_cache: true }
    }
}

/// Gives `executor` to a new engine thread.
///
/// The thread ends when all handles are dropped and nothing runs, on [`Handle::stop`], or when the
/// executor is lost. [`Handle::spec`] repeats the executor's bounds, with the context lowered to
/// what the pools can hold.
pub fn start(executor: Box<dyn Executor>, config: EngineConfig) -> Handle {
    let (handle, mut step_loop) = assemble(executor, config);
    let shared = Arc::clone(&handle.shared);
    let spawned = thread::Builder::new().name("engine".to_owned()).spawn(move || step_loop.run());
    if let Err(error) = spawned {
        shared.end(format!("its thread could not be started: {error}"));
    }
    handle
}

/// The engine without its thread, for tests that take one step at a time.
pub(crate) fn assemble(executor: Box<dyn Executor>, config: EngineConfig) -> (Handle, StepLoop) {
    let mut spec = executor.spec().clone();
    let context_len = max_context_len(&spec);
    if context_len < spec.context_len {
        tracing::warn!(wanted = spec.context_len, context_len, "the block pools limit the context");
        spec.context_len = context_len;
    }
    let max_waiting = config.max_waiting.clamp(1, Semaphore::MAX_PERMITS - 1);
    let shared = Arc::new(Shared {
        spec,
        max_waiting,
        places: Arc::new(Semaphore::new(max_waiting)),
        stats: Mutex::new(Stats::default()),
        ended: OnceLock::new(),
    });
    // One slot more than places, for the message that wakes a sleeping engine to stop.
    let (sender, inbox) = mpsc::channel(max_waiting + 1);
    let step_loop = StepLoop::new(executor, inbox, Arc::clone(&shared), config.prefix_cache);
    (Handle { inbox: sender, shared }, step_loop)
}

/// A way to the engine thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

impl Handle {
    /// Checks `request` and queues it. Dropping the stream cancels the request at the next step.
    pub fn submit(&self, mut request: Request) -> Result<TokenStream, EngineError> {
        let num_answer_tokens = validate(&request, &self.shared.spec)?;
        if let Some(error) = self.shared.ending() {
            return Err(error);
        }
        let overloaded = || EngineError::Overloaded { capacity: self.shared.max_waiting };
        let place =
            Arc::clone(&self.shared.places).try_acquire_owned().map_err(|_| overloaded())?;

        let vocab_size = self.shared.spec.vocab_size;
        let constraint = request.constraint.take();
        let constrained =
            constraint.map(|constraint| Constrained::new(constraint, vocab_size)).transpose()?;

        // A request sends one `Started`, at most `num_answer_tokens` tokens and one terminal event.
        // With room for all of them the engine never waits for a slow client, and a client that
        // reads nothing costs no more than its own answer: the channel allocates its slots as they
        // are filled.
        let (sender, events) = mpsc::channel(num_answer_tokens + 2);
        let submission =
            Submission { request, constrained, num_answer_tokens, events: sender, place };
        match self.inbox.try_send(Message::Submit(Box::new(submission))) {
            Ok(()) => Ok(TokenStream { events, shared: Arc::clone(&self.shared), ended: false }),
            Err(TrySendError::Full(_)) => Err(overloaded()),
            Err(TrySendError::Closed(_)) => Err(self.shared.stopped()),
        }
    }

    /// The bounds requests are checked against.
    pub fn spec(&self) -> &ExecutorSpec {
        &self.shared.spec
    }

    /// Numbers as of the last step; [`Stats::waiting`] counts the inbox as it is now.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stats.waiting += self.shared.max_waiting - self.shared.places.available_permits();
        stats
    }

    /// Whether requests are taken: false once the executor is lost or [`Handle::stop`] was called.
    pub fn is_healthy(&self) -> bool {
        self.shared.ending().is_none()
    }

    /// Ends every sequence with [`EngineError::Stopped`] after the step in progress and takes no
    /// more. Returns at once.
    pub fn stop(&self) {
        self.shared.end("it was stopped".to_owned());
        // The thread looks at the ending before every step. Only a sleeping one needs a message,
        // and it sleeps on an empty inbox: where this finds no room, nobody sleeps.
        let _ = self.inbox.try_send(Message::Wake);
    }
}

/// The events of one request, in order. Dropping it cancels the request.
#[derive(Debug)]
pub struct TokenStream {
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
    ended: bool,
}

impl TokenStream {
    /// The next event; `None` after the terminal one. Every stream has exactly one terminal event
    /// ([`Event::Finished`] or [`Event::Failed`]), even if the engine thread is gone.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.take(event))
    }

    /// The next event if it is already there.
    #[cfg(test)]
    pub(crate) fn try_next(&mut self) -> Option<Event> {
        match self.events.try_recv() {
            _ if self.ended => None,
            Err(mpsc::error::TryRecvError::Empty) => None,
            event => Some(self.take(event.ok())),
        }
    }

    fn take(&mut self, event: Option<Event>) -> Event {
        let event = event.unwrap_or_else(|| Event::Failed(self.shared.stopped()));
        self.ended = matches!(event, Event::Finished { .. } | Event::Failed(_));
        event
    }
}

/// What goes through the inbox.
#[derive(Debug)]
pub(crate) enum Message {
    /// A checked request.
    Submit(Box<Submission>),
    /// Nothing but a reason to look at [`Shared::ending`].
    Wake,
}

/// A checked request on its way to the scheduler.
#[derive(Debug)]
pub(crate) struct Submission {
    /// What was asked.
    pub(crate) request: Request,
    /// The request's constraint, taken out of it, with its first mask.
    pub(crate) constrained: Option<Constrained>,
    /// Most tokens the answer can have; `events` has room for them.
    pub(crate) num_answer_tokens: usize,
    /// Where its events go.
    pub(crate) events: mpsc::Sender<Event>,
    /// Its place among the waiting, given back when it is dropped.
    pub(crate) place: OwnedSemaphorePermit,
}

/// What callers and the engine thread both see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) spec: ExecutorSpec,
    max_waiting: usize,
    places: Arc<Semaphore>,
    stats: Mutex<Stats>,
    /// Why the engine takes no more requests; set once.
    ended: OnceLock<String>,
}

impl Shared {
    /// Records why the engine ends; the first reason stays.
    pub(crate) fn end(&self, reason: String) {
        let _ = self.ended.set(reason);
    }

    /// The error that all requests get, once the engine has a reason to end.
    pub(crate) fn ending(&self) -> Option<EngineError> {
        self.ended.get().cloned().map(EngineError::Stopped)
    }

    /// The same for a caller that found the thread gone.
    pub(crate) fn stopped(&self) -> EngineError {
        self.ending().unwrap_or_else(|| EngineError::Stopped("its thread has ended".to_owned()))
    }

    /// Publishes the numbers of this step.
    pub(crate) fn publish(&self, stats: Stats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;
    use std::time::Duration;

    use super::*;
    use crate::executor::{Batch, ExecutorError, Sampled};
    use crate::fake::{FakeExecutor, Fault, predict};
    use crate::request::FinishReason;
    use crate::testing::{Answer, PATIENCE, SteppedEngine, prompt, read, request, small_spec};

    /// Tells when the engine thread lets go of its executor.
    struct Watched(FakeExecutor, #[expect(dead_code, reason = "dropped")] std_mpsc::SyncSender<()>);

    impl Executor for Watched {
        fn spec(&self) -> &ExecutorSpec {
            self.0.spec()
        }

        fn submit(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
            self.0.submit(batch)
        }

        fn collect(&mut self) -> Result<Vec<Sampled>, ExecutorError> {
            self.0.collect()
        }
    }

    fn start_watched(executor: FakeExecutor) -> (Handle, std_mpsc::Receiver<()>) {
        let (sender, receiver) = std_mpsc::sync_channel(1);
        (start(Box::new(Watched(executor, sender)), EngineConfig::default()), receiver)
    }

    fn wait_for_end(thread: &std_mpsc::Receiver<()>) {
        let end = thread.recv_timeout(PATIENCE);
        assert_eq!(end, Err(std_mpsc::RecvTimeoutError::Disconnected));
    }

    #[tokio::test]
    async fn a_request_is_answered_by_the_engine_thread() {
        let handle = start(Box::new(FakeExecutor::new(small_spec())), EngineConfig::default());
        let request = request(prompt(1, 20), 10);
        let answer = read(&mut handle.submit(request.clone()).unwrap()).await;
        assert_eq!(answer.tokens, predict(&request, 10, 100));
        assert_eq!(answer.end, Some(Ok(FinishReason::Length)));
        let stats = handle.stats();
        assert_eq!((stats.finished, stats.running, stats.full_blocks_used), (1, 0, 0));
    }

    #[test]
    fn requests_beyond_the_places_are_refused_until_one_is_admitted() {
        let spec = ExecutorSpec { max_sequences: 1, ..small_spec() };
        let config = EngineConfig { max_waiting: 2, ..EngineConfig::default() };
        let mut engine = SteppedEngine::new(FakeExecutor::new(spec), config);
        let submit = |engine: &SteppedEngine| engine.handle.submit(request(prompt(1, 4), 4));
        let _streams = [submit(&engine).unwrap(), submit(&engine).unwrap()];
        assert_eq!(submit(&engine).unwrap_err(), EngineError::Overloaded { capacity: 2 });
        assert_eq!(engine.handle.stats().waiting, 2);
        engine.step();
        assert_eq!(engine.handle.stats().waiting, 1);
        let last = submit(&engine).unwrap();
        assert_eq!(submit(&engine).unwrap_err(), EngineError::Overloaded { capacity: 2 });
        drop(last);
        engine.step();
        assert!(submit(&engine).is_ok());
    }

    #[test]
    fn no_event_is_lost_when_the_client_does_not_read() {
        let mut engine = SteppedEngine::with_spec(small_spec());
        let answer = engine.answer(request(prompt(1, 4), 1000));
        assert_eq!((answer.tokens.len(), answer.end), (60, Some(Ok(FinishReason::Length))));
    }

    #[test]
    fn a_context_beyond_the_pools_is_lowered() {
        let engine = SteppedEngine::with_spec(ExecutorSpec { num_full_blocks: 3, ..small_spec() });
        let error = EngineError::ContextLength { prompt_len: 13, context_len: 13 };
        assert_eq!(engine.handle.submit(request(prompt(1, 13), 1)).unwrap_err(), error);
        assert!(engine.handle.submit(request(prompt(1, 12), 1)).is_ok());
    }

    async fn check_loss(executor: FakeExecutor, reason: &str) {
        let (handle, mut step_loop) = assemble(Box::new(executor), EngineConfig::default());
        let mut streams = [1, 2].map(|start| handle.submit(request(prompt(start, 4), 40)).unwrap());
        let thread = thread::spawn(move || step_loop.run());
        let error = EngineError::Stopped(reason.to_owned());
        for stream in &mut streams {
            let answer = read(stream).await;
            assert_eq!((answer.tokens.len(), answer.end), (2, Some(Err(error.clone()))));
        }
        assert!(!handle.is_healthy());
        assert_eq!(handle.submit(request([1], 1)).unwrap_err(), error);
        thread.join().unwrap();
        let stats = handle.stats();
        assert_eq!((stats.failed, stats.running, stats.full_blocks_used), (2, 0, 0));
    }

    #[tokio::test]
    async fn a_lost_executor_ends_everything_and_is_not_healthy() {
        let executor = || FakeExecutor::new(small_spec());
        let reason = "executor lost: injected into step 2";
        check_loss(executor().with_fault(2, Fault::Fatal), reason).await;
        check_loss(executor().with_refusal(2, Fault::Fatal), reason).await;
    }

    #[tokio::test]
    async fn a_panic_of_the_executor_is_a_lost_executor() {
        let executor = || FakeExecutor::new(small_spec());
        let reason = "executor lost: panic: injected into step 2";
        check_loss(executor().with_fault(2, Fault::Panic), reason).await;
        check_loss(executor().with_refusal(2, Fault::Panic), reason).await;
    }

    #[tokio::test]
    async fn tokens_arrive_while_the_next_step_is_under_way() {
        let (gate, opened) = std_mpsc::sync_channel(1);
        let opened = Mutex::new(opened);
        let executor = FakeExecutor::new(small_spec()).with_script(move |seen| {
            // Each step is over only when the token of the one before has been read.
            if seen.len() > 4 {
                opened.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            7
        });
        let handle = start(Box::new(executor), EngineConfig::default());
        let mut stream = handle.submit(request(prompt(1, 4), 10)).unwrap();
        let mut answer = Answer::default();
        while let Some(event) = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap() {
            answer.add(event);
            if answer.tokens.len() < 10 && !answer.tokens.is_empty() {
                gate.send(()).unwrap();
            }
        }
        assert_eq!((answer.tokens.len(), answer.end), (10, Some(Ok(FinishReason::Length))));
    }

    #[tokio::test]
    async fn stop_ends_running_and_waiting_requests() {
        let spec = ExecutorSpec { max_sequences: 1, context_len: 100_000, ..crate::fake::spec() };
        let executor =
            FakeExecutor::new(spec).with_timing(Duration::from_millis(1), Duration::ZERO);
        let (handle, thread) = start_watched(executor);
        let mut streams =
            [1, 2].map(|start| handle.submit(request(prompt(start, 4), 60_000)).unwrap());
        assert!(matches!(streams[0].next().await, Some(Event::Started { .. })));
        handle.stop();
        let error = EngineError::Stopped("it was stopped".to_owned());
        let mut last = None;
        while let Some(event) = streams[0].next().await {
            last = Some(event);
        }
        assert_eq!(last, Some(Event::Failed(error.clone())));
        assert_eq!(streams[1].next().await, Some(Event::Failed(error.clone())));
        assert_eq!(streams[1].next().await, None);
        assert_eq!(handle.submit(request([1], 1)).unwrap_err(), error);
        wait_for_end(&thread);
    }

    #[tokio::test]
    async fn stop_wakes_an_idle_engine() {
        // Whether an engine sleeps cannot be seen; after its last event it is about to, and one of
        // these will.
        for _ in 0..8 {
            let (handle, thread) = start_watched(FakeExecutor::new(small_spec()));
            read(&mut handle.submit(request(prompt(1, 4), 3)).unwrap()).await;
            handle.stop();
            wait_for_end(&thread);
        }
    }

    #[tokio::test]
    async fn the_thread_finishes_its_work_and_ends_when_all_handles_are_gone() {
        let (handle, thread) = start_watched(FakeExecutor::new(small_spec()));
        let mut stream = handle.clone().submit(request(prompt(1, 4), 30)).unwrap();
        drop(handle);
        assert_eq!(read(&mut stream).await.tokens.len(), 30);
        wait_for_end(&thread);
    }

    #[tokio::test]
    async fn a_stream_ends_even_if_the_engine_thread_has_a_bug() {
        let (handle, step_loop) =
            assemble(Box::new(FakeExecutor::new(small_spec())), EngineConfig::default());
        let mut stream = handle.submit(request(prompt(1, 4), 30)).unwrap();
        drop(step_loop);
        let error = EngineError::Stopped("its thread has ended".to_owned());
        assert_eq!(read(&mut stream).await.end, Some(Err(error)));
    }
}
