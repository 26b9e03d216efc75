//! `harmonium compare`: the same requests to several models, and what came of them side by side.
//!
//! It is a client of the HTTP API. Each prompt goes to one model after the other, one request at a time: two at
//! once would measure each other. An answer that fails is recorded and the run goes on; the first Ctrl-C or SIGTERM
//! ends it with a report of what there is, a second one at once and without. Before the first request there is nothing
//! to report.

mod html;
mod measure;
mod models;
mod prompts;
mod report;
mod summary;
mod totals;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use harmonium_openai::Client;
use tokio_util::sync::CancellationToken;

use self::models::Models;
use self::prompts::Prompt;
use self::report::{Answer, PromptReport, Report};
use crate::api::{self, Api};
use crate::cli::CompareArgs;
use crate::environment::Environment;
use crate::progress::Steps;
use crate::settings::Settings;
use crate::{signals, stack};

/// Compares, prints the totals and writes the report. Fails if an answer has failed.
pub(crate) fn run(args: &CompareArgs, environment: &Environment) -> Result<ExitCode> {
    let prompts = prompts::read(&args.prompts)?;
    models::check_names(&args.models)?;
    let settings = api::settings(&args.settings, environment)?;
    // Before anything is paid for.
    fs::create_dir_all(&args.out)
        .with_context(|| format!("--out: cannot create {}", args.out.display()))?;
    let report = stack::block_on(compare(args, prompts, settings, environment))?;
    write(&args.out.join("report.json"), &serde_json::to_vec_pretty(&report)?)?;
    write(&args.out.join("report.html"), html::page(&report).as_bytes())?;
    summary::table(&report).write(&mut io::stdout().lock())?;
    let is_good = report.is_complete && report.num_failed() == 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn compare(
    args: &CompareArgs,
    prompts: Vec<Prompt>,
    settings: Settings,
    environment: &Environment,
) -> Result<Report> {
    let hosted_off = args.url.is_none() && !settings.hosted.enabled;
    let configured = settings.hosted.models.0.clone();
    let interrupt = signals::shutdown()?;
    let connect = async {
        let api = Api::connect(args.url.as_deref(), settings, environment).await?;
        let list = api.client.models().await.context("cannot ask the server for its models")?;
        anyhow::Ok((api, list))
    };
    let (api, list) = tokio::select! {
        connected = connect => connected?,
        () = interrupt.cancelled() => bail!("interrupted before anything was asked, there is no report"),
    };
    let mut models = Models::choose(list, &args.models);
    if hosted_off && configured.iter().any(|model| args.models.contains(&model.name)) {
        models = models.context("hosted models can be asked with hosted.enabled = true");
    }
    let models = models?;
    let Asked { prompts, is_complete } = ask_all(&api.client, &models, prompts, &interrupt).await;
    // What was answered, and perhaps paid for, is worth more than a good end.
    if let Err(error) = api.end().await {
        tracing::warn!("{error:#}");
    }
    let file = args.prompts.display().to_string();
    Ok(Report::new(file, &models, prompts, is_complete, args.monthly_requests))
}

/// What was asked, and whether that is all.
struct Asked {
    prompts: Vec<PromptReport>,
    is_complete: bool,
}

/// Sends all prompts to all models, or as many as there are until `interrupt`.
async fn ask_all(
    client: &Client,
    models: &Models,
    prompts: Vec<Prompt>,
    interrupt: &CancellationToken,
) -> Asked {
    let mut asked = Asked { prompts: Vec::new(), is_complete: true };
    let mut steps = Steps::new((prompts.len() * models.chosen().count()) as u64);
    for Prompt { id, request } in prompts {
        let mut answers = Vec::new();
        for model in models.chosen() {
            if interrupt.is_cancelled() {
                asked.is_complete = false;
                break;
            }
            let what = format!("prompt {id} to {}", model.name);
            steps.begin(&what);
            let measured = measure::measure(client, &model.name, &request, interrupt).await;
            if let Some(error) = &measured.error {
                steps.say(&format!("{what} failed: {error}"));
            }
            asked.is_complete &= !measured.is_interrupted;
            answers.push(Answer::new(model, models, measured));
            steps.done();
        }
        if answers.is_empty() {
            break;
        }
        asked.prompts.push(PromptReport { id, request, answers });
    }
    if !asked.is_complete {
        steps.say("interrupted: the report has what was answered so far");
    }
    asked
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("--out: cannot write {}", path.display()))
}
