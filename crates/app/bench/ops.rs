//! Where the time of a step goes, operation by operation, beside what each must read.

use std::io::{self, Write};

use harmonium_bench::Decode;
use harmonium_model::profile::OpTime;
use serde_json::{Value, json};

use crate::table::Table;

/// The operations of one decode step.
pub(super) struct Operations {
    num_sequences: u32,
    context_len: u32,
    bandwidth: f64,
    /// Each with the bytes that it must read.
    rows: Vec<(OpTime, f64)>,
}

impl Operations {
    /// Puts times and bytes together. `bandwidth` is in bytes a second.
    pub(super) fn new(
        decode: &Decode,
        times: Vec<OpTime>,
        traffic: &[(&'static str, f64)],
        bandwidth: f64,
    ) -> Self {
        let bytes =
            |op: &str| traffic.iter().find(|(name, _)| *name == op).map_or(0.0, |row| row.1);
        let rows = times.into_iter().map(|time| {
            let bytes = bytes(time.op);
            (time, bytes)
        });
        Self {
            num_sequences: decode.num_sequences,
            context_len: decode.context_len,
            bandwidth,
            rows: rows.collect(),
        }
    }

    fn seconds(&self) -> f64 {
        self.rows.iter().map(|(time, _)| time.seconds).sum()
    }

    fn share(&self, seconds: f64, bytes: f64) -> f64 {
        bytes / seconds / self.bandwidth
    }

    /// One row an operation, and their sum.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut table = Table::new(&["operation", "calls", "ms", "of step", "GB", "of roofline"]);
        let step = self.seconds();
        let mut row = |name: String, calls: String, seconds: f64, bytes: f64| {
            table.row(vec![
                name,
                calls,
                format!("{:.3}", seconds * 1e3),
                format!("{:.1} %", seconds / step * 100.0),
                format!("{:.3}", bytes / 1e9),
                match bytes > 0.0 {
                    true => format!("{:.0} %", self.share(seconds, bytes) * 100.0),
                    false => "-".to_owned(),
                },
            ]);
        };
        for (time, bytes) in &self.rows {
            let name = match time.kernel == time.op {
                true => time.op.to_owned(),
                false => format!("{} ({})", time.op, time.kernel),
            };
            row(name, time.num_calls.to_string(), time.seconds, *bytes);
        }
        let bytes = self.rows.iter().map(|(_, bytes)| bytes).sum();
        row("one by one".to_owned(), String::new(), step, bytes);
        table.write(out)
    }

    /// The same for programs.
    pub(super) fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|(time, bytes)| {
            json!({
                "operation": time.op,
                "kernel": time.kernel,
                "calls": time.num_calls,
                "ms": time.seconds * 1e3,
                "bytes": bytes,
                "roofline_share": self.share(time.seconds, *bytes),
            })
        });
        json!({
            "batch": self.num_sequences,
            "context": self.context_len,
            "sum_ms": self.seconds() * 1e3,
            "operations": rows.collect::<Vec<_>>(),
        })
    }
}
