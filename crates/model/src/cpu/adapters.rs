//! Adapters beside the base: what each adapted row of a step gains in each product.
//!
//! A row's gain depends on the row alone, and rows without an adapter are not looked at. A step in which no row has
//! one does nothing here.

use harmonium_engine::{AdapterId, Batch};
use rayon::prelude::*;

use crate::adapter::{Adapter, LowRank, Target};
use crate::simd::Simd;

/// Multiplications below which a second thread is not woken, as in [`crate::product`].
const PARALLEL_FROM: usize = 1 << 18;

/// The adapters of a step's rows.
pub(super) struct RowAdapters<'a> {
    simd: Simd,
    /// One entry a row.
    rows: Vec<Option<&'a Adapter>>,
}

/// The same in one layer, for those of the step's rows that take part in it.
#[derive(Clone, Copy)]
pub(super) struct LayerAdapters<'a> {
    of: &'a RowAdapters<'a>,
    layer: usize,
    rows: &'a [usize],
}

/// What one row gains, before it is computed.
struct Gain<'a> {
    change: &'a LowRank,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<'a> RowAdapters<'a> {
    /// The adapters of a checked batch; `None` if no row has one.
    pub(super) fn of(batch: &Batch, adapters: &'a [Adapter], simd: Simd) -> Option<Self> {
        if batch.spans.iter().all(|span| span.adapter.is_none()) {
            return None;
        }
        let adapter = |AdapterId(id): AdapterId| &adapters[id as usize];
        let rows = batch
            .spans
            .iter()
            .flat_map(|span| std::iter::repeat_n(span.adapter.map(adapter), span.rows.len()));
        Some(Self { simd, rows: rows.collect() })
    }

    /// Their part in one layer, in which these rows of the step take part.
    pub(super) fn layer<'b>(&'b self, layer: usize, rows: &'b [usize]) -> LayerAdapters<'b> {
        LayerAdapters { of: self, layer, rows }
    }
}

impl LayerAdapters<'_> {
    /// Adds to the outputs `y` of a dense product of all rows what their adapters make of its inputs `x`, each `width`
    /// numbers.
    pub(super) fn add(self, target: Target, x: &[f32], width: usize, y: &mut [f32]) {
        self.add_to_expert(target, 0, x.chunks_exact(width).enumerate(), y);
    }

    /// Adds to the outputs `y` of one expert's product what the adapters make of its inputs, each given with the place
    /// of its row among those that take part.
    pub(super) fn add_to_expert<'x>(
        self,
        target: Target,
        expert: usize,
        inputs: impl ExactSizeIterator<Item = (usize, &'x [f32])>,
        y: &mut [f32],
    ) {
        let num_outputs = y.len() / inputs.len().max(1);
        if num_outputs == 0 {
            return;
        }
        let mut gains: Vec<Gain<'_>> = inputs
            .zip(y.chunks_exact_mut(num_outputs))
            .filter_map(|((row, x), y)| {
                let change = self.of.rows[self.rows[row]]?.change(self.layer, target, expert)?;
                Some(Gain { change, x, y })
            })
            .collect();
        let add = |gain: &mut Gain<'_>| self.of.simd.add_low_rank(gain.change, gain.x, gain.y);
        let num_products: usize = gains.iter().map(|gain| gain.change.num_products()).sum();
        if gains.len() > 1 && num_products >= PARALLEL_FROM {
            gains.par_iter_mut().for_each(add);
        } else {
            gains.iter_mut().for_each(add);
        }
    }
}
