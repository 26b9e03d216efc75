//! Products with MXFP4 weights, in whole numbers up to the end of each block.
//!
//! Weights are twice their value and greater by 12: 0 to 24, one byte each. One instruction multiplies them with a plane
//! of activations and adds neighbours. Sums over a block are exact in 32 bits, once what the 12 added is taken off; then
//! they become float32 and enter the sum of the row, a lane for each of as many blocks as there are lanes. So the order
//! of float32 additions is that of [`add_step`], whether weights come from memory or from a panel.
//!
//! One activation row uses weights from the registers that they were unpacked to. For more, some weight rows are
//! unpacked into the first-level cache, a byte a weight, and used for all activation rows that the second-level cache
//! holds.

use std::ops::Range;

use super::arranged::lines;
use super::rounded::step_registers;
use super::{GROUPS, Kernel, LANES_PER_BLOCK, Lanes, MAX_LANES, Rounded};
use crate::checkpoint::weights::Mxfp4Matrix;
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// Activation rows up to which weights are not kept unpacked.
const FEW_ROWS: usize = 3;
/// Weight rows side by side, so that activations are loaded once for both.
const TILE_ROWS: usize = 2;
/// Weight rows of a panel. With one activation row, at 2,880 columns, they fill most of a small first-level cache.
const PANEL_ROWS: usize = 4;
/// Activation rows that are multiplied by a panel while they are in a small second-level cache: 300 KB at 2,880 columns.
const CACHED_ROWS: usize = 32;
/// Bytes ahead of the weights in use that are asked for: half a page, since the processor's own prefetch stops at the
/// end of each. Rows follow one another, so this reaches into the next.
const PREFETCH: usize = 2048;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Registers of a step in a panel: weights at even and at odd places of each group, then the blocks' scales.
const PANEL_STEP: usize = 2 * GROUPS + 1;

/// One product with activations of `P` planes, `out` row-major with a row for each weight row.
pub(super) struct Mxfp4Product<'a, const P: usize> {
    blocks_per_row: usize,
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
    x: &'a Rounded,
    out: &'a mut [f32],
}

impl<'a, const P: usize> Mxfp4Product<'a, P> {
    /// As many weight rows from `first` on as `out` has room for.
    pub(super) fn new(
        weight: &'a Mxfp4Matrix,
        first: usize,
        x: &'a Rounded,
        out: &'a mut [f32],
    ) -> Self {
        assert_eq!(weight.num_cols, x.row_len(), "weights and activations have one width");
        assert_eq!(x.precision().planes(), P, "the caller chose by the precision");
        let num_x = x.num_rows();
        assert!(num_x > 0 && out.len().is_multiple_of(num_x), "the output is whole rows");
        let blocks_per_row = weight.num_cols / BLOCK;
        let range = first * blocks_per_row..(first + out.len() / num_x) * blocks_per_row;
        let (blocks, _) = weight.blocks.as_chunks();
        let (blocks, scales) = (&blocks[range.clone()], &weight.scales[range]);
        Self { blocks_per_row, blocks, scales, x, out }
    }

    fn num_rows(&self) -> usize {
        self.out.len() / self.x.num_rows()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> StoredRow<'a> {
        let range = index * self.blocks_per_row..(index + 1) * self.blocks_per_row;
        StoredRow { blocks: &self.blocks[range.clone()], scales: &self.scales[range] }
    }
}

impl<const P: usize> Kernel for Mxfp4Product<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let num_x = self.x.num_rows();
        if num_x <= FEW_ROWS {
            self.few::<L>();
        } else {
            for start in (0..num_x).step_by(CACHED_ROWS) {
                self.many::<L>(start..num_x.min(start + CACHED_ROWS));
            }
        }
    }
}

