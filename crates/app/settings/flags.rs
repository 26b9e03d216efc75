//! The flags of the command line that set settings, made from the declarations.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::value::Raw;
use super::{SETTINGS, Setting};

/// What every subcommand that reads the configuration takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingsArgs {
    /// Configuration file; otherwise $HARMONIUM_CONFIG, ./harmonium.toml or ~/.config/harmonium/harmonium.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// One flag for each setting that has one.
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// The flags that were given, as pairs of name and text. Texts of one that was given more than once are joined, as a
/// list in a variable is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// Whether the flag of this name was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(flag, _)| *flag == name)
    }

    /// The flags that were given, with their settings and texts.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &'static Setting, &str)> {
        self.0.iter().filter_map(|(flag, text)| {
            let (_, _, setting) = flagged().find(|(name, ..)| name == flag)?;
            Some((*flag, setting, text.as_str()))
        })
    }
}

/// The settings with a flag: its name, the name of its value, and the setting.
fn flagged() -> impl Iterator<Item = (&'static str, &'static str, &'static Setting)> {
    SETTINGS.iter().filter_map(|setting| setting.flag.map(|(name, value)| (name, value, setting)))
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        flagged().fold(command, |command, (name, value_name, setting)| {
            let parse = move |text: &str| {
                if (setting.accepts)(text) {
                    Ok(text.to_owned())
                } else {
                    let problem = (setting.problem)(&Raw::Text(text.to_owned()));
                    Err(problem.unwrap_or_else(|| format!("it takes {}", (setting.kind)())))
                }
            };
            let action = if setting.is_list { ArgAction::Append } else { ArgAction::Set };
            let arg = Arg::new(name).long(name).value_name(value_name).help(setting.help());
            command.arg(arg.value_parser(parse).action(action))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(
            flagged()
                .filter_map(|(name, ..)| {
                    let texts: Vec<&str> =
                        matches.get_many::<String>(name)?.map(String::as_str).collect();
                    Some((name, texts.join(",")))
                })
                .collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
