//! Both ways of attention against float64.

use half::bf16;

use super::{Case, Report, max_relative_error, random_bf16, random_f32, rms};
use crate::ops::{
    AttentionDecode, AttentionPrefill, DecodeRow, HEAD_LEN, KvShape, PADDING, RowTile, Splits,
    attention_decode, attention_prefill, rows_per_tile,
};
use crate::{Buffer, Device, Result};

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
    Shape {
        name: "turns that reuse their place",
        num_heads: 8,
        num_kv_heads: 1,
        block_len: 16,
        sequences: [(700, 1), (511, 2)],
        window: None,
        num_splits: 2,
    },
    Shape {
        name: "many splits",
        num_heads: 2,
        num_kv_heads: 2,
        block_len: 16,
        sequences: [(1000, 1), (128, 2)],
        window: None,
        num_splits: 17,
    },
    Shape {
        name: "tiles of keys that all rows see",
        num_heads: 8,
        num_kv_heads: 1,
        block_len: 16,
        sequences: [(200, 40), (0, 33)],
        window: None,
        num_splits: 2,
    },
    Shape {
        name: "a window with such a tile at its edge",
        num_heads: 8,
        num_kv_heads: 1,
        block_len: 16,
        sequences: [(300, 35), (127, 18)],
        window: Some(128),
        num_splits: 3,
    },
    Shape {
        name: "a window of one",
        num_heads: 4,
        num_kv_heads: 1,
        block_len: 16,
        sequences: [(70, 20), (0, 2)],
        window: Some(1),
        num_splits: 1,
    },
    Shape {
        name: "long blocks",
        num_heads: 16,
        num_kv_heads: 2,
        block_len: 128,
        sequences: [(190, 20), (128, 1)],
        window: None,
        num_splits: 2,
    },
    Shape {
        name: "blocks of one position",
        num_heads: 4,
        num_kv_heads: 1,
        block_len: 1,
        sequences: [(70, 3), (0, 17)],
        window: Some(66),
        num_splits: 2,
    },
    Shape {
        name: "one head for a key head",
        num_heads: 2,
        num_kv_heads: 2,
        block_len: 16,
        sequences: [(3, 140), (0, 127)],
        window: None,
        num_splits: 1,
    },
    Shape {
        name: "heads that do not divide a tile",
        num_heads: 3,
        num_kv_heads: 1,
        block_len: 16,
        sequences: [(60, 50), (85, 42)],
        window: None,
        num_splits: 2,
    },
];

/// What runs on a shape.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Prefill,
    /// Rows of a sequence one by one, all their keys in the cache.
    Cached,
    /// The last row of each sequence, whose key and value are not in the cache.
    Single,
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for (mode, name) in [
            (Mode::Prefill, "attention_prefill"),
            (Mode::Cached, "attention_decode, cached,"),
            (Mode::Single, "attention_decode"),
        ] {
            let shape = *shape;
            let name = format!("{name} {}", shape.name);
            cases.push(Case::new(name, move |device| run(device, &shape, mode)));
        }
    }
    cases
}

/// Two sequences with their cache as it must be once all rows are in it.
struct Inputs {
    kv: KvShape,
    /// Positions that each sequence's rows begin at, and how many they are.
    sequences: [(usize, usize); 2],
    window: usize,
    positions: Vec<u32>,
    /// Not rotated, as the product gives them.
    qkv: Vec<f32>,
    rotations: Vec<f32>,
    /// Rotated.
    queries: Vec<bf16>,
    keys: Vec<bf16>,
    values: Vec<bf16>,
    sinks: Vec<bf16>,
}

