//! The header of a message, from `<|start|>` to `<|message|>`: who speaks, to whom, on which channel.
//!
//! Owns the words of one header while it arrives, and reads them leniently. A header in good order is
//! `assistant[ to=NAME]<|channel|>CHANNEL[ to=NAME][ <|constrain|>FORMAT]`. Models also repeat the role,
//! misspell the channel, glue words together, write two channels, add words, or never write `<|message|>`;
//! what each of these means is decided here, and [`Reading::mended`] says that something was wrong.
//!
//! Knows nothing of bodies or deltas.

use super::tools::{Recipient, Tools};
use super::utf8;

const ROLES: [&str; 5] = ["assistant", "user", "system", "developer", "tool"];
const FORMATS: [&str; 3] = ["json", "code", "text"];

/// A header in good order has fewer bytes than this and the longest declared name together.
const MAX_TEXT_LEN: usize = 256;
/// A header in good order has two.
const MAX_MARKS: usize = 8;

/// A control token that belongs into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Channel,
    Constrain,
}

/// How a header began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The prompt wrote `<|start|>assistant`.
    Prompt,
    /// The model wrote `<|start|>`.
    Start,
    /// Without `<|start|>`: whatever comes between two messages.
    Stray,
}

/// The tokens of a header so far.
#[derive(Debug)]
pub(super) struct Header {
    origin: Origin,
    text: Vec<u8>,
    /// Where in `text` each mark stands, in order.
    marks: Vec<(usize, Mark)>,
}

/// The channel of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Analysis,
    Commentary,
    Final,
    /// There was a marker, and then something that resembles no channel.
    Unknown,
}

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) channel: Option<Channel>,
    /// The function or other recipient; `None` if the message is for everyone.
    pub(super) recipient: Option<Recipient>,
    /// Speaks for somebody else: a user, the system or a tool.
    pub(super) is_foreign: bool,
    /// The header was not in good order.
    pub(super) mended: bool,
    /// It is in order but for the function, which the prompt does not declare.
    pub(super) is_undeclared: bool,
    /// What is not header but text, with the whitespace within it.
    pub(super) text: String,
}

impl Header {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, text: Vec::new(), marks: Vec::new() }
    }

    pub(super) fn push_text(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    pub(super) fn push_mark(&mut self, mark: Mark) {
        self.marks.push((self.text.len(), mark));
    }

    pub(super) fn is_blank(&self) -> bool {
        self.text.is_empty() && self.marks.is_empty()
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether this is longer than any header: then it is text without one. Waits for the end of a character.
    pub(super) fn is_full(&self, tools: &Tools) -> bool {
        let is_long = self.text.len() > MAX_TEXT_LEN + tools.longest();
        (is_long || self.marks.len() > MAX_MARKS) && utf8::ends_whole(&self.text)
    }

    /// Reads a header that `<|message|>` has ended. Words that mean nothing are dropped if there is a
    /// channel or a recipient; without either, the words are text.
    pub(super) fn read(&self, tools: &Tools) -> Reading {
        let mut scanner = Scanner::new(tools, self, true);
        for (mark, section) in self.sections() {
            scanner.section(mark, &section);
        }
        let reading = scanner.finish();
        let is_bare = self.marks.is_empty() && reading.recipient.is_none();
        Reading { text: if is_bare { reading.text } else { String::new() }, ..reading }
    }

    /// Reads a header whose `<|message|>` never came: from the first word on that is no header, all is text.
    pub(super) fn read_unfinished(&self, tools: &Tools) -> Reading {
        let sections: Vec<(Option<Mark>, String)> = self.sections().collect();
        let mut scanner = Scanner::new(tools, self, false);
        let mut text = String::new();
        for (mark, section) in &sections {
            let rest = if text.is_empty() { scanner.section(*mark, section) } else { section };
            text.push_str(rest);
        }
        let reading = scanner.finish();
        let is_bare = self.marks.is_empty() && reading.recipient.is_none();
        if is_bare && !text.trim().is_empty() {
            // Words such as "assistant" are only markup where there is a header.
            text = sections.into_iter().map(|(_, section)| section).collect();
        }
        Reading { text, mended: true, ..reading }
    }

    /// The text before the first mark, then each mark with the text behind it.
    fn sections(&self) -> impl Iterator<Item = (Option<Mark>, String)> {
        let ends = self.marks.iter().map(|&(at, _)| at).chain([self.text.len()]);
        let starts = [(0, None)].into_iter().chain(self.marks.iter().map(|&(at, m)| (at, Some(m))));
        starts.zip(ends).map(|((start, mark), end)| {
            (mark, String::from_utf8_lossy(&self.text[start..end]).into_owned())
        })
    }
}

/// Goes through the words of a header.
struct Scanner<'a> {
    tools: &'a Tools,
    origin: Origin,
    /// Whether `<|message|>` has ended the header, so that every word in it is markup.
    is_complete: bool,
    /// Whether there is a mark: a header without one that was cut may be no header at all.
    is_marked: bool,
    num_roles: usize,
    /// `to=` and a space: the name is the next word.
    awaits_name: bool,
    /// A function's name without `to=`, often in the place of the role.
    bare_name: Option<Recipient>,
    /// `to=assistant` was there.
    to_everyone: bool,
    reading: Reading,
}

