//! `harmonium models`: the models that can answer, side by side, and those that are downloaded.
//!
//! Everything comes from the settings and the local checkpoint's small files: no key is read and nothing is sent,
//! so the prices of the hosted leg can be looked at before it is enabled.

mod cached;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use harmonium_hosted::Cost;
use harmonium_model::Checkpoint;
use harmonium_openai::client;
use harmonium_openai::models::Pricing;
use harmonium_server::{LOCAL_CAPABILITIES, hosted_capabilities};
use serde::{Serialize, Serializer};

use crate::cli::ModelsArgs;
use crate::environment::Environment;
use crate::settings::{HostedModel, Resolved, Settings};
use crate::table::{Table, price};
use crate::{find, hosted, stack};

/// A request that is one token too long for the context of GPT-OSS, and a page of answer.
const OVERFLOW: Overflow = Overflow { prompt_tokens: 131_073, completion_tokens: 1_000 };

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Listing {
    /// The request that `overflow_cost_usd` is about.
    overflow: Overflow,
    /// The local model first.
    models: Vec<Row>,
    /// What is in the Hugging Face cache.
    cached: Vec<cached::Row>,
}

/// A request by its size in tokens.
#[derive(Debug, Clone, Copy, Serialize)]
struct Overflow {
    prompt_tokens: u64,
    completion_tokens: u32,
}

/// One model.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Other names that requests may use.
    aliases: Vec<String>,
    /// `local` or `hosted`.
    backend: &'static str,
    /// Longest prompt and answer together; absent where the checkpoint cannot be read.
    context_tokens: Option<u64>,
    /// Longest answer.
    max_output_tokens: Option<u32>,
    /// Absent where nobody is paid.
    pricing: Option<Pricing>,
    capabilities: Vec<&'static str>,
    /// What [`OVERFLOW`] costs, if it fits and somebody is paid.
    #[serde(serialize_with = "as_usd")]
    overflow_cost_usd: Option<Cost>,
    /// The host that requests go to.
    address: Option<String>,
}

/// Prints the table; a local model that cannot be read is an error after it.
pub(crate) fn run(args: &ModelsArgs, environment: &Environment) -> Result<ExitCode> {
    if let Some(action) = &args.action {
        return cached::run(action, environment);
    }
    let settings = Resolved::read(&args.settings, environment)?.settings;
    let context_len = local_context(&settings, environment);
    let mut models = locals(&settings, context_len.as_ref().ok().copied());
    if args.hosted {
        for model in &settings.hosted.models.0 {
            models.push(hosted(model)?);
        }
    }
    let cached = cached::rows(&find::cache(&settings, environment))?;
    let listing = Listing { overflow: OVERFLOW, models, cached };
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &listing).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        table(&listing).write(&mut out)?;
        if !listing.cached.is_empty() {
            writeln!(out)?;
            cached::table(&listing.cached).write(&mut out)?;
        }
    }
    context_len.map(|_| ExitCode::SUCCESS)
}

/// The context that is configured, or else the checkpoint's own. Little memory may shorten it further.
fn local_context(settings: &Settings, environment: &Environment) -> Result<u32> {
    let name = &settings.model.name;
    let checkpoint = find::configured(settings, environment)
        .and_then(|source| Ok(Checkpoint::from_source(&source)?))
        .with_context(|| format!("model.name = {name:?}"))?;
    let configured = settings.model.context_len.as_ref().map(|len| len.get());
    Ok(configured.unwrap_or(checkpoint.config().context_len))
}

/// The local model, then the same with each adapter.
fn locals(settings: &Settings, context_len: Option<u32>) -> Vec<Row> {
    let (name, aliases) = stack::names(&settings.model.name);
    let adapters = settings.model.adapters.0.iter();
    let adapted = adapters.map(|adapter| (format!("{name}:{}", adapter.name), Vec::new()));
    let all: Vec<_> = std::iter::once((name.clone(), aliases)).chain(adapted).collect();
    all.into_iter().map(|(name, aliases)| local(name, aliases, context_len)).collect()
}

fn local(name: String, aliases: Vec<String>, context_len: Option<u32>) -> Row {
    Row {
        name,
        aliases,
        backend: "local",
        context_tokens: context_len.map(u64::from),
        // An answer may take what the prompt leaves.
        max_output_tokens: context_len,
        pricing: None,
        capabilities: LOCAL_CAPABILITIES.into(),
        overflow_cost_usd: None,
        address: None,
    }
}

