//! Where the time of a step goes, operation by operation, beside what each must do.

use std::io::{self, Write};

use harmonium_model::profile::OpTime;
use serde_json::{Map, Value, json};

use crate::table::Table;

/// What bounds a step.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    /// Bytes to read, of so many a second.
    Memory { bandwidth: f64 },
    /// Floating-point operations.
    Arithmetic,
}

/// The operations of one step.
pub(super) struct Operations {
    /// Says which step, for programs.
    step: Map<String, Value>,
    bound: Bound,
    /// Each with the bytes or floating-point operations that it must do.
    rows: Vec<(OpTime, f64)>,
}

impl Operations {
    /// Puts times and work together.
    pub(super) fn new(
        step: Map<String, Value>,
        times: Vec<OpTime>,
        work: &[(&'static str, f64)],
        bound: Bound,
    ) -> Self {
        let work = |op: &str| work.iter().find(|(name, _)| *name == op).map_or(0.0, |row| row.1);
        let rows = times.into_iter().map(|time| {
            let work = work(time.op);
            (time, work)
        });
        Self { step, bound, rows: rows.collect() }
    }

    fn seconds(&self) -> f64 {
        self.rows.iter().map(|(time, _)| time.seconds).sum()
    }

    /// One row an operation, and their sum.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let [unit, rate] = match self.bound {
            Bound::Memory { .. } => ["GB", "of roofline"],
            Bound::Arithmetic => ["GFLOP", "TFLOP/s"],
        };
        let mut table = Table::new(&["operation", "calls", "ms", "of step", unit, rate]);
        let step = self.seconds();
        let mut row = |name: String, calls: String, seconds: f64, work: f64| {
            let reached = match self.bound {
                _ if work == 0.0 => "-".to_owned(),
                Bound::Memory { bandwidth } => {
                    format!("{:.0} %", work / seconds / bandwidth * 100.0)
                }
                Bound::Arithmetic => format!("{:.1}", work / seconds / 1e12),
            };
            table.row(vec![
                name,
                calls,
                format!("{:.3}", seconds * 1e3),
                format!("{:.1} %", seconds / step * 100.0),
                format!("{:.3}", work / 1e9),
                reached,
            ]);
        };
        for (time, work) in &self.rows {
            let name = match time.kernel == time.op {
                true => time.op.to_owned(),
                false => format!("{} ({})", time.op, time.kernel),
            };
            row(name, time.num_calls.to_string(), time.seconds, *work);
        }
        let work = self.rows.iter().map(|(_, work)| work).sum();
        row("one by one".to_owned(), String::new(), step, work);
        table.write(out)
    }

    /// The same for programs.
    pub(super) fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|(time, work)| {
            let mut row = json!({
                "operation": time.op,
                "kernel": time.kernel,
                "calls": time.num_calls,
                "ms": time.seconds * 1e3,
            });
            match self.bound {
                Bound::Memory { bandwidth } => {
                    row["bytes"] = (*work).into();
                    row["roofline_share"] = (work / time.seconds / bandwidth).into();
                }
                Bound::Arithmetic => row["flop"] = (*work).into(),
            }
            row
        });
        let mut value = self.step.clone();
        value.insert("sum_ms".to_owned(), (self.seconds() * 1e3).into());
        value.insert("operations".to_owned(), rows.collect());
        Value::Object(value)
    }
}
