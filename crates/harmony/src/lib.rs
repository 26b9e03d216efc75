//! Harmony, the message format of GPT-OSS: conversations become token ids, token ids become messages.
//!
//! [`Tokenizer`] is read from a checkpoint's `tokenizer.json`, [`render`] writes the prompt of a
//! [`Conversation`], and a [`Parser`] turns sampled ids into [`Delta`]s, one token at a time. [`Grammars`] say which ids
//! an answer may go on with, where it must be JSON or a call.
//!
//! Two promises hold for every input. Text that came from outside is encoded as ordinary text, so no
//! field of a conversation can produce a control token. Text that the model wrote is returned, however
//! badly it is framed, and never with the text of a control token in it.
//!
//! The crate knows no HTTP, no model and no clock; all of it is pure.

mod conversation;
mod error;
mod grammar;
mod history;
mod parser;
mod render;
mod tokenizer;
mod typescript;

pub use conversation::{Conversation, Effort, FunctionTool, Message, ResponseFormat, ToolCall};
pub use error::{Error, Result};
pub use grammar::{Arguments, Body, CallRule, Culprit, GrammarError, Grammars, Rules, Walk};
pub use parser::{Delta, Parser, TokenKind};
pub use render::{min_prompt_len, render};
pub use tokenizer::{ControlTokens, Tokenizer};
