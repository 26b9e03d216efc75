//! Text to token ids and back, over the `tokenizers` crate and a checkpoint's `tokenizer.json`.
//!
//! Owns the vocabulary and the ids of the control tokens, which are looked up by their published names.
//! Promises that [`Tokenizer::encode_text`] never yields a special token: the added vocabulary is taken
//! off the encoder when it is loaded, so there is nothing left that `<|start|>` in a text could match.
//! Decoding gives raw bytes, because one character may be spread over several tokens; ids without text
//! (control tokens, reserved ones, the padded rows of the embedding) have none.
//!
//! Cheap to clone and shared between threads; the tables exist once.

mod encoder;
mod shortest;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use tokenizers::AddedVocabulary;

use crate::error::{Error, Result};
use encoder::Encoder;
use shortest::Shortest;

/// Larger ids are refused: they would make the decoding table absurd. The real vocabulary has 201,088 rows.
const MAX_ID: u32 = (1 << 20) - 1;

/// Encoded and decoded once at load: a tokenizer that cannot return it unchanged is not byte-level.
const PROBE: &str = " Plain text,\n\n  числа 123 \u{e9}e\u{301} 你好 🙂\u{200d} \t<|start|>x\r\n";

/// The ids that give a prompt its structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlTokens {
    /// `<|start|>` opens a message.
    pub start: u32,
    /// `<|end|>` closes a message.
    pub end: u32,
    /// `<|message|>` separates header and body.
    pub message: u32,
    /// `<|channel|>` introduces the channel's name.
    pub channel: u32,
    /// `<|constrain|>` introduces the body's format.
    pub constrain: u32,
    /// `<|return|>` closes the last message of a turn.
    pub return_: u32,
    /// `<|call|>` closes a tool call.
    pub call: u32,
    /// `<|endoftext|>`, where the vocabulary has one: sampling stops there, too.
    pub endoftext: Option<u32>,
}

/// A checkpoint's tokenizer.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

/// The part of `tokenizer.json` that names the special tokens.
#[derive(Deserialize)]
struct AddedTokens {
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

struct Inner {
    encoder: Encoder,
    shortest: Shortest,
    pieces: Pieces,
    control: ControlTokens,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When the file cannot be read, lacks a control token, or is not a byte-level tokenizer that
    /// encodes every text without changing it.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        let unreadable = |e: tokenizers::Error| Error::Unreadable { reason: e.to_string() };
        let mut whole = tokenizers::Tokenizer::from_bytes(json).map_err(unreadable)?;
        // Read here, since the crate numbers added tokens anew where the vocabulary has gaps.
        let file: AddedTokens = serde_json::from_slice(json)
            .map_err(|e| Error::Unreadable { reason: e.to_string() })?;
        let special: HashMap<String, u32> =
            file.added_tokens.into_iter().map(|token| (token.content, token.id)).collect();
        whole.with_added_vocabulary(AddedVocabulary::new());
        whole.with_truncation(None).map_err(unreadable)?;
        whole.with_padding(None);
        whole.with_post_processor(None::<tokenizers::PostProcessorWrapper>);

        let vocab = whole.get_vocab(false);
        let pieces = Pieces::new(&vocab, &special)?;
        let inner = Inner {
            encoder: Encoder::new(whole),
            shortest: Shortest::new(pieces.iter()),
            pieces,
            control: ControlTokens::find(&special)?,
        };
        let faithful = inner.encoder.encode(PROBE).is_some_and(|ids| {
            let bytes: Vec<u8> =
                ids.iter().filter_map(|&id| inner.pieces.get(id)).flatten().copied().collect();
            bytes == PROBE.as_bytes()
        });
        if faithful { Ok(Self(Arc::new(inner))) } else { Err(Error::Unfaithful) }
    }

