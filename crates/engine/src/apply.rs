//! Apply: carries the effects of a step out. The only verb after which sequences differ from
//! before.

use crate::constraint::refresh_all;
use crate::executor::Sampled;
use crate::request::Event;
use crate::resolve::Effect;
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;

impl Scheduler {
    /// Applies `effects` to the running sequences, removes those that end, and puts the events of
    /// both into the outbox.
    pub(crate) fn apply(&mut self, effects: Vec<Effect>) {
        // Indexes stay valid until all effects are applied; only then is the list of the running
        // closed up.
        let mut last_events: Vec<Option<Event>> = vec![None; self.running.len()];
        let mut failed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Advance { index } => {
                    let Sequence { tables, tokens, num_computed, num_scheduled, .. } =
                        &mut self.running[index];
                    *num_computed += std::mem::take(num_scheduled);
                    self.cache.advance(tables, tokens, *num_computed);
                }
                Effect::Emit { index, sampled } => {
                    let Sampled { token, logprobs } = sampled;
                    let pushed = self.running[index].push(token);
                    if let Err(error) = pushed {
                        failed.push((index, error));
                    }
                    let event = Event::Token { token, logprobs };
                    self.outbox.push(self.running[index].letter(event));
                    self.totals.generated_tokens += 1;
                }
                Effect::Finish { index, reason } => {
                    last_events[index] = Some(Event::Finished { reason });
                    self.totals.finished += 1;
                }
                Effect::Fail { index, error } => {
                    last_events[index] = Some(Event::Failed(error));
                    self.totals.failed += 1;
                }
            }
        }
        let goes_on = |index: usize| last_events[index].is_none();
        let going_on = self.running.iter_mut().enumerate().filter(|(index, _)| goes_on(*index));
        let constrained =
            going_on.filter_map(|(index, sequence)| Some((index, sequence.constrained_mut()?)));
        failed.extend(refresh_all(constrained, self.spec.vocab_size));
        for (index, error) in failed {
            // An answer that is complete needs nothing of its constraint any more.
            if last_events[index].is_none() {
                tracing::warn!(%error, "a sequence is lost");
                last_events[index] = Some(Event::Failed(error));
                self.totals.failed += 1;
            }
        }
        let sequences = std::mem::take(&mut self.running);
        for (mut sequence, last_event) in sequences.into_iter().zip(last_events) {
            match last_event {
                None => self.running.push(sequence),
                Some(event) => {
                    self.cache.release(&mut sequence.tables);
                    self.outbox.push(sequence.letter(event));
                }
            }
        }
    }
}
