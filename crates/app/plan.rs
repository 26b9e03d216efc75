//! `harmonium plan`: how a model would use the memory of a GPU.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use harmonium_model::synth::Shape;
use harmonium_model::{Checkpoint, Config, CudaOptions, Plan, cuda};
use serde_json::json;

use crate::cli::PlanArgs;
use crate::environment::Environment;
use crate::find;
use crate::machine::gib;

/// Plans and prints.
pub(crate) fn run(args: &PlanArgs, environment: &Environment) -> Result<ExitCode> {
    let config = config(&args.model, environment)?;
    let defaults = CudaOptions::default();
    let options = CudaOptions {
        context_len: args.context.map(Into::into),
        max_rows: args.max_rows.map_or(defaults.max_rows, Into::into),
        max_sequences: args.max_sequences.map_or(defaults.max_sequences, Into::into),
        ..defaults
    };
    let plan = cuda::plan(&config, &[], &options, args.gpu_memory)
        .with_context(|| format!("{} on a GPU with {}", args.model, gib(args.gpu_memory)))?;
    if args.json { print_json(args, &plan) } else { print_table(args, &plan) }?;
    Ok(ExitCode::SUCCESS)
}

/// The published shapes are known without their files.
fn config(name: &str, environment: &Environment) -> Result<Config> {
    let published = match name.strip_prefix("openai/").unwrap_or(name) {
        "gpt-oss-20b" => Some(Shape::GPT_OSS_20B),
        "gpt-oss-120b" => Some(Shape::GPT_OSS_120B),
        _ => None,
    };
    match published {
        Some(shape) => Ok(shape.to_config()?),
        None => Ok(Checkpoint::from_source(&find::named(name, environment)?)?.config().clone()),
    }
}

fn print_table(args: &PlanArgs, plan: &Plan) -> Result<()> {
    let mut out = io::stdout().lock();
    let share = |bytes: u64| bytes as f64 * 100.0 / plan.memory_bytes as f64;
    writeln!(out, "{} on a GPU with {}\n", args.model, gib(plan.memory_bytes))?;
    for item in &plan.items {
        writeln!(out, "{:<32}{:>12}{:>8.1} %", item.name, gib(item.bytes), share(item.bytes))?;
    }
    let total = plan.total_bytes();
    writeln!(out, "{:<32}{:>12}{:>8.1} %\n", "in all", gib(total), share(total))?;
    let spec = &plan.spec;
    for (what, number) in [
        ("context, tokens", u64::from(spec.context_len)),
        ("tokens kept, full layers", plan.num_kv_tokens()),
        ("sequences of full length", plan.num_full_sequences()),
        ("sequences in one step", spec.max_sequences.into()),
        ("rows in one step", spec.max_rows.into()),
    ] {
        writeln!(out, "{what:<32}{number:>12}")?;
    }
    Ok(())
}

fn print_json(args: &PlanArgs, plan: &Plan) -> Result<()> {
    let items: Vec<_> =
        plan.items.iter().map(|item| json!({"name": item.name, "bytes": item.bytes})).collect();
    let value = json!({
        "model": args.model,
        "memory_bytes": plan.memory_bytes,
        "items": items,
        "total_bytes": plan.total_bytes(),
        "context_len": plan.spec.context_len,
        "kv_tokens": plan.num_kv_tokens(),
        "full_length_sequences": plan.num_full_sequences(),
        "max_sequences": plan.spec.max_sequences,
        "max_rows": plan.spec.max_rows,
        "block_size": plan.spec.block_size,
        "num_full_blocks": plan.spec.num_full_blocks,
        "num_window_blocks": plan.spec.num_window_blocks,
    });
    writeln!(io::stdout(), "{value:#}")?;
    Ok(())
}