impl Inputs {
    fn new(shape: &Shape, mode: Mode) -> Self {
        let Shape { num_heads, num_kv_heads, block_len, .. } = *shape;
        let sequences = shape.sequences.map(|(first, num)| match mode {
            Mode::Single => (first + num - 1, 1),
            _ => (first, num),
        });
        let num_blocks =
            sequences.iter().map(|(first, num)| (first + num).div_ceil(block_len)).sum();
        let kv = KvShape { num_heads, num_kv_heads, block_len, num_blocks };
        let positions: Vec<u32> = sequences
            .iter()
            .flat_map(|(first, num)| (*first..first + num).map(|position| position as u32))
            .collect();
        let context_len = *positions.iter().max().unwrap_or(&0) as usize + 1;
        let rows = positions.len();
        let cache_len = kv.num_blocks * num_kv_heads * block_len * HEAD_LEN;
        let mut keys = random_bf16(2, cache_len, 3.0);
        // One key that outweighs all before it, so that sums already made must be scaled down.
        keys[cache_len / 2..cache_len / 2 + HEAD_LEN].fill(bf16::from_f32(5.0));
        let mut inputs = Self {
            kv,
            sequences,
            window: shape.window.unwrap_or(usize::MAX),
            positions,
            qkv: random_f32(1, rows * kv.qkv_len(), 3.0),
            rotations: random_f32(5, context_len * HEAD_LEN, 1.0),
            queries: Vec::new(),
            keys,
            values: random_bf16(3, cache_len, 1.0),
            sinks: random_bf16(4, num_heads, 4.0),
        };
        for row in 0..rows {
            for head in 0..num_heads {
                let query = inputs.head(row, head, true);
                inputs.queries.extend(query);
            }
            for (kv_head, place) in inputs.places(row).into_iter().enumerate() {
                let key = inputs.head(row, num_heads + kv_head, true);
                let value = inputs.head(row, num_heads + num_kv_heads + kv_head, false);
                inputs.keys[place..place + HEAD_LEN].copy_from_slice(&key);
                inputs.values[place..place + HEAD_LEN].copy_from_slice(&value);
            }
        }
        inputs
    }

    fn sequence(&self, row: usize) -> usize {
        usize::from(row >= self.sequences[0].1)
    }

    /// A head of a row, rounded to bf16 as the kernels round it.
    fn head(&self, row: usize, head: usize, is_rotated: bool) -> Vec<bf16> {
        let head = &self.qkv[row * self.kv.qkv_len() + head * HEAD_LEN..][..HEAD_LEN];
        let rotations = &self.rotations[self.positions[row] as usize * HEAD_LEN..][..HEAD_LEN];
        let one = |element: usize| {
            let pair = element % (HEAD_LEN / 2);
            let (a, b) = (head[pair], head[pair + HEAD_LEN / 2]);
            let (cos, sin) = (rotations[2 * pair], rotations[2 * pair + 1]);
            match is_rotated {
                false => head[element],
                true if element == pair => a * cos - b * sin,
                true => b * cos + a * sin,
            }
        };
        (0..HEAD_LEN).map(|element| bf16::from_f32(one(element))).collect()
    }

    /// Where the cache holds a row's own key, for each key head.
    fn places(&self, row: usize) -> Vec<usize> {
        let KvShape { num_kv_heads, block_len, .. } = self.kv;
        let position = self.positions[row] as usize;
        let block = block_of(&self.kv, self.sequence(row), position / block_len);
        let place =
            |head| ((block * num_kv_heads + head) * block_len + position % block_len) * HEAD_LEN;
        (0..num_kv_heads).map(place).collect()
    }

    /// Block tables, and for each sequence where its table begins and which block that entry is of. Blocks that no row
    /// sees are gone, as the engine frees them.
    fn tables(&self) -> (Vec<u32>, [(u32, u32); 2]) {
        let (mut tables, mut starts) = (Vec::new(), [(0, 0); 2]);
        for (sequence, (first, num)) in self.sequences.into_iter().enumerate() {
            let first_block = (first + 1).saturating_sub(self.window) / self.kv.block_len;
            starts[sequence] = (tables.len() as u32, first_block as u32);
            let blocks = first_block..(first + num).div_ceil(self.kv.block_len);
            tables.extend(blocks.map(|block| block_of(&self.kv, sequence, block) as u32));
        }
        (tables, starts)
    }

    fn expected(&self) -> Vec<f64> {
        let reference =
            Reference { kv: self.kv, keys: &self.keys, values: &self.values, window: self.window };
        let mut expected = Vec::new();
        for (row, position) in self.positions.iter().enumerate() {
            for (head, sink) in self.sinks.iter().enumerate() {
                let query =
                    &self.queries[row * self.kv.query_len() + head * HEAD_LEN..][..HEAD_LEN];
                let (sequence, position) = (self.sequence(row), *position as usize);
                expected.extend(reference.attend(sequence, position, head, query, sink.to_f64()));
            }
        }
        expected
    }
}

