//! The HTTP side: an OpenAI-compatible API in front of one engine.
//!
//! A request is checked once (`validate`), rendered to tokens, submitted with what its answer must follow (`constraint`),
//! and its tokens become chunks
//! (`answer`); a stream sends the chunks, a whole answer folds them. The crate knows texts and tokens, never
//! devices or weights. [`Server`] may listen before its model is loaded: until [`Server::set_ready`] it answers
//! 503, so that whoever waits for it can tell loading from broken.

mod answer;
mod auth;
mod chat;
mod config;
mod connections;
mod constraint;
mod dispatch;
mod error;
mod hosted_answer;
mod metrics;
mod models;
mod prepare;
mod reply;
mod request_id;
mod route;
mod routes;
mod server;
mod state;
mod stop;
mod stream;
mod usage;
mod validate;

pub use config::{ApiKey, ConfigError, ServerConfig, Triggers};
pub use models::{LOCAL_CAPABILITIES, hosted_capabilities};
pub use server::Server;
pub use state::LocalModel;
