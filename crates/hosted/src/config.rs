//! Which hosted models there are and what may be spent on them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use harmonium_openai::client::is_loopback;
use reqwest::Url;

use crate::ledger::Budget;
use crate::price::Price;
use crate::redact::{PatternError, Redactor};
use crate::translate::OPTIONAL_FIELDS;

/// The hosted leg as the operator configured it.
#[derive(Debug, Clone)]
pub struct HostedConfig {
    /// Where a request goes that does not fit the local model: the name of one of `models`.
    pub default: String,
    /// The models there are; at least one.
    pub models: Vec<HostedModel>,
    /// What may be spent.
    pub budget: Budget,
    /// The file in which spending is recorded.
    pub ledger: PathBuf,
    /// Regular expressions of what is taken out of every text that is sent.
    pub redact: Vec<String>,
    /// Most requests that are being made ready, sent or answered at a time, to all models together.
    pub max_in_flight: usize,
    /// How long an upstream may take.
    pub timeouts: Timeouts,
    /// Most tries of one request, the first included; only before the first byte of its answer.
    pub max_attempts: u32,
    /// When an upstream is left alone.
    pub breaker: BreakerConfig,
}

/// A model behind an OpenAI-compatible endpoint.
#[derive(Debug, Clone)]
pub struct HostedModel {
    /// What requests call it, here and upstream.
    pub name: String,
    /// Address up to and including the version. Plain http is for this machine's own addresses only.
    pub base_url: String,
    /// Sent upstream as a bearer token; never shown.
    pub api_key: Secret,
    /// Longest prompt and answer together, in tokens.
    pub context: u64,
    /// Longest answer in tokens.
    pub max_output: u32,
    /// What it costs.
    pub price: Price,
    /// The protocol it speaks.
    pub wire: Wire,
    /// Most tokens that one image counts for; `None` if it takes no images.
    pub image_tokens: Option<u32>,
    /// Whether it reasons: whether it takes an effort and a verbosity.
    pub is_reasoning: bool,
    /// Fields of a chat request that it does not take, besides those its protocol does not have.
    pub drop: Vec<String>,
}

/// The protocol that a hosted model speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wire {
    /// Chat Completions.
    #[default]
    Chat,
    /// Responses.
    Responses,
}

impl Wire {
    /// The shortest limit that a request can set on its answer, in tokens.
    pub(crate) fn least_output(self) -> u32 {
        match self {
            Self::Chat => 1,
            Self::Responses => 16,
        }
    }
}

/// Waits for one upstream answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection.
    pub connect: Duration,
    /// From the request to the first chunk of its answer.
    pub first_chunk: Duration,
    /// Between two chunks.
    pub between_chunks: Duration,
}

/// When an upstream is taken for down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row after which requests are refused at once.
    pub max_failures: u32,
    /// How long, until one request may try again.
    pub cooldown: Duration,
}

/// A text that does not show itself in debugging output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A setting of the hosted leg that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// There is nowhere to send a request.
    #[error("no hosted model is configured")]
    NoModels,
    /// The default is none of the models.
    #[error("the default {name:?} is none of the hosted models, which are {known}")]
    UnknownDefault {
        /// As it was given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A name that two models have, that is empty or has unusual characters.
    #[error(
        "the hosted model name {name:?} is empty, occurs twice or has characters that no name has"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Not an address that a prompt may be sent to.
    #[error("base url {url:?} of {model} cannot be used: {problem}")]
    BaseUrl {
        /// The model.
        model: String,
        /// As it was given.
        url: String,
        /// Why.
        problem: &'static str,
    },
    /// A key is missing or is no header value.
    #[error("the api key of {model} is empty or has characters that no key has")]
    ApiKey {
        /// The model.
        model: String,
    },
    /// A pattern of what must not leave.
    #[error("redact: {0}")]
    Redact(#[from] PatternError),
    /// A field to leave out that is always sent, or never.
    #[error("drop of {model} names {field:?}, which is none of {}", OPTIONAL_FIELDS.join(", "))]
    Drop {
        /// The model.
        model: String,
        /// As it was given.
        field: String,
    },
    /// No answer is as short as the longest may be.
    #[error("max_output of {model} is {max_output}, its wire asks for at least {least}")]
    MaxOutput {
        /// The model.
        model: String,
        /// As it was given.
        max_output: u32,
        /// The least there is.
        least: u32,
    },
    /// A limit that leaves nothing.
    #[error("{setting} of {name} is 0")]
    Zero {
        /// The model, or the part of the settings.
        name: String,
        /// The setting.
        setting: &'static str,
    },
}

impl HostedConfig {
    /// Finds the first setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.models.is_empty() {
            return Err(ConfigError::NoModels);
        }
        for (index, model) in self.models.iter().enumerate() {
            let is_taken = self.models[..index].iter().any(|other| other.name == model.name);
            // It stands in addresses and in headers.
            let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%\"\\".contains(&byte);
            if model.name.is_empty() || is_taken || !model.name.bytes().all(is_plain) {
                return Err(ConfigError::Name { name: model.name.clone() });
            }
            model.check()?;
        }
        if !self.models.iter().any(|model| model.name == self.default) {
            let known: Vec<_> = self.models.iter().map(|model| model.name.as_str()).collect();
            let (name, known) = (self.default.clone(), known.join(", "));
            return Err(ConfigError::UnknownDefault { name, known });
        }
        Redactor::new(&self.redact)?;
        let bounds = [
            ("connect", self.timeouts.connect.is_zero()),
            ("first_chunk", self.timeouts.first_chunk.is_zero()),
            ("between_chunks", self.timeouts.between_chunks.is_zero()),
            ("max_in_flight", self.max_in_flight == 0),
            ("max_attempts", self.max_attempts == 0),
            ("max_failures", self.breaker.max_failures == 0),
        ];
        match bounds.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((setting, _)) => Err(ConfigError::Zero { name: "hosted".to_owned(), setting }),
            None => Ok(()),
        }
    }
}

