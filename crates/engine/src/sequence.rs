//! A request inside the engine: its tokens, how many of them are computed, and the blocks it holds.
//!
//! There is no state flag. A waiting sequence holds no blocks and has computed nothing; a running
//! one computes its remaining tokens in chunks (prefill) and, when the last of them is computed,
//! gets one more (decode). A preempted sequence is simply a waiting one whose tokens include those
//! already generated.

use std::collections::BTreeMap;
use std::ops::Range;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::constraint::Constrained;
use crate::executor::{Batch, BlockId, Sample, Span, TokenCount, TokenId};
use crate::handle::Submission;
use crate::kv_cache::BlockTables;
use crate::request::{EngineError, Event, Request};
use crate::scheduler::Letter;
use crate::seed::token_seed;

/// One request's state.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Order of arrival, which is the order of all privileges.
    pub(crate) arrival: u64,
    request: Request,
    /// The prompt and then the answer.
    pub(crate) tokens: Vec<TokenId>,
    num_prompt_tokens: usize,
    num_answer_tokens: usize,
    /// Leading tokens whose keys and values are in the blocks.
    pub(crate) num_computed: usize,
    /// Tokens to be computed in the step that is being planned or run.
    pub(crate) num_scheduled: usize,
    /// The blocks it holds.
    pub(crate) tables: BlockTables,
    /// Occurrences of tokens; empty unless a penalty needs them.
    counts: BTreeMap<TokenId, TokenCount>,
    /// What its answer must follow.
    constrained: Option<Constrained>,
    events: mpsc::Sender<Event>,
    /// Its place among the waiting, until it is admitted for the first time.
    place: Option<OwnedSemaphorePermit>,
}

impl Sequence {
    /// A waiting sequence.
    pub(crate) fn new(arrival: u64, submission: Submission) -> Self {
        let Submission { mut request, constrained, num_answer_tokens, events, place } = submission;
        let tokens = std::mem::take(&mut request.prompt);
        let mut counts = BTreeMap::new();
        if request.sampling.needs_counts() {
            for &token in &tokens {
                counts.insert(token, TokenCount { token, in_prompt: true, num_generated: 0 });
            }
        }
        Self {
            arrival,
            tables: BlockTables::new(request.adapter),
            request,
            num_prompt_tokens: tokens.len(),
            tokens,
            num_answer_tokens,
            num_computed: 0,
            num_scheduled: 0,
            counts,
            constrained,
            events,
            place: Some(place),
        }
    }

    /// Tokens of the prompt.
    pub(crate) fn num_prompt_tokens(&self) -> usize {
        self.num_prompt_tokens
    }

    /// Tokens to be computed before the next one can be chosen; 1 in decode.
    pub(crate) fn num_remaining(&self) -> usize {
        self.tokens.len() - self.num_computed
    }

    /// Positions of the rows it has in this step.
    pub(crate) fn scheduled_positions(&self) -> Range<usize> {
        self.num_computed..self.num_computed + self.num_scheduled
    }

    /// Whether this step chooses a token for it.
    pub(crate) fn is_sampled(&self) -> bool {
        self.num_scheduled > 0 && self.num_scheduled == self.num_remaining()
    }

    /// Whether `token`, if generated next, ends the answer as a stop token.
    pub(crate) fn stops_at(&self, token: TokenId) -> bool {
        !self.request.ignore_stop && self.request.stop_tokens.contains(&token)
    }

    /// Whether one more token makes the answer as long as it may be.
    pub(crate) fn is_last_token(&self) -> bool {
        self.num_generated() + 1 >= self.num_answer_tokens
    }

    /// Appends a generated token.
    ///
    /// # Errors
    /// Its constraint cannot go on, so it must end.
    pub(crate) fn push(&mut self, token: TokenId) -> Result<(), EngineError> {
        self.tokens.push(token);
        if self.request.sampling.needs_counts() {
            let unseen = TokenCount { token, in_prompt: false, num_generated: 0 };
            self.counts.entry(token).or_insert(unseen).num_generated += 1;
        }
        self.constrained.as_mut().map_or(Ok(()), |constrained| constrained.advance(token))
    }

