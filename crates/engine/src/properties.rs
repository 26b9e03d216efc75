//! Property tests of the whole scheduler: random arrivals and cancellations, between steps and
//! while one is under way, shortages and failing steps, with and without adapters and constraints,
//! over bounds from roomy to absurd. [`crate::fake::FakeExecutor`] checks every position
//! that a row may see, and [`SteppedEngine`] every block after every step; here is what callers may
//! rely on.

use std::sync::Arc;

use proptest::prelude::*;

use crate::constraint::Constraint;
use crate::executor::{AdapterId, ExecutorSpec, TokenId};
use crate::fake::{FakeExecutor, Fault, predict};
use crate::handle::{EngineConfig, TokenStream, start};
use crate::mask::TokenMask;
use crate::request::{EngineError, FinishReason, Request};
use crate::sampling::SamplingParams;
use crate::seed::mix;
use crate::testing::{Answer, PATIENCE, SteppedEngine, read};

const STOP: TokenId = 0;
const VOCAB_SIZE: u32 = 11;
const NUM_ADAPTERS: u32 = 2;

/// Allows now and then anything, otherwise an arbitrary few tokens, as all before say; and gives up
/// after some of them.
#[derive(Debug, Clone)]
struct Whims {
    digest: u64,
    num_left: u32,
    is_asked: bool,
}

const WORN_OUT: &str = "worn out";

impl Whims {
    fn allowed(&self) -> Option<TokenMask> {
        let bits = mix(self.digest);
        // One token at least, and some beyond the vocabulary.
        let tokens = (0..2 * VOCAB_SIZE).filter(|token| {
            bits >> token & 3 == 3 || u64::from(*token) == bits % u64::from(VOCAB_SIZE)
        });
        (bits >> 62 != 0).then(|| tokens.collect())
    }
}

impl Constraint for Whims {
    fn mask(&mut self) -> Result<Option<TokenMask>, String> {
        self.is_asked = true;
        if self.num_left == 0 { Err(WORN_OUT.to_owned()) } else { Ok(self.allowed()) }
    }

