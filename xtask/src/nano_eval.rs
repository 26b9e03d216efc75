//! `cargo xtask nano-eval`: how often the nano model is right on what it was not trained on.
//!
//! The cases go through the real binary as chat requests, greedily, a few at a time. Each skill of [`REQUIRED`]
//! must reach its accuracy, and every answer must be well-formed Harmony: the server counts what its parser had
//! to mend.

mod case;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use harmonium_openai::chat::ResponseMessage;
use harmonium_openai::{ChatRequest, Client, ClientConfig};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::nano_eval::case::{Case, Expect};
use crate::process::root;
use crate::server::Server;

/// Least accuracy of a skill, in percent.
const REQUIRED: &[(&str, usize)] = &[
    ("capitals", 95),
    ("sums", 90),
    ("tools", 90),
    ("usual_tools", 90),
    ("json", 90),
    ("refusals", 90),
];
/// Requests under way at a time.
const NUM_PARALLEL: usize = 16;
/// Where the cases are, below the repository's root.
const CASES: &str = "crates/model/nano/eval";
/// The server's count of places where malformed output was mended.
const RECOVERIES: &str = "harmonium_parser_recoveries_total";
/// The share of it that was well-formed: calls of functions that were not declared. They are wrong answers, and count as
/// such where a call is what is asked for.
const UNDECLARED_CALLS: &str = "harmonium_parser_undeclared_calls_total";
/// Failed cases shown for each skill.
const MAX_SHOWN: usize = 3;

/// Arguments of the evaluation.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask this server, such as http://127.0.0.1:8000, instead of starting one.
    #[arg(long)]
    url: Option<String>,
    /// Only this skill.
    #[arg(long)]
    skill: Option<String>,
    /// At most this many cases of each skill, spread over all of them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Start the release build instead of the development build.
    #[arg(long)]
    release: bool,
}

/// Runs the evaluation and fails below the required accuracy.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cases = select(read_cases()?, args)?;
    let (_server, url) = match &args.url {
        Some(url) => (None, url.trim_end_matches('/').to_owned()),
        None => {
            let server = Server::start(args.release)?;
            let url = server.url().to_owned();
            (Some(server), url)
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (outcomes, recoveries) = runtime.block_on(evaluate(cases, &url))?;
    report(&outcomes, recoveries, args.limit.is_none() && args.skill.is_none())
}

/// A case and whether the answer was right, with the answer for the report.
struct Outcome {
    case: Case,
    is_right: bool,
    answer: String,
}

fn read_cases() -> Result<Vec<Case>> {
    let dir = root().join(CASES);
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()
        .with_context(|| format!("cannot read {}", dir.display()))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
        cases.extend(case::parse(&text, &name)?);
    }
    Ok(cases)
}

/// The cases that the arguments ask for.
fn select(cases: Vec<Case>, args: &Args) -> Result<Vec<Case>> {
    let mut by_skill: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in cases {
        by_skill.entry(case.skill.clone()).or_default().push(case);
    }
    let known = by_skill.keys().cloned().collect::<Vec<_>>().join(", ");
    if let Some(skill) = &args.skill {
        by_skill.retain(|name, _| name == skill);
    }
    let mut selected = Vec::new();
    for cases in by_skill.into_values() {
        let limit = args.limit.map_or(Ok(cases.len()), usize::try_from)?;
        let step = cases.len().div_ceil(limit);
        selected.extend(cases.into_iter().step_by(step));
    }
    if selected.is_empty() {
        bail!("no cases; the skills are: {known}");
    }
    Ok(selected)
}

