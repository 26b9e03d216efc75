//! The real binary with the embedded model, driven as people and programs drive it.
//!
//! Each test starts its own server on a free port of the loopback interface, in an empty directory and without
//! any setting from outside; see [`support`].

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod adapters;
mod cancel;
mod chat;
mod cli;
mod compare;
mod config;
mod formats;
#[cfg(feature = "host-device")]
mod host_device;
mod overload;
mod pull;
mod shutdown;
mod stream;
mod support;
mod tidy;
