//! Measures an executor by itself, without scheduler and HTTP, and what its memory could give.
//!
//! The library behind `harmonium bench`. It drives any [`harmonium_engine::Executor`] with batches of its own making, so
//! the same figures come from the processor, the host device and a card.

mod bandwidth;
mod executor;

pub use bandwidth::{read, read_bandwidth};
pub use executor::{BenchError, Context, Decode, Measured, Prefill};
