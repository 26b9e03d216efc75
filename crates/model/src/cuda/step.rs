//! What a step tells the device: a batch as flat arrays, side by side in one upload.

use std::ops::Range;

use bytemuck::Pod;
use harmonium_cuda::ops::{Adjustment, DecodeRow, NO_ADAPTER, PADDING, RowTile, Wish};
use harmonium_engine::{AdapterId, Batch, ExecutorSpec};

use super::plan::DECODE_ROWS;
use super::wishes::Wishes;
use crate::batch::{Table, slots};
use crate::config::LayerKind;

/// Every array begins at a multiple of this.
const ALIGNMENT: usize = 16;

/// One step: the bytes to upload, and what lies where in them. Where it lies depends on the numbers of rows and tiles only,
/// so that a captured graph finds the arrays of every step of its size.
pub(super) struct Step {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: usize,
    /// Whether every sequence has one row: then no row sees a key of another's.
    pub(super) are_single: bool,
    pub(super) tokens: Range<usize>,
    pub(super) positions: Range<usize>,
    /// The adapter of each row.
    pub(super) adapters: Range<usize>,
    /// Whether any row has one.
    pub(super) is_adapted: bool,
    pub(super) full: Group,
    pub(super) window: Group,
    /// Rows whose logits are wanted.
    pub(super) wanted: Range<usize>,
    /// How their tokens are chosen.
    pub(super) wishes: Range<usize>,
    /// What changes logits before that; uploaded by itself, as most steps have none.
    pub(super) adjustments: Vec<Adjustment>,
    /// Words of the masks that wishes name, likewise.
    pub(super) masks: Vec<u32>,
    /// Whether a choice is between less than all tokens.
    pub(super) truncates: bool,
    /// Where the block tables begin; nothing comes after them.
    pub(super) tables_start: usize,
}

/// What attention of one kind of layers needs.
pub(super) struct Group {
    pub(super) slots: Range<usize>,
    /// Tiles of rows for the prefill kernel.
    pub(super) prefill: Range<usize>,
    pub(super) num_prefill: usize,
    /// Single rows for the decode kernel.
    pub(super) decode: Range<usize>,
    pub(super) num_decode: usize,
}

impl Step {
    /// A checked batch, of which these rows' logits are wanted, with a wish for each or none at all. `num_rows` is more
    /// than the batch has where it is padded for a graph; then every span is a single row.
    pub(super) fn new(
        batch: &Batch,
        wanted: &[usize],
        wishes: Wishes,
        spec: &ExecutorSpec,
        rows_per_tile: usize,
        num_rows: usize,
    ) -> Self {
        let mut bytes = Vec::new();
        let padded = |values: &[u32], with: u32| {
            let mut values = values.to_vec();
            values.resize(num_rows, with);
            values
        };
        let tokens = push(&mut bytes, &padded(&batch.tokens, 0));
        let positions = push(&mut bytes, &padded(&batch.positions, PADDING));
        let adapters = batch.spans.iter().flat_map(|span| {
            let id = span.adapter.map_or(NO_ADAPTER, |AdapterId(id)| id);
            std::iter::repeat_n(id, span.rows.len())
        });
        let adapters: Vec<u32> = adapters.collect();
        let is_adapted = adapters.iter().any(|id| *id != NO_ADAPTER);
        let adapters = push(&mut bytes, &padded(&adapters, NO_ADAPTER));
        let mut rows: Vec<u32> = wanted.iter().map(|row| *row as u32).collect();
        let Wishes { rows: mut wishes, adjustments, masks, truncates } = wishes;
        if num_rows > batch.tokens.len() {
            rows.resize(num_rows, 0);
            wishes.resize(num_rows, Wish::default());
        }
        let wanted = push(&mut bytes, &rows);
        let wishes = push(&mut bytes, &wishes);
        let mut tables = Vec::new();
        let mut group = |kind| {
            let mut tiles = Tiles::new(batch, kind, rows_per_tile, &mut tables);
            if num_rows > batch.tokens.len() {
                let padding = DecodeRow { position: PADDING, ..DecodeRow::default() };
                tiles.decode.resize(num_rows, padding);
            }
            let block_len = spec.block_size as usize;
            let slots: Vec<u32> = slots(batch, kind, block_len)
                .iter()
                .map(|slot| (slot.block * block_len + slot.offset) as u32)
                .collect();
            Group {
                slots: push(&mut bytes, &padded(&slots, u32::MAX)),
                num_prefill: tiles.prefill.len(),
                prefill: push(&mut bytes, &tiles.prefill),
                num_decode: tiles.decode.len(),
                decode: push(&mut bytes, &tiles.decode),
            }
        };
        let (full, window) = (group(LayerKind::Full), group(LayerKind::Window));
        let tables_start = push(&mut bytes, &tables).start;
        Self {
            bytes,
            rows: num_rows,
            are_single: batch.spans.len() == batch.tokens.len(),
            tokens,
            positions,
            adapters,
            is_adapted,
            full,
            window,
            wanted,
            wishes,
            adjustments,
            masks,
            truncates,
            tables_start,
        }
    }

