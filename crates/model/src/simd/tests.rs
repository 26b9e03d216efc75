//! Every instruction set this machine has, against sums in float64, over shapes that end inside tiles.

use super::*;
use crate::mxfp4::{BLOCK_BYTES, decode_block};

/// Weight rows: below, at and past tiles and panels. Activation rows: few, where weights are not kept unpacked, and
/// many, up to past those that stay in cache. Columns: below, at and past groups, runs and the chunks of a panel.
const SHAPES: [(usize, usize, usize); 15] = [
    (1, 1, 32),
    (2, 2, 64),
    (3, 3, 96),
    (5, 4, 544),
    (3, 5, 96),
    (2, 6, 64),
    (4, 7, 2880),
    (13, 8, 32),
    (8, 9, 160),
    (5, 13, 64),
    (9, 3, 32),
    (9, 15, 1056),
    (17, 11, 1024),
    (7, 70, 96),
    (32, 1, 4096),
];

/// Numbers between -1 and 1 with no pattern.
fn noise(len: usize, mut state: u64) -> impl Iterator<Item = f32> {
    (0..len).map(move |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

struct Case {
    bf16: Bf16Matrix,
    mxfp4: Mxfp4Matrix,
    x: Vec<f32>,
    num_cols: usize,
}

fn case((num_rows, num_x, num_cols): (usize, usize, usize)) -> Case {
    let len = num_rows * num_cols;
    let bf16 = noise(len, 1).flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect();
    let blocks = noise(len / 2, 2).map(|value| (value * 128.0) as i8 as u8).collect();
    let scales = noise(len / 32, 3).map(|value| (124.0 + 4.0 * value) as u8).collect();
    Case {
        bf16: Bf16Matrix::new(num_rows, num_cols, bf16).unwrap(),
        mxfp4: Mxfp4Matrix::new(num_rows, num_cols, blocks, scales).unwrap(),
        x: noise(num_x * num_cols, 4).collect(),
        num_cols,
    }
}

impl Case {
    fn bf16_row(&self, row: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.num_cols];
        self.bf16.widen_row(row, &mut out);
        out
    }

    fn mxfp4_row(&self, row: usize) -> Vec<f32> {
        let (blocks, _) = self.mxfp4.blocks.as_chunks::<BLOCK_BYTES>();
        let per_row = self.num_cols / 32;
        (row * per_row..(row + 1) * per_row)
            .flat_map(|block| decode_block(&blocks[block], self.mxfp4.scales[block]))
            .collect()
    }
}

/// Expects `got` within float32 accumulation error of the dot product: the sum of magnitudes times a few ulp a
/// hundred terms deep.
fn close(got: f32, weights: &[f32], x: &[f32]) {
    let terms = || weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
    let (sum, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
    assert!((f64::from(got) - sum).abs() <= 4e-6 * magnitude, "{got} is not {sum}");
}

#[test]
fn products_match_float64_on_every_instruction_set() {
    for (simd, shape) in Simd::supported().iter().flat_map(|simd| SHAPES.map(|s| (*simd, s))) {
        let (num_rows, num_x, num_cols) = shape;
        let case = case(shape);
        let rows = || case.x.chunks_exact(num_cols);
        let mut bf16 = vec![0.0; num_rows * num_x];
        let mut mxfp4 = bf16.clone();
        Simd::bf16(&case.bf16, 0, &Arranged::new(simd, rows(), num_cols), &mut bf16);
        Simd::mxfp4(&case.mxfp4, 0, &Arranged::new(simd, rows(), num_cols), &mut mxfp4);
        for row in 0..num_rows {
            for (index, x) in case.x.chunks_exact(num_cols).enumerate() {
                close(bf16[row * num_x + index], &case.bf16_row(row), x);
                close(mxfp4[row * num_x + index], &case.mxfp4_row(row), x);
            }
        }
    }
}

#[test]
fn a_result_has_the_same_bits_beside_any_others() {
    // Every number of rows that tiles divide differently, and one past the cached rows; columns past a chunk.
    let counts = (1..=9).chain([66]);
    for (simd, num_x) in Simd::supported().iter().flat_map(|s| counts.clone().map(|n| (*s, n))) {
        let shape @ (num_rows, _, num_cols) = (13, num_x, 1120);
        let case = case(shape);
        let rows = || case.x.chunks_exact(num_cols);
        let mut together = vec![0.0; num_rows * num_x];
        let mut together_mxfp4 = together.clone();
        Simd::bf16(&case.bf16, 0, &Arranged::new(simd, rows(), num_cols), &mut together);
        Simd::mxfp4(&case.mxfp4, 0, &Arranged::new(simd, rows(), num_cols), &mut together_mxfp4);
        for (index, x) in case.x.chunks_exact(num_cols).enumerate() {
            let alone = Arranged::new(simd, [x].into_iter(), num_cols);
            let alone_mxfp4 = Arranged::new(simd, [x].into_iter(), num_cols);
            for row in 0..num_rows {
                let mut out = [0.0];
                Simd::bf16(&case.bf16, row, &alone, &mut out);
                assert_eq!(out[0].to_bits(), together[row * num_x + index].to_bits());
                Simd::mxfp4(&case.mxfp4, row, &alone_mxfp4, &mut out);
                assert_eq!(out[0].to_bits(), together_mxfp4[row * num_x + index].to_bits());
            }
        }
    }
}

#[test]
fn every_nibble_and_scale_unpacks_exactly() {
    // One weight is multiplied by one and the others by zero, so the product is that weight.
    for simd in Simd::supported() {
        for scale in [0, 1, 100, 127, 150, 250] {
            let blocks: Vec<u8> = (0..16).map(|byte| byte | (15 - byte) << 4).collect();
            let expected = decode_block(blocks.as_slice().try_into().unwrap(), scale);
            let weight = Mxfp4Matrix::new(1, 32, blocks, vec![scale]).unwrap();
            for place in 0..32 {
                let mut x = [0.0; 32];
                x[place] = 1.0;
                for num_x in [1, 5] {
                    let mut out = vec![0.0; num_x];
                    let rows = vec![&x[..]; num_x].into_iter();
                    Simd::mxfp4(&weight, 0, &Arranged::new(simd, rows, 32), &mut out);
                    let expected = vec![expected[place]; num_x];
                    assert_eq!(out, expected, "{simd:?}, scale {scale}, place {place}");
                }
            }
        }
    }
}

#[test]
fn attention_block_by_block_equals_one_softmax() {
    let (head_dim, num_heads, num_positions) = (64, 2, 21);
    let queries: Vec<f32> = noise(num_heads * head_dim, 5).map(|value| 3.0 * value).collect();
    let keys: Vec<f32> = noise(num_positions * head_dim, 6).collect();
    let values: Vec<f32> = noise(num_positions * head_dim, 7).collect();
    let (scale, sinks) = (0.25, [0.5, -1.0]);
    for simd in Simd::supported() {
        let mut states = sinks.map(|max| Softmax { max, sum: 1.0 });
        let mut sums = vec![0.0; queries.len()];
        for start in (0..num_positions).step_by(8) {
            let range = start * head_dim..(start + 8).min(num_positions) * head_dim;
            simd.attend(Attend {
                head_dim,
                scale,
                queries: &queries,
                keys: &keys[range.clone()],
                values: &values[range],
                states: &mut states,
                sums: &mut sums,
            });
        }
        for head in 0..num_heads {
            let query = &queries[head * head_dim..][..head_dim];
            let weight = |key: &[f32]| {
                let score: f64 =
                    query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                (score * f64::from(scale)).exp()
            };
            let weights: Vec<f64> = keys.chunks_exact(head_dim).map(weight).collect();
            let total = weights.iter().sum::<f64>() + f64::from(sinks[head]).exp();
            for place in 0..head_dim {
                let rows = values.chunks_exact(head_dim).zip(&weights);
                let expected: f64 = rows.map(|(v, w)| f64::from(v[place]) * w / total).sum();
                let got = f64::from(sums[head * head_dim + place] / states[head].sum);
                assert!((got - expected).abs() < 2e-6, "{simd:?}: {got} is not {expected}");
            }
        }
    }
}
