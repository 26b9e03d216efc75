//! Server-sent events: the encoder, and a decoder that takes bytes as they come.
//!
//! The decoder accepts what the HTML standard does (LF, CR and CRLF line ends, comments, unknown fields, a byte
//! order mark) however the bytes are split, and holds at most [`Limits`]. `id` and `retry` are read over: the
//! protocol never resumes a stream.

use bytes::Bytes;

/// Data of the event that ends a stream.
pub const DONE: &str = "[DONE]";

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type; absent for plain messages.
    pub name: Option<String>,
    /// Its payload, lines joined by `\n`.
    pub data: String,
}

impl Event {
    /// An event without a type.
    pub fn data(data: impl Into<String>) -> Self {
        Self { name: None, data: data.into() }
    }

    /// Appends the event's bytes. A line end within `data`, of whatever kind, becomes a `\n` at the other
    /// end; the name must have none.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        if let Some(name) = &self.name {
            debug_assert!(!name.contains(['\r', '\n']), "an event name is one line");
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(name.as_bytes());
            out.push(b'\n');
        }
        encode_data_into(&self.data, out);
    }
}

/// Appends a plain event with this payload; see [`Event::encode_into`].
pub fn encode_data_into(data: &str, out: &mut Vec<u8>) {
    let mut rest = data;
    loop {
        let end = rest.find(['\r', '\n']);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest.as_bytes()[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { break };
        rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
    }
    out.push(b'\n');
}

/// A comment: clients ignore it, but it shows that the connection lives. `text` is one line.
pub fn encode_comment(text: &str) -> Bytes {
    debug_assert!(!text.contains(['\r', '\n']), "a comment is one line");
    Bytes::from(format!(": {text}\n\n"))
}

/// What a decoder may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest line in bytes.
    pub max_line_bytes: usize,
    /// Longest payload of one event in bytes.
    pub max_event_bytes: usize,
}

impl Default for Limits {
    /// Generous for any chunk, small for any machine.
    fn default() -> Self {
        Self { max_line_bytes: 4 << 20, max_event_bytes: 16 << 20 }
    }
}

/// Why a stream cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line does not end in time.
    #[error("line is longer than {max_bytes} bytes")]
    LineTooLong {
        /// The bound.
        max_bytes: usize,
    },
    /// An event does not end in time.
    #[error("event is longer than {max_bytes} bytes")]
    EventTooLong {
        /// The bound.
        max_bytes: usize,
    },
}

/// Turns bytes into events.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    /// The unfinished line.
    line: Vec<u8>,
    /// The unfinished event; `data` ends in one `\n` too many.
    event: Event,
    has_data: bool,
    /// The last byte was a CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    past_first_line: bool,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the next bytes and appends the events that they complete. After an error the stream is lost.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Event>) -> Result<(), SseError> {
        if self.after_cr
            && let Some((first, rest)) = bytes.split_first()
        {
            self.after_cr = false;
            if *first == b'\n' {
                bytes = rest;
            }
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            self.extend_line(&bytes[..end])?;
            self.end_line(out)?;
            let is_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if is_cr {
                match bytes.split_first() {
                    None => self.after_cr = true,
                    Some((b'\n', rest)) => bytes = rest,
                    Some(_) => {}
                }
            }
        }
        self.extend_line(bytes)
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        let max_bytes = self.limits.max_line_bytes;
        if self.line.len() + bytes.len() > max_bytes {
            return Err(SseError::LineTooLong { max_bytes });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, out: &mut Vec<Event>) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let mut text = line.as_slice();
        if !std::mem::replace(&mut self.past_first_line, true) {
            text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        }
        let result = self.take_line(text, out);
        // The allocation is used again for the next line.
        self.line = line;
        self.line.clear();
        result
    }

    fn take_line(&mut self, line: &[u8], out: &mut Vec<Event>) -> Result<(), SseError> {
        if line.is_empty() {
            self.end_event(out);
            return Ok(());
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                let max_bytes = self.limits.max_event_bytes;
                if self.event.data.len() + value.len() > max_bytes {
                    return Err(SseError::EventTooLong { max_bytes });
                }
                self.event.data.push_str(&String::from_utf8_lossy(value));
                self.event.data.push('\n');
                self.has_data = true;
            }
            b"event" => self.event.name = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
        Ok(())
    }

    /// A blank line ends an event; one without data is none.
    fn end_event(&mut self, out: &mut Vec<Event>) {
        let mut event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            event.data.pop();
            out.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&str]) -> Vec<Event> {
        let mut decoder = Decoder::new(Limits::default());
        let mut events = Vec::new();
        for piece in pieces {
            decoder.push(piece.as_bytes(), &mut events).unwrap();
        }
        events
    }

    #[test]
    fn every_line_end_ends_a_line() {
        for end in ["\n", "\r", "\r\n"] {
            let text = format!("event: a{end}data: 1{end}data:2{end}{end}data: 3{end}{end}");
            assert_eq!(
                decode(&[&text]),
                [Event { name: Some("a".into()), data: "1\n2".into() }, Event::data("3")],
                "{end:?}"
            );
        }
    }

    #[test]
    fn a_crlf_split_between_two_reads_is_one_line_end() {
        assert_eq!(decode(&["data: 1\r", "\ndata: 2\r", "\n\r", "\n"]), [Event::data("1\n2")]);
    }

    #[test]
    fn comments_unknown_fields_and_events_without_data_are_skipped() {
        assert_eq!(
            decode(&["\u{feff}: hello\n\nid: 4\nretry: 5\n\nevent: x\n\ndata\n\ndata: y\n\n"]),
            [Event::data(""), Event::data("y")]
        );
    }

    #[test]
    fn an_unfinished_event_is_not_given_out() {
        assert_eq!(decode(&["data: 1\n"]), []);
    }

    #[test]
    fn lines_and_events_are_bounded() {
        let limits = Limits { max_line_bytes: 8, max_event_bytes: 5 };
        let mut out = Vec::new();
        let error = Decoder::new(limits).push(b"data: 123", &mut out).unwrap_err();
        assert_eq!(error, SseError::LineTooLong { max_bytes: 8 });
        let error = Decoder::new(limits).push(b"data: 1\ndata: 2\ndata: 3\n", &mut out);
        assert_eq!(error, Ok(()));
        let mut decoder = Decoder::new(limits);
        decoder.push(b"data:12\n", &mut out).unwrap();
        let error = decoder.push(b"data:345\n", &mut out).unwrap_err();
        assert_eq!(error, SseError::EventTooLong { max_bytes: 5 });
    }
}
