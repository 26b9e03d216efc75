//! What is downloaded: listed, verified, removed.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use harmonium_hub::local::{self, LocalRepo};
use harmonium_hub::{HubCache, RepoId};
use harmonium_model::Checkpoint;
use indicatif::DecimalBytes;
use serde::Serialize;

use crate::cli::ModelsAction;
use crate::environment::Environment;
use crate::progress::Steps;
use crate::settings::{Resolved, SettingsArgs};
use crate::table::Table;
use crate::{find, machine};

/// One revision of a repository in the cache.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// The name that `pull` and `--model` take.
    name: String,
    revision: String,
    commit: String,
    bytes: u64,
    /// Files that are not here or not whole.
    missing: Vec<String>,
    /// Bytes still to fetch, where that is known.
    missing_bytes: Option<u64>,
    /// `complete`, or how much of it is here.
    state: String,
    /// Devices of this machine that can run it.
    devices: Vec<&'static str>,
    /// Why none can.
    obstacle: Option<String>,
}

/// What the cache holds.
pub(super) fn rows(cache: &HubCache) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for repo in local::list(cache)? {
        for snapshot in repo.snapshots {
            let obstacle = obstacle(&snapshot);
            rows.push(Row {
                name: repo.repo.short().to_owned(),
                state: find::state(&snapshot),
                revision: snapshot.revision,
                commit: snapshot.commit,
                bytes: snapshot.num_bytes,
                missing: snapshot.missing,
                missing_bytes: snapshot.missing_bytes,
                devices: if obstacle.is_none() { vec!["cpu"] } else { Vec::new() },
                obstacle,
            });
        }
    }
    Ok(rows)
}

/// Why this machine cannot run a snapshot, if it cannot.
fn obstacle(snapshot: &local::LocalSnapshot) -> Option<String> {
    if !snapshot.is_servable {
        return Some("not complete".to_owned());
    }
    match Checkpoint::open(&snapshot.dir) {
        Err(error) => Some(error.to_string()),
        Ok(checkpoint) => {
            let (needed, memory) = (checkpoint.num_bytes(), machine::memory()?);
            let text = || format!("needs {} of memory", machine::gib(needed));
            (needed > memory.total).then(text)
        }
    }
}

/// The rows for people.
pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["downloaded", "revision", "commit", "size", "state", "runs on"]);
    for row in rows {
        let devices = row.obstacle.clone().unwrap_or_else(|| row.devices.join(", "));
        table.row(vec![
            row.name.clone(),
            row.revision.clone(),
            row.commit.chars().take(8).collect(),
            DecimalBytes(row.bytes).to_string(),
            row.state.clone(),
            devices,
        ]);
    }
    table
}

/// Verifies or removes.
pub(super) fn run(action: &ModelsAction, environment: &Environment) -> Result<ExitCode> {
    let settings = Resolved::read(&SettingsArgs::default(), environment)?.settings;
    let cache = find::cache(&settings, environment);
    let (ModelsAction::Verify { model, .. } | ModelsAction::Remove { model, .. }) = action;
    let repo = RepoId::parse(model)?;
    let Some(found) = local::find(&cache, &repo)? else {
        bail!("{repo} is not in the cache at {}", cache.dir().display());
    };
    match action {
        ModelsAction::Verify { repair, .. } => verify(&cache, &found, *repair),
        ModelsAction::Remove { yes, .. } => remove(&cache, &found, *yes),
    }
}

fn verify(cache: &HubCache, found: &LocalRepo, repair: bool) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut is_intact = true;
    for snapshot in &found.snapshots {
        let mut steps = Steps::new(snapshot.num_files.try_into()?);
        let damaged = local::verify(cache, &found.repo, snapshot, |path| {
            steps.done();
            steps.begin(path);
        })?;
        drop(steps);
        for damage in &damaged {
            writeln!(out, "{}: {}", damage.path, damage.message)?;
        }
        if repair {
            local::discard(cache, &found.repo, &damaged)?;
        }
        for path in &snapshot.missing {
            writeln!(out, "{path}: missing")?;
        }
        let is_whole = damaged.is_empty() && snapshot.missing.is_empty();
        is_intact &= is_whole;
        let state = if is_whole { "intact" } else { "NOT intact" };
        writeln!(out, "{} at {} ({:.8}): {state}", found.repo, snapshot.revision, snapshot.commit)?;
    }
    if is_intact {
        return Ok(ExitCode::SUCCESS);
    }
    let remedy = if repair { "" } else { "harmonium models verify --repair and " };
    writeln!(out, "run {remedy}harmonium pull {} to mend it", found.repo.short())?;
    Ok(ExitCode::FAILURE)
}

fn remove(cache: &HubCache, found: &LocalRepo, is_sure: bool) -> Result<ExitCode> {
    let size = DecimalBytes(found.num_bytes);
    if !is_sure {
        write!(
            io::stderr(),
            "remove {} ({size}) from {}? [y/N] ",
            found.repo,
            cache.dir().display()
        )?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            bail!("nothing is removed; answer y, or give --yes");
        }
    }
    local::remove(cache, &found.repo)?;
    writeln!(io::stdout(), "removed {} ({size})", found.repo)?;
    Ok(ExitCode::SUCCESS)
}
