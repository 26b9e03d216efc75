//! The weights of a model with their shapes, as every executor reads them.
//!
//! Matrices stay in the checkpoint's own bytes: bf16 as bf16, experts as MXFP4 blocks and scales. Only vectors
//! that are small and read whole (norm gains, biases of dense products, sinks) are widened to float32.

use std::ops::Range;

use half::bf16;

use super::bytes::Bytes;
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// A bf16 matrix as stored, little-endian and row-major.
#[derive(Clone)]
pub struct Bf16Matrix {
    pub(crate) num_rows: usize,
    pub(crate) num_cols: usize,
    pub(crate) bytes: Bytes,
}

impl Bf16Matrix {
    /// A matrix of this shape over little-endian bf16 values; `None` if there are more or fewer, or if a row is not
    /// made of whole groups of 32.
    pub fn new(num_rows: usize, num_cols: usize, bytes: Vec<u8>) -> Option<Self> {
        let fits = num_cols.is_multiple_of(BLOCK)
            && num_rows.checked_mul(num_cols)?.checked_mul(size_of::<bf16>())? == bytes.len();
        fits.then(|| Self { num_rows, num_cols, bytes: bytes.into() })
    }

    /// One row, widened into `out`. The row is below `num_rows`, and `out` has `num_cols` elements.
    pub(crate) fn widen_row(&self, row: usize, out: &mut [f32]) {
        widen_into(self.row_bytes(row), out);
    }

    /// The stored bytes of a row below `num_rows`.
    pub(crate) fn row_bytes(&self, row: usize) -> &[u8] {
        let stride = self.num_cols * size_of::<bf16>();
        &self.bytes[row * stride..][..stride]
    }
}

/// An MXFP4 matrix as stored: blocks of 32 weights along a row, then one scale a block elsewhere.
#[derive(Clone)]
pub struct Mxfp4Matrix {
    pub(crate) num_rows: usize,
    pub(crate) num_cols: usize,
    pub(crate) blocks: Bytes,
    pub(crate) scales: Bytes,
}

impl Mxfp4Matrix {
    /// A matrix of this shape over blocks and scales as stored; `None` if their lengths do not fit it.
    pub fn new(num_rows: usize, num_cols: usize, blocks: Vec<u8>, scales: Vec<u8>) -> Option<Self> {
        let num_blocks = num_rows.checked_mul(num_cols / BLOCK)?;
        let fits = num_cols.is_multiple_of(BLOCK)
            && scales.len() == num_blocks
            && blocks.len() == num_blocks.checked_mul(BLOCK_BYTES)?;
        fits.then(|| Self { num_rows, num_cols, blocks: blocks.into(), scales: scales.into() })
    }
}

/// A dense product with its bias.
#[derive(Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Bf16Matrix,
    pub(crate) bias: Vec<f32>,
}

impl Linear {
    /// The product that gives only these of its outputs. The rows are below `num_rows`.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        let Bf16Matrix { num_cols, ref bytes, .. } = self.weight;
        let stride = num_cols * size_of::<bf16>();
        let bytes = bytes
            .slice(rows.start * stride..rows.end * stride)
            .expect("the rows are below num_rows, and bytes hold all of them");
        let weight = Bf16Matrix { num_rows: rows.len(), num_cols, bytes };
        Self { weight, bias: self.bias[rows].to_vec() }
    }
}

/// One product of every expert of a layer, with one row of biases an expert.
#[derive(Clone)]
pub(crate) struct ExpertLinear {
    pub(crate) experts: Vec<Mxfp4Matrix>,
    pub(crate) bias: Bf16Matrix,
}

/// The weights of one layer.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) sinks: Vec<f32>,
    pub(crate) mlp_norm: Vec<f32>,
    pub(crate) router: Linear,
    pub(crate) gate_up: ExpertLinear,
    pub(crate) down: ExpertLinear,
}

/// The weights of a model.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) embedding: Bf16Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Vec<f32>,
    pub(crate) lm_head: Bf16Matrix,
}

/// All elements of a bf16 range as float32.
pub(crate) fn widen(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / size_of::<bf16>()];
    widen_into(bytes, &mut out);
    out
}

fn widen_into(bytes: &[u8], out: &mut [f32]) {
    let (pairs, _) = bytes.as_chunks::<2>();
    for (value, pair) in out.iter_mut().zip(pairs) {
        *value = bf16::from_le_bytes(*pair).to_f32();
    }
}
