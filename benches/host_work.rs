//! What the engine's thread does for a decode step, beside an executor that costs it nothing.
//!
//! Three times are taken, for several numbers of sequences. Between the tokens of one step and the start of the next
//! the device has nothing to do: the engine resolves, applies and plans there ("engine"), and the CUDA executor builds
//! the arrays it uploads ("arrays"). What it does while the device works ("beside") is hidden as long as a step takes
//! longer. Each step is made to last a millisecond, so that clients have read their tokens and sleep, as they do
//! when a model answers. Every figure is the median of the steps counted.

#![allow(missing_docs, clippy::print_stdout, reason = "a bench prints")]

use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use harmonium_engine::{
    Batch, EngineConfig, Executor, ExecutorError, ExecutorSpec, Request, Sampled, SamplingParams,
    start,
};
use harmonium_model::cuda::build_arrays;

const SEQUENCES: [usize; 3] = [1, 64, 256];
/// Tokens of each prompt.
const CONTEXTS: [u32; 2] = [1000, 8000];
const STEP_TIME: Duration = Duration::from_millis(1);
/// Steps with all sequences in decode that are passed over, and those that are counted.
const WARM_UP: usize = 20;
const COUNTED: usize = 300;

const SPEC: ExecutorSpec = ExecutorSpec {
    vocab_size: 201_088,
    context_len: 131_072,
    window: 128,
    block_size: 16,
    num_full_blocks: 1 << 18,
    num_window_blocks: 1 << 14,
    max_rows: 4096,
    max_sequences: 256,
    num_adapters: 0,
};

/// Times of one step.
#[derive(Clone, Copy)]
struct Times {
    engine: Duration,
    arrays: Duration,
    beside: Duration,
    num_bytes: usize,
}

/// Answers with the same token for ever and notes when it is called.
struct Free {
    num_sequences: usize,
    num_samples: usize,
    collected: Instant,
    submitted: Option<(Instant, Times)>,
    times: Arc<Mutex<Vec<Times>>>,
}

impl Executor for Free {
    fn spec(&self) -> &ExecutorSpec {
        &SPEC
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let engine = self.collected.elapsed();
        self.num_samples = batch.samples.len();
        self.submitted = None;
        if self.num_samples == self.num_sequences && batch.tokens.len() == self.num_sequences {
            let started = Instant::now();
            let num_bytes = black_box(build_arrays(batch, &SPEC));
            let arrays = started.elapsed();
            let times = Times { engine, arrays, beside: Duration::ZERO, num_bytes };
            self.submitted = Some((Instant::now(), times));
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Sampled>, ExecutorError> {
        if let Some((submitted, times)) = self.submitted {
            let times = Times { beside: submitted.elapsed(), ..times };
            self.times.lock().unwrap_or_else(PoisonError::into_inner).push(times);
        }
        std::thread::sleep(STEP_TIME);
        let sampled = vec![Sampled { token: 7, logprobs: None }; self.num_samples];
        self.collected = Instant::now();
        Ok(sampled)
    }
}

fn request(index: usize, context_len: u32) -> Request {
    let index = index as u32;
    Request {
        prompt: (0..context_len).map(|position| (position * 31 + index) % 200_000).collect(),
        adapter: None,
        max_tokens: (2 * SEQUENCES[2] + WARM_UP + COUNTED) as u32 * 2,
        sampling: Arc::new(SamplingParams::default()),
        seed: index.into(),
        stop_tokens: Arc::new([1]),
        ignore_stop: false,
        constraint: None,
    }
}

/// Runs so many sequences beside each other until enough steps are counted.
async fn measure(num_sequences: usize, context_len: u32) -> Vec<Times> {
    let times = Arc::new(Mutex::new(Vec::new()));
    let executor = Free {
        num_sequences,
        num_samples: 0,
        collected: Instant::now(),
        submitted: None,
        times: Arc::clone(&times),
    };
    let engine = start(Box::new(executor), EngineConfig::default());
    let clients: Vec<_> = (0..num_sequences)
        .map(|index| engine.submit(request(index, context_len)).expect("there is room"))
        .map(|mut stream| tokio::spawn(async move { while stream.next().await.is_some() {} }))
        .collect();
    let num_counted = || times.lock().unwrap_or_else(PoisonError::into_inner).len();
    while num_counted() < WARM_UP + COUNTED && engine.stats().finished == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.stop();
    for client in clients {
        let _ = client.await;
    }
    times.lock().unwrap_or_else(PoisonError::into_inner).drain(..).skip(WARM_UP).collect()
}

fn median(times: &[Times], of: impl Fn(&Times) -> Duration) -> f64 {
    let mut values: Vec<Duration> = times.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2].as_secs_f64() * 1e6
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("the runtime starts");
    println!("sequences  context  engine µs  arrays µs  beside µs  upload KB  steps");
    for context_len in CONTEXTS {
        for num_sequences in SEQUENCES {
            let times = runtime.block_on(measure(num_sequences, context_len));
            println!(
                "{num_sequences:>9} {context_len:>8} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>6}",
                median(&times, |times| times.engine),
                median(&times, |times| times.arrays),
                median(&times, |times| times.beside),
                times[0].num_bytes as f64 / 1e3,
                times.len(),
            );
        }
    }
}
