//! One request's answers as a stream of chunks: the single path from tokens to the protocol.
//!
//! [`Answer::start`] submits one sequence for each of the `n` answers; [`Answer::next`] waits for whichever has
//! news and turns it into chunks. Streams send the chunks, whole answers fold them. Dropping an `Answer` drops
//! its token streams, which cancels the sequences. Nothing is spawned.

mod choice;
mod logprobs;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use harmonium_engine::{Constraint, Event, Request, TokenStream};
use harmonium_openai::chat::ChunkChoice;
use harmonium_openai::{ChatChunk, Usage};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use self::choice::Choice;
use crate::error::{Error, Result, Unavailable};
use crate::prepare::Prepared;
use crate::state::{AppState, unix_seconds};
use crate::usage::TokenMeter;
use crate::validate::UsageMode;

/// A token stream that waits for its next event.
type Waiting = Pin<Box<dyn Future<Output = (usize, Option<Event>, TokenStream)> + Send>>;

/// The running answers to one request.
pub(crate) struct Answer {
    state: Arc<AppState>,
    head: Head,
    choices: Vec<Choice>,
    running: FuturesUnordered<Waiting>,
    meter: TokenMeter,
    usage_mode: UsageMode,
    /// Chunks that are made but not yet taken.
    ready: VecDeque<ChatChunk>,
    is_over: bool,
    arrived: Instant,
    _running: TaskTrackerToken,
}

/// What all chunks of an answer share.
struct Head {
    id: Arc<str>,
    object: Arc<str>,
    created: i64,
    model: Arc<str>,
}

impl Answer {
    /// Submits the request. Errors here come before any byte of the answer.
    pub(crate) fn start(
        state: Arc<AppState>,
        prepared: Prepared,
        constraint: Option<Box<dyn Constraint>>,
        arrived: Instant,
        running: TaskTrackerToken,
    ) -> Result<Self> {
        let Prepared { turn, prompt, max_tokens, variant, .. } = prepared;
        let ready = state.ready()?;
        let seed = turn.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
        let sampling = Arc::new(turn.sampling.clone());
        let meter = TokenMeter { num_prompt: prompt.len() as u64, ..TokenMeter::default() };
        let waiting = FuturesUnordered::new();
        let mut choices = Vec::new();
        for index in 0..turn.n {
            let stream = ready.model.engine.submit(Request {
                prompt: prompt.clone(),
                adapter: variant.adapter,
                max_tokens,
                sampling: Arc::clone(&sampling),
                seed: seed.wrapping_add(u64::from(index)),
                stop_tokens: Arc::clone(&ready.stop_tokens),
                ignore_stop: turn.ignore_stop_tokens,
                constraint: constraint.clone(),
            })?;
            waiting.push(wait(choices.len(), stream));
            choices.push(Choice::new(index, &turn, &ready.model.tokenizer, &state.config));
        }
        let head = Head {
            id: format!("chatcmpl-{}", Uuid::new_v4().simple()).into(),
            object: "chat.completion.chunk".into(),
            created: unix_seconds(),
            model: variant.name,
        };
        let usage_mode = turn.stream.unwrap_or(UsageMode::AtEnd);
        let mut answer = Self {
            state,
            head,
            choices,
            running: waiting,
            meter,
            usage_mode,
            ready: VecDeque::new(),
            is_over: false,
            arrived,
            _running: running,
        };
        let openings: Vec<_> = answer.choices.iter().map(Choice::opening).collect();
        answer.make_chunks(openings);
        Ok(answer)
    }

    /// The next chunk; `None` after the last. An error is the last thing there is.
    pub(crate) async fn next(&mut self) -> Option<Result<ChatChunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if self.is_over {
                return None;
            }
            let news = tokio::select! {
                biased;
                () = self.state.abort.cancelled() => Err(Error::Unavailable(Unavailable::Draining)),
                news = self.running.next() => news.ok_or(Error::Internal),
            };
            let taken = news.and_then(|(index, event, stream)| self.take(index, event, stream));
            if let Err(error) = taken {
                self.is_over = true;
                self.running.clear();
                return Some(Err(error));
            }
        }
    }

    /// The next chunk if it is already made.
    pub(crate) fn next_ready(&mut self) -> Option<ChatChunk> {
        self.ready.pop_front()
    }

    fn take(&mut self, index: usize, event: Option<Event>, stream: TokenStream) -> Result<()> {
        // The engine ends every stream with a terminal event, after which it is not waited for.
        let event = event.ok_or(Error::Internal)?;
        let choice = &mut self.choices[index];
        let metrics = &self.state.metrics;
        let num_reasoning = choice.num_reasoning_tokens();
        let mut out = Vec::new();
        let is_complete = match event {
            Event::Started { num_cached_tokens } => {
                metrics.observe_queue(self.arrived.elapsed());
                if index == 0 {
                    self.meter.num_cached = u64::from(num_cached_tokens);
                }
                false
            }
            Event::Token { token, logprobs } => {
                choice.observe_latency(metrics, self.arrived);
                self.meter.num_generated += 1;
                choice.push(token, logprobs, &mut out)
            }
            Event::Finished { reason } => {
                choice.finish(reason, &mut out);
                true
            }
            Event::Failed(error) => return Err(error.into()),
        };
        let num_reasoning = choice.num_reasoning_tokens().saturating_sub(num_reasoning);
        self.meter.num_reasoning += u64::from(num_reasoning);
        metrics.count_reasoning_tokens(num_reasoning);
        if is_complete {
            metrics.count_recoveries(choice.num_recoveries(), choice.num_undeclared_calls());
        } else {
            self.running.push(wait(index, stream));
        }
        self.make_chunks(out);
        if self.running.is_empty() {
            self.end();
        }
        Ok(())
    }

    fn make_chunks(&mut self, choices: Vec<ChunkChoice>) {
        let usage = match self.usage_mode {
            UsageMode::Never => None,
            UsageMode::AtEnd => Some(None),
            UsageMode::Continuous => Some(Some(self.meter.usage())),
        };
        for choice in choices {
            let chunk = self.chunk(vec![choice], usage);
            self.ready.push_back(chunk);
        }
    }

    fn end(&mut self) {
        self.is_over = true;
        if self.usage_mode != UsageMode::Never {
            let chunk = self.chunk(Vec::new(), Some(Some(self.meter.usage())));
            self.ready.push_back(chunk);
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunk {
        ChatChunk {
            id: Arc::clone(&self.head.id),
            object: Arc::clone(&self.head.object),
            created: self.head.created,
            model: Arc::clone(&self.head.model),
            choices,
            usage,
            system_fingerprint: None,
        }
    }
}

fn wait(index: usize, mut stream: TokenStream) -> Waiting {
    Box::pin(async move {
        let event = stream.next().await;
        (index, event, stream)
    })
}
