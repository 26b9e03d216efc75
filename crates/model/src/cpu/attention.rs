//! Attention of a step's rows over cached keys and values, block by block.

use harmonium_engine::Batch;
use rayon::prelude::*;

use super::kv_pool::KvPool;
use crate::batch::Table;
use crate::config::LayerKind;
use crate::simd::{Attend, Simd, Softmax};

/// What attention of one layer needs to know.
pub(super) struct Attention<'a> {
    pub(super) simd: Simd,
    pub(super) kind: LayerKind,
    pub(super) window: usize,
    pub(super) block_size: usize,
    pub(super) head_dim: usize,
    pub(super) num_kv_heads: usize,
    /// One learned score a query head, which takes weight and adds no value.
    pub(super) sinks: &'a [f32],
    pub(super) pool: &'a KvPool,
}

impl Attention<'_> {
    /// Weighted values for the rotated queries `[rows, heads * head_dim]` of some of a batch's rows, in the same shape.
    /// All rows' keys and values are in the pool already.
    pub(super) fn run(&self, batch: &Batch, rows: &[usize], queries: &[f32]) -> Vec<f32> {
        let tables: Vec<Table<'_>> = batch
            .spans
            .iter()
            .flat_map(|span| span.rows.clone().map(|_| Table::of(batch, span, self.kind)))
            .collect();
        let group = self.sinks.len() / self.num_kv_heads;
        let mut out = vec![0.0; queries.len()];
        // Query heads that share a key head are neighbours, so a task's output is one chunk.
        out.par_chunks_mut(group * self.head_dim)
            .zip(queries.par_chunks(group * self.head_dim))
            .enumerate()
            .for_each(|(task, (out, queries))| {
                let (row, kv_head) = (rows[task / self.num_kv_heads], task % self.num_kv_heads);
                let position = batch.positions[row] as usize;
                self.attend(&tables[row], position, kv_head, queries, out);
            });
        out
    }

    /// One row and the query heads of one key head.
    fn attend(
        &self,
        table: &Table<'_>,
        position: usize,
        kv_head: usize,
        queries: &[f32],
        out: &mut [f32],
    ) {
        let first = match self.kind {
            LayerKind::Full => 0,
            LayerKind::Window => (position + 1).saturating_sub(self.window),
        };
        let group = queries.len() / self.head_dim;
        let sinks = &self.sinks[kv_head * group..][..group];
        let mut states: Vec<Softmax> =
            sinks.iter().map(|sink| Softmax { max: *sink, sum: 1.0 }).collect();
        for index in first / self.block_size..=position / self.block_size {
            let start = index * self.block_size;
            let visible = first.max(start) - start..(position + 1 - start).min(self.block_size);
            let (keys, values) = self.pool.read(table.block(index), kv_head, visible);
            self.simd.attend(Attend {
                head_dim: self.head_dim,
                scale: (self.head_dim as f32).sqrt().recip(),
                queries,
                keys,
                values,
                states: &mut states,
                sums: out,
            });
        }
        for (head, state) in out.chunks_exact_mut(self.head_dim).zip(&states) {
            for value in head {
                *value /= state.sum;
            }
        }
    }
}
