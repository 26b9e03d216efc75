//! Products of rounded activation rows with a weight row in each lane, near the processor's peak.
//!
//! A panel is the weights of some registers of rows, as pairs of 16-bit numbers. It is made once for all activation rows
//! and used run by run, each as many blocks as the first-level cache holds. A tile of a few activation rows keeps its
//! sums of one block as whole numbers in registers; at the end of the block they become float32 and enter the sums of
//! the row's chain.

use std::ops::Range;

use super::arranged::lines;
use super::pairs::{PAIRS, chain_len};
use super::{Lanes, Rounded};
use crate::mxfp4::BLOCK;

/// Registers of weight rows in a panel.
pub(super) const PANEL_REGISTERS: usize = 2;
/// Activation rows of a tile: with so many, sums of a block take half the registers of AVX2.
const TILE_ROWS: usize = 4;
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
    /// Writes so many blocks, from `block` on and `stride` apart, of the rows from `first` on: for each block and pair
    /// [`PANEL_REGISTERS`] registers to `pairs`, then as many with the rows' scales to `scales`. Rows that lack are any.
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
#[inline(always)]
pub(super) fn multiply<L: Lanes, const P: usize>(
    weights: &impl Interleave<L>,
    x: &Rounded,
    chains: usize,
    out: &mut [f32],
) {
    let (num_x, num_blocks) = (x.num_rows(), x.row_len() / BLOCK);
    let runs = runs(num_blocks, chains);
    let panel_rows = PANEL_REGISTERS * L::LANES;
    let mut panel = lines(num_blocks * block_len(L::LANES));
    let panel = L::arrays_mut(bytemuck::cast_slice_mut(&mut panel));
    let (pairs, scales) = panel.split_at_mut(num_blocks * PAIRS * PANEL_REGISTERS);
    let mut sums = lines(num_x * chains * panel_rows);
    let sums = L::arrays_mut(bytemuck::cast_slice_mut(&mut sums));
    for first in (0..weights.num_rows()).step_by(panel_rows) {
        weights.interleave(first, super::pairs::in_chains(num_blocks, chains), pairs, scales);
        for sum in sums.iter_mut() {
            L::zero().store(sum);
        }
        for Run { blocks, chain } in &runs {
            let run = Panel::<L> {
                pairs: &pairs[blocks.start * PAIRS * PANEL_REGISTERS..]
                    [..blocks.len() * PAIRS * PANEL_REGISTERS],
                scales: &scales[blocks.start * PANEL_REGISTERS..][..blocks.len() * PANEL_REGISTERS],
            };
            let mut m = 0;
            while m < num_x {
                let at = |m: usize| (m * chains + chain) * PANEL_REGISTERS;
                if m + TILE_ROWS <= num_x {
                    run.tile::<P, TILE_ROWS>(x, m, blocks.clone(), sums, at);
                    m += TILE_ROWS;
                } else {
                    run.tile::<P, 1>(x, m, blocks.clone(), sums, at);
                    m += 1;
                }
            }
        }
        let count = panel_rows.min(weights.num_rows() - first);
        let out = &mut out[first * num_x..][..count * num_x];
        for (m, sums) in sums.chunks_exact(chains * PANEL_REGISTERS).enumerate() {
            for register in 0..PANEL_REGISTERS {
                let mut row = [0.0; super::MAX_LANES];
                total::<L>(sums, register, chains).store(&mut L::arrays_mut(&mut row)[0]);
                let outs = out.chunks_exact_mut(num_x).skip(register * L::LANES).take(L::LANES);
                outs.zip(row).for_each(|(out, value)| out[m] = value);
            }
        }
    }
}

/// The sum over all chains, halves first: the order of [`Lanes::sum`].
#[inline(always)]
fn total<L: Lanes>(sums: &[L::Array], register: usize, chains: usize) -> L {
    let mut all = [L::zero(); super::MAX_LANES];
    for chain in 0..chains {
        all[chain] = L::load(&sums[chain * PANEL_REGISTERS + register]);
    }
    let mut half = chains / 2;
    while half > 0 {
        for chain in 0..half {
            all[chain] = all[chain].add(all[chain + half]);
        }
        half /= 2;
    }
    all[0]
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
        sums: &mut [L::Array],
        at: impl Fn(usize) -> usize,
    ) {
        let rows: [_; M] = std::array::from_fn(|index| x.pair_row(m + index));
        let x_pairs = rows.map(|row| &row.pairs[blocks.start * P * PAIRS..blocks.end * P * PAIRS]);
        let x_scales = rows.map(|row| &row.scales[blocks.clone()]);
        let mut totals = [[L::zero(); M]; PANEL_REGISTERS];
        for n in 0..PANEL_REGISTERS {
            for m_in_tile in 0..M {
                totals[n][m_in_tile] = L::load(&sums[at(m + m_in_tile) + n]);
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
                for pair in 0..PAIRS {
                    let mut loaded = [L::no_words(); PANEL_REGISTERS];
                    for n in 0..PANEL_REGISTERS {
                        // Settled, or each use would load it again.
                        let weights = L::load_words(&weights[pair * PANEL_REGISTERS + n]);
                        loaded[n] = L::settled(weights);
                    }
                    for m in 0..M {
                        let x = L::splat_words(x[m][plane * PAIRS + pair]);
                        for n in 0..PANEL_REGISTERS {
                            whole[n][m] = L::settled(L::add_pairs(loaded[n], x, whole[n][m]));
                        }
                    }
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
                totals[n][m_in_tile].store(&mut sums[at(m + m_in_tile) + n]);
            }
        }
    }
}
