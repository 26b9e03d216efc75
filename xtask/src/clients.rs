//! The client suites: the SDKs that people use, against the real binary with the nano model.
//!
//! The SDKs are installed under `target/clients`, once for each version of their requirements. Nothing is
//! asked of the machine but `python3` and `npm`; the newer Node.js that the SDK needs comes as a package.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{program, root, run, target_dir};
use crate::server::Server;

/// Runs the suite for the Python SDK.
pub(crate) fn python() -> Result<()> {
    let source = root().join("tests/clients/python");
    let home = home("python")?;
    let python = home.join("bin/python");
    let requirements = source.join("requirements.txt");
    install(&home, &requirements, || {
        let mut venv = program("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&home);
        run(venv)?;
        let mut pip = program(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements);
        run(pip)
    })?;
    let server = Server::start(false)?;
    let mut suite = program(&python);
    suite.arg(source.join("suite.py")).arg(server.url());
    run(suite)?;
    // It starts a server of its own, behind which there is a hosted model.
    let mut hosted = program(&python);
    hosted.arg(source.join("hosted.py")).arg(server.binary());
    run(hosted)
}

/// Runs the suite for the JavaScript SDK.
pub(crate) fn node() -> Result<()> {
    let source = root().join("tests/clients/node");
    let home = home("node")?;
    let manifest = source.join("package.json");
    install(&home, &manifest, || {
        copy(&manifest, &home)?;
        let mut npm = program("npm");
        npm.current_dir(&home).args([
            "install",
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]);
        run(npm)
    })?;
    // Packages are found from where the script lies.
    for script in ["suite.mjs", "hosted.mjs"] {
        copy(&source.join(script), &home)?;
    }
    let server = Server::start(false)?;
    let node = home.join("node_modules/.bin/node");
    let mut suite = program(&node);
    suite.arg(home.join("suite.mjs")).arg(server.url());
    run(suite)?;
    let mut hosted = program(&node);
    hosted.arg(home.join("hosted.mjs")).arg(server.binary());
    run(hosted)
}

/// Where the packages of one suite are installed.
fn home(name: &str) -> Result<PathBuf> {
    let home = target_dir()?.join("clients").join(name);
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    Ok(home)
}

/// Runs `steps` unless they ran to their end with the same requirements before.
fn install(home: &Path, requirements: &Path, steps: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let stamp = home.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    steps()?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

fn copy(file: &Path, dir: &Path) -> Result<()> {
    let target = dir.join(file.file_name().context("a file has a name")?);
    fs::copy(file, &target)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", file.display(), target.display()))
}