fn hosted(model: &HostedModel) -> Result<Row> {
    let (context, max_output) = (model.context.get(), model.max_output.get());
    let Overflow { prompt_tokens, completion_tokens } = OVERFLOW;
    let fits =
        prompt_tokens + u64::from(completion_tokens) <= context && completion_tokens <= max_output;
    let price = hosted::price(model)?;
    let [input, cached_input, output] = price.as_usd_per_million();
    Ok(Row {
        name: model.name.clone(),
        aliases: Vec::new(),
        backend: "hosted",
        context_tokens: Some(context),
        max_output_tokens: Some(max_output),
        pricing: Some(Pricing { input, cached_input, output }),
        capabilities: hosted_capabilities(model.image_tokens.is_some(), model.reasoning),
        overflow_cost_usd: fits.then(|| price.cost(prompt_tokens, 0, completion_tokens.into())),
        address: client::host(&model.base_url),
    })
}

fn table(listing: &Listing) -> Table {
    let Overflow { prompt_tokens, completion_tokens } = listing.overflow;
    let overflow = format!("USD for {prompt_tokens} in + {completion_tokens} out");
    let mut table = Table::new(&[
        "model",
        "context",
        "max output",
        "input USD/M",
        "cached USD/M",
        "output USD/M",
        &overflow,
        "can",
        "where",
    ]);
    for row in &listing.models {
        let count = |count: Option<u64>| count.map_or("unknown".to_owned(), |n| n.to_string());
        let usd = |pick: fn(&Pricing) -> f64| {
            row.pricing.as_ref().map_or("no price".to_owned(), |prices| price(pick(prices)))
        };
        let overflow = match row.overflow_cost_usd {
            Some(cost) => cost.to_string(),
            None => "does not fit".to_owned(),
        };
        let place = if row.backend == "local" { "this machine" } else { "no address" };
        table.row(vec![
            row.name.clone(),
            count(row.context_tokens),
            count(row.max_output_tokens.map(u64::from)),
            usd(|prices| prices.input),
            usd(|prices| prices.cached_input),
            usd(|prices| prices.output),
            overflow,
            row.capabilities.join(", "),
            row.address.clone().unwrap_or_else(|| place.to_owned()),
        ]);
    }
    table
}

fn as_usd<S: Serializer>(cost: &Option<Cost>, serializer: S) -> Result<S::Ok, S::Error> {
    cost.map(Cost::as_usd).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::{NonZeroU32, NonZeroU64};

    fn published() -> HostedModel {
        Settings::default().hosted.models.0.remove(0)
    }

    #[test]
    fn the_request_that_just_overflows_costs_what_the_price_list_says() {
        let row = hosted(&published()).unwrap();
        // 131,073 * 0.40 + 1,000 * 1.60 millionths of a dollar.
        assert_eq!(row.overflow_cost_usd, Cost::from_usd(0.054_029_2));
        assert_eq!(row.address.as_deref(), Some("api.openai.com"));
        let mut small = published();
        small.context = NonZeroU64::new(132_072).unwrap();
        assert_eq!(hosted(&small).unwrap().overflow_cost_usd, None);
        let mut terse = published();
        terse.max_output = NonZeroU32::new(999).unwrap();
        assert_eq!(hosted(&terse).unwrap().overflow_cost_usd, None);
    }

    #[test]
    fn a_configured_context_is_shown_instead_of_the_models_own() {
        let nobody = Environment::default();
        let mut settings = Settings::default();
        assert_eq!(local_context(&settings, &nobody).unwrap(), 131_072);
        settings.model.context_len = crate::settings::Auto::Set(crate::settings::Positive::of(77));
        assert_eq!(local_context(&settings, &nobody).unwrap(), 77);
        settings.model.name = "owner/no-such-model".to_owned();
        let message = format!("{:#}", local_context(&settings, &nobody).unwrap_err());
        assert!(message.contains("model.name = \"owner/no-such-model\""), "{message}");
    }

    #[test]
    fn no_user_or_password_of_an_address_is_shown() {
        let mut model = published();
        model.base_url = "http://me:secret@127.0.0.1:8001/v1".to_owned();
        assert_eq!(hosted(&model).unwrap().address.as_deref(), Some("127.0.0.1:8001"));
    }
}
