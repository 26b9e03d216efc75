//! Products of rounded activation rows with a weight row in each lane, near the processor's peak.
//!
//! A panel is a run of the weights of some registers of rows, as pairs of 16-bit numbers or, for activations of one byte, as
//! words of four bytes ([`Form`]), so many blocks as the first-level cache holds. It is made once for all activation rows.
//! A tile of a few activation rows keeps its sums of one block as whole numbers in registers; at the end of the block they
//! become float32 and enter the sums of the row's chain.

use std::marker::PhantomData;
use std::ops::Range;

use super::arranged::{Line, lines};
use super::pairs::{PAIRS, chain_len};
use super::quads::QUADS;
use super::{Lanes, Rounded};
use crate::mxfp4::BLOCK;

/// Registers of weight rows in a panel.
pub(super) const PANEL_REGISTERS: usize = 2;
/// Activation rows of a tile: with so many, sums of a block take half the registers of AVX2.
const TILE_ROWS: usize = 4;
/// Pairs whose products are spelled out one after another.
const QUAD: usize = 4;
/// Blocks of a run at most: at eight lanes, 12 KiB of a panel.
const RUN_BLOCKS: usize = 12;

/// What weights are unpacked to, and how a tile multiplies it.
pub(super) trait Form<L: Lanes> {
    /// Registers that a block takes for each register of rows.
    const REGISTERS: usize;
    /// Gives those of one stored word of each row to `to`, by their place among them.
    fn unpack(words: L::Words, to: impl FnMut(usize, L::Words));
    /// Adds the products of a panel with `M` activation rows to their sums.
    fn tile<const M: usize>(
        panel: &Panel<'_, L>,
        x: &Rounded,
        m: usize,
        blocks: Range<usize>,
        sums: &mut [[L::Array; PANEL_REGISTERS]],
    );
}

/// Pairs of 16-bit numbers, for activations of so many such numbers each.
pub(super) struct Pairs<const P: usize>;

/// Words of four bytes, for activations of one.
pub(super) struct Quads;

/// Weights that can be had a row in each lane.
pub(super) trait Interleave<L: Lanes> {
    /// How many rows there are.
    fn num_rows(&self) -> usize;
    /// Asks for the memory of all of them.
    fn prefetch(&self);
    /// Writes these blocks of the rows from `first` on: for each block and register of its form [`PANEL_REGISTERS`]
    /// registers to `weights`, then as many with the rows' scales to `scales`. Rows that lack are any.
    fn interleave<F: Form<L>>(
        &self,
        first: usize,
        blocks: impl Iterator<Item = usize>,
        weights: &mut [L::Array],
        scales: &mut [L::Array],
    );
}

/// Blocks of a chain that are used one after another: where they are in the chain order, and whose they are.
struct Run {
    blocks: Range<usize>,
    chain: usize,
}

/// The runs of all chains.
fn runs(num_blocks: usize, chains: usize) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut start = 0;
    for chain in 0..chains {
        let end = start + chain_len(chain, num_blocks, chains);
        while start < end {
            let run_end = end.min(start + RUN_BLOCKS);
            runs.push(Run { blocks: start..run_end, chain });
            start = run_end;
        }
    }
    runs
}

/// All weight rows times all activation rows; `out` has a row for each weight row.
///
/// Run by run for all panels: what a run takes of the activations stays in the second-level cache until the last of them.
#[inline(always)]
pub(super) fn multiply<L: Lanes, F: Form<L>>(
    weights: &impl Interleave<L>,
    x: &Rounded,
    chains: usize,
    out: &mut [f32],
) {
    let (num_x, num_blocks) = (x.num_rows(), x.row_len() / BLOCK);
    let panel_rows = PANEL_REGISTERS * L::LANES;
    let order: Vec<usize> = super::pairs::in_chains(num_blocks, chains).collect();
    // For each register of a block and for the scales a number in each lane of each register of rows.
    let mut panel = lines(RUN_BLOCKS * (F::REGISTERS + 1) * PANEL_REGISTERS * L::LANES);
    let panel = L::arrays_mut(bytemuck::cast_slice_mut(&mut panel));
    let (unpacked, scales) = panel.split_at_mut(RUN_BLOCKS * F::REGISTERS * PANEL_REGISTERS);
    // Runs take blocks that lie apart, which no processor foresees.
    weights.prefetch();
    let mut sums = Sums::<L>::new(chains, weights.num_rows().div_ceil(panel_rows), num_x);
    for Run { blocks, chain } in runs(num_blocks, chains) {
        for index in 0..sums.num_panels {
            let of_run = order[blocks.clone()].iter().copied();
            weights.interleave::<F>(index * panel_rows, of_run, unpacked, scales);
            let panel = Panel::<L> {
                weights: &unpacked[..blocks.len() * F::REGISTERS * PANEL_REGISTERS],
                scales: &scales[..blocks.len() * PANEL_REGISTERS],
            };
            let sums = sums.of_panel(chain, index);
            let mut m = 0;
            while m < num_x {
                if m + TILE_ROWS <= num_x {
                    F::tile::<TILE_ROWS>(&panel, x, m, blocks.clone(), sums);
                    m += TILE_ROWS;
                } else {
                    F::tile::<1>(&panel, x, m, blocks.clone(), sums);
                    m += 1;
                }
            }
        }
    }
    for (index, out) in out.chunks_mut(panel_rows * num_x).enumerate() {
        for (register, out) in out.chunks_mut(L::LANES * num_x).enumerate() {
            for m in 0..num_x {
                let mut row = [0.0; super::MAX_LANES];
                sums.total(index, m, register).store(&mut L::arrays_mut(&mut row)[0]);
                out.chunks_exact_mut(num_x).zip(row).for_each(|(out, value)| out[m] = value);
            }
        }
    }
}

