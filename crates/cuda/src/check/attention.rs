//! Both ways of attention against float64.

use half::bf16;

use super::{Case, Report, max_relative_error, random_bf16, rms};
use crate::ops::{
    Attention, HEAD_LEN, KvShape, RowTile, Splits, attention_decode, attention_prefill,
    rows_per_tile,
};
use crate::{Device, Result};

/// Two sequences in one batch, the second in blocks from the other end.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    num_heads: usize,
    num_kv_heads: usize,
    block_len: usize,
    /// First position and number of rows, for each sequence.
    sequences: [(usize, usize); 2],
    window: Option<usize>,
    /// Of the decode kernel.
    num_splits: usize,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "first token",
        num_heads: 2,
        num_kv_heads: 2,
        block_len: 16,
        sequences: [(0, 1), (0, 1)],
        window: None,
        num_splits: 1,
    },
    Shape {
        name: "true heads",
        num_heads: 64,
        num_kv_heads: 8,
        block_len: 16,
        sequences: [(0, 19), (37, 3)],
        window: None,
        num_splits: 2,
    },
    Shape {
        name: "several tiles",
        num_heads: 4,
        num_kv_heads: 1,
        block_len: 32,
        sequences: [(130, 40), (63, 2)],
        window: None,
        num_splits: 3,
    },
    Shape {
        name: "window edge",
        num_heads: 8,
        num_kv_heads: 1,
        block_len: 16,
        sequences: [(126, 5), (0, 20)],
        window: Some(128),
        num_splits: 2,
    },
    Shape {
        name: "small window",
        num_heads: 4,
        num_kv_heads: 2,
        block_len: 16,
        sequences: [(100, 37), (5, 1)],
        window: Some(8),
        num_splits: 4,
    },
    Shape {
        name: "more splits than keys",
        num_heads: 16,
        num_kv_heads: 1,
        block_len: 16,
        sequences: [(64, 1), (300, 1)],
        window: None,
        num_splits: 9,
    },
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for (is_decode, kernel) in [(false, "attention_prefill"), (true, "attention_decode")] {
            let shape = *shape;
            let name = format!("{kernel} {}", shape.name);
            cases.push(Case::new(name, move |device| run(device, &shape, is_decode)));
        }
    }
    cases
}

