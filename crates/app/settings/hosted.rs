//! The settings of `[hosted]` that are more than one value: its models and its budget.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::value::{Raw, Value};

/// The hosted models, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HostedModels(pub(crate) Vec<HostedModel>);

/// One `[[hosted.models]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostedModel {
    /// What requests call it, here and upstream.
    pub(crate) name: String,
    /// Address up to and including the version.
    pub(crate) base_url: String,
    /// The environment variable that holds the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_env: Option<String>,
    /// The file that holds the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// The protocol it speaks.
    #[serde(default)]
    pub(crate) wire: Wire,
    /// Longest prompt and answer together, in tokens.
    pub(crate) context: NonZeroU64,
    /// Longest answer, in tokens.
    pub(crate) max_output: NonZeroU32,
    /// What it costs.
    pub(crate) price: PriceList,
    /// Most tokens that one image counts for; absent where it takes no images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image_tokens: Option<NonZeroU32>,
    /// Whether it reasons.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reasoning: bool,
    /// Fields of a request that it does not take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) drop: Vec<String>,
}

/// The protocol a hosted model speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wire {
    /// Chat Completions.
    #[default]
    Chat,
    /// Responses.
    Responses,
}

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceList {
    /// Of the prompt.
    pub(crate) input: f64,
    /// Of what of the prompt was cached.
    pub(crate) cached: f64,
    /// Of the answer.
    pub(crate) output: f64,
}

/// What may be spent, in US dollars; what is absent has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BudgetLimits {
    /// By all callers in a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) day_usd: Option<f64>,
    /// By all callers in a calendar month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) month_usd: Option<f64>,
    /// By each API key in a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_day_usd: Option<f64>,
    /// By each API key in a calendar month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_month_usd: Option<f64>,
}

impl HostedModels {
    /// GPT-4.1 Mini at OpenAI, with its published limits and prices.
    pub(crate) fn published() -> Self {
        Self(vec![HostedModel {
            name: "gpt-4.1-mini".to_owned(),
            base_url: "https://api.openai.com/v1".to_owned(),
            api_key_env: Some("OPENAI_API_KEY".to_owned()),
            api_key_file: None,
            wire: Wire::Chat,
            context: NonZeroU64::new(1_047_576).expect("it is not 0"),
            max_output: NonZeroU32::new(32_768).expect("it is not 0"),
            price: PriceList { input: 0.40, cached: 0.10, output: 1.60 },
            // 1,536 patches at most, each of 1.62 tokens.
            image_tokens: NonZeroU32::new(2_489),
            reasoning: false,
            drop: Vec::new(),
        }])
    }
}

impl BudgetLimits {
    /// Enough to try it, too little to be sorry.
    pub(crate) fn careful() -> Self {
        Self { day_usd: Some(5.0), month_usd: Some(50.0), ..Self::default() }
    }
}

/// Reads a structured value; the error says which key is wrong.
fn read<T: DeserializeOwned>(raw: &Raw) -> Result<T, String> {
    let value = match raw {
        Raw::Typed(value) => value.clone(),
        // A variable spells it as the file would.
        Raw::Text(text) => {
            let mut table: toml::Table =
                format!("value = {text}").parse().map_err(|_| "it is no TOML value".to_owned())?;
            table.remove("value").unwrap_or(toml::Value::Boolean(false))
        }
    };
    value.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

fn show(value: &impl Serialize) -> String {
    let value = toml::Value::try_from(value).expect("plain tables are always TOML");
    value.to_string()
}

impl Value for HostedModels {
    fn kind() -> String {
        "tables with name, base_url, api_key_env or api_key_file, wire = \"chat\" or \"responses\", context, \
         max_output, price = { input, cached, output } and, where they apply, image_tokens, reasoning = true and \
         drop = [\"field\"]"
            .to_owned()
    }

    fn from_typed(value: &toml::Value) -> Option<Self> {
        read(&Raw::Typed(value.clone())).ok().map(Self)
    }

    fn from_text(text: &str) -> Option<Self> {
        read(&Raw::Text(text.to_owned())).ok().map(Self)
    }

    fn show(&self) -> String {
        show(&self.0)
    }

    fn problem(raw: &Raw) -> Option<String> {
        read::<Vec<HostedModel>>(raw).err()
    }
}

impl Value for BudgetLimits {
    fn kind() -> String {
        "a table with day_usd, month_usd, key_day_usd, key_month_usd, each of which may be absent"
            .to_owned()
    }

    fn from_typed(value: &toml::Value) -> Option<Self> {
        read(&Raw::Typed(value.clone())).ok()
    }

    fn from_text(text: &str) -> Option<Self> {
        read(&Raw::Text(text.to_owned())).ok()
    }

    fn show(&self) -> String {
        show(self)
    }

    fn problem(raw: &Raw) -> Option<String> {
        read::<Self>(raw).err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back() {
        let models = HostedModels::published();
        assert_eq!(HostedModels::from_text(&models.show()), Some(models));
        for budget in [BudgetLimits::careful(), BudgetLimits::default()] {
            assert_eq!(BudgetLimits::from_text(&budget.show()), Some(budget));
        }
    }

    #[test]
    fn a_wrong_key_is_named_and_no_value_is_shown() {
        let with = |more: &str| {
            let text = HostedModels::published().show().replace("wire = \"chat\"", more);
            HostedModels::problem(&Raw::Text(text)).unwrap_or_default()
        };
        assert_eq!(with("wire = \"chat\""), "");
        let problem = with("api_key = \"sk-secret\"");
        assert!(problem.contains("`api_key`") && !problem.contains("sk-secret"), "{problem}");
        assert_eq!(with("wire = \"responses\""), "");
        assert!(with("wire = \"grpc\"").contains("`chat`"));
        assert!(BudgetLimits::problem(&Raw::Text("{ day = 1 }".into())).unwrap().contains("`day`"));
    }
}
