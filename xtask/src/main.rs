//! The developer's commands: everything a change must pass, and the tools to find out why it does not.
//!
//! CI calls `cargo xtask test` and nothing else. Each verb is one module; [`process`] is the only place that
//! starts programs, always in the repository's root, always saying what it runs.

#![expect(clippy::print_stdout, reason = "a command line tool talks to a person")]

mod clients;
mod gpu;
mod kernels;
mod licences;
mod nano_eval;
mod process;
mod server;
mod stages;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The developer's commands of Harmonium.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything a change must pass: lint, licences, kernels, unit and integration tests, those of the comparison
    /// with llama.cpp, client suites.
    Test,
    /// Formatting and clippy over all targets, warnings denied.
    Lint,
    /// The kernels compiled by nvcc for the H100, with what each takes of the card; a spill fails.
    Kernels,
    /// Installs nvcc from the package index into the repository, for the feature `cuda`.
    CudaToolkit,
    /// What needs a card: kernels and forward passes against references, then speed; built here, run where a card is.
    Gpu(gpu::Args),
    /// Licences, duplicate versions and sources of all dependencies.
    Licences,
    /// The OpenAI SDKs for Python and JavaScript against the real binary with the nano model.
    Clients,
    /// Accuracy of the nano model on its held-out evaluation, through the real server.
    NanoEval(nano_eval::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Test => stages::run(&[
            stages::FORMAT,
            stages::CLIPPY,
            stages::LICENCES,
            stages::KERNELS,
            stages::TESTS,
            stages::COMPARISON,
            stages::PYTHON_CLIENT,
            stages::NODE_CLIENT,
        ]),
        Command::Lint => stages::run(&[stages::FORMAT, stages::CLIPPY]),
        Command::Kernels => stages::run(&[stages::KERNELS]),
        Command::CudaToolkit => kernels::install(),
        Command::Gpu(args) => gpu::check(&args),
        Command::Licences => stages::run(&[stages::LICENCES]),
        Command::Clients => stages::run(&[stages::PYTHON_CLIENT, stages::NODE_CLIENT]),
        Command::NanoEval(args) => nano_eval::run(&args),
    }
}
