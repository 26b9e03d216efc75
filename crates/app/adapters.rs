//! Adapters as configured: from names and directories to what the model runs.

use anyhow::{Context, Result, bail};
use harmonium_model::{Adapter, Config};

use crate::settings::{NamedAdapter, Settings};
use crate::stack;

/// Refuses adapters that could not answer, before anything is loaded.
pub(crate) fn check(settings: &Settings) -> Result<()> {
    let adapters = &settings.model.adapters.0;
    if adapters.is_empty() {
        return Ok(());
    }
    let hosted = settings.hosted.models.0.iter().filter(|_| settings.hosted.enabled);
    let hosted: Vec<&str> = hosted.map(|model| model.name.as_str()).collect();
    let (name, aliases) = stack::names(&settings.model.name);
    for model in std::iter::once(&name).chain(&aliases) {
        let ids = adapters.iter().map(|adapter| format!("{model}:{}", adapter.name));
        if let Some(id) = ids.into_iter().find(|id| hosted.contains(&id.as_str())) {
            bail!(
                "model.adapters: {id} is the name of a hosted model, too; call the adapter something else"
            );
        }
    }
    Ok(())
}

/// Reads the configured adapters, in their order.
pub(crate) fn open_all(settings: &Settings, base: &Config) -> Result<Vec<Adapter>> {
    settings.model.adapters.0.iter().map(|adapter| open(adapter, base)).collect()
}

/// Reads one for a base; an error names it.
pub(crate) fn open(adapter: &NamedAdapter, base: &Config) -> Result<Adapter> {
    Adapter::open(&adapter.dir, base).with_context(|| format!("adapter {}", adapter.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Adapters, Value};

    #[test]
    fn an_adapter_called_like_a_hosted_model_is_refused() {
        let mut settings = Settings::default();
        settings.model.name = "openai/gpt-oss-20b".to_owned();
        settings.model.adapters = Adapters::from_text("free=/x").unwrap();
        settings.hosted.models.0[0].name = "openai/gpt-oss-20b:free".to_owned();
        check(&settings).unwrap();
        settings.hosted.enabled = true;
        let message = check(&settings).unwrap_err().to_string();
        assert!(message.contains("openai/gpt-oss-20b:free is the name of a hosted"), "{message}");
    }
}
