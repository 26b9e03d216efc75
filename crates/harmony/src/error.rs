//! Why a `tokenizer.json` cannot be used. What else fails is in `grammar`.

/// A [`std::result::Result`] with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a `tokenizer.json` cannot be used for Harmony.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a tokenizer that the `tokenizers` crate can load.
    #[error("tokenizer.json cannot be read: {reason}")]
    Unreadable {
        /// What the reader said.
        reason: String,
    },
    /// A control token of Harmony has no id.
    #[error("tokenizer.json declares no control token {name}")]
    MissingControlToken {
        /// The token's published name.
        name: &'static str,
    },
    /// A special token is also an ordinary entry, so that text could produce its id.
    #[error(
        "tokenizer.json lists the special token {name} (id {id}) in the ordinary vocabulary too"
    )]
    SpecialTokenIsText {
        /// The token's text.
        name: String,
        /// Its id.
        id: u32,
    },
    /// An id is far beyond any real vocabulary.
    #[error("tokenizer.json gives token {name:?} the id {id}, above the limit {max}")]
    IdTooLarge {
        /// The token's text.
        name: String,
        /// Its id.
        id: u32,
        /// The largest id that is accepted.
        max: u32,
    },
    /// A token is not written in the byte-level alphabet.
    #[error("tokenizer.json is not byte-level: token {id} is {token:?}")]
    NotByteLevel {
        /// The token's id.
        id: u32,
        /// The token as the file writes it.
        token: String,
    },
    /// Some byte has no token, so that not every text can be encoded.
    #[error("tokenizer.json has no token for the byte {byte:#04x}")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// Encoding changes the text.
    #[error("tokenizer.json changes the text that it encodes (normalizer or prefix space)")]
    Unfaithful,
}
