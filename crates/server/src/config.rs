//! Settings of the HTTP side that do not depend on the model.

use std::fmt;
use std::time::Duration;

/// How the server behaves. Plain values: the application fills them from its configuration.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Keys that clients must present as `Authorization: Bearer KEY`; empty leaves the API open.
    pub api_keys: Vec<ApiKey>,
    /// What sends requests to a hosted model that the local one could answer, if they may go.
    pub triggers: Triggers,
    /// Origins that browsers may call from, such as `https://example.org`; `*` is any, empty is none.
    pub cors_origins: Vec<String>,
    /// Most connections at a time; more wait to be accepted.
    pub max_connections: usize,
    /// Longest wait for the head of a connection's first or next request, after which it is closed.
    pub idle_timeout: Duration,
    /// Longest request body in bytes.
    pub max_body_bytes: usize,
    /// Longest silence on a stream before a comment keeps the connection alive.
    pub keep_alive_interval: Duration,
    /// How long running answers may go on after shutdown was asked for.
    pub drain_timeout: Duration,
    /// Most answers (`n`) to one request.
    pub max_n: u32,
    /// Whether reasoning is also sent as `reasoning_content`, the other name clients look for.
    pub reasoning_content: bool,
    /// Most tokens of an answer whose request names no limit.
    pub default_max_tokens: u32,
    /// The date the model is told, `YYYY-MM-DD`; today if absent.
    pub date: Option<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            triggers: Triggers::default(),
            cors_origins: Vec::new(),
            max_connections: 1024,
            idle_timeout: Duration::from_secs(60),
            max_body_bytes: 16 << 20,
            keep_alive_interval: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            max_n: 8,
            reasoning_content: true,
            default_max_tokens: 32_768,
            date: None,
        }
    }
}

/// What sends requests to a hosted model besides their length. All are off by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Triggers {
    /// Images in the request, which the local model cannot look at.
    pub images: bool,
    /// More waiting requests than that.
    pub waiting: Option<usize>,
    /// A local engine that has failed.
    pub unhealthy: bool,
}

/// A key that clients present.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The key itself.
    pub key: String,
    /// Whether its requests may go to a hosted model.
    pub may_host: bool,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("may_host", &self.may_host).finish_non_exhaustive()
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `scheme://host[:port]` and not `*`.
    #[error("cors origin {origin:?} is neither \"*\" nor of the form scheme://host")]
    CorsOrigin {
        /// As it was given.
        origin: String,
    },
    /// Two lines for one key could say two things about it.
    #[error("api keys {first} and {second} are the same")]
    SameApiKey {
        /// Place in the list, from 0.
        first: usize,
        /// Place of the other.
        second: usize,
    },
    /// An empty key would let everyone in.
    #[error("api key {index} is empty")]
    EmptyApiKey {
        /// Place in the list, from 0.
        index: usize,
    },
    /// A bound that leaves nothing.
    #[error("{name} is 0")]
    Zero {
        /// The setting.
        name: &'static str,
    },
}

impl ServerConfig {
    /// Finds the first setting that cannot be used.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if let Some(index) = self.api_keys.iter().position(|key| key.key.is_empty()) {
            return Err(ConfigError::EmptyApiKey { index });
        }
        for (second, key) in self.api_keys.iter().enumerate() {
            let same = |other: &ApiKey| other.key == key.key;
            if let Some(first) = self.api_keys[..second].iter().position(same) {
                return Err(ConfigError::SameApiKey { first, second });
            }
        }
        if let Some(origin) = self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(ConfigError::CorsOrigin { origin: origin.clone() });
        }
        let bounds = [
            ("max_body_bytes", self.max_body_bytes == 0),
            ("max_connections", self.max_connections == 0),
            ("idle_timeout", self.idle_timeout.is_zero()),
            ("keep_alive_interval", self.keep_alive_interval.is_zero()),
            ("max_n", self.max_n == 0),
            ("default_max_tokens", self.default_max_tokens == 0),
        ];
        match bounds.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(ConfigError::Zero { name }),
            None => Ok(()),
        }
    }
}

/// Whether browsers could send this as their origin.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return text == "*" };
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/?#@\"".contains(&byte);
    !scheme.is_empty()
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !host.is_empty()
        && host.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_used() {
        assert_eq!(ServerConfig::default().check(), Ok(()));
    }

    fn key(key: &str) -> ApiKey {
        ApiKey { key: key.to_owned(), may_host: false }
    }

    #[test]
    fn an_unusable_setting_is_named() {
        let check = |change: fn(&mut ServerConfig)| {
            let mut config = ServerConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(check(|config| config.max_n = 0), "max_n is 0");
        assert_eq!(
            check(|config| config.api_keys = ["a", ""].map(key).into()),
            "api key 1 is empty"
        );
        assert_eq!(
            check(|config| config.api_keys = ["a", "b", "a"].map(key).into()),
            "api keys 0 and 2 are the same"
        );
        assert!(
            check(|config| config.cors_origins = vec!["example.org".into()]).contains("example")
        );
    }

    #[test]
    fn origins_have_a_scheme_and_a_host_and_no_path() {
        for origin in ["*", "https://example.org", "http://localhost:3000", "http://[::1]:80"] {
            assert!(is_origin(origin), "{origin}");
        }
        for text in ["", "example.org", "https://", "https://a/b", "https://a b", "://a"] {
            assert!(!is_origin(text), "{text}");
        }
    }
}
