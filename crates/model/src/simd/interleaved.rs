//! Products of rounded activation rows with a weight row in each lane, near the processor's peak.
//!
//! A panel is a run of the weights of some registers of rows, as pairs of 16-bit numbers, so many blocks as the first-level
//! cache holds. It is made once for all activation rows. A tile of a few activation rows keeps its
//! sums of one block as whole numbers in registers; at the end of the block they become float32 and enter the sums of
//! the row's chain.

use std::marker::PhantomData;
use std::ops::Range;

use super::arranged::{Line, lines};
use super::pairs::{PAIRS, chain_len};
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
/// Numbers of a block of a panel: for each pair and for the scales a number in each lane of each register.
const fn block_len(lanes: usize) -> usize {
    (PAIRS + 1) * PANEL_REGISTERS * lanes
}

/// Weights that can be had a row in each lane.
pub(super) trait Interleave<L: Lanes> {
    /// How many rows there are.
    fn num_rows(&self) -> usize;
    /// Asks for the memory of all of them.
    fn prefetch(&self);
    /// Writes these blocks of the rows from `first` on: for each block and pair [`PANEL_REGISTERS`] registers to `pairs`,
    /// then as many with the rows' scales to `scales`. Rows that lack are any.
    fn interleave(
        &self,
        first: usize,
        blocks: impl Iterator<Item = usize>,
        pairs: &mut [L::Array],
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

/// All weight rows times all activation rows, in pairs of `P` numbers; `out` has a row for each weight row.
///
/// Run by run for all panels: what a run takes of the activations stays in the second-level cache until the last of them.
#[inline(always)]
pub(super) fn multiply<L: Lanes, const P: usize>(
    weights: &impl Interleave<L>,
    x: &Rounded,
    chains: usize,
    out: &mut [f32],
) {
    let (num_x, num_blocks) = (x.num_rows(), x.row_len() / BLOCK);
    let panel_rows = PANEL_REGISTERS * L::LANES;
    let order: Vec<usize> = super::pairs::in_chains(num_blocks, chains).collect();
    let mut panel = lines(RUN_BLOCKS * block_len(L::LANES));
    let panel = L::arrays_mut(bytemuck::cast_slice_mut(&mut panel));
    let (pairs, scales) = panel.split_at_mut(RUN_BLOCKS * PAIRS * PANEL_REGISTERS);
    // Runs take blocks that lie apart, which no processor foresees.
    weights.prefetch();
    let mut sums = Sums::<L>::new(chains, weights.num_rows().div_ceil(panel_rows), num_x);
    for Run { blocks, chain } in runs(num_blocks, chains) {
        for index in 0..sums.num_panels {
            let of_run = order[blocks.clone()].iter().copied();
            weights.interleave(index * panel_rows, of_run, pairs, scales);
            let panel = Panel::<L> {
                pairs: &pairs[..blocks.len() * PAIRS * PANEL_REGISTERS],
                scales: &scales[..blocks.len() * PANEL_REGISTERS],
            };
            let sums = sums.of_panel(chain, index);
            let mut m = 0;
            while m < num_x {
                if m + TILE_ROWS <= num_x {
                    panel.tile::<P, TILE_ROWS>(x, m, blocks.clone(), sums);
                    m += TILE_ROWS;
                } else {
                    panel.tile::<P, 1>(x, m, blocks.clone(), sums);
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
struct Panel<'a, L: Lanes> {
    pairs: &'a [L::Array],
    scales: &'a [L::Array],
}

impl<L: Lanes> Panel<'_, L> {
    /// Adds its products with `M` activation rows to their sums.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
    fn tile<const P: usize, const M: usize>(
        &self,
        x: &Rounded,
        m: usize,
        blocks: Range<usize>,
        sums: &mut [[L::Array; PANEL_REGISTERS]],
    ) {
        let rows: [_; M] = std::array::from_fn(|index| x.pair_row(m + index));
        let x_pairs = rows.map(|row| &row.pairs[blocks.start * P * PAIRS..blocks.end * P * PAIRS]);
        let x_scales = rows.map(|row| &row.scales[blocks.clone()]);
        let mut totals = [[L::zero(); M]; PANEL_REGISTERS];
        for n in 0..PANEL_REGISTERS {
            for m_in_tile in 0..M {
                totals[n][m_in_tile] = L::load(&sums[m + m_in_tile][n]);
            }
        }
        for block in 0..blocks.len() {
            let weights = &self.pairs[block * PAIRS * PANEL_REGISTERS..][..PAIRS * PANEL_REGISTERS];
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
            for n in 0..PANEL_REGISTERS {
                let scales = L::load(&self.scales[block * PANEL_REGISTERS + n]);
                for m in 0..M {
                    let sum = L::floats(whole[n][m]).mul(L::splat(x_scales[m][block]));
                    totals[n][m] = sum.fma(scales, totals[n][m]);
                }
            }
        }
        for n in 0..PANEL_REGISTERS {
            for m_in_tile in 0..M {
                totals[n][m_in_tile].store(&mut sums[m + m_in_tile][n]);
            }
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
