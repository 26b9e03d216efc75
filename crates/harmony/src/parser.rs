//! Sampled token ids to typed deltas, one token at a time.
//!
//! Owns the state of one answer. The grammar is `header <|message|> body end`, again and again, and the
//! prompt has already written the first `<|start|>assistant`. Whatever a model makes of it:
//!
//! - no input panics, and all state is bounded;
//! - text in a body comes out, in order, exactly as the model wrote it (broken UTF-8 as U+FFFD);
//! - text without a header comes out as the answer; words that mean nothing in a finished header, and
//!   blanks between messages, are markup and do not;
//! - no control token's text comes out;
//! - every place that was not in good order is counted in [`Parser::recoveries`].
//!
//! A message is a call if its recipient is a function, whatever its channel says. How headers are read
//! is in `header`, which names are functions in `tools`. How tokens are grouped by the engine cannot
//! matter, since they are pushed singly.

mod header;
mod tools;
mod utf8;

use crate::tokenizer::Tokenizer;
use header::{Channel, Header, Mark, Origin, Reading};
use tools::{Recipient, Tools};
use utf8::Utf8;

/// A message on a channel nobody can read is held back up to this many bytes, until what follows tells
/// reasoning from answer.
const MAX_HELD_LEN: usize = 64 * 1024;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Reasoning.
    Reasoning(String),
    /// The answer.
    Content(String),
    /// Text for the user that goes before calls.
    Preamble(String),
    /// A call begins; the two following variants belong to it.
    ToolCallStart {
        /// The function's name, without namespace.
        name: String,
    },
    /// More of the call's arguments.
    ToolCallArguments(String),
    /// The call is complete, or the answer ended within it.
    ToolCallEnd,
}

/// Which part of an answer a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A control token, a header, or an id without text.
    Control,
    /// Reasoning.
    Reasoning,
    /// The answer.
    Content,
    /// Text before calls.
    Preamble,
    /// Arguments of a call.
    ToolCall,
}

/// Reads one answer. See the module's head for what it promises.
#[derive(Debug)]
pub struct Parser {
    tokenizer: Tokenizer,
    tools: Tools,
    state: State,
    utf8: Utf8,
    held: Held,
    reasoning_tokens: u32,
    recoveries: u32,
    undeclared_calls: u32,
}

#[derive(Debug)]
enum State {
    Header(Header),
    Body(Part),
}

/// Where a body's text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Reasoning,
    Content,
    Preamble,
    Arguments,
    /// Reasoning if another message follows, otherwise the answer.
    Undecided,
}

/// The text of an undecided message.
#[derive(Debug, Default)]
struct Held {
    text: String,
    num_tokens: u32,
}

/// What ended a header before its `<|message|>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// A control token that closes or opens a message.
    Token,
    /// The answer's end.
    End,
    /// It is longer than a header can be, and goes on.
    Length,
}

impl Parser {
    /// A parser for the answer to a prompt that ends in `<|start|>assistant`, where the functions with
    /// these names (without namespace) are declared.
    pub fn new(tokenizer: Tokenizer, tool_names: impl IntoIterator<Item = String>) -> Self {
        Self {
            tokenizer,
            tools: Tools::new(tool_names),
            state: State::Header(Header::new(Origin::Prompt)),
            utf8: Utf8::default(),
            held: Held::default(),
            reasoning_tokens: 0,
            recoveries: 0,
            undeclared_calls: 0,
        }
    }

    /// Takes the next id and appends what it makes certain to `out`, which may be nothing.
    pub fn push(&mut self, id: u32, out: &mut Vec<Delta>) -> TokenKind {
        let control = *self.tokenizer.control();
        if id == control.start {
            self.open_header(Origin::Start, out);
        } else if id == control.message {
            self.open_body(out);
        } else if id == control.channel {
            self.mark(Mark::Channel, out);
        } else if id == control.constrain {
            self.mark(Mark::Constrain, out);
        } else if id == control.end {
            self.close(out);
        } else if id == control.return_ || id == control.call || Some(id) == control.endoftext {
            self.close(out);
            self.settle(Part::Content, out);
        } else {
            return self.text(id, out);
        }
        TokenKind::Control
    }

