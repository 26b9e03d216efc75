//! The process's environment, read once at the start and handed on as a value.
//!
//! Nothing else in the workspace looks at environment variables, so every effect one can have is found by
//! searching for `Environment`, and tests pass their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Variables by name. Those that are not Unicode are left out: no setting of ours can have such a value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// A copy of what the process was started with.
    pub(crate) fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// A variable's value; an empty one counts as absent, as is usual for `NO_COLOR`, `HF_HOME` and their like.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables whose name starts with `prefix`, in order of name.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty())
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Where the user's own configuration may lie: `$XDG_CONFIG_HOME/harmonium/harmonium.toml`, or under
    /// `~/.config`.
    pub(crate) fn user_config_file(&self) -> Option<PathBuf> {
        let base = match self.get("XDG_CONFIG_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(self.get("HOME")?).join(".config"),
        };
        Some(base.join("harmonium").join("harmonium.toml"))
    }

    /// Where what hosted models cost is recorded: `$XDG_DATA_HOME/harmonium/ledger.db`, or under `~/.local/share`.
    pub(crate) fn ledger_file(&self) -> Option<PathBuf> {
        let base = match self.get("XDG_DATA_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(self.get("HOME")?).join(".local/share"),
        };
        Some(base.join("harmonium").join("ledger.db"))
    }

    /// The Hugging Face cache, found as its own tools find it: `HF_HUB_CACHE`, `$HF_HOME/hub`,
    /// `$XDG_CACHE_HOME/huggingface/hub`, `~/.cache/huggingface/hub`.
    pub(crate) fn hf_cache(&self) -> Option<PathBuf> {
        match self.get("HF_HUB_CACHE") {
            Some(dir) => Some(PathBuf::from(dir)),
            None => Some(self.hf_home()?.join("hub")),
        }
    }

    fn hf_home(&self) -> Option<PathBuf> {
        if let Some(dir) = self.get("HF_HOME") {
            return Some(PathBuf::from(dir));
        }
        let base = match self.get("XDG_CACHE_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(self.get("HOME")?).join(".cache"),
        };
        Some(base.join("huggingface"))
    }

    /// The hub's address: `HF_ENDPOINT`, or the public one.
    pub(crate) fn hf_endpoint(&self) -> &str {
        self.get("HF_ENDPOINT").unwrap_or("https://huggingface.co")
    }

    /// The token for the hub: `HF_TOKEN`, or what its own tools have stored.
    pub(crate) fn hf_token(&self) -> Option<String> {
        if let Some(token) = self.get("HF_TOKEN") {
            return Some(token.trim().to_owned());
        }
        let file = match self.get("HF_TOKEN_PATH") {
            Some(file) => PathBuf::from(file),
            None => self.hf_home()?.join("token"),
        };
        let token = std::fs::read_to_string(file).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// Whether Hugging Face tools are told to stay off the network.
    pub(crate) fn hf_offline(&self) -> bool {
        let is_yes =
            |value: &str| ["1", "on", "true", "yes"].contains(&value.to_lowercase().as_str());
        ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .iter()
            .any(|name| self.get(name).is_some_and(is_yes))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hf_cache_prefers_the_most_specific_variable() {
        let all = [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(Environment::from(all).hf_cache(), Some("/a".into()));
        assert_eq!(Environment::from([all[1], all[2]]).hf_cache(), Some("/b/hub".into()));
        let xdg = Environment::from([("XDG_CACHE_HOME", "/d"), all[2]]);
        assert_eq!(xdg.hf_cache(), Some("/d/huggingface/hub".into()));
        assert_eq!(
            Environment::from([all[2]]).hf_cache(),
            Some("/c/.cache/huggingface/hub".into())
        );
        assert_eq!(Environment::default().hf_cache(), None);
    }

    #[test]
    fn the_token_is_a_variable_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        assert_eq!(Environment::from([home]).hf_token().as_deref(), Some("hf_file"));
        let both = Environment::from([home, ("HF_TOKEN", "hf_variable")]);
        assert_eq!(both.hf_token().as_deref(), Some("hf_variable"));
        assert_eq!(Environment::from([("HF_HOME", "/nowhere")]).hf_token(), None);
    }

    #[test]
    fn offline_is_what_hugging_face_tools_take_for_it() {
        for (value, is_offline) in [("1", true), ("True", true), ("0", false), ("", false)] {
            assert_eq!(Environment::from([("HF_HUB_OFFLINE", value)]).hf_offline(), is_offline);
        }
    }

    #[test]
    fn empty_variable_counts_as_absent() {
        let environment = Environment::from([("NO_COLOR", "")]);
        assert_eq!(environment.get("NO_COLOR"), None);
        assert_eq!(environment.with_prefix("NO").count(), 0);
    }
}
