//! `harmonium pull`: brings a model's files into the Hugging Face cache.

mod view;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use harmonium_hub::{HubCache, Options, RepoId};
use harmonium_openai::client;
use tokio::sync::mpsc;

use crate::cli::PullArgs;
use crate::environment::Environment;
use crate::pull::view::View;
use crate::settings::{Resolved, SettingsArgs};
use crate::{find, stack};

/// Events that may wait to be shown.
const MAX_EVENTS: usize = 1024;

/// Pulls, shows what happens on stderr and prints the snapshot's directory.
pub(crate) fn run(args: &PullArgs, environment: &Environment) -> Result<ExitCode> {
    let repo = RepoId::parse(&args.model)?;
    if environment.hf_offline() {
        bail!("HF_HUB_OFFLINE is set: nothing is downloaded; unset it to pull {repo}");
    }
    // The server's cache, so that what is pulled is found.
    let settings = Resolved::read(&SettingsArgs::default(), environment)?.settings;
    let cache = match &args.cache_dir {
        Some(dir) => HubCache::new(dir.clone()),
        None => find::cache(&settings, environment),
    };
    let options = Options {
        http: client::http(),
        endpoint: args.endpoint.clone().unwrap_or_else(|| environment.hf_endpoint().to_owned()),
        token: environment.hf_token(),
        cache,
        repo: repo.clone(),
        revision: args.revision.clone(),
        with_original: args.include.is_some(),
        num_jobs: args.jobs.into(),
    };
    let view = View::new(args.json, &format!("{repo} at {}", args.revision));
    let pulled = stack::block_on(async {
        let (sender, receiver) = mpsc::channel(MAX_EVENTS);
        let showing = tokio::spawn(view.show(receiver));
        let pulled = harmonium_hub::pull(options, sender).await;
        // The sender is gone, so this ends.
        showing.await??;
        Ok(pulled)
    })?;
    let mut out = io::stdout().lock();
    let pulled = match pulled {
        Ok(pulled) => pulled,
        Err(error) => {
            if args.json {
                view::line(&mut out, &view::failed(&error.to_string()))?;
            }
            return Err(error.into());
        }
    };
    if args.json {
        view::line(&mut out, &view::pulled(&pulled))?;
    } else {
        writeln!(out, "{}", pulled.snapshot.display())?;
        if let Some(commit) = &pulled.moved_to {
            let revision = &args.revision;
            writeln!(
                io::stderr(),
                "{revision} has moved to {commit} meanwhile; pull again for that"
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
