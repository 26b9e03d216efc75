//! Dense weights in the form in which the processor multiplies them.

use crate::checkpoint::weights::{Bf16Matrix, Linear};
use crate::error::Result;
use crate::product::{Weight, add_bias, products};
use crate::simd::{Arranged, Bf12Matrix, Simd};

/// A dense matrix.
pub(crate) enum Dense {
    /// As it is stored.
    Bf16(Bf16Matrix),
    /// A quarter smaller, at no loss that float32 sums would notice.
    Bf12(Bf12Matrix),
}

impl Dense {
    /// The smallest form that holds the weights. What is made smaller is a copy, on the threads of the pool it is called
    /// in; the mapped pages that it was made of are given back.
    pub(crate) fn new(weight: &Bf16Matrix, simd: Simd) -> Result<Self> {
        if !simd.unpacks_bf12() {
            return Ok(Self::Bf16(weight.clone()));
        }
        // All at once: read as they are touched, pages would come one by one.
        weight.bytes.populate();
        let Some(smaller) = Bf12Matrix::new(simd, weight)? else {
            tracing::debug!("weights are too great for bf12, and stay bf16");
            return Ok(Self::Bf16(weight.clone()));
        };
        weight.bytes.release();
        Ok(Self::Bf12(smaller))
    }

    /// Bytes of a weight that is not too great for the smallest form.
    pub(crate) fn weight_bytes(simd: Simd) -> f64 {
        if simd.unpacks_bf12() { Bf12Matrix::weight_bytes(simd) } else { 2.0 }
    }
}

impl Weight for Dense {
    type X = Arranged;

    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Bf16(weight) => weight.shape(),
            Self::Bf12(weight) => weight.shape(),
        }
    }

    fn multiply(&self, first: usize, x: &Arranged, out: &mut [f32]) {
        match self {
            Self::Bf16(weight) => weight.multiply(first, x, out),
            Self::Bf12(weight) => weight.multiply(first, x, out),
        }
    }
}

/// A dense product with its bias.
pub(crate) struct DenseLinear {
    weight: Dense,
    bias: Vec<f32>,
}

impl DenseLinear {
    pub(crate) fn new(linear: &Linear, simd: Simd) -> Result<Self> {
        Ok(Self { weight: Dense::new(&linear.weight, simd)?, bias: linear.bias.clone() })
    }

    /// The product of these rows.
    pub(crate) fn run(&self, x: &Arranged) -> Vec<f32> {
        Self::run_all(&[(self, x)]).pop().expect("one answer a product")
    }

    /// Several products side by side.
    pub(crate) fn run_all(linears: &[(&Self, &Arranged)]) -> Vec<Vec<f32>> {
        let weights: Vec<_> = linears.iter().map(|(linear, x)| (&linear.weight, *x)).collect();
        let mut answers = products(&weights);
        for ((linear, _), answer) in linears.iter().zip(&mut answers) {
            add_bias(answer, &linear.bias);
        }
        answers
    }
}
