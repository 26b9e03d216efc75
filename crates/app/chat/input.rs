//! What a line typed into the chat means.

use crate::cli::EffortArg;
use clap::ValueEnum;

/// Shown for `/help`.
pub(super) const HELP: &str = "\
/effort low|medium|high   how much the model reasons before it answers
/new                      forget the conversation
/quit                     leave (Ctrl-D, too)
/help                     this list
Ctrl-C stops an answer; at the prompt it leaves.";

/// One line of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing but space.
    Empty,
    /// Said to the model.
    Say(String),
    /// From now on, this effort.
    Effort(EffortArg),
    /// A new conversation.
    New,
    /// The end.
    Quit,
    /// The list of commands.
    Help,
    /// A command that is none, with what to tell the person.
    Wrong(String),
}

impl Input {
    /// Reads a line. Only lines that start with a slash and a letter are commands.
    pub(super) fn parse(line: &str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Empty;
        }
        let is_command =
            line.strip_prefix('/').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
        if !is_command {
            return Self::Say(line.to_owned());
        }
        let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (command, argument.trim()) {
            ("/new", "") => Self::New,
            ("/quit" | "/exit", "") => Self::Quit,
            ("/help", "") => Self::Help,
            ("/effort", level) => match EffortArg::from_str(level, false) {
                Ok(effort) => Self::Effort(effort),
                Err(_) => Self::Wrong("/effort takes low, medium or high".to_owned()),
            },
            _ => Self::Wrong(format!("{command} is no command; /help lists them")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_they_say() {
        let say = |text: &str| Input::Say(text.into());
        for (line, expected) in [
            ("", Input::Empty),
            ("  \t", Input::Empty),
            (" hello ", say("hello")),
            ("/ 2 is half", say("/ 2 is half")),
            ("what is /new?", say("what is /new?")),
            ("/new", Input::New),
            ("/quit", Input::Quit),
            ("/help", Input::Help),
            ("/effort high", Input::Effort(EffortArg::High)),
            ("/effort", Input::Wrong("/effort takes low, medium or high".into())),
            ("/nwe", Input::Wrong("/nwe is no command; /help lists them".into())),
        ] {
            assert_eq!(Input::parse(line), expected, "{line:?}");
        }
    }
}
