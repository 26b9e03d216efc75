//! The host device: every kernel against its reference, and every kind of mistake found.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod emulation;
mod faults;
mod kernels;
mod stream;
