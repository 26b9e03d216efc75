//! What a step tells the device: a batch as flat arrays, side by side in one upload.

use std::ops::Range;

use bytemuck::Pod;
use harmonium_cuda::ops::RowTile;
use harmonium_engine::{Batch, ExecutorSpec};

use super::plan::DECODE_ROWS;
use crate::batch::{Table, slots};
use crate::config::LayerKind;

/// Every array begins at a multiple of this.
const ALIGNMENT: usize = 16;

/// One step: the bytes to upload, and what lies where in them.
pub(super) struct Step {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: usize,
    pub(super) tokens: Range<usize>,
    pub(super) positions: Range<usize>,
    pub(super) full: Group,
    pub(super) window: Group,
    /// Rows whose logits are wanted.
    pub(super) wanted: Range<usize>,
}

/// What attention of one kind of layers needs.
pub(super) struct Group {
    pub(super) slots: Range<usize>,
    pub(super) tables: Range<usize>,
    /// Tiles of rows for the prefill kernel.
    pub(super) prefill: Range<usize>,
    pub(super) num_prefill: usize,
    /// Single rows for the decode kernel.
    pub(super) decode: Range<usize>,
    pub(super) num_decode: usize,
}

impl Step {
    /// A checked batch, of which these rows' logits are wanted.
    pub(super) fn new(
        batch: &Batch,
        wanted: &[usize],
        spec: &ExecutorSpec,
        rows_per_tile: usize,
    ) -> Self {
        let mut bytes = Vec::new();
        let tokens = push(&mut bytes, &batch.tokens);
        let positions = push(&mut bytes, &batch.positions);
        let rows: Vec<u32> = wanted.iter().map(|row| *row as u32).collect();
        let wanted = push(&mut bytes, &rows);
        let mut group = |kind| Group::new(&mut bytes, batch, kind, spec, rows_per_tile);
        let (full, window) = (group(LayerKind::Full), group(LayerKind::Window));
        Self { bytes, rows: batch.tokens.len(), tokens, positions, full, window, wanted }
    }

    pub(super) fn group(&self, kind: LayerKind) -> &Group {
        match kind {
            LayerKind::Full => &self.full,
            LayerKind::Window => &self.window,
        }
    }
}

impl Group {
    fn new(
        bytes: &mut Vec<u8>,
        batch: &Batch,
        kind: LayerKind,
        spec: &ExecutorSpec,
        rows_per_tile: usize,
    ) -> Self {
        let block_len = spec.block_size as usize;
        let slots: Vec<u32> = slots(batch, kind, block_len)
            .iter()
            .map(|slot| (slot.block * block_len + slot.offset) as u32)
            .collect();
        let (mut tables, mut prefill, mut decode) = (Vec::new(), Vec::new(), Vec::new());
        for span in &batch.spans {
            let table = Table::of(batch, span, kind);
            let is_decode = span.rows.len() <= DECODE_ROWS;
            let tile_len = if is_decode { 1 } else { rows_per_tile };
            for first_row in span.rows.clone().step_by(tile_len) {
                let tile = RowTile {
                    first_row: first_row as u32,
                    num_rows: tile_len.min(span.rows.end - first_row) as u32,
                    table_start: tables.len() as u32,
                    first_block: table.first_block as u32,
                };
                if is_decode { decode.push(tile) } else { prefill.push(tile) }
            }
            tables.extend_from_slice(table.blocks);
        }
        Self {
            slots: push(bytes, &slots),
            tables: push(bytes, &tables),
            num_prefill: prefill.len(),
            prefill: push(bytes, &prefill),
            num_decode: decode.len(),
            decode: push(bytes, &decode),
        }
    }
}

/// Appends an array and says where it lies.
fn push<T: Pod>(bytes: &mut Vec<u8>, values: &[T]) -> Range<usize> {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let start = bytes.len();
    bytes.extend_from_slice(bytemuck::cast_slice(values));
    start..bytes.len()
}

#[cfg(test)]
mod tests {
    use harmonium_engine::Span;

    use super::*;

    const SPEC: ExecutorSpec = ExecutorSpec {
        vocab_size: 100,
        context_len: 64,
        window: 8,
        block_size: 16,
        num_full_blocks: 8,
        num_window_blocks: 8,
        max_rows: 16,
        max_sequences: 2,
    };

    fn read<T: Pod>(step: &Step, range: &Range<usize>) -> Vec<T> {
        step.bytes[range.clone()].chunks(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    #[test]
    fn short_spans_become_single_rows_and_long_ones_tiles() {
        let batch = Batch {
            tokens: (0..9).collect(),
            positions: [40, 41].into_iter().chain(3..10).collect(),
            spans: vec![
                Span { rows: 0..2, full_blocks: 0..3, window_blocks: 0..1, window_first_block: 2 },
                Span { rows: 2..9, full_blocks: 3..4, window_blocks: 1..2, window_first_block: 0 },
            ],
            full_blocks: vec![5, 6, 7, 1],
            window_blocks: vec![4, 2],
            samples: Vec::new(),
        };
        let step = Step::new(&batch, &[1, 8], &SPEC, 4);
        assert_eq!(read::<u32>(&step, &step.wanted), [1, 8]);
        assert_eq!(read::<u32>(&step, &step.full.tables), [5, 6, 7, 1]);
        assert_eq!(
            read::<u32>(&step, &step.window.slots)[..3],
            [4 * 16 + 8, 4 * 16 + 9, 2 * 16 + 3]
        );
        let tile = |first_row, num_rows, table_start, first_block| RowTile {
            first_row,
            num_rows,
            table_start,
            first_block,
        };
        assert_eq!(
            read::<RowTile>(&step, &step.window.decode),
            [tile(0, 1, 0, 2), tile(1, 1, 0, 2)]
        );
        assert_eq!(
            read::<RowTile>(&step, &step.full.prefill),
            [tile(2, 4, 3, 0), tile(6, 3, 3, 0)]
        );
        assert_eq!((step.full.num_decode, step.full.num_prefill), (2, 2));
    }
}
