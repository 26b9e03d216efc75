//! How long each operation of some work takes on a device.
//!
//! Work is captured with an event behind each operation that it marks, and replayed: so the times hold no launching by
//! the processor. An event ends what came before it, so kernels do not overlap as they do without: the sum is more than
//! the work takes. Work that nobody profiles pays one look at a flag for a launch and for a mark.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Device, Event, Graph, Result};

/// One operation of the work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// What it was marked as.
    pub op: &'static str,
    /// The first of its kernels.
    pub kernel: &'static str,
    /// How long it took.
    pub ms: f32,
}

/// Work that says how long its operations take; see [`Device::profile`].
pub struct Profile {
    /// Before the events that it records.
    graph: Graph,
    /// The first is the start.
    marks: Vec<Mark>,
}

struct Mark {
    op: &'static str,
    kernel: &'static str,
    end: Event,
}

impl Profile {
    /// Does the work again and waits for it. One entry for each mark, in order.
    pub fn run(&self, device: &Device) -> Result<Vec<Timing>> {
        self.graph.replay()?;
        device.synchronize()?;
        let timings = self.marks.windows(2).map(|pair| {
            let [before, Mark { op, kernel, end }] = pair else { unreachable!("windows of two") };
            Ok(Timing { op, kernel, ms: end.elapsed_ms(&before.end)? })
        });
        timings.collect()
    }
}

/// What a device notes down while work is captured for a profile.
#[derive(Default)]
pub(crate) struct Recorder {
    is_on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The first kernel since the last mark.
    kernel: Option<&'static str>,
    marks: Vec<Mark>,
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called for every launch.
    pub(crate) fn launched(&self, kernel: &'static str) {
        if self.is_on.load(Ordering::Relaxed) {
            self.state().kernel.get_or_insert(kernel);
        }
    }
}

impl Device {
    /// Says that an operation ends here. Does nothing unless a profile is made.
    pub fn mark(&self, op: &'static str) -> Result<()> {
        let recorder = self.recorder();
        if !recorder.is_on.load(Ordering::Relaxed) {
            return Ok(());
        }
        let end = self.event()?;
        let mut state = recorder.state();
        let kernel = state.kernel.take().unwrap_or("none");
        state.marks.push(Mark { op, kernel, end });
        Ok(())
    }

    /// Captures work, as [`Device::capture`] does, with an event behind every operation that it marks.
    pub fn profile(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<Profile> {
        let recorder = self.recorder();
        let captured = self.capture(|device| {
            recorder.is_on.store(true, Ordering::Relaxed);
            let worked = device.mark("start").and_then(|()| work(device));
            recorder.is_on.store(false, Ordering::Relaxed);
            worked
        });
        let State { marks, .. } = std::mem::take(&mut *recorder.state());
        Ok(Profile { graph: captured?, marks })
    }
}
