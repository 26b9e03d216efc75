//! Every kernel against a reference in float64, over shapes that matter; on whichever device is asked.
//!
//! The tests run the cases on the host device, and the same cases judge a card.

mod arrange_blocks;
mod attention;
mod embedding;
mod experts;
mod fill;
mod linear;
mod lora;
mod rms_norm;
mod rope;
mod router;
mod sample;

use half::bf16;

use crate::{Device, Error, Result};

type Body = dyn Fn(&Device) -> Result<Report> + Send + Sync;

/// One kernel on one shape.
pub struct Case {
    name: String,
    body: Box<Body>,
}

/// How far a kernel was from the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Greatest error found, as [`Case`] measures it.
    pub max_error: f64,
    /// What is allowed.
    pub tolerance: f64,
}

impl Report {
    /// Whether the kernel is right. A NaN is not.
    pub fn is_right(&self) -> bool {
        self.max_error <= self.tolerance
    }
}

impl Case {
    fn new(name: String, body: impl Fn(&Device) -> Result<Report> + Send + Sync + 'static) -> Self {
        Self { name, body: Box::new(body) }
    }

    /// The operation and its shape.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the kernel and compares.
    pub fn run(&self, device: &Device) -> Result<Report> {
        (self.body)(device)
    }
}

/// The cases of all kernels.
pub fn all() -> Vec<Case> {
    [
        arrange_blocks::cases(),
        attention::cases(),
        embedding::cases(),
        experts::cases(),
        fill::cases(),
        linear::cases(),
        lora::cases(),
        rms_norm::cases(),
        rope::cases(),
        router::cases(),
        sample::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Largest relative error of a bf16 that was rounded once: half of its last place.
const BF16_ROUNDING: f64 = 1.0 / 256.0;

/// Seeded numbers, evenly between -`limit` and `limit`, as bf16.
fn random_bf16(seed: u64, len: usize, limit: f32) -> Vec<bf16> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| bf16::from_f32((random.f32() * 2.0 - 1.0) * limit)).collect()
}

/// Seeded numbers as [`random_bf16`] draws them, as float32.
fn random_f32(seed: u64, len: usize, limit: f32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| (random.f32() * 2.0 - 1.0) * limit).collect()
}

/// Root of the mean square.
fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// The greatest `|actual - expected| / max(|expected|, floor)`; NaN if any number is.
fn max_relative_error<T: Copy + Into<f64>>(
    actual: &[T],
    expected: &[f64],
    floor: f64,
) -> Result<f64> {
    if actual.len() != expected.len() {
        return Err(Error::Range { offset: 0, len: expected.len(), buffer_len: actual.len() });
    }
    let mut max = 0.0f64;
    for (actual, expected) in actual.iter().zip(expected) {
        let error = ((*actual).into() - expected).abs() / expected.abs().max(floor);
        if error.is_nan() {
            return Ok(f64::NAN);
        }
        max = max.max(error);
    }
    Ok(max)
}
