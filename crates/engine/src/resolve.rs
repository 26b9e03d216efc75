//! Resolve: what a step's outcome means for its sequences. Pure: state and tokens in, a list of
//! effects out.

use crate::executor::Sampled;
use crate::request::{EngineError, FinishReason};
use crate::sequence::Sequence;

/// One change to the sequence at `index` of the running ones. Those of one sequence are in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Its scheduled rows are computed.
    Advance { index: usize },
    /// Its next token is chosen.
    Emit { index: usize, sampled: Sampled },
    /// Its answer is complete.
    Finish { index: usize, reason: FinishReason },
    /// It ends with an error.
    Fail { index: usize, error: EngineError },
}

/// The effects of a step that chose these tokens, one for each sampled sequence in order.
pub(crate) fn resolve(running: &[Sequence], sampled: Vec<Sampled>) -> Vec<Effect> {
    let mut sampled = sampled.into_iter();
    let mut effects = Vec::with_capacity(running.len() * 2);
    for (index, sequence) in scheduled(running) {
        effects.push(Effect::Advance { index });
        if !sequence.is_sampled() {
            continue;
        }
        let sampled = sampled.next().expect("collect has checked that each sample has its token");
        let reason = if sequence.stops_at(sampled.token) {
            Some(FinishReason::Stop)
        } else if sequence.is_last_token() {
            Some(FinishReason::Length)
        } else {
            None
        };
        effects.push(Effect::Emit { index, sampled });
        effects.extend(reason.map(|reason| Effect::Finish { index, reason }));
    }
    effects
}

/// The effects of a step that failed: it ends the sequences that had rows in it, and no others.
pub(crate) fn resolve_failure(running: &[Sequence], error: &EngineError) -> Vec<Effect> {
    scheduled(running).map(|(index, _)| Effect::Fail { index, error: error.clone() }).collect()
}

fn scheduled(running: &[Sequence]) -> impl Iterator<Item = (usize, &Sequence)> {
    running.iter().enumerate().filter(|(_, sequence)| sequence.num_scheduled > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::TokenId;
    use crate::request::Request;
    use crate::testing::{request, sequence};

    /// Sequences with a prompt of 4, of which `num_scheduled` tokens were in the step.
    fn running(requests: &[(Request, usize)]) -> Vec<Sequence> {
        let scheduled = |(request, num_scheduled): &(Request, usize)| {
            let mut sequence = sequence(request.clone());
            sequence.num_scheduled = *num_scheduled;
            sequence
        };
        requests.iter().map(scheduled).collect()
    }

    fn sampled(token: TokenId) -> Sampled {
        Sampled { token, logprobs: None }
    }

    fn stopping_at(token: TokenId) -> Request {
        Request { stop_tokens: [token].into(), ..request([1; 4], 2) }
    }

    #[test]
    fn tokens_go_to_the_sequences_that_computed_their_last_row() {
        let request = || request([1; 4], 2);
        let running = running(&[(request(), 3), (request(), 4), (request(), 0), (request(), 4)]);
        let effects = resolve(&running, vec![sampled(7), sampled(8)]);
        let expected = [
            Effect::Advance { index: 0 },
            Effect::Advance { index: 1 },
            Effect::Emit { index: 1, sampled: sampled(7) },
            Effect::Advance { index: 3 },
            Effect::Emit { index: 3, sampled: sampled(8) },
        ];
        assert_eq!(effects, expected);
    }

    #[test]
    fn a_stop_token_or_the_last_token_finishes() {
        let ignoring = Request { ignore_stop: true, ..stopping_at(7) };
        let last = Request { max_tokens: 1, ..stopping_at(7) };
        let running =
            running(&[(stopping_at(7), 4), (stopping_at(9), 4), (ignoring, 4), (last.clone(), 4)]);
        let effects = resolve(&running, vec![sampled(7); 4]);
        let finished = |index, reason| Effect::Finish { index, reason };
        let ends: Vec<_> =
            effects.into_iter().filter(|effect| matches!(effect, Effect::Finish { .. })).collect();
        assert_eq!(ends, [finished(0, FinishReason::Stop), finished(3, FinishReason::Stop)]);
        let effects = resolve(&self::running(&[(last, 4)]), vec![sampled(8)]);
        assert_eq!(effects.last(), Some(&finished(0, FinishReason::Length)));
    }

    #[test]
    fn a_failed_step_fails_the_sequences_that_were_in_it() {
        let running = running(&[(request([1; 4], 2), 0), (request([1; 4], 2), 1)]);
        let error = EngineError::Step("broken".to_owned());
        let expected = [Effect::Fail { index: 1, error: error.clone() }];
        assert_eq!(resolve_failure(&running, &error), expected);
    }
}
