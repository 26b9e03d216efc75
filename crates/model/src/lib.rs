//! GPT-OSS itself: its files, what they mean, and the forward pass on a CPU and on a CUDA device.
//!
//! [`Checkpoint`] maps and checks the files of a [`Source`], and [`Adapter`] those of a change to it. [`CpuExecutor`] and
//! [`CudaExecutor`] run batches over them, and [`logits`](logits::logits) answers with raw logits for comparison with
//! other implementations. The crate knows batches of token ids; it knows neither requests nor text, and it reads no
//! environment variable.

mod adapter;
mod batch;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod cuda;
mod dense;
mod error;
mod exp;
pub mod logits;
mod memory;
pub mod mxfp4;
#[cfg(test)]
mod parity;
pub mod product;
pub mod profile;
mod rope;
mod sampler;
mod simd;
pub mod synth;
pub mod traffic;

pub use adapter::Adapter;
pub use checkpoint::{Checkpoint, Generation, Source};
pub use config::Config;
pub use cpu::{CpuExecutor, CpuOptions};
pub use cuda::{CudaExecutor, CudaOptions, Plan};
pub use error::{Error, Result};
pub use simd::Precision;