impl<const P: usize> Mxfp4Product<'_, P> {
    /// All weight rows times all activation rows, which are few.
    #[inline(always)]
    fn few<L: Lanes>(&mut self) {
        let num_n = self.num_rows();
        let mut n = 0;
        while n + TILE_ROWS <= num_n {
            let rows = [self.row(n), self.row(n + 1)];
            self.tiles::<L, _, TILE_ROWS>(rows, n, 0..self.x.num_rows());
            n += TILE_ROWS;
        }
        if n < num_n {
            self.tiles::<L, _, 1>([self.row(n)], n, 0..self.x.num_rows());
        }
    }

    /// All weight rows times some activation rows.
    #[inline(always)]
    fn many<L: Lanes>(&mut self, block: Range<usize>) {
        let num_blocks = self.blocks_per_row;
        let row_registers = num_blocks.div_ceil(L::LANES) * PANEL_STEP;
        let mut panel = lines(PANEL_ROWS * row_registers * L::LANES);
        let panel = L::arrays_mut(bytemuck::cast_slice_mut(&mut panel));
        for n in (0..self.num_rows()).step_by(PANEL_ROWS) {
            let count = PANEL_ROWS.min(self.num_rows() - n);
            for (index, to) in panel.chunks_exact_mut(row_registers).take(count).enumerate() {
                unpack::<L>(self.row(n + index), to);
            }
            let row = |index: usize| PanelRow::<L> {
                steps: &panel[index * row_registers..][..row_registers],
            };
            let mut index = 0;
            while index + TILE_ROWS <= count {
                let rows = [row(index), row(index + 1)];
                self.tiles::<L, _, TILE_ROWS>(rows, n + index, block.clone());
                index += TILE_ROWS;
            }
            if index < count {
                self.tiles::<L, _, 1>([row(index)], n + index, block.clone());
            }
        }
    }

    /// Weight rows `n .. n + N` times some activation rows.
    #[inline(always)]
    fn tiles<L: Lanes, R: Row<L>, const N: usize>(
        &mut self,
        rows: [R; N],
        n: usize,
        block: Range<usize>,
    ) {
        let num_x = self.x.num_rows();
        for m in block {
            let sums: [f32; N] = tile::<L, R, P, N>(rows, self.x.row::<L>(m), self.blocks_per_row);
            for (index, sum) in sums.into_iter().enumerate() {
                self.out[(n + index) * num_x + m] = sum;
            }
        }
    }
}

/// A weight row, wherever it is read from.
trait Row<L: Lanes>: Copy {
    /// As many blocks of it as there are lanes, or what is left at its end.
    type Step: Step<L>;
    /// The step at an index.
    fn step(self, index: usize) -> Self::Step;
    /// The step after `count` whole ones.
    fn rest(self, count: usize) -> Self::Step;
}

/// Weights of a step.
trait Step<L: Lanes>: Copy {
    /// The weights of a group at even and at odd places.
    fn weights(self, group: usize) -> [L::Words; 2];
    /// The scales of the blocks.
    fn scales(self) -> L;
}

/// A row as it is stored.
#[derive(Clone, Copy)]
struct StoredRow<'a> {
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
}

impl<'a, L: Lanes> Row<L> for StoredRow<'a> {
    type Step = StoredRow<'a>;

    #[inline(always)]
    fn step(self, index: usize) -> StoredRow<'a> {
        let blocks = &self.blocks[index * L::LANES..][..L::LANES];
        for line in 0..(L::LANES * BLOCK_BYTES).div_ceil(LINE_BYTES) {
            L::prefetch(blocks.as_ptr().cast::<u8>().wrapping_add(PREFETCH + line * LINE_BYTES));
        }
        StoredRow { blocks, scales: &self.scales[index * L::LANES..][..L::LANES] }
    }

    #[inline(always)]
    fn rest(self, count: usize) -> StoredRow<'a> {
        let start = count * L::LANES;
        StoredRow { blocks: &self.blocks[start..], scales: &self.scales[start..] }
    }
}

impl<L: Lanes> Step<L> for StoredRow<'_> {
    #[inline(always)]
    fn weights(self, group: usize) -> [L::Words; 2] {
        let blocks_per_group = L::LANES / LANES_PER_BLOCK;
        let start = group * blocks_per_group;
        let end = self.blocks.len().min(start + blocks_per_group);
        L::mxfp4(L::words(self.blocks[start..end].as_flattened()))
    }

    #[inline(always)]
    fn scales(self) -> L {
        L::powers(self.scales)
    }
}

/// A row unpacked in a panel.
#[derive(Clone, Copy)]
struct PanelRow<'a, L: Lanes> {
    steps: &'a [L::Array],
}

impl<L: Lanes> Row<L> for PanelRow<'_, L> {
    type Step = Self;

    #[inline(always)]
    fn step(self, index: usize) -> Self {
        Self { steps: &self.steps[index * PANEL_STEP..][..PANEL_STEP] }
    }

    #[inline(always)]
    fn rest(self, count: usize) -> Self {
        Row::step(self, count)
    }
}

impl<L: Lanes> Step<L> for PanelRow<'_, L> {
    #[inline(always)]
    fn weights(self, group: usize) -> [L::Words; 2] {
        [L::load_words(&self.steps[2 * group]), L::load_words(&self.steps[2 * group + 1])]
    }

    #[inline(always)]
    fn scales(self) -> L {
        L::load(&self.steps[2 * GROUPS])
    }
}

/// Groups that hold the blocks of a step that is not whole.
fn groups<L: Lanes>(num_blocks: usize) -> usize {
    (num_blocks % L::LANES).div_ceil(L::LANES / LANES_PER_BLOCK)
}

