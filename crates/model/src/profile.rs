//! Where the time of a step goes, operation by operation, on whatever runs it.
//!
//! Both executors name their operations alike, and [`crate::traffic`] says by the same names what each must read.

use std::time::Instant;

use harmonium_engine::{Batch, Executor, ExecutorError};

/// One operation of a step, all layers together.
#[derive(Debug, Clone, PartialEq)]
pub struct OpTime {
    /// The operation.
    pub op: &'static str,
    /// The first of its kernels; on the processor the same as `op`.
    pub kernel: &'static str,
    /// How often a step runs it.
    pub num_calls: u32,
    /// Time of all calls of a step: the median of the repeats.
    pub seconds: f64,
}

/// An executor that can say where its time goes.
pub trait Profile: Executor {
    /// Waits for what loading still does beside the first steps, so that it does not slow down steps that are measured.
    fn settle(&mut self) {}

    /// Runs a step `repeats` times, with a clock behind every operation. Operations come in the order in
    /// which they first run.
    fn profile(&mut self, batch: &Batch, repeats: u32) -> Result<Vec<OpTime>, ExecutorError>;
}

/// Times of several repeats of one step.
#[derive(Default)]
pub(crate) struct Repeats {
    ops: Vec<Op>,
    num_repeats: usize,
}

struct Op {
    op: &'static str,
    kernel: &'static str,
    num_calls: u32,
    /// One entry a repeat.
    seconds: Vec<f64>,
}

impl Repeats {
    /// A call of the current repeat.
    pub(crate) fn add(&mut self, op: &'static str, kernel: &'static str, seconds: f64) {
        let index = self.ops.iter().position(|known| known.op == op).unwrap_or_else(|| {
            self.ops.push(Op { op, kernel, num_calls: 0, seconds: Vec::new() });
            self.ops.len() - 1
        });
        let op = &mut self.ops[index];
        op.seconds.resize(self.num_repeats + 1, 0.0);
        op.seconds[self.num_repeats] += seconds;
        op.num_calls += u32::from(self.num_repeats == 0);
    }

    /// The current repeat has ended.
    pub(crate) fn end(&mut self) {
        self.num_repeats += 1;
    }

    /// What came out.
    pub(crate) fn medians(self) -> Vec<OpTime> {
        let ops = self.ops.into_iter().map(|mut op| {
            op.seconds.sort_by(f64::total_cmp);
            let seconds = op.seconds.get(op.seconds.len() / 2).copied().unwrap_or(0.0);
            OpTime { op: op.op, kernel: op.kernel, num_calls: op.num_calls, seconds }
        });
        ops.collect()
    }
}

/// The clock of an executor whose operations run one after another on the processor.
pub(crate) struct Clock {
    last: Instant,
    times: Repeats,
}

impl Clock {
    /// Begins with the first repeat.
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), times: Repeats::default() }
    }

    /// An operation ends here.
    pub(crate) fn mark(&mut self, op: &'static str) {
        let now = Instant::now();
        self.times.add(op, op, (now - self.last).as_secs_f64());
        self.last = now;
    }

    /// A repeat ends here, and the next begins.
    pub(crate) fn end(&mut self) {
        self.times.end();
        self.last = Instant::now();
    }

    /// What came out.
    pub(crate) fn medians(self) -> Vec<OpTime> {
        self.times.medians()
    }
}

/// Tells a clock, if there is one, that an operation ends here.
pub(crate) fn mark(clock: &mut Option<Clock>, op: &'static str) {
    if let Some(clock) = clock {
        clock.mark(op);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_and_the_median_repeat_counts() {
        let mut times = Repeats::default();
        for seconds in [3.0, 1.0, 2.0] {
            times.add("norm", "rms_norm", seconds);
            times.add("qkv", "linear_few", 1.0);
            times.add("norm", "rms_norm", 10.0);
            times.end();
        }
        let norm = OpTime { op: "norm", kernel: "rms_norm", num_calls: 2, seconds: 12.0 };
        let qkv = OpTime { op: "qkv", kernel: "linear_few", num_calls: 1, seconds: 1.0 };
        assert_eq!(times.medians(), [norm, qkv]);
    }
}