impl HostedModel {
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(problem) = url_problem(&self.base_url) {
            let (model, url) = (self.name.clone(), self.base_url.clone());
            return Err(ConfigError::BaseUrl { model, url, problem });
        }
        let key = self.api_key.expose();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::ApiKey { model: self.name.clone() });
        }
        let zero = |setting| Err(ConfigError::Zero { name: self.name.clone(), setting });
        if self.context == 0 {
            return zero("context");
        }
        if self.max_output == 0 {
            return zero("max_output");
        }
        if self.image_tokens == Some(0) {
            return zero("image_tokens");
        }
        if self.max_output < self.wire.least_output() {
            let (model, max_output, least) =
                (self.name.clone(), self.max_output, self.wire.least_output());
            return Err(ConfigError::MaxOutput { model, max_output, least });
        }
        if let Some(field) =
            self.drop.iter().find(|field| !OPTIONAL_FIELDS.contains(&field.as_str()))
        {
            let (model, field) = (self.name.clone(), field.clone());
            return Err(ConfigError::Drop { model, field });
        }
        Ok(())
    }
}

/// Why no prompt may be sent to an address.
fn url_problem(url: &str) -> Option<&'static str> {
    let Ok(url) = Url::parse(url) else { return Some("it is no address") };
    if !url.username().is_empty() || url.password().is_some() {
        return Some("a name or password in it would be shown in errors");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Some("it has a query or a fragment");
    }
    match url.scheme() {
        "https" if url.has_host() => None,
        "http" if is_loopback(&url) => None,
        "http" => Some("plain http is for addresses of this machine only"),
        _ => Some("it is neither https nor http"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HostedConfig {
        let model = HostedModel {
            name: "m".to_owned(),
            base_url: "https://api.example.com/v1".to_owned(),
            api_key: Secret::new("sk-secret"),
            context: 1000,
            max_output: 100,
            price: Price::from_usd_per_million(0.4, 0.1, 1.6).unwrap(),
            wire: Wire::Chat,
            image_tokens: None,
            is_reasoning: false,
            drop: Vec::new(),
        };
        let second = Duration::from_secs(1);
        HostedConfig {
            default: "m".to_owned(),
            models: vec![model],
            budget: Budget::default(),
            ledger: PathBuf::new(),
            redact: Vec::new(),
            max_in_flight: 1,
            timeouts: Timeouts { connect: second, first_chunk: second, between_chunks: second },
            max_attempts: 1,
            breaker: BreakerConfig { max_failures: 1, cooldown: second },
        }
    }

    fn refusal(change: impl Fn(&mut HostedConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn an_unusable_setting_is_named() {
        assert_eq!(config().check(), Ok(()));
        assert_eq!(refusal(|config| config.models.clear()), "no hosted model is configured");
        assert!(refusal(|config| config.default = "x".to_owned()).contains("which are m"));
        assert!(refusal(|config| config.models.push(config.models[0].clone())).contains("twice"));
        assert_eq!(refusal(|config| config.max_attempts = 0), "max_attempts of hosted is 0");
        assert_eq!(refusal(|config| config.models[0].context = 0), "context of m is 0");
        assert!(
            refusal(|config| config.models[0].drop.push("messages".to_owned())).contains("top_p")
        );
        let short = refusal(|config| {
            let model = &mut config.models[0];
            (model.wire, model.max_output) = (Wire::Responses, 15);
        });
        assert_eq!(short, "max_output of m is 15, its wire asks for at least 16");
        assert!(refusal(|config| config.redact.push("(".to_owned())).starts_with("redact: \"(\""));
    }

    #[test]
    fn a_key_is_never_shown() {
        assert!(!format!("{:?}", config()).contains("sk-secret"));
        for key in ["", "sk secret", "sk-secret\n", "sk-sécret"] {
            let message = refusal(|config| config.models[0].api_key = Secret::new(key));
            assert!(message.starts_with("the api key of m "), "{message}");
            assert!(key.is_empty() || !message.contains(key));
        }
    }

    #[test]
    fn prompts_go_over_tls_or_stay_on_this_machine() {
        for url in [
            "https://api.openai.com/v1",
            "http://127.0.0.1:9/v1",
            "http://localhost/v1",
            "http://[::1]:9/v1",
        ] {
            assert_eq!(url_problem(url), None, "{url}");
        }
        for url in [
            "http://api.openai.com/v1",
            "http://localhost.example.com/v1",
            "http://127.0.0.1.example.com/v1",
            "https://user:pass@example.com/v1",
            "https://example.com/v1?x=y",
            "file:///v1",
            "example.com",
            "",
        ] {
            assert!(url_problem(url).is_some(), "{url}");
        }
    }
}