    /// The answer is over, complete or not: gives out what was held back. More ids would be a new message.
    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        match std::mem::replace(&mut self.state, State::Header(Header::new(Origin::Stray))) {
            State::Body(part) => self.close_body(part, out),
            State::Header(header) => self.cut_header(&header, Cut::End, out),
        }
        self.settle(Part::Content, out);
    }

    /// Tokens of reasoning so far.
    pub fn reasoning_tokens(&self) -> u32 {
        self.reasoning_tokens
    }

    /// Places so far where the output was malformed and has been mended, calls of undeclared functions included.
    pub fn recoveries(&self) -> u32 {
        self.recoveries
    }

    /// Calls so far that were well-formed, but of a function that the prompt does not declare.
    pub fn undeclared_calls(&self) -> u32 {
        self.undeclared_calls
    }

    fn text(&mut self, id: u32, out: &mut Vec<Delta>) -> TokenKind {
        let Some(bytes) = self.tokenizer.decode_bytes(id) else {
            self.recoveries += 1;
            return TokenKind::Control;
        };
        match &mut self.state {
            State::Header(header) => {
                header.push_text(bytes);
                self.limit_header(out);
                TokenKind::Control
            }
            State::Body(part) => {
                let part = *part;
                let mut text = String::new();
                self.utf8.push(bytes, &mut text);
                let kind = self.count(part);
                self.emit(part, text, out);
                if self.held.text.len() > MAX_HELD_LEN {
                    self.settle(Part::Content, out);
                    self.state = State::Body(Part::Content);
                }
                kind
            }
        }
    }

    fn count(&mut self, part: Part) -> TokenKind {
        match part {
            Part::Reasoning => {
                self.reasoning_tokens += 1;
                TokenKind::Reasoning
            }
            Part::Undecided => {
                self.held.num_tokens += 1;
                TokenKind::Content
            }
            Part::Content => TokenKind::Content,
            Part::Preamble => TokenKind::Preamble,
            Part::Arguments => TokenKind::ToolCall,
        }
    }

    /// `<|channel|>` or `<|constrain|>`.
    fn mark(&mut self, mark: Mark, out: &mut Vec<Delta>) {
        match &mut self.state {
            State::Header(header) => {
                header.push_mark(mark);
                self.limit_header(out);
            }
            // The model forgot to close the message and to open the next.
            State::Body(_) if mark == Mark::Channel => {
                self.close(out);
                self.recoveries += 1;
                self.mark(mark, out);
            }
            State::Body(_) => self.recoveries += 1,
        }
    }

    /// `<|start|>`.
    fn open_header(&mut self, origin: Origin, out: &mut Vec<Delta>) {
        let opened = State::Header(Header::new(origin));
        match std::mem::replace(&mut self.state, opened) {
            State::Body(part) => {
                self.recoveries += 1;
                self.close_body(part, out);
            }
            State::Header(header) if header.is_blank() => {
                self.recoveries += u32::from(header.origin() != Origin::Stray);
            }
            State::Header(header) => self.cut_header(&header, Cut::Token, out),
        }
    }

    /// `<|message|>`.
    fn open_body(&mut self, out: &mut Vec<Delta>) {
        let State::Header(header) = &self.state else {
            self.recoveries += 1;
            return;
        };
        let mut reading = header.read(&self.tools);
        let text = std::mem::take(&mut reading.text);
        let part = self.begin(reading, out);
        self.emit(part, text, out);
        self.state = State::Body(part);
    }

    /// A token that ends a message.
    fn close(&mut self, out: &mut Vec<Delta>) {
        match std::mem::replace(&mut self.state, State::Header(Header::new(Origin::Stray))) {
            State::Body(part) => self.close_body(part, out),
            State::Header(header) if header.is_blank() => self.recoveries += 1,
            State::Header(header) => self.cut_header(&header, Cut::Token, out),
        }
    }

    fn close_body(&mut self, part: Part, out: &mut Vec<Delta>) {
        let mut text = String::new();
        self.utf8.finish(&mut text);
        self.emit(part, text, out);
        if part == Part::Arguments {
            out.push(Delta::ToolCallEnd);
        }
    }

    /// A header that outgrows every header is text that never had one; it goes on as a body.
    fn limit_header(&mut self, out: &mut Vec<Delta>) {
        if let State::Header(header) = &self.state
            && header.is_full(&self.tools)
        {
            let full = std::mem::replace(&mut self.state, State::Body(Part::Content));
            if let State::Header(header) = full {
                self.cut_header(&header, Cut::Length, out);
            }
        }
    }

    /// A header without `<|message|>`: its text, if there is any, is the body.
    fn cut_header(&mut self, header: &Header, cut: Cut, out: &mut Vec<Delta>) {
        let mut reading = header.read_unfinished(&self.tools);
        let text = std::mem::take(&mut reading.text);
        let word = text.trim();
        let has_text = !word.is_empty();
        // A call without arguments may end here; one cut off by a limit is not known well enough.
        let is_call = cut == Cut::Token && is_function(reading.recipient.as_ref());
        let is_cut_recipient = word.starts_with("to=") && "to=functions.".starts_with(word);
        if cut == Cut::End && (!has_text || is_cut_recipient) {
            return;
        }
        if has_text || is_call || cut == Cut::Length {
            let part = self.begin(reading, out);
            self.emit(part, text, out);
            if cut == Cut::Length {
                self.state = State::Body(part);
            } else {
                self.close_body(part, out);
            }
        } else {
            self.recoveries += 1;
        }
    }

    /// Starts the message of a header: settles what was undecided before it, and decides its own part.
    fn begin(&mut self, reading: Reading, out: &mut Vec<Delta>) -> Part {
        self.settle(Part::Reasoning, out);
        let is_mended = reading.mended || reading.is_foreign;
        self.recoveries += u32::from(is_mended || reading.is_undeclared);
        self.undeclared_calls += u32::from(reading.is_undeclared && !is_mended);
        if let Some(Recipient::Function(name) | Recipient::Guess(name)) = reading.recipient {
            out.push(Delta::ToolCallStart { name });
            return Part::Arguments;
        }
        match reading.channel {
            // Nobody asked for another speaker's words; they are shown, but not as the answer.
            _ if reading.is_foreign => Part::Reasoning,
            Some(Channel::Analysis) => Part::Reasoning,
            Some(Channel::Commentary) => Part::Preamble,
            Some(Channel::Final) | None => Part::Content,
            Some(Channel::Unknown) => Part::Undecided,
        }
    }

    fn emit(&mut self, part: Part, text: String, out: &mut Vec<Delta>) {
        if text.is_empty() {
            return;
        }
        out.push(match part {
            Part::Reasoning => Delta::Reasoning(text),
            Part::Content => Delta::Content(text),
            Part::Preamble => Delta::Preamble(text),
            Part::Arguments => Delta::ToolCallArguments(text),
            Part::Undecided => {
                self.held.text.push_str(&text);
                return;
            }
        });
    }

    /// Gives out the text of an undecided message, if there is one, as this part.
    fn settle(&mut self, part: Part, out: &mut Vec<Delta>) {
        let held = std::mem::take(&mut self.held);
        if part == Part::Reasoning {
            self.reasoning_tokens += held.num_tokens;
        }
        self.emit(part, held.text, out);
    }
}

fn is_function(recipient: Option<&Recipient>) -> bool {
    matches!(recipient, Some(Recipient::Function(_) | Recipient::Guess(_)))
}