fn run(device: &Device, shape: &Shape, mode: Mode) -> Result<Report> {
    let inputs = Inputs::new(shape, mode);
    let (mut keys, mut values) = (inputs.keys.clone(), inputs.values.clone());
    if mode == Mode::Single {
        for place in (0..inputs.positions.len()).flat_map(|row| inputs.places(row)) {
            keys[place..place + HEAD_LEN].fill(bf16::NAN);
            values[place..place + HEAD_LEN].fill(bf16::NAN);
        }
    }
    let cache = [device.alloc_from(&keys)?, device.alloc_from(&values)?];
    let out = device.alloc(inputs.queries.len() * 2)?;
    // Twice: what a launch leaves behind must not disturb the next.
    for _ in 0..2 {
        device.zero(out.whole())?;
        match mode {
            Mode::Prefill => prefill(device, &inputs, shape, &cache, &out)?,
            _ => decode(device, &inputs, shape, &cache, mode == Mode::Cached, &out)?,
        }
    }
    let expected = inputs.expected();
    let actual = device.read::<bf16>(out.whole())?;
    let mut max_error = max_relative_error(&actual, &expected, rms(&expected))?;
    for (cache, expected) in cache.iter().zip([&inputs.keys, &inputs.values]) {
        let actual = device.read::<bf16>(cache.whole())?;
        let is_same = actual.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
        max_error = if is_same { max_error } else { f64::NAN };
    }
    // Weights are rounded to bf16 before they meet the values, and the answer once more.
    Ok(Report { max_error, tolerance: 4.0 / 256.0 })
}

fn prefill(
    device: &Device,
    inputs: &Inputs,
    shape: &Shape,
    [keys, values]: &[Buffer; 2],
    out: &Buffer,
) -> Result<()> {
    let (tables, starts) = inputs.tables();
    let tile_len = rows_per_tile(&inputs.kv);
    let (mut tiles, mut first_row) = (Vec::new(), 0);
    for ((_, num), (table_start, first_block)) in inputs.sequences.into_iter().zip(starts) {
        tiles.extend((0..num).step_by(tile_len).map(|start| RowTile {
            first_row: (first_row + start) as u32,
            num_rows: tile_len.min(num - start) as u32,
            table_start,
            first_block,
        }));
        first_row += num;
    }
    let (queries, sinks) = (device.alloc_from(&inputs.queries)?, device.alloc_from(&inputs.sinks)?);
    let (positions, tables) = (device.alloc_from(&inputs.positions)?, device.alloc_from(&tables)?);
    let tile_buffer = device.alloc_from(&tiles)?;
    let args = AttentionPrefill {
        queries: queries.whole(),
        keys: keys.whole(),
        values: values.whole(),
        sinks: sinks.whole(),
        positions: positions.whole(),
        tables: tables.whole(),
        tiles: tile_buffer.whole(),
        out: out.whole(),
        rows: inputs.positions.len(),
        num_tiles: tiles.len(),
        window: shape.window.map(|window| window as u32),
        shape: inputs.kv,
    };
    attention_prefill(device, &args)
}

/// The rows from last to first, and one more that is padding.
fn decode(
    device: &Device,
    inputs: &Inputs,
    shape: &Shape,
    [keys, values]: &[Buffer; 2],
    is_cached: bool,
    out: &Buffer,
) -> Result<()> {
    let (tables, starts) = inputs.tables();
    let padding = DecodeRow { position: PADDING, ..DecodeRow::default() };
    let mut rows = vec![padding];
    rows.extend(inputs.positions.iter().enumerate().map(|(row, position)| {
        let (table_start, first_block) = starts[inputs.sequence(row)];
        DecodeRow { row: row as u32, position: *position, table_start, first_block }
    }));
    rows.reverse();
    let (num_splits, num_decode) = (shape.num_splits, rows.len());
    let num_parts = num_decode * shape.num_heads * num_splits;
    let (parts, stats) = (device.alloc(num_parts * HEAD_LEN * 4)?, device.alloc(num_parts * 8)?);
    let tickets = device.alloc_from(&vec![0u32; num_decode * shape.num_kv_heads])?;
    let (qkv, rotations) = (device.alloc_from(&inputs.qkv)?, device.alloc_from(&inputs.rotations)?);
    let (sinks, tables) = (device.alloc_from(&inputs.sinks)?, device.alloc_from(&tables)?);
    let row_buffer = device.alloc_from(&rows)?;
    let args = AttentionDecode {
        qkv: qkv.whole(),
        rotations: rotations.whole(),
        keys: keys.whole(),
        values: values.whole(),
        is_cached,
        sinks: sinks.whole(),
        tables: tables.whole(),
        decode: row_buffer.whole(),
        out: out.whole(),
        rows: inputs.positions.len(),
        num_decode,
        context_len: inputs.rotations.len() / HEAD_LEN,
        window: shape.window.map(|window| window as u32),
        shape: inputs.kv,
        splits: Splits {
            parts: parts.whole(),
            stats: stats.whole(),
            tickets: tickets.whole(),
            num_splits,
        },
    };
    attention_decode(device, &args)?;
    // A ticket that is not handed back would spoil the next launch.
    if device.read::<u32>(tickets.whole())?.iter().any(|ticket| *ticket != 0) {
        device.zero(out.whole())?;
    }
    Ok(())
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
