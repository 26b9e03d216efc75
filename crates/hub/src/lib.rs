//! Checkpoints from a Hugging Face hub: fetched, verified, found again.
//!
//! [`pull`] brings a repository's files into the standard cache layout, so that every other Hugging Face tool sees
//! them and files that other tools brought are used. [`local`] tells what is in that cache, checks it and removes
//! it. Nothing here knows what a model is: repositories, files, bytes and digests only.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on must fail"))]

mod cache;
mod client;
mod digest;
mod error;
mod event;
mod fetch;
mod listing;
pub mod local;
mod names;
mod note;
mod parts;
mod pull;

pub use cache::HubCache;
pub use error::{Error, Result};
pub use event::{Event, Wanted};
pub use names::RepoId;
pub use pull::{Options, Pulled, pull};
