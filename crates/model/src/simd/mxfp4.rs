//! Products with MXFP4 weights, in whole numbers up to the end of each block.
//!
//! For few activation rows, weights are used from the registers that they were unpacked to: twice their value and greater
//! by 12, 0 to 24, one byte each. One instruction multiplies them with a plane of activations and adds neighbours. Sums
//! over a block are exact in 32 bits, once what the 12 added is taken off; then they become float32 and enter the sum of
//! the row, a lane for each of as many blocks as there are lanes. For many rows weights become pairs of 16 bits with a
//! row in each lane, or words of four bytes: see [`super::interleaved`]. Sums of blocks are the same whole numbers, and they enter the sum of
//! their lane in the same order, so the bits do not depend on how many rows there are.

use super::interleaved::{self, Form, Interleave, PANEL_REGISTERS, Pairs, Quads};
use super::planes::step_registers;
use super::rounded::Order;
use super::{GROUPS, Kernel, LANES_PER_BLOCK, Lanes, MAX_LANES, Rounded};
use crate::checkpoint::weights::Mxfp4Matrix;
use crate::mxfp4::{BLOCK, BLOCK_BYTES, SCALES};

/// Weight rows side by side, so that activations are loaded once for both.
const TILE_ROWS: usize = 2;
/// Bytes ahead of the weights in use that are asked for: half a page, since the processor's own prefetch stops at the
/// end of each. Rows follow one another, so this reaches into the next.
const PREFETCH: usize = 2048;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// One product with activations of `P` bytes, `out` row-major with a row for each weight row.
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
        assert_eq!(super::planes::planes(x.precision()), P, "the caller chose by the precision");
        let num_x = x.num_rows();
        assert!(num_x > 0 && out.len().is_multiple_of(num_x), "the output is whole rows");
        let blocks_per_row = weight.num_cols / BLOCK;
        let range = first * blocks_per_row..(first + out.len() / num_x) * blocks_per_row;
        let (blocks, _) = weight.blocks.as_chunks();
        let (blocks, scales) = (&blocks[range.clone()], &weight.scales[range]);
        Self { blocks_per_row, blocks, scales, x, out }
    }
}

impl<const P: usize> Kernel for Mxfp4Product<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { blocks_per_row, blocks, scales, x, out } = self;
        let rows = StoredRows { blocks_per_row, blocks, scales };
        match (x.order(), P) {
            (Order::Planes, _) => few::<L, P>(&rows, x, out),
            (Order::Pairs { chains }, 2) => {
                interleaved::multiply::<L, Pairs<1>>(&rows, x, chains, out);
            }
            (Order::Pairs { chains }, _) => {
                interleaved::multiply::<L, Pairs<2>>(&rows, x, chains, out);
            }
            (Order::Quads { chains }, _) => {
                interleaved::multiply::<L, Quads>(&rows, x, chains, out)
            }
        }
    }
}

/// Rows as they are stored.
#[derive(Clone, Copy)]
struct StoredRows<'a> {
    blocks_per_row: usize,
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
}

impl<'a> StoredRows<'a> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.blocks.len() / self.blocks_per_row
    }

    #[inline(always)]
    fn row(&self, index: usize) -> StoredRow<'a> {
        let range = index * self.blocks_per_row..(index + 1) * self.blocks_per_row;
        StoredRow { blocks: &self.blocks[range.clone()], scales: &self.scales[range] }
    }
}

impl<L: Lanes> Interleave<L> for StoredRows<'_> {
    fn num_rows(&self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn prefetch(&self) {
        for line in self.blocks.as_flattened().chunks(LINE_BYTES) {
            L::prefetch(line.as_ptr());
        }
    }

    #[inline(always)]
    fn interleave<F: Form<L>>(
        &self,
        first: usize,
        blocks: impl Iterator<Item = usize>,
        weights: &mut [L::Array],
        scales: &mut [L::Array],
    ) {
        let registers_per_word = F::REGISTERS / LANES_PER_BLOCK;
        let weights = weights.chunks_exact_mut(F::REGISTERS * PANEL_REGISTERS);
        let scales = scales.chunks_exact_mut(PANEL_REGISTERS);
        for ((block, weights), scales) in blocks.zip(weights).zip(scales) {
            for (register, scales) in scales.iter_mut().enumerate() {
                // Rows that lack are the last one once more.
                let place = |lane: usize| {
                    let row = (first + register * L::LANES + lane).min(self.len() - 1);
                    row * self.blocks_per_row + block
                };
                let columns = L::columns(|lane| &self.blocks[place(lane)]);
                for (word, column) in columns.into_iter().enumerate() {
                    F::unpack(column, |index, unpacked| {
                        let to = (word * registers_per_word + index) * PANEL_REGISTERS + register;
                        L::store_words(unpacked, &mut weights[to]);
                    });
                }
                let mut of_rows = [0.0; MAX_LANES];
                for (lane, scale) in of_rows[..L::LANES].iter_mut().enumerate() {
                    *scale = SCALES[usize::from(self.scales[place(lane)])];
                }
                *scales = L::arrays(&of_rows)[0];
            }
        }
    }
}

