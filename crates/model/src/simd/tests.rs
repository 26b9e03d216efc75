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

const PRECISIONS: [Precision; 3] = [Precision::Float32, Precision::Int16, Precision::Int8];

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

/// Expects `got` within a share of the sum of magnitudes of the dot product. For float32 sums that is a few ulp a hundred
/// terms deep; in whole numbers only the first rounding and the sums of blocks count.
fn close(got: f32, weights: &[f32], x: &[f32], share: f64) {
    let terms = || weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
    let (sum, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
    assert!((f64::from(got) - sum).abs() <= share * magnitude, "{got} is not {sum}");
}

#[test]
fn products_match_float64_on_every_instruction_set() {
    for (simd, shape) in Simd::supported().iter().flat_map(|simd| SHAPES.map(|s| (*simd, s))) {
        let (num_rows, num_x, num_cols) = shape;
        let case = case(shape);
        let rows = || case.x.chunks_exact(num_cols);
        let mut bf16 = vec![0.0; num_rows * num_x];
        let [mut fine, mut coarse, mut bytes] = [(); 3].map(|()| bf16.clone());
        let mut bf12 = bf16.clone();
        let smaller = Bf12Matrix::new(simd, &case.bf16).unwrap().unwrap();
        Simd::bf12(&smaller, 0, &Arranged::new(simd, rows(), num_cols), &mut bf12);
        Simd::bf16(&case.bf16, 0, &Arranged::new(simd, rows(), num_cols), &mut bf16);
        let rounded = |precision| Rounded::new(simd, precision, rows(), num_cols);
        Simd::mxfp4(&case.mxfp4, 0, &rounded(Precision::Float32), &mut fine);
        Simd::mxfp4(&case.mxfp4, 0, &rounded(Precision::Int16), &mut coarse);
        Simd::mxfp4(&case.mxfp4, 0, &rounded(Precision::Int8), &mut bytes);
        for row in 0..num_rows {
            let (bf16_row, mxfp4_row) = (case.bf16_row(row), case.mxfp4_row(row));
            for (index, x) in case.x.chunks_exact(num_cols).enumerate() {
                close(bf16[row * num_x + index], &bf16_row, x, 4e-6);
                close(bf12[row * num_x + index], &bf16_row, x, 4e-6);
                close(fine[row * num_x + index], &mxfp4_row, x, 5e-7);
                close(coarse[row * num_x + index], &mxfp4_row, x, 4e-5);
                // Half a 127th of the greatest, and magnitudes are half of that on average.
                close(bytes[row * num_x + index], &mxfp4_row, x, 8e-3);
            }
        }
    }
}

#[test]
fn a_result_has_the_same_bits_beside_any_others() {
    // Every number of rows that tiles divide differently, and one past the cached rows; columns past a chunk.
    let counts = (1..=11).chain([66]);
    for (simd, num_x) in Simd::supported().iter().flat_map(|s| counts.clone().map(|n| (*s, n))) {
        let shape @ (num_rows, _, num_cols) = (13, num_x, 1120);
        let case = case(shape);
        let rows = || case.x.chunks_exact(num_cols);
        let mut together = vec![0.0; num_rows * num_x];
        Simd::bf16(&case.bf16, 0, &Arranged::new(simd, rows(), num_cols), &mut together);
        for (index, x) in case.x.chunks_exact(num_cols).enumerate() {
            let alone = Arranged::new(simd, [x].into_iter(), num_cols);
            for row in 0..num_rows {
                let mut out = [0.0];
                Simd::bf16(&case.bf16, row, &alone, &mut out);
                assert_eq!(out[0].to_bits(), together[row * num_x + index].to_bits());
            }
        }
        let bf12 = Bf12Matrix::new(simd, &case.bf16).unwrap().unwrap();
        Simd::bf12(&bf12, 0, &Arranged::new(simd, rows(), num_cols), &mut together);
        for (index, x) in case.x.chunks_exact(num_cols).enumerate() {
            let alone = Arranged::new(simd, [x].into_iter(), num_cols);
            for row in 0..num_rows {
                let mut out = [0.0];
                Simd::bf12(&bf12, row, &alone, &mut out);
                assert_eq!(out[0].to_bits(), together[row * num_x + index].to_bits());
            }
        }
        for precision in PRECISIONS {
            Simd::mxfp4(
                &case.mxfp4,
                0,
                &Rounded::new(simd, precision, rows(), num_cols),
                &mut together,
            );
            for (index, x) in case.x.chunks_exact(num_cols).enumerate() {
                let alone = Rounded::new(simd, precision, [x].into_iter(), num_cols);
                for row in 0..num_rows {
                    let mut out = [0.0];
                    Simd::mxfp4(&case.mxfp4, row, &alone, &mut out);
                    assert_eq!(out[0].to_bits(), together[row * num_x + index].to_bits());
                }
            }
        }
    }
}

/// How far what a block rounds to its greatest may be off: a 127th is no number of float32.
fn slack(precision: Precision) -> f32 {
    if precision == Precision::Int8 { 2e-7 } else { 0.0 }
}

#[test]
fn every_nibble_and_scale_unpacks_exactly() {
    // One weight is multiplied by one and the others by zero, so the product is that weight.
    for simd in Simd::supported() {
        for (scale, precision) in
            [0, 1, 100, 127, 150, 254].into_iter().flat_map(|s| PRECISIONS.map(|p| (s, p)))
        {
            let blocks: Vec<u8> = (0..16).map(|byte| byte | (15 - byte) << 4).collect();
            let expected = decode_block(blocks.as_slice().try_into().unwrap(), scale);
            let weight = Mxfp4Matrix::new(1, 32, blocks, vec![scale]).unwrap();
            for place in 0..32 {
                let mut x = [0.0; 32];
                x[place] = 1.0;
                for num_x in [1, 5] {
                    let mut out = vec![0.0; num_x];
                    let rows = vec![&x[..]; num_x].into_iter();
                    Simd::mxfp4(&weight, 0, &Rounded::new(simd, precision, rows, 32), &mut out);
                    for got in out {
                        let (expected, error) = (expected[place], slack(precision));
                        let is_close = (got - expected).abs() <= error * expected.abs();
                        // Of the infinite there is no difference.
                        assert!(
                            got == expected || is_close,
                            "{simd:?} {scale} {place}: {got} is not {expected}"
                        );
                    }
                }
            }
        }
    }
}

/// What bf12 makes of each of these weights, 544 of one row.
fn through_bf12(simd: Simd, weights: &[f32; 544]) -> Vec<f32> {
    let bytes = weights.iter().flat_map(|w| half::bf16::from_f32(*w).to_le_bytes()).collect();
    let matrix = Bf16Matrix::new(1, 544, bytes).unwrap();
    let matrix = Bf12Matrix::new(simd, &matrix).unwrap().unwrap();
    let one = |place: usize| {
        let mut x = [0.0; 544];
        x[place] = 1.0;
        let mut out = [0.0];
        Simd::bf12(&matrix, 0, &Arranged::new(simd, [&x[..]].into_iter(), 544), &mut out);
        out[0]
    };
    (0..544).map(one).collect()
}

#[test]
fn bf12_keeps_all_bits_down_to_a_sixteen_thousandth_of_the_greatest() {
    for (simd, greatest) in
        Simd::supported().iter().flat_map(|s| [-100, -3, 0, 14].map(|power| (*s, power)))
    {
        // Every mantissa, all powers from 2^-14 of the greatest on, both signs, and zeros.
        let weights = std::array::from_fn(|index| {
            let power = greatest - (index * 5 % 15) as i32;
            let magnitude = (1.0 + (index % 128) as f32 / 128.0) * 2.0_f32.powi(power);
            [magnitude, -magnitude, magnitude, 0.0][index / 3 % 4]
        });
        assert_eq!(through_bf12(simd, &weights), weights, "{simd:?} {greatest}");
    }
}

#[test]
fn bf12_errs_by_two_millionths_of_the_greatest_at_most() {
    for simd in Simd::supported() {
        let weights = std::array::from_fn(|index| {
            let weight = 2.0_f32.powi(-(index as i32 * 7 % 40)) * (1.0 + index as f32 / 700.0);
            half::bf16::from_f32(if index % 2 == 0 { weight } else { -weight }).to_f32()
        });
        let got = through_bf12(simd, &weights);
        let errors = got.iter().zip(weights).map(|(got, weight)| (got - weight).abs());
        let worst = errors.fold(0.0, f32::max);
        // Half of the last of 21 places below the greatest's power.
        assert!(worst > 0.0 && worst <= 2.0_f32.powi(-22), "{simd:?}: {worst:e}");
    }
}

#[test]
fn weights_that_bf12_cannot_hold_are_refused() {
    for (simd, weight) in Simd::supported()
        .iter()
        .flat_map(|s| [32768.0, -1e30, f32::INFINITY, f32::NAN].map(|weight| (*s, weight)))
    {
        let mut bytes = half::bf16::from_f32(1.0).to_le_bytes().repeat(40 * 96);
        bytes[2 * 96 * 39 + 70..][..2].copy_from_slice(&half::bf16::from_f32(weight).to_le_bytes());
        let matrix = Bf16Matrix::new(40, 96, bytes).unwrap();
        assert!(Bf12Matrix::new(simd, &matrix).unwrap().is_none(), "{simd:?}: {weight}");
    }
}

/// The product of one row of weights that are all 6, of `scale`, with one activation row.
fn sixes(simd: Simd, precision: Precision, scale: u8, x: &[f32]) -> f32 {
    let blocks = vec![0x77; x.len() / 2];
    let weight = Mxfp4Matrix::new(1, x.len(), blocks, vec![scale; x.len() / 32]).unwrap();
    let mut out = [0.0];
    Simd::mxfp4(&weight, 0, &Rounded::new(simd, precision, [x].into_iter(), x.len()), &mut out);
    out[0]
}

#[test]
fn sums_of_the_greatest_numbers_do_not_overflow() {
    // Mantissas around those at which a block's power of two changes, all of one sign and all times the greatest weight.
    for (simd, precision) in Simd::supported().iter().flat_map(|s| PRECISIONS.map(|p| (*s, p))) {
        for mantissa in [1.0, 1.333_333, 1.333_333_3, 1.333_333_4, 1.5, 1.992, 1.9922, 1.999_999_9]
        {
            for sign in [-1.0_f32, 1.0] {
                let got = sixes(simd, precision, 127, &[sign * mantissa; 320]);
                let expected = f64::from(sign * mantissa) * 6.0 * 320.0;
                let error = (f64::from(got) - expected).abs() / expected.abs();
                assert!(error < 4e-5, "{simd:?} {precision:?}: {got} is not {expected}");
            }
        }
    }
}

#[test]
fn what_is_no_number_or_infinite_comes_out_as_no_number() {
    for (simd, precision) in Simd::supported().iter().flat_map(|s| PRECISIONS.map(|p| (*s, p))) {
        for place in [0, 31, 32, 500, 543] {
            for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = [1.0; 544];
                x[place] = value;
                assert!(sixes(simd, precision, 127, &x).is_nan(), "{simd:?} {precision:?}");
            }
        }
        for x in [0.0, 1.0] {
            assert!(sixes(simd, precision, 255, &[x; 544]).is_nan(), "{simd:?} {precision:?}");
        }
    }
}

#[test]
fn zeros_denormal_numbers_and_the_greatest_are_ordinary() {
    for (simd, precision) in Simd::supported().iter().flat_map(|s| PRECISIONS.map(|p| (*s, p))) {
        let of = |scale, x| sixes(simd, precision, scale, &[x; 96]);
        assert_eq!(of(254, 0.0), 0.0);
        assert_eq!(of(0, -0.0), 0.0);
        // Less than half a step of the smallest power of two.
        assert_eq!(of(127, f32::from_bits(1)), 0.0);
        let least = 2.0_f32.powi(-100);
        let close = |got: f32, expected: f32| (got / expected - 1.0).abs() <= slack(precision);
        assert!(close(of(127, least), 576.0 * least), "{simd:?} {precision:?}");
        let great = 2.0_f32.powi(110);
        assert_eq!(of(254, great), f32::INFINITY);
        assert!(close(of(100, great), 576.0 * 2.0_f32.powi(83)), "{simd:?} {precision:?}");
        assert_eq!(of(127, f32::MAX), f32::INFINITY);
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