impl<'a> Scanner<'a> {
    fn new(tools: &'a Tools, header: &Header, is_complete: bool) -> Self {
        Self {
            tools,
            origin: header.origin,
            is_complete,
            is_marked: !header.marks.is_empty(),
            num_roles: 0,
            awaits_name: false,
            bare_name: None,
            to_everyone: false,
            reading: Reading::default(),
        }
    }

    /// Reads one section. Returns what is left from the first word on that is no header. In a complete
    /// header such words are passed over; the reading's text is what stood before the marks from there on.
    fn section<'t>(&mut self, mark: Option<Mark>, section: &'t str) -> &'t str {
        self.awaits_name = false;
        let mut names_channel = mark == Some(Mark::Channel);
        let mut rest = section.trim_start();
        while !rest.is_empty() {
            let word = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
            let taken = if std::mem::take(&mut names_channel) {
                self.channel(word)
            } else {
                self.word(word, mark.is_none())
            };
            let skipped = match taken {
                Some(len) => len,
                None if self.is_complete => {
                    self.reading.mended = true;
                    if mark.is_none() && self.reading.text.is_empty() {
                        self.reading.text.push_str(rest);
                    }
                    word.len()
                }
                None => return rest,
            };
            rest = rest[skipped..].trim_start();
        }
        rest
    }

    /// The word after `<|channel|>`; returns how much of it is the channel's name.
    fn channel(&mut self, word: &str) -> Option<usize> {
        let (channel, len, is_exact) = match_channel(word);
        self.reading.mended |= !is_exact || self.reading.channel.is_some();
        // The last marker counts, unless it says nothing.
        if channel != Channel::Unknown || self.reading.channel.is_none() {
            self.reading.channel = Some(channel);
        }
        if channel == Channel::Unknown { self.word(word, false) } else { Some(len) }
    }

    /// Any other word; returns how much of it was understood.
    fn word(&mut self, word: &str, is_before_marks: bool) -> Option<usize> {
        if std::mem::take(&mut self.awaits_name) {
            return Some(self.name(word));
        }
        if let Some(name) = word.strip_prefix("to=") {
            if !self.is_complete && !self.may_be_recipient(name) {
                return None;
            }
            self.awaits_name = name.is_empty();
            return Some("to=".len() + self.name(name));
        }
        if is_before_marks && let Some(len) = self.role(word) {
            return Some(len);
        }
        if let Some(len) = match_format(word) {
            return Some(len);
        }
        let is_declared = self.is_complete && self.tools.is_declared(word);
        let name = if is_declared { word } else { &word[..name_len(word)] };
        let is_qualified = Tools::is_qualified(name) && (self.is_complete || self.is_marked);
        (is_declared || is_qualified).then(|| {
            self.bare_name = Some(self.tools.resolve(name));
            name.len()
        })
    }

    /// A role, possibly with the next word glued to it.
    fn role(&mut self, word: &str) -> Option<usize> {
        // Behind the prompt's own `assistant` another role is a word like any other.
        let known = if self.origin == Origin::Prompt { &ROLES[..1] } else { &ROLES[..] };
        let starts_header_word =
            |rest: &str| rest.starts_with("to=") || known.iter().any(|role| rest.starts_with(role));
        let role = known.iter().find(|role| {
            word.strip_prefix(**role)
                .is_some_and(|rest| rest.is_empty() || starts_header_word(rest))
        })?;
        self.num_roles += 1;
        self.reading.is_foreign |= *role != ROLES[0];
        Some(role.len())
    }

    /// The name behind `to=`; returns its length. What is glued to it stays behind as a word of its own.
    fn name(&mut self, word: &str) -> usize {
        let len = if self.tools.is_declared(word) { word.len() } else { name_len(word) };
        match self.tools.resolve(&word[..len]) {
            _ if len == 0 => {}
            Recipient::Everyone => self.to_everyone = true,
            recipient => {
                let is_whole = len == word.len() && Tools::is_qualified(word);
                self.reading.is_undeclared = is_whole && matches!(recipient, Recipient::Guess(_));
                self.reading.mended |=
                    !self.reading.is_undeclared && !matches!(recipient, Recipient::Function(_));
                self.reading.recipient = Some(recipient);
            }
        }
        len
    }

    /// Without `<|message|>`, "to=5" is more likely text than a recipient.
    fn may_be_recipient(&self, name: &str) -> bool {
        let resolved = self.tools.resolve(&name[..name_len(name)]);
        !name.is_empty() && resolved != Recipient::Unknown
    }

    fn finish(self) -> Reading {
        let mut reading = self.reading;
        let num_expected = usize::from(self.origin == Origin::Start);
        reading.mended |= self.num_roles != num_expected
            || self.origin == Origin::Stray
            || reading.channel.is_none()
            || self.bare_name.is_some();
        if reading.recipient.is_none() {
            // "functions.f to=assistant" is how a tool's answer begins, not a call.
            reading.is_foreign |= self.bare_name.is_some() && self.to_everyone;
            reading.recipient = self.bare_name.filter(|_| !self.to_everyone);
        }
        reading
    }
}

