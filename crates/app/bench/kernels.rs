//! `harmonium bench kernels`: those among which the number of rows decides, side by side.

use std::fs;
use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use harmonium_cuda::Device;
use harmonium_cuda::ops::variants::{self, ExpertSizes, Variant};
use harmonium_model::{Checkpoint, Config};
use serde_json::{Value, json};

use crate::cli::BenchKernelsArgs;
use crate::environment::Environment;
use crate::find;
use crate::place::Place;
use crate::table::Table;

/// Measures every kernel for every number of rows and says which is fastest, and which one serves.
pub(super) fn run(args: &BenchKernelsArgs, environment: &Environment) -> Result<ExitCode> {
    let place = Place::of(args.device)?;
    let device = place.device().context("--device names no device with kernels: cuda or host")?;
    let checkpoint = Checkpoint::from_source(&find::named(&args.model, environment)?)?;
    let (mut values, mut out) = (Vec::new(), io::stdout().lock());
    for (product, measure) in products(checkpoint.config()) {
        let mut table = Table::new(&[product, "fastest", "us", "in use", "us", "all, us"]);
        for rows in args.rows.iter().map(|rows| rows.get()) {
            let variants = measure(device, rows as usize)
                .with_context(|| format!("{product}, {rows} rows"))?;
            table.row(row(rows, &variants));
            values.push(json!({
                "product": product,
                "rows": rows,
                "variants": variants.iter().map(to_json).collect::<Vec<_>>(),
            }));
            save(args, &place, &values)?;
        }
        table.write_unless_empty(&mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

type Measure = Box<dyn Fn(&Device, usize) -> harmonium_cuda::Result<Vec<Variant>>>;

/// The products of a model that have several kernels.
fn products(config: &Config) -> [(&'static str, Measure); 4] {
    let (hidden, query) = (config.hidden_size as usize, config.query_size());
    let (qkv, vocabulary) = (query + 2 * config.kv_size(), config.vocab_size as usize);
    let sizes = ExpertSizes {
        num_experts: config.num_experts as usize,
        chosen: config.experts_per_token as usize,
        hidden,
        intermediate: config.intermediate_size as usize,
    };
    let dense = |inputs, outputs| -> Measure {
        Box::new(move |device, rows| variants::dense(device, rows, inputs, outputs))
    };
    [
        ("qkv", dense(hidden, qkv)),
        ("attention output", dense(query, hidden)),
        ("logits", dense(hidden, vocabulary)),
        ("experts", Box::new(move |device, rows| variants::experts(device, rows, sizes))),
    ]
}

/// The file is whole after every measurement.
fn save(args: &BenchKernelsArgs, place: &Place, values: &[Value]) -> Result<()> {
    let Some(file) = &args.out else { return Ok(()) };
    let report = json!({"device": place.facts()?, "model": args.model, "products": values});
    fs::write(file, format!("{report:#}\n"))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn row(rows: u32, variants: &[Variant]) -> Vec<String> {
    let fastest = variants.iter().min_by(|a, b| a.microseconds.total_cmp(&b.microseconds));
    let in_use = variants.iter().find(|variant| variant.is_chosen);
    let mut cells = vec![format!("{rows} rows")];
    for variant in [fastest, in_use] {
        cells.push(variant.map_or("none", |variant| variant.kernel).to_owned());
        cells.push(variant.map_or(String::new(), |variant| format!("{:.1}", variant.microseconds)));
    }
    let all: Vec<_> = variants.iter().map(|v| format!("{:.1}", v.microseconds)).collect();
    cells.push(all.join(" / "));
    cells
}

fn to_json(variant: &Variant) -> Value {
    json!({
        "kernel": variant.kernel,
        "in_use": variant.is_chosen,
        "us": variant.microseconds,
    })
}
