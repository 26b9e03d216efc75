//! Log-probabilities of the answer's text, sent with the text they belong to.
//!
//! A token may be held back with its text (half a character, the possible beginning of a stop text). Its entry
//! waits until the text up to it has been sent; entries of text that a stop text hides are never sent.

use std::collections::VecDeque;

use harmonium_engine::{Logprobs, TokenId};
use harmonium_harmony::Tokenizer;
use harmonium_openai::chat::{ChoiceLogprobs, TokenLogprob, TopLogprob};

/// What the protocol writes for tokens too improbable for a number.
const LEAST_LOGPROB: f32 = -9999.0;

/// Entries that wait for their text.
#[derive(Debug)]
pub(super) struct LogprobQueue {
    tokenizer: Tokenizer,
    /// Each with the place in the text where its token begins.
    waiting: VecDeque<(usize, TokenLogprob)>,
    num_bytes_seen: usize,
    num_bytes_sent: usize,
}

impl LogprobQueue {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, waiting: VecDeque::new(), num_bytes_seen: 0, num_bytes_sent: 0 }
    }

    /// Takes the entry of the text's next token.
    pub(super) fn push(&mut self, token: TokenId, logprobs: &Logprobs) {
        let (text, bytes) = self.text(token);
        let top_logprobs = logprobs.top.iter().map(|&(token, logprob)| {
            let (text, bytes) = self.text(token);
            TopLogprob { token: text, logprob: logprob.max(LEAST_LOGPROB), bytes }
        });
        let entry = TokenLogprob {
            token: text,
            logprob: logprobs.chosen.max(LEAST_LOGPROB),
            top_logprobs: top_logprobs.collect(),
            bytes,
        };
        let start = self.num_bytes_seen;
        self.num_bytes_seen += entry.bytes.as_ref().map_or(0, Vec::len);
        self.waiting.push_back((start, entry));
    }

    /// The entries of the next `num_bytes` of text.
    pub(super) fn take(&mut self, num_bytes: usize) -> Option<ChoiceLogprobs> {
        self.num_bytes_sent += num_bytes;
        let is_sent = |(start, _): &(usize, TokenLogprob)| *start < self.num_bytes_sent;
        let num_entries = self.waiting.iter().take_while(|entry| is_sent(entry)).count();
        collect(self.waiting.drain(..num_entries))
    }

    /// All entries that still wait, at the end of the answer.
    pub(super) fn take_rest(&mut self) -> Option<ChoiceLogprobs> {
        collect(self.waiting.drain(..))
    }

    /// How the protocol shows a token: text with broken UTF-8 replaced, and the exact bytes if it has any.
    fn text(&self, token: TokenId) -> (String, Option<Vec<u8>>) {
        match self.tokenizer.decode_bytes(token) {
            Some(bytes) => (String::from_utf8_lossy(bytes).into_owned(), Some(bytes.to_vec())),
            None => (self.control_name(token), None),
        }
    }

    fn control_name(&self, token: TokenId) -> String {
        let control = self.tokenizer.control();
        let names = [
            (control.start, "start"),
            (control.end, "end"),
            (control.message, "message"),
            (control.channel, "channel"),
            (control.constrain, "constrain"),
            (control.return_, "return"),
            (control.call, "call"),
        ];
        match names.into_iter().find(|(id, _)| *id == token) {
            Some((_, name)) => format!("<|{name}|>"),
            None => format!("<|{token}|>"),
        }
    }
}

fn collect(entries: impl Iterator<Item = (usize, TokenLogprob)>) -> Option<ChoiceLogprobs> {
    let entries: Vec<_> = entries.map(|(_, entry)| entry).collect();
    (!entries.is_empty()).then_some(ChoiceLogprobs { content: Some(entries), refusal: None })
}
