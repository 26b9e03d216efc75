//! `harmonium logits`: the raw logits of a token sequence, for comparison with other implementations.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use harmonium_model::Checkpoint;
use harmonium_model::logits::{LogitsMode, LogitsPlace, adapted_logits, logits, write};

use crate::cli::LogitsArgs;
use crate::environment::Environment;
use crate::place::Place;
use crate::progress::Task;
use crate::{adapters, find, progress, stack};

/// Computes the logits and writes them as tensor `logits`.
pub(crate) fn run(args: &LogitsArgs, environment: &Environment) -> Result<ExitCode> {
    let tokens = match &args.tokens_file {
        Some(path) => read_tokens(path)?,
        None => args.tokens.clone(),
    };
    let mode = mode(args, tokens.len())?;
    let place = Place::of(args.device)?;
    let adapter = args.adapter.clone();
    let source = find::named(&args.model, environment)?;
    let out = args.out.clone();
    let precision = stack::precision(args.activations);
    let num_tokens = tokens.len();

    let task = Task::new(format!("running {num_tokens} tokens"));
    let work = move || -> Result<u32> {
        let checkpoint = Checkpoint::from_source(&source)?;
        let vocab_size = checkpoint.config().vocab_size;
        let place = place.device().map_or(LogitsPlace::Cpu(precision), LogitsPlace::Device);
        let values = match &adapter {
            Some(adapter) => {
                let adapter = adapters::open(adapter, checkpoint.config())?;
                adapted_logits(&checkpoint, adapter, &tokens, mode, place)?
            }
            None => logits(&checkpoint, &tokens, mode, place)?,
        };
        write(&out, &values, vocab_size.try_into()?)?;
        Ok(vocab_size)
    };
    let vocab_size = stack::block_on(async {
        let running = tokio::task::spawn_blocking(work);
        progress::during(&task, running).await.context("the forward pass panicked")?
    })?;
    let path = args.out.display();
    writeln!(io::stdout(), "wrote logits [{num_tokens}, {vocab_size}] to {path}")?;
    Ok(ExitCode::SUCCESS)
}

fn mode(args: &LogitsArgs, num_tokens: usize) -> Result<LogitsMode> {
    match (args.chunk, args.decode_last) {
        (Some(_), Some(_)) => bail!("--chunk and --decode-last cannot be combined"),
        (Some(len), None) => Ok(LogitsMode::Chunk(len.try_into()?)),
        (None, Some(count)) => {
            let count = count.try_into()?;
            if count > num_tokens {
                bail!("--decode-last {count}: there are only {num_tokens} tokens");
            }
            Ok(LogitsMode::DecodeLast(count))
        }
        (None, None) => Ok(LogitsMode::All),
    }
}

fn read_tokens(path: &Path) -> Result<Vec<u32>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a JSON list of token ids", path.display()))
}
