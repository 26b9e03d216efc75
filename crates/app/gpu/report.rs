//! What `harmonium gpu` found, as one file and a short table.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::part::Part;
use crate::cli::GpuArgs;
use crate::settings::Device;
use crate::table::Table;

/// The commit this program was built from; `cargo xtask gpu` says it to the compiler.
const COMMIT: Option<&str> = option_env!("HARMONIUM_COMMIT");
/// What nvidia-smi is asked for.
const ASKED: [&str; 9] = [
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.draw",
    "temperature.gpu",
    "memory.total",
];

/// The report while it grows.
pub(super) struct Report<'a> {
    args: &'a GpuArgs,
    started: Instant,
    value: Value,
}

impl<'a> Report<'a> {
    pub(super) fn new(args: &'a GpuArgs) -> Self {
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": COMMIT,
            "model": args.model,
            "device": null,
            "nvidia_smi_before": nvidia_smi(args),
            "nvidia_smi_after": null,
            "seconds_allowed": args.seconds,
            "seconds_taken": null,
            "parts": [],
            "check": null,
            "variants": null,
            "bench": null,
        });
        Self { args, started: Instant::now(), value }
    }

    /// Takes in what the parts have written, and writes everything. The clocks are those right after the last part.
    pub(super) fn save(&mut self, parts: &[Part]) -> Result<()> {
        self.value["nvidia_smi_after"] = nvidia_smi(self.args);
        for part in ["check", "variants", "bench"] {
            let file = self.args.out.join(format!("{part}.json"));
            let Ok(text) = fs::read(&file) else { continue };
            // A part that was ended while it wrote leaves a torn file.
            let Ok(value) = serde_json::from_slice::<Value>(&text) else { continue };
            if self.value["device"].is_null() {
                self.value["device"] = value["device"].clone();
            }
            self.value[part] = value;
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        self.value["parts"] = parts.iter().map(Part::to_json).collect();
        self.value["seconds_taken"] = self.started.elapsed().as_secs_f64().into();
        let file = self.file();
        fs::write(&file, format!("{:#}\n", self.value))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// What a person wants to know first.
    pub(super) fn write_summary(&self, parts: &[Part], out: &mut impl Write) -> Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        let (device, commit) = (&self.value["device"]["name"], &self.value["commit"]);
        writeln!(out, "\n{} on {}, commit {}", self.args.model, text(device), text(commit))?;
        let bench = &self.value["bench"];
        if let Some(bandwidth) = bench["bandwidth_bytes_per_s"].as_f64() {
            writeln!(out, "memory: {:.0} GB/s", bandwidth / 1e9)?;
        }
        for step in bench["decode"].as_array().map_or(&[][..], Vec::as_slice) {
            let number = |key: &str| step[key].as_f64().unwrap_or(f64::NAN);
            if step["context"] == bench["decode"][0]["context"] {
                writeln!(
                    out,
                    "batch {}, context {}: {:.1} tok/s, {:.0} % of roofline",
                    step["batch"],
                    step["context"],
                    number("tokens_per_s"),
                    number("roofline_share") * 100.0
                )?;
            }
        }
        let mut table = Table::new(&["part", "outcome", "s", "last line"]);
        parts.iter().for_each(|part| table.row(part.row()));
        writeln!(out)?;
        table.write(out)?;
        writeln!(out, "report: {}", self.file().display())?;
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.args.out.join("report.json")
    }
}

/// What the driver's own tool says of the first card; null where there is none. Only asks, and changes nothing.
fn nvidia_smi(args: &GpuArgs) -> Value {
    if args.device == Device::Host {
        return Value::Null;
    }
    let query = format!("--query-gpu={}", ASKED.join(","));
    let asked = Command::new("nvidia-smi")
        .args(["--id=0", "--format=csv,noheader,nounits", &query])
        .output();
    let Ok(answer) = asked else { return Value::Null };
    let text = String::from_utf8_lossy(&answer.stdout);
    let values = text.lines().next().unwrap_or_default().split(',').map(str::trim);
    let pairs = ASKED.iter().zip(values).map(|(&key, value)| (key.to_owned(), value.into()));
    if answer.status.success() { Value::Object(pairs.collect()) } else { Value::Null }
}
