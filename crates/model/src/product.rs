//! Matrix products over all threads.
//!
//! A product is cut along the rows of its weights. Small ones run on the calling thread: waking another costs more
//! than they take. Neither choice changes a bit of the result.

use rayon::prelude::*;

use crate::checkpoint::weights::Linear;
pub use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};
pub use crate::simd::{Arranged, Simd};
use crate::simd::{BF16_VECTORS, MXFP4_VECTORS};

/// Weight rows that one thread takes at a time: 184 KB of bf16 at a width of 2,880, well inside a core's cache.
const ROWS_PER_TASK: usize = 32;
/// Multiplications below which a product is not worth a second thread (about 10 µs of one core).
const PARALLEL_FROM: usize = 1 << 18;
/// Rows transposed together: one cache line of float32.
const TRANSPOSED_TOGETHER: usize = 16;

/// Weights in either stored form, which takes activations arranged in groups of `V` vectors.
pub trait Weight<const V: usize>: Sync {
    /// Outputs and inputs.
    fn shape(&self) -> (usize, usize);
    /// For as many weight rows from `first` on as `out` has room for: `out[n][m]` is the sum over `k` of
    /// `weight[first + n][k] * x[m][k]`.
    fn multiply(&self, simd: Simd, first: usize, x: &Arranged<V>, out: &mut [f32]);
}

impl Weight<BF16_VECTORS> for Bf16Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.num_rows, self.num_cols)
    }

    fn multiply(&self, simd: Simd, first: usize, x: &Arranged<BF16_VECTORS>, out: &mut [f32]) {
        simd.bf16(self, first, x, out);
    }
}

impl Weight<MXFP4_VECTORS> for Mxfp4Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.num_rows, self.num_cols)
    }

    fn multiply(&self, simd: Simd, first: usize, x: &Arranged<MXFP4_VECTORS>, out: &mut [f32]) {
        simd.mxfp4(self, first, x, out);
    }
}

/// Rows of `x` times the weights, row-major `[rows, outputs]`, on the threads of the pool it is called in.
pub fn product<const V: usize>(simd: Simd, weight: &impl Weight<V>, x: &Arranged<V>) -> Vec<f32> {
    let (num_outputs, num_inputs) = weight.shape();
    let num_rows = x.num_rows();
    let mut by_output = vec![0.0; num_outputs * num_rows];
    let parallel = num_rows * num_outputs * num_inputs >= PARALLEL_FROM;
    if parallel {
        by_output.par_chunks_mut(ROWS_PER_TASK * num_rows).enumerate().for_each(|(task, out)| {
            weight.multiply(simd, task * ROWS_PER_TASK, x, out);
        });
    } else {
        weight.multiply(simd, 0, x, &mut by_output);
    }
    if num_rows == 1 {
        return by_output;
    }
    let mut by_row = vec![0.0; by_output.len()];
    let transpose = |(task, out): (usize, &mut [f32])| {
        let first = task * TRANSPOSED_TOGETHER;
        let count = out.len() / num_outputs;
        for (output, values) in by_output.chunks_exact(num_rows).enumerate() {
            for (row, value) in values[first..first + count].iter().enumerate() {
                out[row * num_outputs + output] = *value;
            }
        }
    };
    let tasks = TRANSPOSED_TOGETHER * num_outputs;
    if parallel {
        by_row.par_chunks_mut(tasks).enumerate().for_each(transpose);
    } else {
        by_row.chunks_mut(tasks).enumerate().for_each(transpose);
    }
    by_row
}

/// The product with its bias.
pub(crate) fn linear(simd: Simd, linear: &Linear, x: &Arranged<BF16_VECTORS>) -> Vec<f32> {
    let mut out = product(simd, &linear.weight, x);
    add_bias(&mut out, &linear.bias);
    out
}

/// Adds the bias to each row.
pub(crate) fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}
