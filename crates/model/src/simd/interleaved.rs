//! Products of rounded activation rows with a weight row in each lane, near the processor's peak.
//!
//! A panel is a run of the weights of some registers of rows, as pairs of 16-bit numbers or, for activations of one byte, as
//! words of four bytes ([`Form`]), so many blocks as the first-level cache holds. It is made once for all activation rows.
//! A tile of a few activation rows keeps its sums of one block as whole numbers in registers; at the end of the block they
//! become float32 and enter the sums of the row's chain.

mod pairs;
mod quads;

use std::marker::PhantomData;
use std::ops::Range;

pub(super) use pairs::Pairs;
pub(super) use quads::Quads;

use super::arranged::{Line, lines};
use super::pairs::chain_len;
use super::{Lanes, Rounded};
use crate::mxfp4::BLOCK;

/// Registers of weight rows in a panel.
pub(super) const PANEL_REGISTERS: usize = 2;
/// Activation rows of a tile: with so many, sums of a block take half the registers of AVX2.
const TILE_ROWS: usize = 4;
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
