//! One part of `harmonium gpu`: a process that is ended when its time is over.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

/// Time between two looks at whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed,
    OutOfTime,
    LeftOut,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::OutOfTime => "out of time",
            Self::LeftOut => "left out",
        }
    }
}

/// What became of a part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
    seconds: f64,
    /// The last line that it said, or why it was left out.
    last: String,
}

impl Part {
    /// Runs a command, whose output goes to `log`, for at most `limit`.
    pub(super) fn run(
        name: &'static str,
        command: &[String],
        limit: Duration,
        log: &Path,
    ) -> Result<Self> {
        if limit < LOOK_EVERY {
            return Ok(Self::left_out(name, "time is up"));
        }
        let started = Instant::now();
        let outcome = match end(spawn(command, log)?, limit)? {
            None => Outcome::OutOfTime,
            Some(true) => Outcome::Done,
            Some(false) => Outcome::Failed,
        };
        let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let seconds = started.elapsed().as_secs_f64();
        Ok(Self { name, outcome, seconds, last: last.to_owned() })
    }

    /// A part that does not run.
    pub(super) fn left_out(name: &'static str, why: &str) -> Self {
        Self { name, outcome: Outcome::LeftOut, seconds: 0.0, last: why.to_owned() }
    }

    /// A row of the summary.
    pub(super) fn row(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            self.outcome.name().to_owned(),
            format!("{:.0}", self.seconds),
            self.last.chars().take(80).collect(),
        ]
    }

    /// The same for programs.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "outcome": self.outcome.name(),
            "seconds": self.seconds,
            "last_line": self.last,
        })
    }
}

/// In a group of its own, so that what it starts can be ended with it.
fn spawn(command: &[String], log: &Path) -> Result<Child> {
    let (program, arguments) = command.split_first().context("a part without a command")?;
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = file.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {program}"))
}

/// Whether the process was successful; `None` if it had to be ended.
fn end(mut child: Child, limit: Duration) -> Result<Option<bool>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a part")? {
            return Ok(Some(status.success()));
        }
        if started.elapsed() >= limit {
            break;
        }
        thread::sleep(LOOK_EVERY);
    }
    kill_process_group(Pid::from_child(&child), Signal::KILL).context("cannot end a part")?;
    child.wait().context("cannot wait for a part")?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &[&str], limit: Duration) -> Part {
        let dir = tempfile::tempdir().unwrap();
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        Part::run("part", &command, limit, &dir.path().join("log")).unwrap()
    }

    #[test]
    fn a_part_ends_well_badly_or_out_of_time_with_its_children() {
        let part = run(&["sh", "-c", "echo one; echo two; echo"], Duration::from_secs(60));
        assert_eq!((part.outcome, part.last.as_str()), (Outcome::Done, "two"));
        assert_eq!(run(&["false"], Duration::from_secs(60)).outcome, Outcome::Failed);
        let started = Instant::now();
        let sleeper = "sleep 600 & echo $!; wait";
        let part = run(&["sh", "-c", sleeper], Duration::from_secs(1));
        assert_eq!(part.outcome, Outcome::OutOfTime);
        // Dead, or not yet collected by the process that inherits it.
        let state = format!("/proc/{}/stat", part.last);
        while fs::read_to_string(&state).is_ok_and(|state| !state.contains(") Z ")) {
            assert!(started.elapsed() < Duration::from_secs(60), "its sleep still runs");
            thread::yield_now();
        }
        assert_eq!(run(&["true"], Duration::ZERO).outcome, Outcome::LeftOut);
    }
}
