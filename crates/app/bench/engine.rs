//! The measurements of `harmonium bench engine`, their tables, and the file that holds them.

use std::fs;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context as _, Result};
use harmonium_bench::{BenchError, Context, Decode, Measured, Prefill};
use harmonium_model::Config;
use harmonium_model::profile::Profile;
use harmonium_model::traffic::{self, Widths};
use serde_json::{Map, Value, json};

use super::ops::{Bound, Operations};
use crate::cli::BenchEngineArgs;
use crate::place::Place;
use crate::table::Table;

/// Repeats of a profiled step of a prompt, of which the median counts.
const PREFILL_REPEATS: u32 = 3;

/// What is measured, and what came out so far.
pub(super) struct Bench<'a> {
    args: &'a BenchEngineArgs,
    config: &'a Config,
    widths: Widths,
    /// Bytes a second.
    bandwidth: f64,
    /// When nothing more is begun.
    end: Option<Instant>,
    report: Map<String, Value>,
    left_out: Vec<String>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        args: &'a BenchEngineArgs,
        config: &'a Config,
        place: &Place,
        bandwidth: f64,
        end: Option<Instant>,
    ) -> Result<Self> {
        let mut report = Map::new();
        report.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        report.insert("device".to_owned(), place.facts()?);
        report.insert("bandwidth_bytes_per_s".to_owned(), bandwidth.into());
        let widths = match place.device() {
            Some(_) => Widths::DEVICE,
            None => Widths::processor(),
        };
        let left_out = Vec::new();
        Ok(Self { args, config, widths, bandwidth, end, report, left_out })
    }

    /// Adds a fact to the report.
    pub(super) fn note(&mut self, key: &str, value: Value) {
        self.report.insert(key.to_owned(), value);
    }

    /// One table a context with one row a batch size, then where the time of some of these steps goes.
    pub(super) fn decode(
        &mut self,
        executor: &mut dyn Profile,
        out: &mut impl Write,
    ) -> Result<()> {
        let (mut values, mut profiles, mut context) = (Vec::new(), Vec::new(), Context::default());
        for (context_index, &context_len) in self.args.context.iter().enumerate() {
            let heading = format!("decode, context {context_len}");
            let mut table =
                Table::new(&[&heading, "tok/s", "ms a step", "GB a step", "of roofline"]);
            let mut operations = Vec::new();
            for (batch_index, size) in self.args.batch.iter().enumerate() {
                let num_sequences = size.get();
                let decode = Decode { num_sequences, context_len, num_steps: self.args.steps };
                let name = format!("batch {num_sequences}, context {context_len}");
                let measured = self.measure(&name, || decode.run(executor, &mut context))?;
                let Some(measured) = measured else { continue };
                let (row, value) = self.step(&decode, &measured);
                table.row(row);
                values.push(value);
                self.save("decode", &values)?;
                let is_end = [0, self.args.batch.len() - 1].contains(&batch_index);
                if self.args.per_kernel || (context_index == 0 && is_end) {
                    let profile = self.profile(&decode, executor, &mut context)?;
                    profiles.push(profile.to_json());
                    operations.push((name, profile));
                    self.save("operations", &profiles)?;
                }
            }
            table.write_unless_empty(out)?;
            for (name, profile) in operations {
                writeln!(out, "{name}, by operation:")?;
                profile.write(out)?;
                writeln!(out)?;
            }
        }
        Ok(())
    }

    /// A row of a table and of the report.
    fn step(&self, decode: &Decode, measured: &Measured) -> (Vec<String>, Value) {
        let Decode { num_sequences, context_len, .. } = *decode;
        let bytes = traffic::decode_bytes(self.config, num_sequences, context_len, self.widths);
        let share = bytes / measured.step_seconds() / self.bandwidth;
        let row = vec![
            format!("batch {num_sequences}"),
            format!("{:.1}", measured.tokens_per_second()),
            format!("{:.2}", measured.step_seconds() * 1e3),
            format!("{:.2}", bytes / 1e9),
            format!("{:.0} %", share * 100.0),
        ];
        let value = json!({
            "batch": num_sequences,
            "context": context_len,
            "steps": measured.num_steps,
            "tokens_per_s": measured.tokens_per_second(),
            "step_ms": measured.step_seconds() * 1e3,
            "bytes_per_step": bytes,
            "roofline_share": share,
        });
        (row, value)
    }

    fn profile(
        &self,
        decode: &Decode,
        executor: &mut dyn Profile,
        context: &mut Context,
    ) -> Result<Operations> {
        let Decode { num_sequences, context_len, .. } = *decode;
        let batch =
            decode.prepare(executor, context)?.next().context("a decoding without steps")?;
        let times = executor.profile(&batch, self.args.steps)?;
        let traffic = traffic::decode_ops(self.config, num_sequences, context_len, self.widths);
        let step = Map::from_iter([
            ("batch".to_owned(), num_sequences.into()),
            ("context".to_owned(), context_len.into()),
        ]);
        let bound = Bound::Memory { bandwidth: self.bandwidth };
        Ok(Operations::new(step, times, &traffic, bound))
    }

    /// One row a prompt length, then where the time of the step that ends the last prompt goes.
    pub(super) fn prefill(
        &mut self,
        executor: &mut dyn Profile,
        out: &mut impl Write,
    ) -> Result<()> {
        let mut table = Table::new(&["prefill", "steps", "tok/s", "s"]);
        let (mut values, mut last) = (Vec::new(), None::<Prefill>);
        for num_tokens in self.args.prefill.iter().map(|len| len.get()) {
            let name = format!("{num_tokens} tokens");
            let prefill = Prefill { num_tokens };
            let measured = self.measure(&format!("prefill of {name}"), || prefill.run(executor))?;
            let Some(measured) = measured else { continue };
            table.row(vec![
                name,
                measured.num_steps.to_string(),
                format!("{:.1}", measured.tokens_per_second()),
                format!("{:.2}", measured.elapsed.as_secs_f64()),
            ]);
            values.push(json!({
                "tokens": num_tokens,
                "steps": measured.num_steps,
                "tokens_per_s": measured.tokens_per_second(),
                "seconds": measured.elapsed.as_secs_f64(),
            }));
            self.save("prefill", &values)?;
            last = Some(prefill);
        }
        table.write_unless_empty(out)?;
        let Some(prefill) = last else { return Ok(()) };
        let batch = prefill.last_step(executor.spec())?;
        let (rows, end) = (batch.tokens.len() as u32, prefill.num_tokens);
        let work = traffic::prefill_flops(self.config, end - rows..end, batch.samples.len());
        let step =
            Map::from_iter([("rows".to_owned(), rows.into()), ("end".to_owned(), end.into())]);
        let times = executor.profile(&batch, PREFILL_REPEATS)?;
        let operations = Operations::new(step, times, &work, Bound::Arithmetic);
        writeln!(out, "{rows} rows up to position {end}, by operation:")?;
        operations.write(out)?;
        writeln!(out)?;
        self.save("prefill_operations", &[operations.to_json()])
    }

    /// Says what was not measured.
    pub(super) fn write_left_out(&mut self, out: &mut impl Write) -> Result<()> {
        for line in &self.left_out {
            writeln!(out, "{line}")?;
        }
        let lines: Vec<Value> = self.left_out.iter().map(|line| line.as_str().into()).collect();
        self.save("left_out", &lines)
    }

    /// Measures something unless time is up or it does not fit: then that is noted down.
    fn measure<T>(
        &mut self,
        name: &str,
        measure: impl FnOnce() -> Result<T, BenchError>,
    ) -> Result<Option<T>> {
        let is_over = self.end.is_some_and(|end| Instant::now() >= end);
        let why = match if is_over { None } else { Some(measure()) } {
            Some(Ok(measured)) => return Ok(Some(measured)),
            Some(Err(error @ BenchError::TooLarge { .. })) => error.to_string(),
            Some(Err(error)) => return Err(error).with_context(|| name.to_owned()),
            None => "time is up".to_owned(),
        };
        self.left_out.push(format!("{name}: left out, {why}"));
        Ok(None)
    }

    /// Writes the report with these rows of one part.
    fn save(&mut self, part: &str, rows: &[Value]) -> Result<()> {
        self.report.insert(part.to_owned(), rows.into());
        let Some(file) = &self.args.out else { return Ok(()) };
        let report = Value::Object(self.report.clone());
        fs::write(file, format!("{report:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}
