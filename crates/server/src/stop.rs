//! Stop texts: ends an answer where one of them would appear, and hides it.
//!
//! Text that may be the beginning of a stop text is held back until the next piece decides, so nothing is sent
//! that must be taken back. What is held is shorter than the longest stop text.

/// Looks for stop texts in a text that comes in pieces.
#[derive(Debug)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What may be sent after a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) text: String,
    /// A stop text was found: nothing more will pass.
    pub(crate) is_stopped: bool,
}

impl StopFilter {
    /// None of `stops` may be empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        debug_assert!(stops.iter().all(|stop| !stop.is_empty()), "validated");
        Self { stops, held: String::new() }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: String) -> Passed {
        if self.stops.is_empty() {
            return Passed { text: piece, is_stopped: false };
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(&piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| text.find(stop)).min() {
            text.truncate(at);
            return Passed { text, is_stopped: true };
        }
        self.held = text.split_off(text.len() - self.len_to_hold(&text));
        Passed { text, is_stopped: false }
    }

    /// Gives up what was held: the text ends here, or something else follows it.
    pub(crate) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of `text` that begins a stop text.
    fn len_to_hold(&self, text: &str) -> usize {
        let longest = |stop: &String| {
            stop.char_indices()
                .map(|(at, _)| at)
                .rev()
                .find(|&len| text.ends_with(&stop[..len]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of `pieces`, piece by piece, with `|` where the answer was stopped and the rest after `~`.
    fn run(stops: &[&str], pieces: &[&str]) -> String {
        let mut filter = StopFilter::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            let passed = filter.push((*piece).to_owned());
            out.push_str(&passed.text);
            if passed.is_stopped {
                return out + "|";
            }
            out.push('.');
        }
        out + "~" + &filter.flush()
    }

    #[test]
    fn a_stop_text_ends_the_answer_wherever_it_is_split() {
        assert_eq!(run(&["STOP"], &["a STOP b"]), "a |");
        assert_eq!(run(&["STOP"], &["a S", "TO", "P b"]), "a ..|");
        assert_eq!(run(&["\n\n"], &["a\n", "b\n", "\nc"]), "a.\nb.|");
        assert_eq!(run(&["é!"], &["caf", "é", "!"]), "caf..|");
    }

    #[test]
    fn a_beginning_that_leads_nowhere_is_passed_on() {
        assert_eq!(run(&["STOP"], &["S", "T", "ART"]), "..START.~");
        assert_eq!(run(&["STOP"], &["a", " ST"]), "a. .~ST");
        assert_eq!(run(&["aab"], &["a", "a", "a", "c"]), "..a.aac.~");
    }

    #[test]
    fn the_first_of_several_stop_texts_wins() {
        assert_eq!(run(&["END", "N"], &["the N and the END"]), "the |");
        assert_eq!(run(&["xyz", "y"], &["x", "y"]), ".x|");
    }

    #[test]
    fn without_stop_texts_everything_passes_at_once() {
        assert_eq!(run(&[], &["a", "b"]), "a.b.~");
    }
}
