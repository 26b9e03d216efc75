//! Matrix products over all threads.
//!
//! A product is cut along the rows of its weights. Small ones run on the calling thread: waking another costs more
//! than they take. Neither choice changes a bit of the result.

use rayon::prelude::*;

pub use crate::checkpoint::weights::{Bf16Matrix, Mxfp4Matrix};
pub use crate::simd::{Arranged, Bf12Matrix, Precision, Rounded, Simd};
use crate::simd::{RoundedRowMut, RowMut};

/// Weight rows that one thread takes at a time: 184 KB of bf16 at a width of 2,880, well inside a core's cache.
const ROWS_PER_TASK: usize = 32;
/// Multiplications below which a product is not worth a second thread (about 10 µs of one core).
const PARALLEL_FROM: usize = 1 << 18;
/// Values below which arranging them is not worth a second thread.
const ARRANGED_IN_PARALLEL_FROM: usize = 1 << 16;
/// Rows transposed together: one cache line of float32.
const TRANSPOSED_TOGETHER: usize = 16;

/// Activation rows as some form of weights takes them.
pub trait Activations: Sync {
    /// How many rows there are.
    fn num_rows(&self) -> usize;
}

impl Activations for Arranged {
    fn num_rows(&self) -> usize {
        self.num_rows()
    }
}

impl Activations for Rounded {
    fn num_rows(&self) -> usize {
        self.num_rows()
    }
}

/// Weights in one of their forms.
pub trait Weight: Sync {
    /// The activations that it takes.
    type X: Activations;
    /// Outputs and inputs.
    fn shape(&self) -> (usize, usize);
    /// For as many weight rows from `first` on as `out` has room for: `out[n][m]` is the sum over `k` of
    /// `weight[first + n][k] * x[m][k]`.
    fn multiply(&self, first: usize, x: &Self::X, out: &mut [f32]);
}

impl Weight for Bf16Matrix {
    type X = Arranged;

    fn shape(&self) -> (usize, usize) {
        (self.num_rows, self.num_cols)
    }

    fn multiply(&self, first: usize, x: &Arranged, out: &mut [f32]) {
        Simd::bf16(self, first, x, out);
    }
}

impl Weight for Bf12Matrix {
    type X = Arranged;

    fn shape(&self) -> (usize, usize) {
        (self.num_rows(), self.num_cols())
    }

    fn multiply(&self, first: usize, x: &Arranged, out: &mut [f32]) {
        Simd::bf12(self, first, x, out);
    }
}

impl Weight for Mxfp4Matrix {
    type X = Rounded;

    fn shape(&self) -> (usize, usize) {
        (self.num_rows, self.num_cols)
    }

    fn multiply(&self, first: usize, x: &Rounded, out: &mut [f32]) {
        Simd::mxfp4(self, first, x, out);
    }
}

/// Rows of `x` times the weights, row-major `[rows, outputs]`, on the threads of the pool it is called in.
pub fn product<W: Weight>(weight: &W, x: &W::X) -> Vec<f32> {
    products(&[(weight, x)]).pop().expect("one answer a product")
}

/// Several products side by side: threads meet once for all of them, which counts where each is a matter of
/// microseconds.
pub fn products<W: Weight>(products: &[(&W, &W::X)]) -> Vec<Vec<f32>> {
    let size = |(weight, x): &(&W, &W::X)| {
        let (num_outputs, num_inputs) = weight.shape();
        x.num_rows() * num_outputs * num_inputs
    };
    let parallel = products.iter().map(size).sum::<usize>() >= PARALLEL_FROM;
    let mut by_output: Vec<Vec<f32>> =
        products.iter().map(|(weight, x)| vec![0.0; weight.shape().0 * x.num_rows()]).collect();
    let mut tasks = Vec::new();
    for ((weight, x), out) in products.iter().zip(&mut by_output) {
        let chunks = out.chunks_mut(ROWS_PER_TASK * x.num_rows()).enumerate();
        tasks.extend(chunks.map(|(task, out)| (weight, task * ROWS_PER_TASK, x, out)));
    }
    if parallel {
        tasks.into_par_iter().for_each(|(weight, first, x, out)| weight.multiply(first, x, out));
    } else {
        tasks.into_iter().for_each(|(weight, first, x, out)| weight.multiply(first, x, out));
    }
    let rows = products.iter().map(|(_, x)| x.num_rows());
    by_output.into_iter().zip(rows).map(|(out, rows)| transposed(out, rows, parallel)).collect()
}

/// What lay `[outputs, rows]` as `[rows, outputs]`.
fn transposed(by_output: Vec<f32>, num_rows: usize, parallel: bool) -> Vec<f32> {
    if num_rows == 1 {
        return by_output;
    }
    let num_outputs = by_output.len() / num_rows;
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

/// Rows arranged by as many threads as pay; `fill` is given each with its index, to be filled.
pub(crate) fn arrange(
    simd: Simd,
    num_rows: usize,
    row_len: usize,
    fill: impl Fn(usize, RowMut<'_>) + Sync,
) -> Arranged {
    let mut arranged = Arranged::zeros(simd, num_rows, row_len);
    fill_rows(arranged.rows_mut().collect(), row_len, fill);
    arranged
}

/// Likewise rounded.
pub(crate) fn round(
    simd: Simd,
    precision: Precision,
    num_rows: usize,
    row_len: usize,
    fill: impl Fn(usize, RoundedRowMut<'_>) + Sync,
) -> Rounded {
    let mut rounded = Rounded::zeros(simd, precision, num_rows, row_len);
    fill_rows(rounded.rows_mut().collect(), row_len, fill);
    rounded
}

fn fill_rows<R: Send>(rows: Vec<R>, row_len: usize, fill: impl Fn(usize, R) + Sync) {
    if rows.len() * row_len >= ARRANGED_IN_PARALLEL_FROM {
        rows.into_par_iter().enumerate().for_each(|(index, row)| fill(index, row));
    } else {
        rows.into_iter().enumerate().for_each(|(index, row)| fill(index, row));
    }
}

/// Adds the bias to each row.
pub(crate) fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}
