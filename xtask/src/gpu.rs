//! What needs a card: builds one program that checks and measures it, and runs it if a card is here.
//!
//! Cards are lent for minutes, on machines without a Rust toolchain or this repository. So the work is done by the
//! program itself (`harmonium gpu`), kernels inside; this builds it, and says what to carry and what to run there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{cargo, output, program, run, target_dir};

/// Arguments of `cargo xtask gpu`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure the kernels among which the number of rows decides, side by side, too.
    #[arg(long)]
    variants: bool,
    /// The model that is measured.
    #[arg(long, value_name = "NAME|DIR", default_value = "synthetic:gpt-oss-120b")]
    model: String,
    /// Time for everything together, in seconds.
    #[arg(long, value_name = "N", default_value_t = 540)]
    seconds: u32,
}

/// Builds the program and runs it here, or says how to run it where a card is.
pub(crate) fn check(args: &Args) -> Result<()> {
    let binary = build()?;
    let mut words = vec!["gpu".to_owned(), "--model".to_owned(), args.model.clone()];
    words.extend(["--seconds".to_owned(), args.seconds.to_string()]);
    words.extend(args.variants.then(|| "--variants".to_owned()));
    if Path::new("/dev/nvidia0").exists() {
        let mut command = program(&binary);
        command.args(words).arg("--out").arg(binary.with_file_name("report"));
        return run(command);
    }
    let size = fs::metadata(&binary).map_or(0, |file| file.len() >> 20);
    println!(
        "\nThere is no card here. Carry {} ({size} MiB) to a machine that has one;",
        binary.display()
    );
    println!("it needs a driver of version 580 or newer and glibc, and nothing else. There run:\n");
    println!("  ./harmonium {} --out report\n", words.join(" "));
    println!("It ends within {} s; report/report.json is what to bring back.", args.seconds);
    Ok(())
}

/// The released program with the kernels inside, without debug information, and with the commit in it.
fn build() -> Result<std::path::PathBuf> {
    let mut build = cargo(&["build", "--release", "--locked", "--features", "cuda"]);
    build.env("HARMONIUM_COMMIT", commit()?);
    run(build)?;
    let target = target_dir()?;
    let dir = target.join("gpu");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let binary = dir.join("harmonium");
    let mut strip = program("strip");
    strip.arg("-o").arg(&binary).arg(target.join("release/harmonium"));
    run(strip)?;
    Ok(binary)
}

/// The commit of the working tree, and whether it is changed.
fn commit() -> Result<String> {
    let git = |words: &[&str]| {
        let mut git = program("git");
        git.args(words);
        output(git)
    };
    let commit = git(&["rev-parse", "HEAD"])?.trim().to_owned();
    let is_clean = git(&["status", "--porcelain"])?.trim().is_empty();
    Ok(if is_clean { commit } else { format!("{commit} with changes") })
}
