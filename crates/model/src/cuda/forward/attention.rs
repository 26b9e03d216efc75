//! Attention: from normed rows to what it adds to the residual.

use harmonium_cuda::ops::{
    After, AttentionDecode, AttentionPrefill, HEAD_LEN, KvShape, Output, Rope, Splits,
    attention_decode, attention_prefill, rope,
};
use harmonium_cuda::{BufferSlice, Result};

use super::{BF16, Model, WORD, first};
use crate::config::LayerKind;
use crate::cuda::adapters::Product;
use crate::cuda::plan::num_splits;
use crate::cuda::step::Step;
use crate::cuda::weights::DeviceLayer;

impl Model {
    /// From normed rows to attention's part of the residual. Writes the rows' keys and values on the way.
    pub(super) fn attention(&self, step: &Step, index: usize, layer: &DeviceLayer) -> Result<()> {
        let (b, rows, shape) = (&self.buffers, step.rows, &self.full);
        let hidden_len = rows * self.config.hidden_size as usize;
        let qkv = first(&b.qkv, rows * shape.qkv_len() * WORD)?;
        let normed = first(&b.normed, hidden_len * BF16)?;
        let change = self.change(step, index, Product::Qkv, normed, Output::Added(qkv), None)?;
        self.shrink(change.as_ref())?;
        self.linear(rows, normed, &layer.qkv, Output::F32(qkv))?;
        self.device.mark("qkv")?;
        self.expand(change.as_ref(), After::Product)?;
        let out = first(&b.attended, rows * shape.query_len() * BF16)?;
        self.attend(step, index, layer.sinks.whole(), qkv, out)?;
        self.device.mark("attention")?;
        let residual = Output::Added(first(&b.residual, hidden_len * WORD)?);
        let change = self.change(step, index, Product::Output, out, residual, None)?;
        self.shrink(change.as_ref())?;
        self.linear(rows, out, &layer.output, residual)?;
        self.device.mark("attention output")?;
        self.expand(change.as_ref(), After::Product)
    }

    /// From queries, keys and values as the product gives them to what each head attends to.
    fn attend(
        &self,
        step: &Step,
        index: usize,
        sinks: BufferSlice<'_>,
        qkv: BufferSlice<'_>,
        out: BufferSlice<'_>,
    ) -> Result<()> {
        let (b, rows) = (&self.buffers, step.rows);
        let kind = self.config.layers[index];
        let (shape, window) = match kind {
            LayerKind::Full => (self.full, None),
            LayerKind::Window => (self.window, Some(self.config.window)),
        };
        let group = step.group(kind);
        let [keys, values] = &self.caches[index];
        let (keys, values) = (keys.whole(), values.whole());
        let (rotations, context_len) = (b.rotations.whole(), self.context_len);
        let tables = b.inputs.slice(step.tables_start..b.inputs.len())?;
        // Single rows bring their own keys; rows that see each other's need them in the cache before any attends.
        if !step.are_single {
            let queries = first(&b.queries, rows * shape.query_len() * BF16)?;
            let positions = b.inputs.slice(step.positions.clone())?;
            let slots = b.inputs.slice(group.slots.clone())?;
            let args = Rope {
                qkv,
                queries,
                positions,
                slots,
                rotations,
                keys,
                values,
                rows,
                context_len,
                shape,
            };
            rope(&self.device, &args)?;
            if group.num_prefill > 0 {
                let args = AttentionPrefill {
                    queries,
                    keys,
                    values,
                    sinks,
                    positions,
                    tables,
                    tiles: b.inputs.slice(group.prefill.clone())?,
                    out,
                    rows,
                    num_tiles: group.num_prefill,
                    window,
                    shape,
                };
                attention_prefill(&self.device, &args)?;
            }
        }
        if group.num_decode > 0 {
            let args = AttentionDecode {
                qkv,
                rotations,
                keys,
                values,
                is_cached: !step.are_single,
                sinks,
                tables,
                decode: b.inputs.slice(group.decode.clone())?,
                out,
                rows,
                num_decode: group.num_decode,
                context_len,
                window,
                shape,
                splits: self.splits(group.num_decode, shape, window)?,
            };
            attention_decode(&self.device, &args)?;
        }
        Ok(())
    }

    /// What the pieces of that many rows' contexts need.
    fn splits(&self, num_rows: usize, shape: KvShape, window: Option<u32>) -> Result<Splits<'_>> {
        let num_splits = num_splits(num_rows, shape.num_kv_heads, window);
        let num_parts = num_rows * shape.num_heads * num_splits;
        Ok(Splits {
            parts: first(&self.buffers.parts, num_parts * HEAD_LEN * WORD)?,
            stats: first(&self.buffers.stats, num_parts * 2 * WORD)?,
            tickets: first(&self.buffers.tickets, num_rows * shape.num_kv_heads * WORD)?,
            num_splits,
        })
    }
}
