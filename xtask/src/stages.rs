//! The stages that the verbs are made of, run in order until one fails.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::process::{cargo, program, run as run_command};
use crate::{clients, kernels, licences};

/// One thing that must pass.
pub(crate) struct Stage {
    name: &'static str,
    check: fn() -> Result<()>,
}

/// The source is formatted.
pub(crate) const FORMAT: Stage =
    Stage { name: "format", check: || run_command(cargo(&["fmt", "--all", "--check"])) };

/// No lint of rustc or clippy has anything to say about any target, neither in a plain build nor with both devices.
pub(crate) const CLIPPY: Stage = Stage {
    name: "clippy",
    check: || {
        kernels::install()?;
        let plain = ["clippy", "--workspace", "--all-targets", "--locked"];
        let features: [&[&str]; 2] = [&[], &["--features", "cuda,host-device"]];
        features.iter().try_for_each(|features| {
            run_command(cargo(&[&plain[..], features, &["--", "-D", "warnings"]].concat()))
        })
    },
};

/// Dependencies are what we may and want to use.
pub(crate) const LICENCES: Stage = Stage { name: "licences", check: licences::check };

/// Every kernel compiles for the card, and none spills.
pub(crate) const KERNELS: Stage = Stage { name: "kernels", check: kernels::check };

/// Unit, documentation and integration tests, with the kernels on the host device.
pub(crate) const TESTS: Stage = Stage {
    name: "tests",
    check: || run_command(cargo(&["test", "--workspace", "--locked", "--features", "host-device"])),
};

/// The comparison with llama.cpp reads what both programs report, and judges it rightly.
pub(crate) const COMPARISON: Stage = Stage {
    name: "comparison",
    check: || {
        let mut tests = program("python3");
        tests.args(["-m", "unittest", "discover", "-s", "benches/llama_cpp"]);
        run_command(tests)
    },
};

/// The OpenAI SDK for Python drives the real binary.
pub(crate) const PYTHON_CLIENT: Stage = Stage { name: "python client", check: clients::python };

/// The OpenAI SDK for JavaScript drives the real binary.
pub(crate) const NODE_CLIENT: Stage = Stage { name: "node client", check: clients::node };

/// Runs `stages` in order and stops at the first that fails. The last line of output counts them.
pub(crate) fn run(stages: &[Stage]) -> Result<()> {
    for (num_passed, stage) in stages.iter().enumerate() {
        println!("== {} ==", stage.name);
        let started = Instant::now();
        if let Err(error) = (stage.check)() {
            println!("\n== {} failed: {error:#} ==", stage.name);
            println!("{num_passed} passed, 1 failed");
            bail!("stage {:?} failed", stage.name);
        }
        println!("== {} passed in {} s ==\n", stage.name, started.elapsed().as_secs());
    }
    println!("{} passed, 0 failed", stages.len());
    Ok(())
}
