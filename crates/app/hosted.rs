//! The hosted leg as configured: settings to what the crate `hosted` takes, keys read from where they lie.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harmonium_hosted::{
    BreakerConfig, Budget, Cost, Hosted, HostedConfig, HostedModel, Price, Secret, Timeouts, Wire,
};
use harmonium_server::Triggers;

use crate::environment::Environment;
use crate::settings::{self, BudgetLimits, OrNone, Settings};

/// The hosted leg, if it is enabled. Opens the file in which spending is recorded.
pub(crate) fn start(settings: &Settings, environment: &Environment) -> Result<Option<Hosted>> {
    if !settings.hosted.enabled {
        return Ok(None);
    }
    let config = config(settings, environment)?;
    if let Some(dir) = config.ledger.parent() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("hosted.ledger: cannot create {}", dir.display()))?;
    }
    Hosted::start(config).map(Some).context("cannot start the hosted leg")
}

/// What the settings say, every key read.
pub(crate) fn config(settings: &Settings, environment: &Environment) -> Result<HostedConfig> {
    let hosted = &settings.hosted;
    let seconds = |count: u32| Duration::from_secs(count.into());
    let models = hosted.models.0.iter().map(|model| self::model(model, environment));
    Ok(HostedConfig {
        default: hosted.default.clone(),
        models: models.collect::<Result<_>>()?,
        budget: budget(&hosted.budget)?,
        ledger: ledger(settings, environment)?,
        redact: hosted.redact.clone(),
        max_in_flight: hosted.max_in_flight.get().try_into()?,
        timeouts: Timeouts {
            connect: seconds(hosted.connect_timeout_s.get()),
            first_chunk: seconds(hosted.first_chunk_timeout_s.get()),
            between_chunks: seconds(hosted.chunk_timeout_s.get()),
        },
        max_attempts: hosted.max_attempts.get(),
        breaker: BreakerConfig {
            max_failures: hosted.breaker_failures.get(),
            cooldown: seconds(hosted.breaker_cooldown_s.get()),
        },
    })
}

/// What sends requests away besides their length.
pub(crate) fn triggers(settings: &Settings) -> Result<Triggers> {
    Ok(Triggers {
        images: settings.hosted.when_images,
        waiting: match settings.hosted.when_waiting {
            OrNone::None => None,
            OrNone::Set(count) => Some(count.get().try_into()?),
        },
        unhealthy: settings.hosted.when_unhealthy,
    })
}

fn model(model: &settings::HostedModel, environment: &Environment) -> Result<HostedModel> {
    Ok(HostedModel {
        name: model.name.clone(),
        base_url: model.base_url.clone(),
        api_key: key(model, environment)?,
        context: model.context.get(),
        max_output: model.max_output.get(),
        price: price(model)?,
        wire: match model.wire {
            settings::Wire::Chat => Wire::Chat,
            settings::Wire::Responses => Wire::Responses,
        },
        image_tokens: model.image_tokens.map(NonZeroU32::get),
        is_reasoning: model.reasoning,
        drop: model.drop.clone(),
    })
}

/// What a hosted model costs.
pub(crate) fn price(model: &settings::HostedModel) -> Result<Price> {
    let settings::PriceList { input, cached, output } = model.price;
    Price::from_usd_per_million(input, cached, output)
        .with_context(|| format!("hosted.models: price of {}", model.name))
}

fn key(model: &settings::HostedModel, environment: &Environment) -> Result<Secret> {
    let name = &model.name;
    match (&model.api_key_env, &model.api_key_file) {
        (Some(variable), None) => match environment.get(variable) {
            Some(key) => Ok(Secret::new(key)),
            None => bail!("hosted.models: {name} needs its key in the variable {variable}"),
        },
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("hosted.models: cannot read {}", path.display()))?;
            Ok(Secret::new(text.trim()))
        }
        _ => bail!("hosted.models: {name} needs either api_key_env or api_key_file"),
    }
}

fn budget(limits: &BudgetLimits) -> Result<Budget> {
    let cost = |name: &str, usd: Option<f64>| match usd {
        None => Ok(None),
        Some(usd) => Cost::from_usd(usd)
            .map(Some)
            .with_context(|| format!("hosted.budget: {name} = {usd} is no amount of money")),
    };
    Ok(Budget {
        day: cost("day_usd", limits.day_usd)?,
        month: cost("month_usd", limits.month_usd)?,
        key_day: cost("key_day_usd", limits.key_day_usd)?,
        key_month: cost("key_month_usd", limits.key_month_usd)?,
    })
}

fn ledger(settings: &Settings, environment: &Environment) -> Result<PathBuf> {
    let path = settings.hosted.ledger.as_ref().cloned().or_else(|| environment.ledger_file());
    path.context("hosted.ledger: there is no HOME to keep it in, name a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Settings {
        let mut settings = Settings::default();
        settings.hosted.enabled = true;
        settings
    }

    fn refusal(settings: &Settings, environment: &Environment) -> String {
        format!("{:#}", start(settings, environment).expect_err("it is refused"))
    }

    #[test]
    fn it_is_off_unless_enabled_and_then_needs_a_key() {
        let nobody = Environment::default();
        assert!(start(&Settings::default(), &nobody).unwrap().is_none());
        assert!(refusal(&enabled(), &nobody).contains("OPENAI_API_KEY"));
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap();
        let somebody = Environment::from([("OPENAI_API_KEY", "sk-secret"), ("HOME", home)]);
        let hosted = start(&enabled(), &somebody).unwrap().unwrap();
        assert_eq!(hosted.default_model().name, "gpt-4.1-mini");
        assert!(std::path::Path::new(home).join(".local/share/harmonium/ledger.db").is_file());
    }

    #[test]
    fn wrong_settings_are_refused_without_their_key() {
        let somebody = Environment::from([("OPENAI_API_KEY", "sk-secret"), ("HOME", "/nowhere")]);
        let check = |change: fn(&mut Settings), expected: &str| {
            let mut settings = enabled();
            change(&mut settings);
            settings.hosted.ledger = settings::Auto::Set("/dev/null/x".into());
            let message = refusal(&settings, &somebody);
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("sk-secret"));
        };
        check(|s| s.hosted.budget.day_usd = Some(-1.0), "day_usd = -1");
        check(|s| s.hosted.models.0[0].price.input = f64::NAN, "price of gpt-4.1-mini");
        check(|s| s.hosted.models.0[0].api_key_env = None, "either api_key_env or api_key_file");
        check(|s| s.hosted.models.0[0].api_key_file = Some("k".into()), "either api_key_env");
        check(|_| (), "hosted.ledger: cannot create /dev/null");
    }

    #[test]
    fn a_key_may_lie_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sk-file\n").unwrap();
        let mut model = settings::HostedModels::published().0.remove(0);
        model.api_key_env = None;
        model.api_key_file = Some(path);
        assert_eq!(key(&model, &Environment::default()).unwrap(), Secret::new("sk-file"));
    }
}
