//! The bytes of a tensor: each eight of them a function of the seed, the tensor's name and their place.

use harmonium_cuda::ops::random_key;
use rayon::prelude::*;

use super::shape::Tensor;

/// Bytes that one task makes.
const PIECE: usize = 64 << 10;

/// Fills `chunk` with the bytes of `tensor` from the `at`-th on. `at` is a multiple of eight.
pub(super) fn fill(chunk: &mut [u8], at: u64, tensor: &Tensor, seed: u64) {
    let key = random_key(seed, &tensor.name);
    chunk.par_chunks_mut(PIECE).enumerate().for_each(|(piece, bytes)| {
        let first = at / 8 + (piece * PIECE / 8) as u64;
        for (index, word) in (first..).zip(bytes.chunks_mut(8)) {
            word.copy_from_slice(&tensor.random.word(key, index)[..word.len()]);
        }
    });
}
