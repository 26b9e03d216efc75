//! The real binary, serving the nano model on a free port while a suite runs against it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::process::{cargo, program, run, target_dir};

/// Longest time from start to `listening on`.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server; dropping it ends it.
pub(crate) struct Server {
    child: Child,
    url: String,
    binary: PathBuf,
}

impl Server {
    /// Builds the binary and starts it with the nano model.
    pub(crate) fn start(release: bool) -> Result<Self> {
        let mut build = vec!["build", "--locked", "--bin", "harmonium"];
        if release {
            build.push("--release");
        }
        run(cargo(&build))?;
        let profile = if release { "release" } else { "debug" };
        let binary = target_dir()?.join(profile).join("harmonium");
        let mut child = program(&binary)
            .args(["serve", "--model", "nano", "--port", "0", "--log", "warn"])
            // Short, so that the suites can go beyond it.
            .args(["--context", "4096"])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        match wait_for_url(stdout) {
            Ok(url) => Ok(Self { child, url, binary }),
            Err(error) => {
                // The error below says what matters; the process may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The program that it runs.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its base URL, without a path.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines until the one that names the URL, and goes on reading so that the server never blocks.
fn wait_for_url(stdout: ChildStdout) -> Result<String> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("listening on ") {
                // The receiver may have given up; the lines must be read all the same.
                let _ = sender.try_send(url.to_owned());
            }
        }
    });
    receiver
        .recv_timeout(START_LIMIT)
        .map_err(|_| anyhow!("the server did not start within {} s", START_LIMIT.as_secs()))
}
