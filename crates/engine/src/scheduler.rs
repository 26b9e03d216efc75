//! The scheduler's state: who waits, who runs, and the blocks.
//!
//! All sequences stand in one line by arrival. `running` is its front part and `waiting` the rest:
//! admission moves the boundary back by one, preemption forward by one. So the oldest sequence
//! always runs, and whatever is scarce goes to the older one first. The verbs that change this
//! state are in `plan` and `apply`.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::executor::ExecutorSpec;
use crate::handle::Submission;
use crate::kv_cache::KvCache;
use crate::request::{EngineError, Event};
use crate::sequence::Sequence;
use crate::stats::Stats;

/// Everything the engine thread decides with.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) spec: ExecutorSpec,
    pub(crate) cache: KvCache,
    /// Sequences that hold blocks, oldest first.
    pub(crate) running: Vec<Sequence>,
    /// Sequences that hold none, oldest first; all of them younger than the running ones.
    pub(crate) waiting: VecDeque<Sequence>,
    /// Events that are still to be sent, in order. Every step empties it.
    pub(crate) outbox: Vec<Letter>,
    /// Counters; the gauges in it are filled by [`Self::stats`].
    pub(crate) totals: Stats,
    num_arrivals: u64,
}

impl Scheduler {
    /// No sequences, all blocks free.
    pub(crate) fn new(spec: ExecutorSpec, prefix_cache: bool) -> Self {
        Self {
            cache: KvCache::new(&spec, prefix_cache),
            spec,
            running: Vec::new(),
            waiting: VecDeque::new(),
            outbox: Vec::new(),
            totals: Stats::default(),
            num_arrivals: 0,
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Puts a new sequence at the end of the line.
    pub(crate) fn add(&mut self, submission: Submission) {
        self.num_arrivals += 1;
        self.waiting.push_back(Sequence::new(self.num_arrivals, submission));
    }

    /// Removes all sequences whose streams were dropped.
    pub(crate) fn drop_cancelled(&mut self) {
        let before = self.running.len() + self.waiting.len();
        self.waiting.retain(|sequence| !sequence.is_cancelled());
        let cache = &mut self.cache;
        self.running.retain_mut(|sequence| {
            let cancelled = sequence.is_cancelled();
            if cancelled {
                cache.release(&mut sequence.tables);
            }
            !cancelled
        });
        let after = self.running.len() + self.waiting.len();
        self.totals.cancelled += (before - after) as u64;
    }

    /// Gives the blocks of the youngest running sequence back and lets it wait, first in its line.
    pub(crate) fn preempt_youngest(&mut self) {
        let mut sequence = self.running.pop().expect("only a running sequence makes room");
        assert!(sequence.num_scheduled == 0, "rows are given to the older sequences first");
        self.cache.release(&mut sequence.tables);
        sequence.num_computed = 0;
        self.totals.preemptions += 1;
        self.waiting.push_front(sequence);
    }

    /// Ends every sequence with `error`.
    pub(crate) fn fail_all(&mut self, error: &EngineError) {
        for sequence in &mut self.running {
            self.cache.release(&mut sequence.tables);
        }
        let sequences = self.running.drain(..).chain(self.waiting.drain(..));
        for sequence in sequences {
            self.outbox.push(sequence.letter(Event::Failed(error.clone())));
            self.totals.failed += 1;
        }
    }

    /// The numbers of this moment. Requests that hold a place among the waiting are counted by the
    /// handle, which sees those in the inbox too.
    pub(crate) fn stats(&self) -> Stats {
        let (full, window) = (self.cache.full(), self.cache.window());
        Stats {
            running: self.running.len(),
            waiting: self.waiting.iter().filter(|sequence| !sequence.is_new()).count(),
            full_blocks_used: full.num_used(),
            window_blocks_used: window.num_used(),
            full_blocks_total: full.len(),
            window_blocks_total: window.len(),
            ..self.totals.clone()
        }
    }
}

/// An event and where it goes. Waking the clients costs as much as all else that the engine's thread
/// does in a step (`benches/host_work.rs`), so it is left until the executor works; by then the
/// sequence may be gone.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) event: Event,
}

impl Letter {
    /// Sends it. The channel has room for all a request can have (see
    /// [`crate::Handle::submit`]), so the only failure is a dropped stream, which the next step
    /// sees as a cancellation.
    pub(crate) fn send(self) {
        let _ = self.events.try_send(self.event);
    }
}
