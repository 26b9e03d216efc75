//! `rope` against float64.

use half::bf16;

use super::{BF16_ROUNDING, Case, Report, max_relative_error, random_bf16, random_f32};
use crate::ops::{HEAD_LEN, KvShape, Rope, rope};
use crate::{Device, Result};

/// Rows, heads and key heads: one head, one key head for each head, the true counts.
const SHAPES: &[(usize, usize, usize)] = &[(1, 1, 1), (5, 2, 2), (7, 64, 8)];
const CONTEXT_LEN: usize = 40;
const BLOCK_LEN: usize = 16;

pub(super) fn cases() -> Vec<Case> {
    let case = |&(rows, num_heads, num_kv_heads): &(usize, usize, usize)| {
        let name = format!("rope {rows} rows of {num_heads}/{num_kv_heads} heads");
        Case::new(name, move |device| run(device, rows, num_heads, num_kv_heads))
    };
    SHAPES.iter().map(case).collect()
}

/// The last of several rows has a position beyond the context: it must change nothing.
fn run(device: &Device, rows: usize, num_heads: usize, num_kv_heads: usize) -> Result<Report> {
    let shape = KvShape { num_heads, num_kv_heads, block_len: BLOCK_LEN, num_blocks: rows + 2 };
    let qkv = random_f32(1, rows * shape.qkv_len(), 4.0);
    // What the queries are before, so that a row that is left out shows.
    let no_queries = vec![bf16::ONE; rows * shape.query_len()];
    let rotations = random_f32(2, CONTEXT_LEN * HEAD_LEN, 1.4);
    let mut positions: Vec<u32> = (0..rows).map(|row| (row * 11 % CONTEXT_LEN) as u32).collect();
    if rows > 1 {
        positions[rows - 1] = CONTEXT_LEN as u32;
    }
    let slots: Vec<u32> = (0..rows).map(|row| ((row + 1) * BLOCK_LEN + row % 7) as u32).collect();
    let cache_len = shape.num_blocks * num_kv_heads * BLOCK_LEN * HEAD_LEN;
    let before = random_bf16(3, cache_len, 1.0);
    let (buffer, queries) = (device.alloc_from(&qkv)?, device.alloc_from(&no_queries)?);
    let (keys, values) = (device.alloc_from(&before)?, device.alloc_from(&before)?);
    let (positions_buffer, slots_buffer) =
        (device.alloc_from(&positions)?, device.alloc_from(&slots)?);
    let rotations_buffer = device.alloc_from(&rotations)?;
    let args = Rope {
        qkv: buffer.whole(),
        queries: queries.whole(),
        positions: positions_buffer.whole(),
        slots: slots_buffer.whole(),
        rotations: rotations_buffer.whole(),
        keys: keys.whole(),
        values: values.whole(),
        rows,
        context_len: CONTEXT_LEN,
        shape,
    };
    rope(device, &args)?;
    let mut expected = [&no_queries, &before, &before]
        .map(|values| -> Vec<f64> { values.iter().map(|value| value.to_f64()).collect() });
    for row in (0..rows).filter(|row| (positions[*row] as usize) < CONTEXT_LEN) {
        let (block, offset) = (slots[row] as usize / BLOCK_LEN, slots[row] as usize % BLOCK_LEN);
        for head in 0..num_heads + 2 * num_kv_heads {
            let from = row * shape.qkv_len() + head * HEAD_LEN;
            let mut values: Vec<f64> =
                qkv[from..from + HEAD_LEN].iter().map(|value| f64::from(*value)).collect();
            for pair in (0..HEAD_LEN / 2).filter(|_| head < num_heads + num_kv_heads) {
                let at = (positions[row] as usize * (HEAD_LEN / 2) + pair) * 2;
                let (cos, sin) = (f64::from(rotations[at]), f64::from(rotations[at + 1]));
                let (a, b) = (values[pair], values[pair + HEAD_LEN / 2]);
                values[pair] = a * cos - b * sin;
                values[pair + HEAD_LEN / 2] = b * cos + a * sin;
            }
            let kv_head = head.saturating_sub(num_heads) % num_kv_heads;
            let slot = ((block * num_kv_heads + kv_head) * BLOCK_LEN + offset) * HEAD_LEN;
            let (which, at) = match head {
                _ if head < num_heads => (0, row * shape.query_len() + head * HEAD_LEN),
                _ if head < num_heads + num_kv_heads => (1, slot),
                _ => (2, slot),
            };
            expected[which][at..at + HEAD_LEN].copy_from_slice(&values);
        }
    }
    let mut max_error = 0.0f64;
    for (buffer, expected) in [&queries, &keys, &values].into_iter().zip(&expected) {
        let actual = device.read::<bf16>(buffer.whole())?;
        max_error = max_error.max(max_relative_error(&actual, expected, 0.05)?);
    }
    Ok(Report { max_error, tolerance: BF16_ROUNDING * 1.01 })
}