    /// What its answer must follow, if anything.
    pub(crate) fn constrained_mut(&mut self) -> Option<&mut Constrained> {
        self.constrained.as_mut()
    }

    /// Whether it has not been admitted yet.
    pub(crate) fn is_new(&self) -> bool {
        self.place.is_some()
    }

    /// Gives the place among the waiting back, and reports the first admission.
    pub(crate) fn start(&mut self, num_cached_tokens: usize) -> Letter {
        self.place = None;
        // Cached tokens are some of the prompt, which the context bounds.
        let num_cached_tokens = u32::try_from(num_cached_tokens).unwrap_or(u32::MAX);
        self.letter(Event::Started { num_cached_tokens })
    }

    /// Whether its stream was dropped.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// An event for its client.
    pub(crate) fn letter(&self, event: Event) -> Letter {
        Letter { events: self.events.clone(), event }
    }

    /// Appends its share of the step to `batch`.
    pub(crate) fn write_to(&self, batch: &mut Batch) {
        let positions = self.scheduled_positions();
        let first_row = batch.tokens.len();
        let first_full = batch.full_blocks.len();
        let first_window = batch.window_blocks.len();
        batch.tokens.extend_from_slice(&self.tokens[positions.clone()]);
        batch.positions.extend(positions.map(narrow));
        batch.full_blocks.extend_from_slice(&self.tables.full);
        batch.window_blocks.extend(&self.tables.window);
        batch.spans.push(Span {
            rows: first_row..batch.tokens.len(),
            full_blocks: first_full..batch.full_blocks.len(),
            window_blocks: first_window..batch.window_blocks.len(),
            window_first_block: narrow(self.tables.window_first_block),
            adapter: self.request.adapter,
        });
        if self.is_sampled() {
            batch.samples.push(Sample {
                row: batch.tokens.len() - 1,
                params: self.request.sampling.clone(),
                seed: token_seed(self.request.seed, self.num_generated()),
                counts: self.counts.values().copied().collect(),
                mask: self.constrained.as_ref().and_then(Constrained::mask),
            });
        }
    }

    fn num_generated(&self) -> usize {
        self.tokens.len() - self.num_prompt_tokens
    }
}

/// A position or block index of a sequence; `validate` has held them below the context length, a
/// `u32`.
fn narrow(index: usize) -> BlockId {
    BlockId::try_from(index).expect("positions are below the context length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::SamplingParams;
    use crate::testing::{request, sequence};

    #[test]
    fn penalties_get_the_counts_of_prompt_and_answer() {
        let sampling = SamplingParams { presence_penalty: 0.5, ..SamplingParams::default() };
        let mut sequence = sequence(Request { sampling: sampling.into(), ..request([5, 3, 5], 9) });
        [3, 8, 8].into_iter().for_each(|token| sequence.push(token).unwrap());
        sequence.num_scheduled = 6;
        let mut batch = Batch::default();
        sequence.write_to(&mut batch);
        let count =
            |token, in_prompt, num_generated| TokenCount { token, in_prompt, num_generated };
        assert_eq!(
            batch.samples[0].counts,
            [count(3, true, 1), count(5, true, 0), count(8, false, 2)]
        );
    }

    #[test]
    fn a_token_has_the_same_seed_whether_decoded_or_recomputed() {
        let mut sequence = sequence(Request { seed: 17, ..request([1, 2, 3], 9) });
        [4, 5].into_iter().for_each(|token| sequence.push(token).unwrap());
        let mut seed = |num_computed: usize| {
            let mut batch = Batch::default();
            sequence.num_computed = num_computed;
            sequence.num_scheduled = 5 - num_computed;
            sequence.write_to(&mut batch);
            batch.samples[0].seed
        };
        assert_eq!([seed(0), seed(4)], [token_seed(17, 2); 2]);
    }
}
