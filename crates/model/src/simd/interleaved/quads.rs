//! Weights as words of four bytes.

use std::ops::Range;

use super::{Form, PANEL_REGISTERS, Panel, load_totals, store_totals};
use crate::simd::quads::QUADS;
use crate::simd::{Lanes, Rounded};

/// Words whose products are added in 16 bits: a lane's half is at most 4 times 2 products of 24 times 128.
const WORDS_TOGETHER: usize = 4;

/// Words of four bytes, for activations of one.
pub(in crate::simd) struct Quads;

impl<L: Lanes> Form<L> for Quads {
    const REGISTERS: usize = QUADS;

    #[inline(always)]
    fn unpack(words: L::Words, mut to: impl FnMut(usize, L::Words)) {
        for (index, quad) in L::mxfp4(words).into_iter().enumerate() {
            to(index, quad);
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
        // By index: mapped, these slices would go through memory, which takes a fifth of the time.
        let mut x_quads: [&[[i32; QUADS]]; M] = [&[]; M];
        let mut x_corrections: [&[i32]; M] = [&[]; M];
        let mut x_scales: [&[f32]; M] = [&[]; M];
        for index in 0..M {
            let row = x.quad_row(m + index);
            x_quads[index] = &row.quads.as_chunks().0[blocks.clone()];
            x_corrections[index] = &row.corrections[blocks.clone()];
            x_scales[index] = &row.scales[blocks.clone()];
        }
        let mut totals = load_totals::<L, M>(&sums[m..][..M]);
        for block in 0..blocks.len() {
            let weights =
                &panel.weights[block * QUADS * PANEL_REGISTERS..][..QUADS * PANEL_REGISTERS];
            let (weights, _) = weights.as_chunks::<{ WORDS_TOGETHER * PANEL_REGISTERS }>();
            let mut x = [&[0; QUADS]; M];
            for index in 0..M {
                x[index] = &x_quads[index][block];
            }
            let mut whole = [[L::no_words(); M]; PANEL_REGISTERS];
            for m in 0..M {
                whole[0][m] = L::splat_words(x_corrections[m][block]);
                whole[1][m] = whole[0][m];
            }
            add_words::<L, 0, M>(&weights[0], x, &mut whole);
            add_words::<L, WORDS_TOGETHER, M>(&weights[1], x, &mut whole);
            panel.end_block(block, whole, x_scales, &mut totals);
        }
        store_totals(totals, &mut sums[m..][..M]);
    }
}

/// Adds the products of half a block.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
fn add_words<L: Lanes, const FIRST: usize, const M: usize>(
    weights: &[L::Array; WORDS_TOGETHER * PANEL_REGISTERS],
    x: [&[i32; QUADS]; M],
    whole: &mut [[L::Words; M]; PANEL_REGISTERS],
) {
    let mut halves = [[L::no_words(); M]; PANEL_REGISTERS];
    add_quad::<L, M>(weights, x, FIRST, 0, &mut halves);
    add_quad::<L, M>(weights, x, FIRST, 1, &mut halves);
    add_quad::<L, M>(weights, x, FIRST, 2, &mut halves);
    add_quad::<L, M>(weights, x, FIRST, 3, &mut halves);
    for n in 0..PANEL_REGISTERS {
        for m in 0..M {
            whole[n][m] = L::plus(whole[n][m], L::half_sums(halves[n][m]));
        }
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
fn add_quad<L: Lanes, const M: usize>(
    weights: &[L::Array; WORDS_TOGETHER * PANEL_REGISTERS],
    x: [&[i32; QUADS]; M],
    first: usize,
    quad: usize,
    halves: &mut [[L::Words; M]; PANEL_REGISTERS],
) {
    let mut loaded = [L::no_words(); PANEL_REGISTERS];
    for n in 0..PANEL_REGISTERS {
        loaded[n] = L::settled(L::load_words(&weights[quad * PANEL_REGISTERS + n]));
    }
    for m in 0..M {
        let x = L::splat_words(x[m][first + quad]);
        for n in 0..PANEL_REGISTERS {
            halves[n][m] = L::settled(L::add_quads(loaded[n], x, halves[n][m]));
        }
    }
}