/// Unpacks a weight row into a panel.
#[inline(always)]
fn unpack<L: Lanes>(row: StoredRow<'_>, to: &mut [L::Array]) {
    let num_whole = row.blocks.len() / L::LANES;
    for (index, to) in to.chunks_exact_mut(PANEL_STEP).enumerate() {
        let (step, num_groups) = if index < num_whole {
            (Row::<L>::step(row, index), GROUPS)
        } else {
            (Row::<L>::rest(row, index), groups::<L>(row.blocks.len()))
        };
        for group in 0..num_groups {
            let [even, odd] = Step::<L>::weights(step, group);
            L::store_words(even, &mut to[2 * group]);
            L::store_words(odd, &mut to[2 * group + 1]);
        }
        Step::<L>::scales(step).store(&mut to[2 * GROUPS]);
    }
}

/// `N` weight rows of so many blocks times one activation row.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
fn tile<L: Lanes, R: Row<L>, const P: usize, const N: usize>(
    rows: [R; N],
    x: &[L::Array],
    num_blocks: usize,
) -> [f32; N] {
    let mut sums = [L::zero(); N];
    let num_whole = num_blocks / L::LANES;
    let x_step = |index: usize| &x[index * step_registers(P)..][..step_registers(P)];
    for index in 0..num_whole {
        let mut steps = [rows[0].step(index); N];
        for n in 1..N {
            steps[n] = rows[n].step(index);
        }
        add_step::<L, _, P, N>(steps, x_step(index), GROUPS, &mut sums);
    }
    if !num_blocks.is_multiple_of(L::LANES) {
        let mut steps = [rows[0].rest(num_whole); N];
        for n in 1..N {
            steps[n] = rows[n].rest(num_whole);
        }
        add_step::<L, _, P, N>(steps, x_step(num_whole), groups::<L>(num_blocks), &mut sums);
    }
    let mut out = [0.0; N];
    for n in 0..N {
        out[n] = sums[n].sum();
    }
    out
}

/// Adds a step of `N` weight rows, of which so many groups are not empty.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "as for tiles")]
fn add_step<L: Lanes, S: Step<L>, const P: usize, const N: usize>(
    steps: [S; N],
    x: &[L::Array],
    num_groups: usize,
    sums: &mut [L; N],
) {
    let x = &x[..step_registers(P)];
    let mut halves = [[L::no_words(); 2]; N];
    for half in 0..2 {
        let mut firsts = [L::no_words(); N];
        for second in 0..2 {
            let group = 2 * half + second;
            for n in 0..N {
                let mut dots = L::no_words();
                if group < num_groups {
                    let dot = dot::<L, P>(steps[n].weights(group), &x[group * P * 2..][..P * 2]);
                    dots = L::settled(dot);
                }
                if second == 0 {
                    firsts[n] = dots;
                } else {
                    halves[n][half] = L::pair_sums(firsts[n], dots);
                }
            }
        }
    }
    let (scales, corrections) = (&x[GROUPS * P * 2], &x[GROUPS * P * 2 + 1]);
    for n in 0..N {
        let blocks = L::pair_sums(halves[n][0], halves[n][1]);
        let blocks = L::plus(blocks, L::load_words(corrections));
        sums[n] = L::floats(blocks).mul(L::load(scales)).fma(steps[n].scales(), sums[n]);
    }
}

/// Sums over the eight weights that a lane has in a group.
#[inline(always)]
fn dot<L: Lanes, const P: usize>(weights: [L::Words; 2], x: &[L::Array]) -> L::Words {
    let x = |plane: usize| [L::load_words(&x[2 * plane]), L::load_words(&x[2 * plane + 1])];
    let low = L::dot::<1>(weights, x(0));
    match P {
        2 => L::plus(low, L::dot::<256>(weights, x(1))),
        _ => {
            let high = L::plus(L::dot::<1>(weights, x(1)), L::dot::<256>(weights, x(2)));
            L::plus(low, L::times_256(high))
        }
    }
}

/// Where [`add_step`] has the sum of each block of a step: group by group in memory, side by side in the lanes.
pub(super) const fn block_of_lane(lane: usize, lanes: usize) -> usize {
    lane % GROUPS * (lanes / LANES_PER_BLOCK) + lane / GROUPS
}

/// For [`Lanes::powers`]: the byte of each lane's block as its uppermost byte, and nothing below.
pub(super) const fn power_places<const BYTES: usize>() -> [u8; BYTES] {
    let mut places = [0x80; BYTES];
    let mut lane = 0;
    while lane < BYTES / 4 {
        places[4 * lane + 3] = block_of_lane(lane, BYTES / 4) as u8;
        lane += 1;
    }
    places
}

const _: () = assert!(MAX_LANES.is_multiple_of(LANES_PER_BLOCK) && GROUPS == LANES_PER_BLOCK);