/// For each chain, panel and activation row the sums of a panel's rows.
struct Sums<L: Lanes> {
    chains: usize,
    num_panels: usize,
    num_x: usize,
    lines: Vec<Line>,
    lanes: PhantomData<L>,
}

impl<L: Lanes> Sums<L> {
    fn new(chains: usize, num_panels: usize, num_x: usize) -> Self {
        let len = chains * num_panels * num_x * PANEL_REGISTERS * L::LANES;
        Self { chains, num_panels, num_x, lines: lines(len), lanes: PhantomData }
    }

    /// Those of one chain and panel, by activation row and register.
    #[inline(always)]
    fn of_panel(&mut self, chain: usize, panel: usize) -> &mut [[L::Array; PANEL_REGISTERS]] {
        let start = (chain * self.num_panels + panel) * self.num_x;
        let sums = L::arrays_mut(bytemuck::cast_slice_mut(&mut self.lines));
        &mut sums.as_chunks_mut().0[start..][..self.num_x]
    }

    /// The sum over all chains, halves first: the order of [`Lanes::sum`].
    #[inline(always)]
    fn total(&self, panel: usize, m: usize, register: usize) -> L {
        let sums = L::arrays(bytemuck::cast_slice(&self.lines));
        let mut all = [L::zero(); super::MAX_LANES];
        for (chain, sum) in all[..self.chains].iter_mut().enumerate() {
            let at = (chain * self.num_panels + panel) * self.num_x + m;
            *sum = L::load(&sums[at * PANEL_REGISTERS + register]);
        }
        let mut half = self.chains / 2;
        while half > 0 {
            for chain in 0..half {
                all[chain] = all[chain].add(all[chain + half]);
            }
            half /= 2;
        }
        all[0]
    }
}

/// A run of a panel.
pub(super) struct Panel<'a, L: Lanes> {
    weights: &'a [L::Array],
    scales: &'a [L::Array],
}

impl<L: Lanes> Panel<'_, L> {
    /// Adds the sums of a block to those of the rows' chain.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
    fn end_block<const M: usize>(
        &self,
        block: usize,
        whole: [[L::Words; M]; PANEL_REGISTERS],
        x_scales: [&[f32]; M],
        totals: &mut [[L; M]; PANEL_REGISTERS],
    ) {
        for n in 0..PANEL_REGISTERS {
            let scales = L::load(&self.scales[block * PANEL_REGISTERS + n]);
            for m in 0..M {
                let sum = L::floats(whole[n][m]).mul(L::splat(x_scales[m][block]));
                totals[n][m] = sum.fma(scales, totals[n][m]);
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
fn load_totals<L: Lanes, const M: usize>(
    sums: &[[L::Array; PANEL_REGISTERS]],
) -> [[L; M]; PANEL_REGISTERS] {
    let mut totals = [[L::zero(); M]; PANEL_REGISTERS];
    for n in 0..PANEL_REGISTERS {
        for m in 0..M {
            totals[n][m] = L::load(&sums[m][n]);
        }
    }
    totals
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
fn store_totals<L: Lanes, const M: usize>(
    totals: [[L; M]; PANEL_REGISTERS],
    sums: &mut [[L::Array; PANEL_REGISTERS]],
) {
    for n in 0..PANEL_REGISTERS {
        for m in 0..M {
            totals[n][m].store(&mut sums[m][n]);
        }
    }
}

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

/// Words whose products are added in 16 bits: a lane's half is at most 4 times 2 products of 24 times 128.
const WORDS_TOGETHER: usize = 4;

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
