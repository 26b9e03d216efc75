//! Keys and values of one group of layers, in blocks.
//!
//! Inside a block the positions of one head lie side by side, so that attention reads straight through them.
//! The memory is zeroed lazily by the system: a block costs pages only once it is written.

use crate::batch::Slot;

/// Shape of a pool, the same for every layer of the group.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvLayout {
    pub(super) block_size: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
}

impl KvLayout {
    fn block_len(&self) -> usize {
        self.num_kv_heads * self.block_size * self.head_dim
    }
}

/// Keys and values of one layer.
pub(super) struct KvPool {
    layout: KvLayout,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvPool {
    pub(super) fn new(layout: KvLayout, num_blocks: usize) -> Self {
        let len = num_blocks * layout.block_len();
        Self { layout, keys: vec![0.0; len], values: vec![0.0; len] }
    }

    /// Writes rows of keys and values, all heads of a row side by side, to their slots.
    pub(super) fn write(&mut self, slots: &[Slot], keys: &[f32], values: &[f32]) {
        let KvLayout { block_size, num_kv_heads, head_dim } = self.layout;
        let width = num_kv_heads * head_dim;
        let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (slot, (keys, values)) in slots.iter().zip(rows) {
            for head in 0..num_kv_heads {
                let from = head * head_dim..(head + 1) * head_dim;
                let to = ((slot.block * num_kv_heads + head) * block_size + slot.offset) * head_dim;
                self.keys[to..to + head_dim].copy_from_slice(&keys[from.clone()]);
                self.values[to..to + head_dim].copy_from_slice(&values[from]);
            }
        }
    }

    /// Keys and values of one head at consecutive offsets of a block.
    pub(super) fn read(
        &self,
        block: usize,
        head: usize,
        offsets: std::ops::Range<usize>,
    ) -> (&[f32], &[f32]) {
        let KvLayout { block_size, num_kv_heads, head_dim } = self.layout;
        let start = (block * num_kv_heads + head) * block_size;
        let range = (start + offsets.start) * head_dim..(start + offsets.end) * head_dim;
        (&self.keys[range.clone()], &self.values[range])
    }
}
