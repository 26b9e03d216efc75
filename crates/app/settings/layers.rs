//! Puts the layers of configuration on top of each other and remembers which one each value came from.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::value::Raw;
use super::{SETTINGS, Setting, Settings, SettingsArgs, file};
use crate::environment::Environment;

/// Prefix of every environment variable of ours.
const PREFIX: &str = "HARMONIUM_";
/// Variables with the prefix that are not settings.
const OTHER_VARIABLES: &[&str] = &["HARMONIUM_API_KEY", "HARMONIUM_CONFIG"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its declaration.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable of this name.
    Variable(String),
    /// A flag of this name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "{name}"),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// The settings in force, and how they came to be.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The values.
    pub(crate) settings: Settings,
    /// The file that was read, if any was.
    pub(crate) file: Option<PathBuf>,
    /// Things that are not errors but look like mistakes: one line each.
    pub(crate) warnings: Vec<String>,
    /// One entry for each of [`SETTINGS`], in its order.
    origins: Vec<Origin>,
}

impl Resolved {
    /// Reads all layers: defaults, file, environment, flags.
    pub(crate) fn read(args: &SettingsArgs, environment: &Environment) -> Result<Self> {
        let path = file::find(args.config.as_deref(), environment);
        let entries = match &path {
            Some(path) => file::read(path)?,
            None => Vec::new(),
        };
        let mut resolved = Self {
            settings: Settings::default(),
            file: path,
            warnings: Vec::new(),
            origins: vec![Origin::Default; SETTINGS.len()],
        };
        resolved.add_file(entries)?;
        resolved.add_environment(environment)?;
        for (flag, setting, text) in args.flags.given() {
            resolved.assign(setting, &Raw::Text(text.to_owned()), Origin::Flag(flag))?;
        }
        Ok(resolved)
    }

    /// Every setting with its value, as the file would spell it, and its origin.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static Setting, String, &Origin)> {
        SETTINGS
            .iter()
            .zip(&self.origins)
            .map(|(setting, origin)| (setting, (setting.show)(&self.settings), origin))
    }

    /// Whether a person chose the value of the setting called `name`.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.rows().any(|(setting, _, origin)| setting.name == name && *origin != Origin::Default)
    }

    fn add_file(&mut self, entries: Vec<file::Entry>) -> Result<()> {
        let path = self.file.clone().unwrap_or_default();
        for entry in entries {
            let origin = Origin::File { path: path.clone(), line: entry.line };
            self.assign(entry.setting, &entry.value, origin)?;
        }
        Ok(())
    }

    fn add_environment(&mut self, environment: &Environment) -> Result<()> {
        for (name, text) in environment.with_prefix(PREFIX) {
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.env_name() == name) {
                let origin = Origin::Variable(name.to_owned());
                self.assign(setting, &Raw::Text(text.to_owned()), origin)?;
            } else if !OTHER_VARIABLES.contains(&name) {
                // Not an error, unlike an unknown key: container platforms make up variables from the name of
                // a service, and one may well be called harmonium.
                let names: Vec<_> = SETTINGS.iter().map(Setting::env_name).collect();
                let nearest = file::suggestion(name, names.iter().map(String::as_str));
                self.warnings.push(format!("the variable {name} is not a setting{nearest}"));
            }
        }
        Ok(())
    }

    fn assign(&mut self, setting: &'static Setting, raw: &Raw, origin: Origin) -> Result<()> {
        if !(setting.assign)(&mut self.settings, raw) {
            if let Some(problem) = (setting.problem)(raw) {
                bail!("{origin}: {}: {problem}", setting.name);
            }
            bail!("{origin}: {} takes {}, not {raw}", setting.name, (setting.kind)());
        }
        let index = SETTINGS.iter().position(|known| known.name == setting.name);
        self.origins[index.expect("every setting comes from the table")] = origin;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: SettingsArgs,
    }

    fn args(words: &[&str]) -> SettingsArgs {
        Command::parse_from([&["test"], words].concat()).args
    }

    fn origin_of<'a>(resolved: &'a Resolved, name: &str) -> &'a Origin {
        resolved.rows().find(|(setting, ..)| setting.name == name).unwrap().2
    }

    #[test]
    fn later_layers_win_and_origins_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.toml");
        std::fs::write(&path, "[server]\nhost = \"a\"\nport = 1\nlog = \"warn\"\n").unwrap();
        let environment =
            Environment::from([("HARMONIUM_SERVER_PORT", "2"), ("HARMONIUM_LOG", "debug")]);
        let path_text = path.to_str().unwrap();
        let resolved =
            Resolved::read(&args(&["--config", path_text, "--log", "error"]), &environment)
                .unwrap();
        let server = &resolved.settings.server;
        assert_eq!((server.host.as_str(), server.port, server.log.as_str()), ("a", 2, "error"));
        assert_eq!(
            origin_of(&resolved, "server.host"),
            &Origin::File { path: path.clone(), line: 2 }
        );
        assert_eq!(
            origin_of(&resolved, "server.port"),
            &Origin::Variable("HARMONIUM_SERVER_PORT".into())
        );
        assert_eq!(origin_of(&resolved, "server.log"), &Origin::Flag("log"));
        assert_eq!(origin_of(&resolved, "model.name"), &Origin::Default);
        assert!(resolved.is_given("server.log") && !resolved.is_given("model.name"));
    }

    #[test]
    fn wrong_kind_names_key_and_value() {
        let environment = Environment::from([("HARMONIUM_SERVER_PORT", "many")]);
        let error = Resolved::read(&args(&[]), &environment).unwrap_err();
        assert_eq!(
            error.to_string(),
            "HARMONIUM_SERVER_PORT: server.port takes a whole number from 0 to 65535, not \"many\""
        );
    }

    #[test]
    fn unknown_variable_is_a_warning_with_the_nearest_name() {
        let environment = Environment::from([("HARMONIUM_SERVER_PROT", "1")]);
        let resolved = Resolved::read(&args(&[]), &environment).unwrap();
        assert_eq!(
            resolved.warnings,
            [
                "the variable HARMONIUM_SERVER_PROT is not a setting: did you mean HARMONIUM_SERVER_PORT?"
            ]
        );
    }

    #[test]
    fn named_file_must_exist() {
        let environment = Environment::from([("HARMONIUM_CONFIG", "/nowhere/h.toml")]);
        let error = Resolved::read(&args(&[]), &environment).unwrap_err();
        assert!(error.to_string().contains("/nowhere/h.toml"), "{error}");
    }
}