/// The channel that a word names, the length of that name in it, and whether it is spelled correctly.
fn match_channel(word: &str) -> (Channel, usize, bool) {
    const CHANNELS: [(&str, Channel); 3] = [
        ("analysis", Channel::Analysis),
        ("commentary", Channel::Commentary),
        ("final", Channel::Final),
    ];
    /// So much of a name makes a misspelled one, and one letter less a name cut short.
    const MIN_COMMON_LEN: usize = 4;
    for (name, channel) in CHANNELS {
        if word.starts_with(name) {
            return (channel, name.len(), word.len() == name.len());
        }
    }
    let lower = word.to_ascii_lowercase();
    for (name, channel) in CHANNELS {
        let common = lower.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        if common >= MIN_COMMON_LEN || (common + 1 == MIN_COMMON_LEN && common == word.len()) {
            return (channel, word.len(), false);
        }
    }
    (Channel::Unknown, 0, false)
}

/// The length of a body format at the beginning of a word.
fn match_format(word: &str) -> Option<usize> {
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    FORMATS.iter().find(|format| word.strip_prefix(**format).is_some_and(is_end)).map(|f| f.len())
}

/// The length of a recipient at the beginning of a word.
fn name_len(word: &str) -> usize {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    word.find(|c| !is_name(c)).unwrap_or(word.len())
}
