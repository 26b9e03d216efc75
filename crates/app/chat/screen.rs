//! How an answer appears on stdout: reasoning apart from the answer, every piece at once.
//!
//! On a terminal with colors reasoning is dimmed; elsewhere it is left out, or marked if it was asked for.
//! Control characters of the model's text never reach the terminal.

use std::io::{self, Write};

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";
/// Stands before reasoning that cannot be dimmed.
const MARK: &str = "[reasoning] ";

/// How reasoning is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReasoningStyle {
    /// In faint letters.
    Dimmed,
    /// In plain letters after a mark.
    Marked,
    /// Not at all.
    Hidden,
}

/// Writes answers to `W`.
pub(super) struct Screen<W> {
    out: W,
    style: ReasoningStyle,
    in_reasoning: bool,
}

impl<W: Write> Screen<W> {
    /// A screen with nothing on it.
    pub(super) fn new(out: W, style: ReasoningStyle) -> Self {
        Self { out, style, in_reasoning: false }
    }

    /// A piece of reasoning.
    pub(super) fn reasoning(&mut self, text: &str) -> io::Result<()> {
        if self.style == ReasoningStyle::Hidden || text.is_empty() {
            return Ok(());
        }
        if !self.in_reasoning {
            self.in_reasoning = true;
            let start = if self.style == ReasoningStyle::Dimmed { DIM } else { MARK };
            self.out.write_all(start.as_bytes())?;
        }
        self.write(text)
    }

    /// A piece of the answer.
    pub(super) fn content(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.end_reasoning()?;
        self.write(text)
    }

    /// The end of an answer, complete or not.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.end_reasoning()?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    /// The invitation to type.
    pub(super) fn prompt(&mut self) -> io::Result<()> {
        self.out.write_all(b"> ")?;
        self.out.flush()
    }

    fn end_reasoning(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.in_reasoning) {
            let end = if self.style == ReasoningStyle::Dimmed { RESET } else { "" };
            writeln!(self.out, "{end}")?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let harmless = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
        let text: String = text.chars().filter(harmless).collect();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: ReasoningStyle) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, style);
        screen.reasoning("hm, ").unwrap();
        screen.reasoning("so").unwrap();
        screen.content("Par").unwrap();
        screen.content("is\x1b[31m").unwrap();
        screen.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reasoning_is_set_apart_and_control_characters_are_dropped() {
        assert_eq!(shown(ReasoningStyle::Hidden), "Paris[31m\n");
        assert_eq!(shown(ReasoningStyle::Marked), "[reasoning] hm, so\nParis[31m\n");
        assert_eq!(shown(ReasoningStyle::Dimmed), "\x1b[2mhm, so\x1b[0m\nParis[31m\n");
    }

    #[test]
    fn answer_that_stops_while_reasoning_leaves_the_terminal_clean() {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, ReasoningStyle::Dimmed);
        screen.reasoning("hm").unwrap();
        screen.end().unwrap();
        assert_eq!(out, b"\x1b[2mhm\x1b[0m\n\n");
    }
}
