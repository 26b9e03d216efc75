//! One of the answers to a request: tokens in, pieces of the protocol out.
//!
//! Owns the parser, the stop texts and the numbering of tool calls. Text is never reordered: what a stop text
//! holds back leaves before anything that follows it.

use harmonium_engine::{FinishReason as EngineReason, Logprobs, TokenId};
use harmonium_harmony::{Delta as Piece, Parser, TokenKind, Tokenizer};
use harmonium_openai::FinishReason;
use harmonium_openai::chat::{ChunkChoice, Delta, FunctionDelta, ToolCallDelta};
use tokio::time::Instant;
use uuid::Uuid;

use super::logprobs::LogprobQueue;
use crate::config::ServerConfig;
use crate::metrics::Metrics;
use crate::stop::StopFilter;
use crate::validate::Turn;

/// The state of one answer.
pub(super) struct Choice {
    index: u32,
    parser: Parser,
    stop: StopFilter,
    logprobs: Option<LogprobQueue>,
    /// Calls begun so far; the last of them gets the arguments.
    num_calls: u32,
    include_reasoning: bool,
    /// Whether reasoning goes out under its second name, too.
    alias_reasoning: bool,
    last_token: Option<Instant>,
    /// Kept between tokens for its allocation.
    pieces: Vec<Piece>,
}

impl Choice {
    pub(super) fn new(
        index: u32,
        turn: &Turn,
        tokenizer: &Tokenizer,
        config: &ServerConfig,
    ) -> Self {
        let tool_names = turn.conversation.tools.iter().map(|tool| tool.name.clone());
        Self {
            index,
            parser: Parser::new(tokenizer.clone(), tool_names),
            stop: StopFilter::new(turn.stops.clone()),
            logprobs: turn.sampling.logprobs.map(|_| LogprobQueue::new(tokenizer.clone())),
            num_calls: 0,
            include_reasoning: turn.include_reasoning,
            alias_reasoning: config.reasoning_content,
            last_token: None,
            pieces: Vec::new(),
        }
    }

    /// The chunk that every answer begins with.
    pub(super) fn opening(&self) -> ChunkChoice {
        self.delta(Delta {
            role: Some("assistant".into()),
            content: Some(String::new()),
            ..Delta::default()
        })
    }

    /// Takes a token. True if a stop text was reached: the answer is complete.
    pub(super) fn push(
        &mut self,
        token: TokenId,
        logprobs: Option<Logprobs>,
        out: &mut Vec<ChunkChoice>,
    ) -> bool {
        let mut pieces = std::mem::take(&mut self.pieces);
        let kind = self.parser.push(token, &mut pieces);
        if let (Some(queue), Some(logprobs)) = (&mut self.logprobs, logprobs)
            && matches!(kind, TokenKind::Content | TokenKind::Preamble)
        {
            queue.push(token, &logprobs);
        }
        let is_stopped = self.send_all(&mut pieces, out);
        self.pieces = pieces;
        is_stopped
    }

    /// The engine has ended the answer.
    pub(super) fn finish(&mut self, reason: EngineReason, out: &mut Vec<ChunkChoice>) {
        let mut pieces = std::mem::take(&mut self.pieces);
        self.parser.finish(&mut pieces);
        if self.send_all(&mut pieces, out) {
            return;
        }
        self.flush(out);
        let reason = match reason {
            EngineReason::Length => FinishReason::Length,
            EngineReason::Stop => self.reason_to_stop(),
        };
        let logprobs = self.logprobs.as_mut().and_then(LogprobQueue::take_rest);
        out.push(ChunkChoice { logprobs, ..self.last(reason) });
    }

    pub(super) fn num_reasoning_tokens(&self) -> u32 {
        self.parser.reasoning_tokens()
    }

    pub(super) fn num_recoveries(&self) -> u32 {
        self.parser.recoveries()
    }

    pub(super) fn num_undeclared_calls(&self) -> u32 {
        self.parser.undeclared_calls()
    }

    /// Records how long this token was waited for.
    pub(super) fn observe_latency(&mut self, metrics: &Metrics, arrived: Instant) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => metrics.observe_first_token(now - arrived),
            Some(last) => metrics.observe_inter_token(now - last),
        }
    }

    /// True if a stop text was reached; the pieces after it are dropped.
    fn send_all(&mut self, pieces: &mut Vec<Piece>, out: &mut Vec<ChunkChoice>) -> bool {
        for piece in pieces.drain(..) {
            if self.send(piece, out) {
                out.push(self.last(self.reason_to_stop()));
                return true;
            }
        }
        false
    }

    fn send(&mut self, piece: Piece, out: &mut Vec<ChunkChoice>) -> bool {
        match piece {
            Piece::Content(text) | Piece::Preamble(text) => {
                let passed = self.stop.push(text);
                self.send_content(passed.text, out);
                return passed.is_stopped;
            }
            Piece::Reasoning(text) => {
                if self.include_reasoning {
                    let alias = self.alias_reasoning.then(|| text.clone());
                    out.push(self.delta(Delta {
                        reasoning: Some(text),
                        reasoning_content: alias,
                        ..Delta::default()
                    }));
                }
            }
            Piece::ToolCallStart { name } => {
                self.flush(out);
                self.num_calls += 1;
                out.push(self.call(ToolCallDelta {
                    id: Some(format!("call_{}", Uuid::new_v4().simple())),
                    kind: Some("function".to_owned()),
                    function: Some(FunctionDelta {
                        name: Some(name),
                        arguments: Some(String::new()),
                    }),
                    ..ToolCallDelta::default()
                }));
            }
            Piece::ToolCallArguments(text) => out.push(self.call(ToolCallDelta {
                function: Some(FunctionDelta { name: None, arguments: Some(text) }),
                ..ToolCallDelta::default()
            })),
            Piece::ToolCallEnd => {}
        }
        false
    }

    fn flush(&mut self, out: &mut Vec<ChunkChoice>) {
        let text = self.stop.flush();
        self.send_content(text, out);
    }

    fn send_content(&mut self, text: String, out: &mut Vec<ChunkChoice>) {
        if text.is_empty() {
            return;
        }
        let logprobs = self.logprobs.as_mut().and_then(|queue| queue.take(text.len()));
        let delta = Delta { content: Some(text), ..Delta::default() };
        out.push(ChunkChoice { logprobs, ..self.delta(delta) });
    }

    fn reason_to_stop(&self) -> FinishReason {
        if self.num_calls > 0 { FinishReason::ToolCalls } else { FinishReason::Stop }
    }

    fn delta(&self, delta: Delta) -> ChunkChoice {
        ChunkChoice { index: self.index, delta, ..ChunkChoice::default() }
    }

    /// A fragment of the current call.
    fn call(&self, fragment: ToolCallDelta) -> ChunkChoice {
        let fragment = ToolCallDelta { index: self.num_calls.saturating_sub(1), ..fragment };
        self.delta(Delta { tool_calls: Some(vec![fragment]), ..Delta::default() })
    }

    fn last(&self, reason: FinishReason) -> ChunkChoice {
        ChunkChoice { index: self.index, finish_reason: Some(reason), ..ChunkChoice::default() }
    }
}
