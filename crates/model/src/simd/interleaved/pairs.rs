//! Weights as pairs of 16-bit numbers.

use std::ops::Range;

use super::{Form, PANEL_REGISTERS, Panel, load_totals, store_totals};
use crate::simd::pairs::PAIRS;
use crate::simd::{Lanes, Rounded};

/// Pairs whose products are spelled out one after another.
const QUAD: usize = 4;

/// Pairs of 16-bit numbers, for activations of so many such numbers each.
pub(in crate::simd) struct Pairs<const P: usize>;

impl<L: Lanes, const P: usize> Form<L> for Pairs<P> {
    const REGISTERS: usize = PAIRS;

    #[inline(always)]
    fn unpack(words: L::Words, mut to: impl FnMut(usize, L::Words)) {
        for (index, pair) in L::mxfp4_pairs(words).into_iter().enumerate() {
            to(index, pair);
        }
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
    fn tile<const M: usize>(
        panel: &Panel<'_, L>,
        x: &Rounded,
        m: usize,
        blocks: Range<usize>,
        sums: &mut [[L::Array; PANEL_REGISTERS]],
    ) {
        let rows: [_; M] = std::array::from_fn(|index| x.pair_row(m + index));
        let x_pairs = rows.map(|row| &row.pairs[blocks.start * P * PAIRS..blocks.end * P * PAIRS]);
        let x_scales = rows.map(|row| &row.scales[blocks.clone()]);
        let mut totals = load_totals::<L, M>(&sums[m..][..M]);
        for block in 0..blocks.len() {
            let weights =
                &panel.weights[block * PAIRS * PANEL_REGISTERS..][..PAIRS * PANEL_REGISTERS];
            let x = x_pairs.map(|x| &x[block * P * PAIRS..][..P * PAIRS]);
            let mut whole = [[L::no_words(); M]; PANEL_REGISTERS];
            for plane in 0..P {
                if plane > 0 {
                    for n in 0..PANEL_REGISTERS {
                        for m in 0..M {
                            whole[n][m] = L::times_65536(whole[n][m]);
                        }
                    }
                }
                let (weights, _) = weights.as_chunks::<{ QUAD * PANEL_REGISTERS }>();
                for (quad, weights) in weights.iter().enumerate() {
                    let x = x.map(|x| &x[plane * PAIRS + quad * QUAD..][..QUAD]);
                    // Spelled out: the compiler would keep the loop, which takes a fifth of its instructions.
                    add_pair::<L, M>(weights, x, 0, &mut whole);
                    add_pair::<L, M>(weights, x, 1, &mut whole);
                    add_pair::<L, M>(weights, x, 2, &mut whole);
                    add_pair::<L, M>(weights, x, 3, &mut whole);
                }
            }
            panel.end_block(block, whole, x_scales, &mut totals);
        }
        store_totals(totals, &mut sums[m..][..M]);
    }
}

/// Adds the products of one pair of a quad.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
fn add_pair<L: Lanes, const M: usize>(
    weights: &[L::Array; QUAD * PANEL_REGISTERS],
    x: [&[i32]; M],
    pair: usize,
    whole: &mut [[L::Words; M]; PANEL_REGISTERS],
) {
    let mut loaded = [L::no_words(); PANEL_REGISTERS];
    for n in 0..PANEL_REGISTERS {
        // Settled, or each use would load it again.
        loaded[n] = L::settled(L::load_words(&weights[pair * PANEL_REGISTERS + n]));
    }
    for m in 0..M {
        let x = L::splat_words(x[m][pair]);
        for n in 0..PANEL_REGISTERS {
            whole[n][m] = L::settled(L::add_pairs(loaded[n], x, whole[n][m]));
        }
    }
}
