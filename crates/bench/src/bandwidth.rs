//! How fast this machine reads memory: the roofline of everything that reads each weight once.

use std::hint::black_box;
use std::num::NonZero;
use std::thread;
use std::time::Instant;

/// Far larger than a last-level cache.
const READ_BYTES: usize = 1 << 29;
/// Passes, of which the fastest counts: such machines are rarely quiet.
const PASSES: usize = 5;
/// Streams that one thread reads side by side, as many as our products do: one stream alone does not keep enough reads
/// under way to fill the memory's bandwidth.
const STREAMS: usize = 4;

/// Bytes a second that all cores together read from memory.
pub fn read_bandwidth() -> f64 {
    let words = vec![1_u64; READ_BYTES / 8];
    let pass = || {
        let start = Instant::now();
        black_box(read(&words));
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    READ_BYTES as f64 / fastest
}

/// Sums a buffer with all cores, each reading several streams at a time.
pub fn read(words: &[u64]) -> u64 {
    let num_threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = words
            .chunks(words.len().div_ceil(num_threads))
            .map(|part| scope.spawn(move || read_streams(part)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("summing does not panic"))
            .fold(0_u64, u64::wrapping_add)
    })
}

fn read_streams(words: &[u64]) -> u64 {
    let (lines, _) = words.as_chunks::<8>();
    let len = lines.len() / STREAMS;
    let streams: [&[[u64; 8]]; STREAMS] =
        std::array::from_fn(|stream| &lines[stream * len..][..len]);
    let mut sums = [[0_u64; 8]; STREAMS];
    for index in 0..len {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            *sum = std::array::from_fn(|word| sum[word].wrapping_add(stream[index][word]));
        }
    }
    sums.as_flattened().iter().fold(0, |sum, word| sum.wrapping_add(*word))
}