/// A row as it is stored, or a part of it.
#[derive(Clone, Copy)]
struct StoredRow<'a> {
    blocks: &'a [[u8; BLOCK_BYTES]],
    scales: &'a [u8],
}

impl<'a> StoredRow<'a> {
    /// As many blocks as there are lanes.
    #[inline(always)]
    fn step<L: Lanes>(self, index: usize) -> StoredRow<'a> {
        let blocks = &self.blocks[index * L::LANES..][..L::LANES];
        for line in 0..(L::LANES * BLOCK_BYTES).div_ceil(LINE_BYTES) {
            L::prefetch(blocks.as_ptr().cast::<u8>().wrapping_add(PREFETCH + line * LINE_BYTES));
        }
        StoredRow { blocks, scales: &self.scales[index * L::LANES..][..L::LANES] }
    }

    /// What is left after `count` whole steps.
    #[inline(always)]
    fn rest<L: Lanes>(self, count: usize) -> StoredRow<'a> {
        let start = count * L::LANES;
        StoredRow { blocks: &self.blocks[start..], scales: &self.scales[start..] }
    }

    /// The weights of a group of a step at even and at odd places.
    #[inline(always)]
    fn weights<L: Lanes>(self, group: usize) -> [L::Words; 2] {
        let blocks_per_group = L::LANES / LANES_PER_BLOCK;
        let start = group * blocks_per_group;
        let end = self.blocks.len().min(start + blocks_per_group);
        L::mxfp4(L::words(self.blocks[start..end].as_flattened()))
    }
}

/// All weight rows times all activation rows, which are few.
#[inline(always)]
fn few<L: Lanes, const P: usize>(rows: &StoredRows<'_>, x: &Rounded, out: &mut [f32]) {
    let mut n = 0;
    while n + TILE_ROWS <= rows.len() {
        tiles::<L, P, TILE_ROWS>([rows.row(n), rows.row(n + 1)], n, x, out);
        n += TILE_ROWS;
    }
    if n < rows.len() {
        tiles::<L, P, 1>([rows.row(n)], n, x, out);
    }
}

/// Weight rows `n .. n + N` times all activation rows.
#[inline(always)]
fn tiles<L: Lanes, const P: usize, const N: usize>(
    rows: [StoredRow<'_>; N],
    n: usize,
    x: &Rounded,
    out: &mut [f32],
) {
    let num_x = x.num_rows();
    for m in 0..num_x {
        let sums: [f32; N] = tile::<L, P, N>(rows, x.plane_row::<L>(m));
        for (index, sum) in sums.into_iter().enumerate() {
            out[(n + index) * num_x + m] = sum;
        }
    }
}

/// Groups that hold the blocks of a step that is not whole.
fn groups<L: Lanes>(num_blocks: usize) -> usize {
    (num_blocks % L::LANES).div_ceil(L::LANES / LANES_PER_BLOCK)
}

/// `N` weight rows times one activation row.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops by index are unrolled entirely")]
fn tile<L: Lanes, const P: usize, const N: usize>(
    rows: [StoredRow<'_>; N],
    x: &[L::Array],
) -> [f32; N] {
    let mut sums = [L::zero(); N];
    let num_blocks = rows[0].blocks.len();
    let num_whole = num_blocks / L::LANES;
    let x_step = |index: usize| &x[index * step_registers(P)..][..step_registers(P)];
    for index in 0..num_whole {
        let mut steps = [rows[0].step::<L>(index); N];
        for n in 1..N {
            steps[n] = rows[n].step::<L>(index);
        }
        add_step::<L, P, N>(steps, x_step(index), GROUPS, &mut sums);
    }
    if !num_blocks.is_multiple_of(L::LANES) {
        let mut steps = [rows[0].rest::<L>(num_whole); N];
        for n in 1..N {
            steps[n] = rows[n].rest::<L>(num_whole);
        }
        add_step::<L, P, N>(steps, x_step(num_whole), groups::<L>(num_blocks), &mut sums);
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
fn add_step<L: Lanes, const P: usize, const N: usize>(
    steps: [StoredRow<'_>; N],
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
                    let weights = steps[n].weights::<L>(group);
                    let dot = dot::<L, P>(weights, &x[group * P * 2..][..P * 2]);
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
        let powers = L::powers(steps[n].scales);
        sums[n] = L::floats(blocks).mul(L::load(scales)).fma(powers, sums[n]);
    }
}

/// Sums over the eight weights that a lane has in a group.
#[inline(always)]
fn dot<L: Lanes, const P: usize>(weights: [L::Words; 2], x: &[L::Array]) -> L::Words {
    let x = |plane: usize| [L::load_words(&x[2 * plane]), L::load_words(&x[2 * plane + 1])];
    let low = L::dot::<1>(weights, x(0));
    match P {
        1 => low,
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