    /// Encodes text as ordinary text: whatever it contains, no special token comes out. Texts of more than about a
    /// hundred kilobytes are encoded by the threads of rayon's global pool; the ids are the same.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        self.0.encoder.encode(text).expect("a vocabulary with all 256 bytes encodes every text")
    }

    /// A number of tokens that [`encode_text`](Self::encode_text) surely reaches, found many times faster than by
    /// encoding: never more than the true number, and 0 for an empty text only.
    pub fn min_tokens(&self, text: &str) -> usize {
        self.0.shortest.num_tokens(text.as_bytes())
    }

    /// The raw bytes of an ordinary token, often not UTF-8 by themselves. `None` for control and
    /// other special tokens and for ids beyond the vocabulary.
    pub fn decode_bytes(&self, id: u32) -> Option<&[u8]> {
        self.0.pieces.get(id)
    }

    /// The ids that structure a prompt.
    pub fn control(&self) -> &ControlTokens {
        &self.0.control
    }

    /// One more than the largest id, special tokens included. The model's output may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.0.pieces.spans.len()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl ControlTokens {
    fn find(special: &HashMap<String, u32>) -> Result<Self> {
        let id = |name: &'static str| {
            special.get(name).copied().ok_or(Error::MissingControlToken { name })
        };
        Ok(Self {
            start: id("<|start|>")?,
            end: id("<|end|>")?,
            message: id("<|message|>")?,
            channel: id("<|channel|>")?,
            constrain: id("<|constrain|>")?,
            return_: id("<|return|>")?,
            call: id("<|call|>")?,
            endoftext: special.get("<|endoftext|>").copied(),
        })
    }
}

/// The bytes of every token, end to end in one allocation.
struct Pieces {
    bytes: Box<[u8]>,
    /// Indexed by id: where its bytes lie. `None` where an id has no text.
    spans: Box<[Option<(u32, u32)>]>,
}

impl Pieces {
    fn new(vocab: &HashMap<String, u32>, special: &HashMap<String, u32>) -> Result<Self> {
        let ids = || vocab.iter().chain(special);
        if let Some((name, &id)) = ids().find(|&(_, &id)| id > MAX_ID) {
            return Err(Error::IdTooLarge { name: name.clone(), id, max: MAX_ID });
        }
        let size = ids().map(|(_, &id)| id as usize + 1).max().unwrap_or(0);
        let mut pieces = Self { bytes: Box::default(), spans: vec![None; size].into() };
        let mut bytes = Vec::new();
        let mut single_bytes = [false; 256];
        for (token, &id) in vocab {
            let start = bytes.len();
            for letter in token.chars() {
                let not_byte_level = || Error::NotByteLevel { id, token: token.clone() };
                bytes.push(byte_of(letter).ok_or_else(not_byte_level)?);
            }
            if let [byte] = bytes[start..] {
                single_bytes[usize::from(byte)] = true;
            }
            let offset = |at: usize| {
                u32::try_from(at)
                    .map_err(|_| Error::Unreadable { reason: "vocabulary above 4 GiB".into() })
            };
            pieces.spans[id as usize] = Some((offset(start)?, offset(bytes.len())?));
        }
        if let Some(byte) = (0..=255).find(|&byte| !single_bytes[usize::from(byte)]) {
            return Err(Error::MissingByte { byte });
        }
        for (name, &id) in special {
            if vocab.contains_key(name) || pieces.spans[id as usize].is_some() {
                return Err(Error::SpecialTokenIsText { name: name.clone(), id });
            }
        }
        pieces.bytes = bytes.into();
        Ok(pieces)
    }

    /// The bytes of every ordinary token.
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().flatten().map(|&(start, end)| &self.bytes[start as usize..end as usize])
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = (*self.spans.get(usize::try_from(id).ok()?)?)?;
        Some(&self.bytes[start as usize..end as usize])
    }
}

/// The byte that a letter of the byte-level alphabet stands for. Printable Latin-1 stands for itself,
/// the 68 other bytes are, in order, the letters from U+0100 on.
fn byte_of(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}
