//! `fill` against the same words made on the processor.

use super::{Case, Report};
use crate::ops::{Random, fill, random_key};
use crate::{Device, Result};

/// Bytes: a part of a word, some words, and more than all blocks make in one turn.
const LENGTHS: [usize; 3] = [5, 1000, (1 << 12) * 256 * 8 + 8 * 300 + 3];

const KINDS: [(&str, Random); 4] = [
    ("bytes", Random::Bytes),
    ("bf16", Random::Bf16 { mean: 1.0, spread: 0.1 }),
    ("scales", Random::Scales { exponent: -7 }),
    ("scales out of range", Random::Scales { exponent: 128 }),
];

pub(super) fn cases() -> Vec<Case> {
    let case = |len: usize, (name, random): (&str, Random)| {
        Case::new(format!("fill {len} bytes, {name}"), move |device| run(device, len, random))
    };
    // The long one once: what it adds does not depend on the kind.
    let short = KINDS.into_iter().flat_map(|kind| [case(LENGTHS[0], kind), case(LENGTHS[1], kind)]);
    short.chain([case(LENGTHS[2], KINDS[0])]).collect()
}

/// The error is the number of wrong bytes.
fn run(device: &Device, len: usize, random: Random) -> Result<Report> {
    let key = random_key(7, "some tensor");
    let out = device.alloc(len + 8)?;
    device.zero(out.whole())?;
    fill(device, out.slice(0..len)?, random, key)?;
    let actual = device.read::<u8>(out.whole())?;
    let words = (0..).flat_map(|index| random.word(key, index)).take(len);
    let num_wrong = actual.iter().zip(words.chain([0; 8])).filter(|(a, b)| **a != *b).count();
    Ok(Report { max_error: num_wrong as f64, tolerance: 0.0 })
}