/// Asks for all answers; also counts what had to be mended, and what of it was only not declared.
async fn evaluate(cases: Vec<Case>, url: &str) -> Result<(Vec<Outcome>, [u64; 2])> {
    let client =
        Client::new(ClientConfig { base_url: format!("{url}/v1"), ..ClientConfig::default() })?;
    let models = client.models().await?;
    let model = models.data.first().context("the server has no model")?.id.clone();
    let before = recoveries(url).await?;
    let places = Arc::new(Semaphore::new(NUM_PARALLEL));
    let mut running = JoinSet::new();
    for mut case in cases {
        case.request.model = Some(model.clone());
        case.request.temperature = Some(0.0);
        let (client, places) = (client.clone(), Arc::clone(&places));
        running.spawn(async move {
            let _place = places.acquire().await.context("the semaphore is never closed")?;
            judge(&client, case).await
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = running.join_next().await {
        outcomes.push(outcome??);
    }
    outcomes.sort_by(|a, b| (&a.case.skill, &a.case.id).cmp(&(&b.case.skill, &b.case.id)));
    let after = recoveries(url).await?;
    Ok((outcomes, [after[0] - before[0], after[1] - before[1]]))
}

async fn judge(client: &Client, case: Case) -> Result<Outcome> {
    let (is_right, answer) = if case.expect == Expect::ReasoningGrows(true) {
        let mut lens = Vec::new();
        for effort in ["low", "medium", "high"] {
            let message = ask(client, &case, Some(effort)).await?;
            lens.push(message.reasoning.map_or(0, |text| text.chars().count()));
        }
        (lens.is_sorted_by(|a, b| a < b), format!("reasoning of {lens:?} characters"))
    } else {
        let message = ask(client, &case, None).await?;
        (case.expect.is_met(&message), serde_json::to_string(&message)?)
    };
    Ok(Outcome { case, is_right, answer })
}

async fn ask(client: &Client, case: &Case, effort: Option<&str>) -> Result<ResponseMessage> {
    let mut request: ChatRequest = case.request.clone();
    if let Some(effort) = effort {
        request.reasoning_effort = Some(effort.to_owned());
    }
    let completion = client.chat(&request).await.with_context(|| case.id.clone())?;
    let choice = completion.choices.into_iter().next();
    Ok(choice.with_context(|| format!("{}: no choice", case.id))?.message)
}

/// Answers mended so far, and those of them that were well-formed calls of functions that were not declared.
async fn recoveries(url: &str) -> Result<[u64; 2]> {
    let http = harmonium_openai::client::http().no_proxy().build()?;
    let metrics = http.get(format!("{url}/metrics")).send().await?.text().await?;
    let read = |name: &str| -> Result<u64> {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("/metrics has no {name}"))?;
        value.trim().parse().with_context(|| format!("{name} is {value:?}"))
    };
    Ok([read(RECOVERIES)?, read(UNDECLARED_CALLS)?])
}

/// Prints the table and fails if it is not good enough.
fn report(outcomes: &[Outcome], recoveries: [u64; 2], is_complete: bool) -> Result<()> {
    let mut by_skill: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_skill.entry(&outcome.case.skill).or_default().push(outcome);
    }
    let mut failures = Vec::new();
    for (skill, outcomes) in &by_skill {
        for missed in outcomes.iter().filter(|outcome| !outcome.is_right).take(MAX_SHOWN) {
            println!("miss {}: {:?} got {}", missed.case.id, missed.case.expect, missed.answer);
        }
        let required = REQUIRED.iter().find(|(name, _)| name == skill).map(|(_, least)| *least);
        if required.is_some_and(|least| !reaches(outcomes, least)) {
            failures.push(format!("{skill} is below its requirement"));
        }
    }
    println!("\n{:14} {:>9} {:>8} {:>9}", "skill", "right", "percent", "required");
    for (skill, outcomes) in &by_skill {
        let required = REQUIRED.iter().find(|(name, _)| name == skill);
        let required = required.map_or("-".to_owned(), |(_, least)| least.to_string());
        print_row(skill, outcomes, &required);
    }
    print_row("all", &outcomes.iter().collect::<Vec<_>>(), "-");
    let [num_recoveries, num_undeclared] = recoveries;
    println!("answers that were not well-formed: {}", num_recoveries - num_undeclared);
    println!("well-formed calls of functions that were not declared: {num_undeclared}");
    if num_recoveries > num_undeclared {
        failures.push("not every answer is well-formed Harmony".to_owned());
    }
    for (skill, _) in REQUIRED {
        if is_complete && !by_skill.contains_key(skill) {
            failures.push(format!("there is no case for {skill}"));
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}

fn num_right(outcomes: &[&Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.is_right).count()
}

fn reaches(outcomes: &[&Outcome], percent: usize) -> bool {
    num_right(outcomes) * 100 >= outcomes.len() * percent
}

fn print_row(name: &str, outcomes: &[&Outcome], required: &str) {
    let (right, all) = (num_right(outcomes), outcomes.len());
    let percent = 100.0 * right as f64 / all as f64;
    println!("{name:14} {:>9} {percent:>8.1} {required:>9}", format!("{right}/{all}"));
}
