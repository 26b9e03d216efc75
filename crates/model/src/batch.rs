//! Checks a batch against the executor's bounds, once, so that the forward pass can index freely.

use harmonium_engine::{AdapterId, Batch, BlockId, ExecutorSpec, Span};

use crate::config::LayerKind;

/// One position's place in a pool of blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) block: usize,
    pub(crate) offset: usize,
}

/// One sequence's rows and its block table in one group.
pub(crate) struct Table<'a> {
    pub(crate) blocks: &'a [BlockId],
    /// Index, in blocks of positions, of the first of them.
    pub(crate) first_block: usize,
}

impl<'a> Table<'a> {
    pub(crate) fn of(batch: &'a Batch, span: &Span, kind: LayerKind) -> Self {
        match kind {
            LayerKind::Full => {
                Self { blocks: &batch.full_blocks[span.full_blocks.clone()], first_block: 0 }
            }
            LayerKind::Window => Self {
                blocks: &batch.window_blocks[span.window_blocks.clone()],
                first_block: span.window_first_block as usize,
            },
        }
    }

    /// The block that holds positions `index * block_size ..`.
    pub(crate) fn block(&self, index: usize) -> usize {
        self.blocks[index - self.first_block] as usize
    }
}

/// Where each row's key and value go in one group.
pub(crate) fn slots(batch: &Batch, kind: LayerKind, block_size: usize) -> Vec<Slot> {
    let slots_of = |span: &Span| {
        let table = Table::of(batch, span, kind);
        let slot = move |&position: &u32| {
            let position = position as usize;
            Slot { block: table.block(position / block_size), offset: position % block_size }
        };
        batch.positions[span.rows.clone()].iter().map(slot).collect::<Vec<_>>()
    };
    batch.spans.iter().flat_map(slots_of).collect()
}

/// Whether everything a batch refers to exists. `Err` says what does not.
pub(crate) fn check(batch: &Batch, spec: &ExecutorSpec) -> Result<(), String> {
    let num_rows = batch.tokens.len();
    let bound = |what: &str, number: usize, max: u32| match number <= max as usize {
        true => Ok(()),
        false => Err(format!("{number} {what}, over {max}")),
    };
    bound("rows", num_rows, spec.max_rows)?;
    bound("sequences", batch.spans.len(), spec.max_sequences)?;
    if batch.positions.len() != num_rows {
        return Err(format!("{} positions for {num_rows} rows", batch.positions.len()));
    }
    if let Some(token) = batch.tokens.iter().find(|token| **token >= spec.vocab_size) {
        return Err(format!("token {token} outside a vocabulary of {}", spec.vocab_size));
    }
    if let Some(sample) = batch.samples.iter().find(|sample| sample.row >= num_rows) {
        return Err(format!("a sample of row {} of {num_rows}", sample.row));
    }
    let mut next_row = 0;
    for span in &batch.spans {
        if span.rows.start != next_row || span.rows.is_empty() || span.rows.end > num_rows {
            return Err(format!("a span of rows {:?} after row {next_row}", span.rows));
        }
        next_row = span.rows.end;
        check_span(batch, span, spec)?;
    }
    match next_row == num_rows {
        true => Ok(()),
        false => Err(format!("spans cover {next_row} of {num_rows} rows")),
    }
}

fn check_span(batch: &Batch, span: &Span, spec: &ExecutorSpec) -> Result<(), String> {
    if let Some(AdapterId(id)) = span.adapter.filter(|adapter| adapter.0 >= spec.num_adapters) {
        return Err(format!("adapter {id} of only {}", spec.num_adapters));
    }
    let positions = &batch.positions[span.rows.clone()];
    let (first, last) = (positions[0], positions[positions.len() - 1]);
    if !positions.iter().zip(first..).all(|(position, expected)| *position == expected) {
        return Err(format!("positions of rows {:?} are not consecutive", span.rows));
    }
    if last >= spec.context_len {
        return Err(format!("position {last} outside a context of {}", spec.context_len));
    }
    let oldest_seen = first.saturating_sub(spec.window - 1);
    let groups = [
        (&batch.full_blocks, &span.full_blocks, 0, 0, spec.num_full_blocks),
        (
            &batch.window_blocks,
            &span.window_blocks,
            span.window_first_block,
            oldest_seen,
            spec.num_window_blocks,
        ),
    ];
    for (tables, range, first_block, oldest, num_blocks) in groups {
        let table = tables.get(range.clone()).ok_or("a block table outside the batch")?;
        let held = first_block as usize..first_block as usize + table.len();
        let needed = oldest / spec.block_size..last / spec.block_size + 1;
        if held.start > needed.start as usize || held.end < needed.end as usize {
            return Err(format!("blocks {held:?} of positions are held, {needed:?} are needed"));
        }
        if let Some(block) = table.iter().find(|block| **block >= num_blocks) {
            return Err(format!("block {block} of only {num_blocks}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: ExecutorSpec = ExecutorSpec {
        vocab_size: 10,
        context_len: 64,
        window: 8,
        block_size: 4,
        num_full_blocks: 16,
        num_window_blocks: 6,
        max_rows: 4,
        max_sequences: 1,
        num_adapters: 1,
    };

    /// Two rows at positions 20 and 21: they see positions 13 to 21 through a window of 8.
    fn batch() -> Batch {
        Batch {
            tokens: vec![1, 2],
            positions: vec![20, 21],
            spans: vec![Span {
                rows: 0..2,
                full_blocks: 0..6,
                window_blocks: 0..3,
                window_first_block: 3,
                adapter: None,
            }],
            full_blocks: vec![9, 8, 7, 6, 5, 4],
            window_blocks: vec![2, 0, 1],
            samples: Vec::new(),
        }
    }

    #[test]
    fn slots_follow_the_block_tables() {
        assert_eq!(check(&batch(), &SPEC), Ok(()));
        let places = |kind| -> Vec<_> {
            slots(&batch(), kind, 4).iter().map(|slot| (slot.block, slot.offset)).collect()
        };
        assert_eq!(places(LayerKind::Full), [(4, 0), (4, 1)]);
        assert_eq!(places(LayerKind::Window), [(1, 0), (1, 1)]);
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let damages: [fn(&mut Batch); 12] = [
            |b| b.tokens[0] = 10,
            |b| b.tokens.extend([1, 1, 1]),
            |b| b.positions[1] = 23,
            |b| b.positions = vec![63, 64],
            |b| b.positions.truncate(1),
            |b| b.spans[0].rows = 0..1,
            |b| b.spans[0].rows = 0..3,
            |b| b.spans[0].full_blocks = 0..5,
            |b| b.spans[0].window_blocks = 1..4,
            |b| b.spans[0].window_first_block = 4,
            |b| b.window_blocks[2] = 6,
            |b| b.spans[0].adapter = Some(AdapterId(1)),
        ];
        for (index, damage) in damages.into_iter().enumerate() {
            let mut batch = batch();
            damage(&mut batch);
            assert!(check(&batch, &SPEC).is_err(), "damage {index}");
        }
    }
}
