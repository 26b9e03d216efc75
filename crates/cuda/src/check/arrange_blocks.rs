//! `arrange_blocks` against the same bits moved one by one.

use super::{Case, Report};
use crate::ops::arrange_blocks;
use crate::{Device, Result};

/// Blocks: one, and more than a block of threads has.
const LENGTHS: [usize; 2] = [1, 1000];

/// In the half of a word that has a weight: where its sign goes, and the lowest of its other three bits.
const PLACES: [(usize, usize); 4] = [(15, 6), (10, 3), (9, 0), (11, 12)];

pub(super) fn cases() -> Vec<Case> {
    let case = |num_blocks| {
        Case::new(format!("arrange_blocks {num_blocks}"), move |device| run(device, num_blocks))
    };
    LENGTHS.into_iter().map(case).collect()
}

/// The error is the number of wrong bytes.
fn run(device: &Device, num_blocks: usize) -> Result<Report> {
    let mut random = fastrand::Rng::with_seed(11);
    let stored: Vec<u8> = (0..num_blocks * 16).map(|_| random.u8(..)).collect();
    // What lies behind the blocks is left alone.
    let buffer = device.alloc_from(&[&stored[..], &[0x5a; 16]].concat())?;
    arrange_blocks(device, buffer.slice(0..stored.len())?)?;
    let actual = device.read::<u8>(buffer.whole())?;
    let arranged = stored.chunks(16).flat_map(arrange).chain([0x5a; 16]);
    let num_wrong = actual.iter().zip(arranged).filter(|(a, b)| **a != *b).count();
    Ok(Report { max_error: num_wrong as f64, tolerance: 0.0 })
}

fn arrange(stored: &[u8]) -> [u8; 16] {
    let mut to = [0; 16];
    for weight in 0..32 {
        let nibble = stored[weight / 2] >> (weight % 2 * 4);
        let (sign, rest) = PLACES[weight / 8];
        let half = weight % 8 * 16;
        for (bit, place) in [(0, rest), (1, rest + 1), (2, rest + 2), (3, sign)] {
            to[(half + place) / 8] |= (nibble >> bit & 1) << (place % 8);
        }
    }
    to
}
