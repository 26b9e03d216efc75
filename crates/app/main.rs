//! The `harmonium` binary: command line, configuration and the wiring of the other crates.
//!
//! Each subcommand is one module with one `run` function. Only this package reads the environment and the
//! argument list, and only this file decides exit codes: 0 for success, 1 for an error (one line on stderr with
//! its chain of causes), 2 for wrong usage, which clap reports itself.

mod adapters;
mod api;
mod bench;
mod chat;
mod check;
mod cli;
mod compare;
mod config_cmd;
mod doctor;
mod environment;
mod find;
mod gpu;
mod hosted;
mod logging;
mod logits;
mod machine;
mod models;
mod place;
mod plan;
mod progress;
mod pull;
mod serve;
mod settings;
mod signals;
mod stack;
mod synth;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::environment::Environment;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::of_process();
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args, &environment),
        Command::Chat(args) => chat::run(&args, &environment),
        Command::Compare(args) => compare::run(&args, &environment),
        Command::Pull(args) => pull::run(&args, &environment),
        Command::Models(args) => models::run(&args, &environment),
        Command::Synth(args) => synth::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args, &environment),
        Command::Gpu(args) => gpu::run(&args),
        Command::Plan(args) => plan::run(&args, &environment),
        Command::Logits(args) => logits::run(&args, &environment),
        Command::Doctor(args) => doctor::run(&args, &environment),
        Command::Config(args) => config_cmd::run(&args, &environment),
    };
    match result {
        Ok(code) => code,
        // The reader of our output has gone: that is its decision, not a failure of ours.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed too there is nobody left to tell.
            let _ = writeln!(io::stderr().lock(), "harmonium: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