    pub(super) fn group(&self, kind: LayerKind) -> &Group {
        match kind {
            LayerKind::Full => &self.full,
            LayerKind::Window => &self.window,
        }
    }
}

/// A batch's rows as the attention kernels take them.
struct Tiles {
    prefill: Vec<RowTile>,
    decode: Vec<DecodeRow>,
}

impl Tiles {
    /// Cuts the spans into tiles and appends their block tables to `tables`.
    fn new(batch: &Batch, kind: LayerKind, rows_per_tile: usize, tables: &mut Vec<u32>) -> Self {
        let mut tiles = Self { prefill: Vec::new(), decode: Vec::new() };
        for span in &batch.spans {
            let table = Table::of(batch, span, kind);
            let (table_start, first_block) = (tables.len() as u32, table.first_block as u32);
            if span.rows.len() <= DECODE_ROWS {
                tiles.decode.extend(span.rows.clone().map(|row| DecodeRow {
                    row: row as u32,
                    position: batch.positions[row],
                    table_start,
                    first_block,
                }));
            } else {
                tiles.prefill.extend(span.rows.clone().step_by(rows_per_tile).map(|first_row| {
                    let num_rows = rows_per_tile.min(span.rows.end - first_row) as u32;
                    RowTile { first_row: first_row as u32, num_rows, table_start, first_block }
                }));
            }
            tables.extend_from_slice(table.blocks);
        }
        tiles
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
        num_adapters: 0,
    };

    fn read<T: Pod>(step: &Step, range: &Range<usize>) -> Vec<T> {
        step.bytes[range.clone()].chunks(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    fn span(
        rows: Range<usize>,
        full_blocks: Range<usize>,
        window_blocks: Range<usize>,
        window_first_block: u32,
    ) -> Span {
        Span { rows, full_blocks, window_blocks, window_first_block, adapter: None }
    }

    #[test]
    fn short_spans_become_single_rows_and_long_ones_tiles() {
        let batch = Batch {
            tokens: (0..9).collect(),
            positions: [40, 41].into_iter().chain(3..10).collect(),
            spans: vec![span(0..2, 0..3, 0..1, 2), span(2..9, 3..4, 1..2, 0)],
            full_blocks: vec![5, 6, 7, 1],
            window_blocks: vec![4, 2],
            samples: Vec::new(),
        };
        let step = Step::new(&batch, &[1, 8], Wishes::default(), &SPEC, 4, 9);
        assert_eq!(read::<u32>(&step, &step.wanted), [1, 8]);
        let tables = step.tables_start..step.bytes.len();
        assert_eq!(read::<u32>(&step, &tables), [5, 6, 7, 1, 4, 2]);
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
        let row = |row, position| DecodeRow { row, position, table_start: 4, first_block: 2 };
        assert_eq!(read::<DecodeRow>(&step, &step.window.decode), [row(0, 40), row(1, 41)]);
        assert_eq!(
            read::<RowTile>(&step, &step.full.prefill),
            [tile(2, 4, 3, 0), tile(6, 3, 3, 0)]
        );
        assert_eq!((step.full.num_decode, step.full.num_prefill), (2, 2));
        assert!(!step.are_single);
    }

    #[test]
    fn padding_names_no_row_and_moves_nothing() {
        let row = |row: usize, position: u32, block: u32| Batch {
            tokens: vec![row as u32],
            positions: vec![position],
            spans: vec![span(0..1, 0..1, 0..1, 0)],
            full_blocks: vec![block],
            window_blocks: vec![block],
            samples: Vec::new(),
        };
        let wishes =
            |choice| Wishes { rows: vec![Wish { choice, ..Wish::default() }], ..Wishes::default() };
        let mut adapted = row(7, 3, 2);
        adapted.spans[0].adapter = Some(AdapterId(1));
        let step = Step::new(&adapted, &[0], wishes(Wish::DRAW), &SPEC, 4, 2);
        assert_eq!(read::<u32>(&step, &step.positions), [3, PADDING]);
        assert_eq!(read::<u32>(&step, &step.adapters), [1, NO_ADAPTER]);
        assert!(step.is_adapted);
        assert_eq!(read::<u32>(&step, &step.full.slots), [2 * 16 + 3, u32::MAX]);
        assert_eq!(read::<DecodeRow>(&step, &step.full.decode)[1].position, PADDING);
        assert_eq!((step.rows, step.full.num_decode, step.are_single), (2, 2, true));
        assert_eq!(read::<Wish>(&step, &step.wishes)[1].choice, Wish::LEFT_OUT);
        let other = Step::new(&row(9, 14, 5), &[0], wishes(Wish::GREEDY), &SPEC, 4, 2);
        assert!(!other.is_adapted);
        assert_eq!((step.tables_start, &step.wishes), (other.tables_start, &other.wishes));
    }
}