    fn advance(&mut self, token: TokenId) -> Result<(), String> {
        assert!(std::mem::take(&mut self.is_asked), "a token came before its mask was asked for");
        assert!(self.allowed().is_none_or(|mask| mask.allows(token)), "{token} was not allowed");
        self.digest = mix(self.digest ^ u64::from(token));
        self.num_left -= 1;
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[derive(Debug, Clone)]
enum Move {
    Submit(Request),
    /// Drops one of the streams so far.
    Cancel(prop::sample::Index),
    HalfSteps(usize),
}

fn specs() -> impl Strategy<Value = ExecutorSpec> {
    let bounds = (1_u32..6, 1_u32..12, 2_u32..48, 1_u32..16, 1_u32..8);
    (bounds, 1_u32..16, 1_u32..16).prop_map(|(bounds, num_full_blocks, num_window_blocks)| {
        let (block_size, window, context_len, max_rows, max_sequences) = bounds;
        ExecutorSpec {
            vocab_size: VOCAB_SIZE,
            context_len,
            window,
            block_size,
            num_full_blocks,
            num_window_blocks,
            max_rows,
            max_sequences,
            num_adapters: NUM_ADAPTERS,
        }
    })
}

/// Prompts that often have a beginning in common, for the model and its adapters.
fn requests() -> impl Strategy<Value = Request> {
    let prompts = (0..3_u32, 0..16_u32, prop::collection::vec(1..4_u32, 1..6)).prop_map(
        |(family, shared_len, tail)| {
            let shared = (0..shared_len).map(|index| 1 + (index * index + family) % 10);
            shared.chain(tail).collect::<Vec<_>>()
        },
    );
    let adapters = prop::option::of((0..NUM_ADAPTERS).prop_map(AdapterId));
    let whims = (any::<u64>(), 1..30_u32).prop_map(|(digest, num_left)| Whims {
        digest,
        num_left,
        is_asked: false,
    });
    let whims = prop::option::of(whims);
    (prompts, adapters, 1..20_u32, any::<bool>(), 0..3_u64, any::<bool>(), whims).prop_map(
        |(prompt, adapter, max_tokens, greedy, seed, ignore_stop, whims)| {
            let temperature = if greedy { 0.0 } else { 1.0 };
            let sampling = Arc::new(SamplingParams { temperature, ..SamplingParams::default() });
            let stop_tokens = Arc::new([STOP]);
            Request {
                prompt,
                adapter,
                max_tokens,
                sampling,
                seed,
                stop_tokens,
                ignore_stop,
                constraint: whims.map(|whims| Box::new(whims) as Box<dyn Constraint>),
            }
        },
    )
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => requests().prop_map(Move::Submit),
        1 => any::<prop::sample::Index>().prop_map(Move::Cancel),
        3 => (1_usize..12).prop_map(Move::HalfSteps),
    ];
    prop::collection::vec(one, 1..40)
}

/// The answer that a request gets when it is alone in the world.
fn lone_answer(
    request: &Request,
    context_len: u32,
) -> (Vec<TokenId>, Result<FinishReason, EngineError>) {
    let num_tokens = (context_len as usize - request.prompt.len()).min(request.max_tokens as usize);
    let mut tokens = predict(request, num_tokens, VOCAB_SIZE);
    match tokens.iter().position(|&token| token == STOP && !request.ignore_stop) {
        None if tokens.len() < num_tokens => {
            (tokens, Err(EngineError::Constraint(WORN_OUT.to_owned())))
        }
        None => (tokens, Ok(FinishReason::Length)),
        Some(index) => {
            tokens.truncate(index + 1);
            (tokens, Ok(FinishReason::Stop))
        }
    }
}

/// A request on its way, and what it has received so far.
struct Client {
    request: Request,
    stream: Option<TokenStream>,
    answer: Answer,
}

impl Client {
    fn check(&mut self, spec: &ExecutorSpec, may_fail: bool) {
        let Some(stream) = &mut self.stream else { return };
        self.answer.collect(stream);
        let (tokens, expected) = lone_answer(&self.request, spec.context_len);
        match self.answer.end.take() {
            Some(Err(EngineError::Step(_))) if may_fail => {
                assert_eq!(self.answer.tokens, tokens[..self.answer.tokens.len()]);
            }
            Some(end) => {
                assert_eq!((&self.answer.tokens, end), (&tokens, expected));
                let num_cached = self.answer.num_cached_tokens.expect("it was started");
                assert!((num_cached as usize) < self.request.prompt.len());
                assert_eq!(num_cached % spec.block_size, 0);
            }
            None => panic!("{:?} has no end", self.request),
        }
    }
}

/// `faults` are steps that fail, when they are submitted or when they are collected.
fn run_scenario(spec: ExecutorSpec, prefix_cache: bool, moves: Vec<Move>, faults: &[(u64, bool)]) {
    let executor =
        faults.iter().fold(FakeExecutor::new(spec), |executor, &(step, refused)| match refused {
            true => executor.with_refusal(step, Fault::Step),
            false => executor.with_fault(step, Fault::Step),
        });
    let config = EngineConfig { prefix_cache, ..EngineConfig::default() };
    let mut engine = SteppedEngine::new(executor, config);
    let spec = engine.handle.spec().clone();
    let mut clients: Vec<Client> = Vec::new();
    // While a request is the oldest, each step computes at least one of its tokens: so much work
    // bounds the steps of all of them, however often the younger ones are preempted. One more may
    // find at its beginning that all were cancelled.
    let mut max_steps = 1;
    for next in moves {
        match next {
            Move::Submit(request) => match engine.handle.submit(request.clone()) {
                Ok(stream) => {
                    let (tokens, _) = lone_answer(&request, spec.context_len);
                    max_steps += request.prompt.len() + tokens.len();
                    let answer = Answer::default();
                    clients.push(Client { request, stream: Some(stream), answer });
                }
                Err(error) => {
                    let prompt_len = request.prompt.len();
                    let context_len = spec.context_len;
                    assert!(prompt_len >= context_len as usize);
                    assert_eq!(error, EngineError::ContextLength { prompt_len, context_len });
                }
            },
            Move::Cancel(index) if !clients.is_empty() => {
                let index = index.index(clients.len());
                clients[index].stream = None;
            }
            Move::Cancel(_) => {}
            Move::HalfSteps(count) => {
                (0..count).for_each(|_| engine.half_step());
            }
        }
    }
    engine.run(max_steps);
    for client in &mut clients {
        client.check(&spec, !faults.is_empty());
    }
    let stats = engine.handle.stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert_eq!((stats.full_blocks_used, stats.window_blocks_used), (0, 0));
    assert_eq!(stats.finished + stats.failed + stats.cancelled, clients.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_request_gets_the_answer_it_would_get_alone(
        spec in specs(), prefix_cache in any::<bool>(), moves in moves(),
    ) {
        run_scenario(spec, prefix_cache, moves, &[]);
    }

    #[test]
    fn a_failed_step_ends_only_what_was_in_it_and_spoils_nothing(
        spec in specs(), moves in moves(),
        faults in prop::collection::vec((0_u64..40, any::<bool>()), 1..6),
    ) {
        run_scenario(spec, true, moves, &faults);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The same through the real thread, with clients that come and go at their own pace.
    #[test]
    fn clients_that_vanish_leave_no_blocks_behind(
        spec in specs(), requests in prop::collection::vec((requests(), 0_usize..8), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(vanishing_clients(spec, requests));
    }
}

/// Submits all requests; of each, the client leaves after so many events unless that is more than
/// 5.
async fn vanishing_clients(spec: ExecutorSpec, requests: Vec<(Request, usize)>) {
    let handle = start(Box::new(FakeExecutor::new(spec)), EngineConfig::default());
    let context_len = handle.spec().context_len;
    let mut streams = Vec::new();
    for (request, num_events) in requests {
        if let Ok(stream) = handle.submit(request.clone()) {
            streams.push((request, num_events, stream));
        }
    }
    let num_requests = streams.len() as u64;
    for (request, num_events, mut stream) in streams {
        if num_events > 5 {
            let (tokens, reason) = lone_answer(&request, context_len);
            let answer = read(&mut stream).await;
            assert_eq!((answer.tokens, answer.end), (tokens, Some(reason)));
        } else {
            for _ in 0..num_events {
                tokio::time::timeout(PATIENCE, stream.next()).await.unwrap();
            }
        }
    }
    let all_gone = async {
        loop {
            let stats = handle.stats();
            if stats.finished + stats.failed + stats.cancelled == num_requests {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    let stats = tokio::time::timeout(PATIENCE, all_gone).await.unwrap();
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert_eq!((stats.full_blocks_used, stats.window_blocks_used), (0, 0));
}
