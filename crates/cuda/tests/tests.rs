//! The host device: every kernel against its reference, and every kind of mistake found.

mod emulation;
mod faults;
mod kernels;
