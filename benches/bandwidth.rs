//! How near the products with stored weights come to the machine's memory bandwidth.
//!
//! Decode reads every active weight once a token, so its floor is bytes over bandwidth. The measurements share
//! one run, because such machines are rarely quiet: a plain read of a buffer larger than any cache, and the
//! products with one activation row, on the shapes of gpt-oss-20b. The MXFP4 product runs from each core's own cache,
//! too: a rate above the plain read means that memory binds it, and not unpacking. The last lines give each in
//! GB/s, best sample first, and the products as a share of the read.

#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "a bench prints, and criterion's macros document nothing"
)]

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use harmonium_bench::read;
use harmonium_model::product::{
    Arranged, Bf12Matrix, Bf16Matrix, Mxfp4Matrix, Precision, Rounded, Simd, Weight, product,
};

/// Attention output projection of gpt-oss-20b, in all its layers.
const DENSE: (usize, usize, usize) = (24, 2880, 4096);
/// Gate and up projections of the experts of one of its layers.
const EXPERTS: (usize, usize, usize) = (32, 5760, 2880);
/// Rows of a matrix of experts that a core holds in its cache, 98 KB, and how often an iteration goes through them.
const CACHED: (usize, usize) = (64, 256);
/// Plain reads: far larger than a last-level cache.
const READ_BYTES: usize = 1 << 29;

/// Name, bytes an iteration and the fastest iteration of each measurement.
type Results = RefCell<Vec<(&'static str, usize, Duration)>>;

fn measure(
    criterion: &mut Criterion,
    results: &Results,
    name: &'static str,
    num_bytes: usize,
    mut pass: impl FnMut(),
) {
    let mut best = Duration::MAX;
    let mut group = criterion.benchmark_group("bandwidth");
    group.throughput(Throughput::Bytes(num_bytes as u64)).sample_size(10);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let start = Instant::now();
                    pass();
                    let taken = start.elapsed();
                    best = best.min(taken);
                    taken
                })
                .sum()
        });
    });
    group.finish();
    results.borrow_mut().push((name, num_bytes, best));
}

/// Bytes without a pattern that a processor could predict.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// One activation row through every matrix.
fn pass<W: Weight>(weights: &[W], num_cols: usize, prepare: impl Fn(&[f32]) -> W::X) {
    let row: Vec<f32> = (0..num_cols).map(|index| (index % 7) as f32 - 3.0).collect();
    let x = prepare(&row);
    for weight in weights {
        black_box(product(weight, &x));
    }
}

/// One activation row through a matrix of the core's own, again and again.
fn cached_pass(blocks: &[u8], scales: &[u8], precision: Precision) {
    let ((rows, repeats), (.., cols)) = (CACHED, EXPERTS);
    let weight = Mxfp4Matrix::new(rows, cols, blocks.to_vec(), scales.to_vec());
    let weight = weight.expect("the bytes fit the shape");
    let row: Vec<f32> = (0..cols).map(|index| (index % 7) as f32 - 3.0).collect();
    let x = Rounded::new(Simd::detect(), precision, [&row[..]].into_iter(), cols);
    let mut out = vec![0.0; rows];
    for _ in 0..repeats {
        weight.multiply(0, &x, black_box(&mut out));
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let results = Results::default();

    let words = vec![1_u64; READ_BYTES / 8];
    measure(&mut criterion, &results, "plain read", READ_BYTES, || {
        black_box(read(&words));
    });
    drop(words);

    let (count, rows, cols) = DENSE;
    let num_bytes = rows * cols * 2;
    // Exponents of ordinary weights: random ones would make subnormals, which processors multiply slowly.
    let ordinary = |pair: &[u8]| [pair[0], pair[1] & 0x83 | 0x3c];
    let bytes: Vec<u8> = noise(num_bytes).chunks_exact(2).flat_map(ordinary).collect();
    let dense: Vec<Bf16Matrix> = (0..count)
        .map(|_| Bf16Matrix::new(rows, cols, bytes.clone()).expect("the bytes fit the shape"))
        .collect();
    measure(&mut criterion, &results, "bf16", count * num_bytes, || {
        pass(&dense, cols, |row| Arranged::new(Simd::detect(), [row].into_iter(), cols));
    });
    let simd = Simd::detect();
    let smaller: Vec<Bf12Matrix> = dense
        .iter()
        .map(|dense| {
            let smaller = Bf12Matrix::new(simd, dense).expect("there is memory for it");
            smaller.expect("the weights are ordinary")
        })
        .collect();
    drop(dense);
    let num_bytes = (num_bytes as f64 / 2.0 * Bf12Matrix::weight_bytes(simd)) as usize;
    measure(&mut criterion, &results, "bf12", count * num_bytes, || {
        pass(&smaller, cols, |row| Arranged::new(simd, [row].into_iter(), cols));
    });
    drop(smaller);

    let (count, rows, cols) = EXPERTS;
    let (blocks, scales) = (noise(rows * cols / 2), vec![120; rows * cols / 32]);
    let num_bytes = blocks.len() + scales.len();
    let experts: Vec<Mxfp4Matrix> = (0..count)
        .map(|_| {
            Mxfp4Matrix::new(rows, cols, blocks.clone(), scales.clone())
                .expect("the bytes fit the shape")
        })
        .collect();
    let precisions = [("mxfp4", Precision::Float32), ("mxfp4 int16", Precision::Int16)];
    for (name, precision) in precisions {
        measure(&mut criterion, &results, name, count * num_bytes, || {
            pass(&experts, cols, |row| {
                Rounded::new(Simd::detect(), precision, [row].into_iter(), cols)
            });
        });
    }
    drop(experts);
    let (rows, repeats) = CACHED;
    let (blocks, scales) = (noise(rows * cols / 2), vec![120; rows * cols / 32]);
    let num_bytes = repeats * rayon::current_num_threads() * (blocks.len() + scales.len());
    for (name, precision) in
        [("mxfp4 cached", Precision::Float32), ("int16 cached", Precision::Int16)]
    {
        measure(&mut criterion, &results, name, num_bytes, || {
            rayon::broadcast(|_| cached_pass(&blocks, &scales, precision));
        });
    }

    let results = results.into_inner();
    let rate = |(_, bytes, best): &(_, usize, Duration)| *bytes as f64 / best.as_secs_f64() / 1e9;
    println!("{}", Simd::detect());
    for result in &results {
        let share = 100.0 * rate(result) / rate(&results[0]);
        println!("{:<14} {:>6.1} GB/s {share:>4.0} %", result.0, rate(result));
    }
}
