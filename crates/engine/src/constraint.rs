//! What a request may demand of its answer: after every token, which ones may follow.
//!
//! The engine asks for the first mask where the request is submitted and for the next one when a token is applied, so a
//! sequence always knows what its next choice may take. Preemption changes nothing: the tokens it had stay its own.
//! Masks of several sequences are made side by side.

use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use crate::executor::TokenId;
use crate::mask::TokenMask;
use crate::request::EngineError;

/// The rules of one answer and how far it has come in them.
pub trait Constraint: fmt::Debug + Send + Sync {
    /// The tokens that may come next; `None` if any may. At least one must be of the model's vocabulary.
    ///
    /// # Errors
    /// What keeps it from saying so, which ends the sequence.
    fn mask(&mut self) -> Result<Option<TokenMask>, String>;

    /// Takes the token that came.
    ///
    /// # Errors
    /// What keeps it from going on, which ends the sequence.
    fn advance(&mut self, token: TokenId) -> Result<(), String>;

    /// Another one that has come as far and goes on by itself.
    fn boxed_clone(&self) -> Box<dyn Constraint>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}

/// A sequence's constraint with the mask of its next choice.
#[derive(Debug)]
pub(crate) struct Constrained {
    constraint: Box<dyn Constraint>,
    mask: Option<Arc<TokenMask>>,
    /// Whether a token has come since the mask was made.
    is_stale: bool,
}

impl Constrained {
    /// At the beginning of an answer.
    pub(crate) fn new(
        constraint: Box<dyn Constraint>,
        vocab_size: u32,
    ) -> Result<Self, EngineError> {
        let mut constrained = Self { constraint, mask: None, is_stale: true };
        constrained.refresh(vocab_size)?;
        Ok(constrained)
    }

    /// What the next choice may take.
    pub(crate) fn mask(&self) -> Option<Arc<TokenMask>> {
        debug_assert!(!self.is_stale, "the mask is of an earlier token");
        self.mask.clone()
    }

    /// Takes a token. Before the next choice [`refresh_all`] must see it.
    pub(crate) fn advance(&mut self, token: TokenId) -> Result<(), EngineError> {
        self.is_stale = true;
        self.constraint.advance(token).map_err(EngineError::Constraint)
    }

    fn refresh(&mut self, vocab_size: u32) -> Result<(), EngineError> {
        let mask = self.constraint.mask().map_err(EngineError::Constraint)?;
        if mask.as_ref().is_some_and(|mask| !mask.allows_any(vocab_size)) {
            let problem = format!("it allows none of {vocab_size} tokens");
            return Err(EngineError::Constraint(problem));
        }
        self.mask = mask.map(Arc::new);
        self.is_stale = false;
        Ok(())
    }
}

/// Makes the masks that are out of date, each with the index it came with, and returns what failed.
pub(crate) fn refresh_all<'a>(
    constrained: impl Iterator<Item = (usize, &'a mut Constrained)>,
    vocab_size: u32,
) -> Vec<(usize, EngineError)> {
    let mut stale: Vec<_> = constrained.filter(|(_, constrained)| constrained.is_stale).collect();
    let refresh = |(index, constrained): &mut (usize, &mut Constrained)| {
        constrained.refresh(vocab_size).err().map(|error| (*index, error))
    };
    // One is made where it is wanted sooner than another thread is awake.
    match &mut stale[..] {
        [one] => refresh(one).into_iter().collect(),
        many => many.par_iter_mut().filter_map(refresh).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::ExecutorSpec;
    use crate::fake::FakeExecutor;
    use crate::handle::EngineConfig;
    use crate::request::{FinishReason, Request};
    use crate::testing::{Answer, SteppedEngine, prompt, request, small_spec};

    /// Allows these tokens one after another, then nothing.
    #[derive(Debug, Clone)]
    struct Only(Vec<TokenId>);

    impl Constraint for Only {
        fn mask(&mut self) -> Result<Option<TokenMask>, String> {
            Ok(Some(self.0.first().copied().into_iter().collect()))
        }

        fn advance(&mut self, token: TokenId) -> Result<(), String> {
            assert_eq!(token, self.0.remove(0));
            Ok(())
        }

        fn boxed_clone(&self) -> Box<dyn Constraint> {
            Box::new(self.clone())
        }
    }

    fn constrained(start: TokenId, tokens: &[TokenId], max_tokens: u32) -> Request {
        let constraint: Box<dyn Constraint> = Box::new(Only(tokens.to_vec()));
        Request { constraint: Some(constraint), ..request(prompt(start, 5), max_tokens) }
    }

    fn error(num_tokens: u32) -> EngineError {
        EngineError::Constraint(format!("it allows none of {num_tokens} tokens"))
    }

    #[test]
    fn an_answer_has_the_tokens_that_its_constraint_allows() {
        let mut engine = SteppedEngine::with_spec(small_spec());
        let answer = engine.answer(constrained(1, &[7, 9, 8], 3));
        assert_eq!((answer.tokens, answer.end), (vec![7, 9, 8], Some(Ok(FinishReason::Length))));
    }

    #[test]
    fn a_constraint_that_cannot_go_on_ends_its_sequence_alone() {
        let spec = ExecutorSpec { max_sequences: 3, ..small_spec() };
        let mut engine = SteppedEngine::new(FakeExecutor::new(spec), EngineConfig::default());
        let requests =
            [constrained(1, &[7, 9], 3), constrained(2, &[5; 9], 9), request(prompt(3, 5), 9)];
        let mut streams = requests.map(|request| engine.submit(request));
        engine.run(20);
        let [lost, kept, free] = streams.each_mut().map(|stream| {
            let mut answer = Answer::default();
            answer.collect(stream);
            answer
        });
        assert_eq!((lost.tokens, lost.end), (vec![7, 9], Some(Err(error(100)))));
        assert_eq!((kept.tokens, kept.end), (vec![5; 9], Some(Ok(FinishReason::Length))));
        assert_eq!(free.tokens.len(), 9);
        let stats = engine.handle.stats();
        assert_eq!((stats.finished, stats.failed, stats.step_failures), (2, 1, 0));
        assert_eq!((stats.full_blocks_used, stats.window_blocks_used), (0, 0));
    }

    #[test]
    fn a_constraint_that_allows_nothing_is_refused_at_once() {
        let engine = SteppedEngine::with_spec(small_spec());
        // 100 is beyond the vocabulary.
        for tokens in [&[][..], &[100]] {
            let refused = engine.handle.submit(constrained(1, tokens, 3));
            assert_eq!(refused.err(), Some(error(100)));
        }
    }
}
