//! The dense products of a model in the form in which the processor multiplies them.

use rayon::prelude::*;

use crate::checkpoint::weights::{Layer, Weights};
use crate::dense::{Dense, DenseLinear};
use crate::error::Result;
use crate::simd::Simd;

/// Those of all layers, and the last one.
pub(super) struct Projections {
    pub(super) layers: Vec<LayerProjections>,
    pub(super) lm_head: Dense,
}

/// Those of a layer.
pub(super) struct LayerProjections {
    pub(super) query: DenseLinear,
    pub(super) key: DenseLinear,
    pub(super) value: DenseLinear,
    pub(super) output: DenseLinear,
    pub(super) router: DenseLinear,
}

impl Projections {
    /// Makes their forms, on the threads of the pool it is called in.
    pub(super) fn new(weights: &Weights, simd: Simd) -> Result<Self> {
        let of_layer = |layer: &Layer| {
            Ok(LayerProjections {
                query: DenseLinear::new(&layer.query, simd)?,
                key: DenseLinear::new(&layer.key, simd)?,
                value: DenseLinear::new(&layer.value, simd)?,
                output: DenseLinear::new(&layer.output, simd)?,
                router: DenseLinear::new(&layer.router, simd)?,
            })
        };
        Ok(Self {
            layers: weights.layers.par_iter().map(of_layer).collect::<Result<_>>()?,
            lm_head: Dense::new(&weights.lm_head, simd)?,
        })
    }
}
