//! The API as clients see it: the real router over a real engine whose model is a script.
//!
//! The vocabulary is one token a byte plus the control tokens, so that a test can write down, token by token,
//! what the model says.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod adapters;
mod cancel;
mod chat;
mod connections;
mod errors;
mod formats;
mod hosted;
mod hosted_budget;
mod hosted_faults;
mod hosted_route;
mod hosted_wires;
mod routes;
mod secrecy;
mod shutdown;
mod stream;
mod support;
mod tools;
mod upstream;
