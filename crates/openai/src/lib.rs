//! The OpenAI wire protocol: types, server-sent events and a typed streaming client.
//!
//! The crate is used at both ends: the server answers with these types, clients (the terminal chat, the
//! evaluation, tests) ask with them. It holds what the protocol says and nothing of what we make of it:
//! no validation of values, no model, no HTTP server. Reading is tolerant (unknown fields are ignored, `null`
//! is absence), writing is exact (keys that the protocol requires are always there).

pub mod chat;
pub mod client;
pub mod error;
pub mod fold;
pub mod models;
pub mod responses;
pub mod sse;

pub use chat::{
    ChatChunk, ChatCompletion, ChatMessage, ChatRequest, Content, ContentPart, FinishReason, Usage,
};
pub use client::{ChatStream, Client, ClientConfig, ResponseStream};
pub use error::{ApiError, Error, ErrorBody, ErrorObject, Result};
pub use fold::Fold;
pub use models::{Model, ModelList};
pub use responses::{ResponseEvent, ResponseRequest};