fn run(device: &Device, shape: &Shape, is_decode: bool) -> Result<Report> {
    let Shape { num_heads, num_kv_heads, block_len, sequences, num_splits, .. } = *shape;
    let window = shape.window.unwrap_or(usize::MAX);
    let num_blocks = sequences.map(|(first, num)| (first + num).div_ceil(block_len));
    let kv =
        KvShape { num_heads, num_kv_heads, block_len, num_blocks: num_blocks[0] + num_blocks[1] };
    let rows: usize = sequences.iter().map(|(_, num)| num).sum();
    let queries = random_bf16(1, rows * kv.query_len(), 3.0);
    let cache_len = kv.num_blocks * num_kv_heads * block_len * HEAD_LEN;
    let (mut keys, values) = (random_bf16(2, cache_len, 3.0), random_bf16(3, cache_len, 1.0));
    // One key that outweighs all before it, so that sums already made must be scaled down.
    keys[cache_len / 2..cache_len / 2 + HEAD_LEN].fill(bf16::from_f32(5.0));
    let sinks = random_bf16(4, num_heads, 4.0);
    let (mut positions, mut tables, mut tiles) = (Vec::new(), Vec::new(), Vec::new());
    let tile_len = if is_decode { 1 } else { rows_per_tile(&kv) };
    for (index, (first, num)) in sequences.into_iter().enumerate() {
        let first_row = positions.len();
        positions.extend((first..first + num).map(|position| position as u32));
        // Blocks that no row sees are gone, as the engine frees them.
        let first_block = (first + 1).saturating_sub(window) / block_len;
        for start in (0..num).step_by(tile_len) {
            tiles.push(RowTile {
                first_row: (first_row + start) as u32,
                num_rows: tile_len.min(num - start) as u32,
                table_start: tables.len() as u32,
                first_block: first_block as u32,
            });
        }
        let blocks = first_block..num_blocks[index];
        tables.extend(blocks.map(|block| block_of(&kv, index, block) as u32));
    }
    let upload = |values: &[bf16]| device.alloc_from(values);
    let (queries_buffer, keys_buffer, values_buffer) =
        (upload(&queries)?, upload(&keys)?, upload(&values)?);
    let (sinks_buffer, positions_buffer) = (upload(&sinks)?, device.alloc_from(&positions)?);
    let (tables_buffer, tiles_buffer) = (device.alloc_from(&tables)?, device.alloc_from(&tiles)?);
    let out = device.alloc(rows * num_heads * HEAD_LEN * 2)?;
    let args = Attention {
        queries: queries_buffer.whole(),
        keys: keys_buffer.whole(),
        values: values_buffer.whole(),
        sinks: sinks_buffer.whole(),
        positions: positions_buffer.whole(),
        tables: tables_buffer.whole(),
        tiles: tiles_buffer.whole(),
        out: out.whole(),
        rows,
        num_tiles: tiles.len(),
        window: shape.window.map(|window| window as u32),
        shape: kv,
    };
    let num_parts = tiles.len() * num_heads * num_splits;
    let (parts, stats) = (device.alloc(num_parts * HEAD_LEN * 4)?, device.alloc(num_parts * 8)?);
    let splits = Splits { parts: parts.whole(), stats: stats.whole(), num_splits };
    if is_decode {
        attention_decode(device, &args, &splits)
    } else {
        attention_prefill(device, &args)
    }?;
    let reference = Reference { kv, keys: &keys, values: &values, window };
    let mut expected = Vec::new();
    for row in 0..rows {
        let sequence = usize::from(row >= sequences[0].1);
        for (head, sink) in sinks.iter().enumerate() {
            let query = &queries[row * kv.query_len() + head * HEAD_LEN..][..HEAD_LEN];
            let position = positions[row] as usize;
            expected.extend(reference.attend(sequence, position, head, query, sink.to_f64()));
        }
    }
    let actual = device.read::<bf16>(out.whole())?;
    let max_error = max_relative_error(&actual, &expected, rms(&expected))?;
    // Weights are rounded to bf16 before they meet the values, and the answer once more.
    Ok(Report { max_error, tolerance: 4.0 / 256.0 })
}

/// The place of a sequence's block: the first sequence counts from the start, the second from the end.
fn block_of(kv: &KvShape, sequence: usize, block: usize) -> usize {
    if sequence == 0 { block } else { kv.num_blocks - 1 - block }
}

struct Reference<'a> {
    kv: KvShape,
    keys: &'a [bf16],
    values: &'a [bf16],
    window: usize,
}

impl Reference<'_> {
    fn attend(
        &self,
        sequence: usize,
        position: usize,
        head: usize,
        query: &[bf16],
        sink: f64,
    ) -> Vec<f64> {
        let KvShape { num_kv_heads, block_len, .. } = self.kv;
        let place = |position: usize| {
            let block = block_of(&self.kv, sequence, position / block_len);
            let head = block * num_kv_heads + head / self.kv.group();
            (head * block_len + position % block_len) * HEAD_LEN
        };
        let score = |at: usize| {
            let products = query.iter().zip(&self.keys[at..at + HEAD_LEN]);
            products.map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>() / 8.0
        };
        let seen = (position + 1).saturating_sub(self.window)..position + 1;
        let scores: Vec<f64> = seen.clone().map(|position| score(place(position))).collect();
        let max = scores.iter().copied().fold(sink, f64::max);
        let mut total = (sink - max).exp();
        let mut sums = vec![0.0; HEAD_LEN];
        for (position, score) in seen.zip(scores) {
            let weight = (score - max).exp();
            total += weight;
            for (sum, value) in sums.iter_mut().zip(&self.values[place(position)..]) {
                *sum += weight * value.to_f64();
            }
        }
        sums.iter().map(|sum| sum / total).collect()
    }
}
