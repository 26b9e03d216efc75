//! Which kernel serves which number of rows: the one place where that is decided.

/// Processors of an H100: blocks that run at the same time where one takes most of a processor's shared memory.
pub(super) const PROCESSORS: usize = 132;
/// Inputs of a step of the kernels for many rows.
pub(super) const STEP: usize = 64;
/// Most pieces of a tile: one block adds them up, and has 130 KB at most of each to read.
const MAX_PARTS: usize = 16;

/// A kernel of the dense product.
#[derive(Clone, Copy, Debug)]
pub(super) struct DenseKernel {
    pub(super) name: &'static str,
    /// Most rows that it serves.
    pub(super) max_rows: usize,
    /// Rows and columns of the result that a block makes at a time; a kernel for few rows makes all rows.
    pub(super) tile: [usize; 2],
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

/// How the tiles of a dense product are shared out to the blocks of a kernel for many rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    /// Tiles that one block makes from end to end.
    pub(crate) num_whole: usize,
    /// Pieces, along the inputs, of every other tile.
    pub(crate) num_parts: usize,
    /// Blocks, each of which takes a piece, then the one that is as many pieces further on.
    pub(crate) num_blocks: usize,
}

const fn many(name: &'static str, rows: usize, num_stages: usize) -> DenseKernel {
    let tile = [rows, 128];
    let shared_bytes = ((tile[0] + tile[1]) * STEP * 2 * num_stages) as u32;
    DenseKernel { name, max_rows: usize::MAX, tile, threads: 256, shared_bytes }
}

/// The kernel for few rows.
const FEW: DenseKernel =
    DenseKernel { name: "linear_few", max_rows: 8, tile: [8, 16], threads: 256, shared_bytes: 0 };

/// The kernels for many rows: the one that should be done first is taken.
const MANY: [DenseKernel; 3] = [
    many("linear_many_64", 64, 8),
    many("linear_many_128", 128, 6),
    many("linear_many_256", 256, 4),
];

impl DenseKernel {
    /// Whether it is one of the kernels for many rows.
    pub(super) fn is_many(&self) -> bool {
        self.max_rows == usize::MAX
    }

    /// Whether a tile is no larger than it must be to have all rows.
    fn suits(&self, rows: usize) -> bool {
        rows <= self.max_rows && (!self.is_many() || self.tile[0] <= most_tile_rows(rows))
    }

    /// The quickest cut of a product, and about how many cycles of a processor it takes.
    fn quickest(&self, rows: usize, inputs: usize, outputs: usize) -> (usize, Cut) {
        let num_tiles = rows.div_ceil(self.tile[0]) * outputs.div_ceil(self.tile[1]);
        let num_steps = inputs.div_ceil(STEP).max(1);
        let num_cut = num_tiles % PROCESSORS;
        let num_whole = num_tiles - num_cut;
        // In a step each row of 128 bytes is written to shared memory once, and read once (weights) or by both
        // warpgroups (rows), one row in a cycle. Products take no longer, and the barrier a little more.
        let step = 2 * self.tile[1] + 3 * self.tile[0] + 64;
        // Sums in parts are written once and read by one block, 24 bytes in a cycle as a card has it, after the blocks have
        // met.
        let part = 22 * self.tile[0];
        let cycles = |num_parts: usize| {
            let rounds = num_whole / PROCESSORS * num_steps;
            let last = if num_cut == 0 { 0 } else { num_steps.div_ceil(num_parts) };
            (rounds + last) * step + if num_parts == 1 { 0 } else { 2000 + (num_parts + 1) * part }
        };
        let most = (PROCESSORS / num_cut.max(1)).min(num_steps).min(MAX_PARTS);
        let num_parts = (1..=most).min_by_key(|parts| cycles(*parts)).unwrap_or(1);
        let num_pieces = num_whole + num_cut * num_parts;
        let cut = Cut { num_whole, num_parts, num_blocks: num_pieces.min(PROCESSORS) };
        (cycles(num_parts), cut)
    }

    /// How the product is shared out.
    pub(super) fn cut(&self, rows: usize, inputs: usize, outputs: usize) -> Cut {
        self.quickest(rows, inputs, outputs).1
    }
}

/// Rows of the largest tile that a product of that many rows may have.
pub(super) fn most_tile_rows(rows: usize) -> usize {
    rows.min(MANY[2].tile[0]).next_power_of_two().max(MANY[0].tile[0])
}

/// All kernels that can make the dense product of that many rows.
pub(super) fn all_dense(rows: usize) -> impl Iterator<Item = DenseKernel> {
    [FEW].into_iter().chain(MANY).filter(move |kernel| kernel.suits(rows))
}

/// The kernel for many rows whose tile has that many.
pub(super) fn many_with_tile(tile_rows: usize) -> Option<DenseKernel> {
    MANY.into_iter().find(|kernel| kernel.tile[0] == tile_rows)
}

/// The kernel of the dense product. Few rows of few outputs gain by many small blocks, which begin and end sooner; where
/// each processor has several tiles to make, it reads on without a gap from one to the next. A single row is so little to
/// multiply that it gains by small blocks anyway.
pub(super) fn dense(rows: usize, inputs: usize, outputs: usize) -> DenseKernel {
    if rows == 1 || FEW.suits(rows) && outputs <= PROCESSORS * MANY[0].tile[1] {
        return FEW;
    }
    let suited = MANY.into_iter().filter(|kernel| kernel.suits(rows));
    suited.min_by_key(|kernel| kernel.quickest(rows, inputs, outputs).0).unwrap_or(MANY[0])
}

/// Rows up to which one kernel makes the router's product, chooses the experts and lists the routes.
pub(super) const ROUTED_TOGETHER: usize = 16;

/// Whether rows are so few that there are no lists of routes, unless they are wanted: the experts' kernels choose for
/// themselves, which is quicker than to wait for a list.
pub(super) fn are_unlisted(rows: usize, listed: bool) -> bool {
    rows == 1 && !listed
}

/// Bytes that the experts' down product asks for ahead of the next kernels: for more rows it ends less abruptly, and the
/// level 2 cache is needed for its own weights.
pub(super) fn next_bytes(rows: usize) -> usize {
    if rows <= 2 { 9 << 20 } else { 0 }
}

/// One of the two kernels of the experts.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertKernel {
    pub(super) name: &'static str,
    /// Outputs that a block makes.
    pub(super) outputs: usize,
    pub(super) threads: u32,
    /// Shared memory, and how much of it more for each input.
    pub(super) shared_bytes: u32,
    pub(super) shared_bytes_per_input: u32,
}

/// A pair of kernels of the experts.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertKernels {
    pub(super) up: ExpertKernel,
    pub(super) down: ExpertKernel,
    /// Routes an expert, on average, up to which it serves.
    max_routes: usize,
    /// Routes of a block.
    pub(super) tile_len: usize,
}

impl ExpertKernels {
    /// Whether they choose one row's experts themselves.
    pub(super) fn are_for_one_row(&self) -> bool {
        self.up.name == EXPERTS_ONE.up.name
    }

    /// Tiles of routes at most: each expert in use begins one of its own.
    pub(super) fn num_tiles(&self, num_routes: usize, num_experts: usize) -> usize {
        num_routes.min(num_experts + num_routes / self.tile_len)
    }
}

/// A kernel whose warps have so many steps of 128 inputs of all outputs under way; and the scales.
const fn few(name: &'static str, outputs: usize, warps: u32, ahead: u32) -> ExpertKernel {
    let step_bytes = outputs as u32 * 64;
    ExpertKernel {
        name,
        outputs,
        threads: warps * 32,
        shared_bytes: warps * ahead * step_bytes,
        shared_bytes_per_input: outputs as u32 / 32,
    }
}

/// A kernel with four steps of 128 inputs: those of the routes in bf16, and four blocks of each output; two steps of
/// factors; and the scales.
const fn many_routes(name: &'static str) -> ExpertKernel {
    ExpertKernel {
        name,
        outputs: 256,
        threads: 512,
        shared_bytes: 4 * (96 * 256 + 256 * 64) + 2 * 256 * 16,
        shared_bytes_per_input: 256 / 32,
    }
}

/// The kernels of one row: they need no lists, but its logits.
const EXPERTS_ONE: ExpertKernels = ExpertKernels {
    up: few("experts_up_one", 32, 4, 2),
    down: few("experts_down_one", 32, 8, 3),
    max_routes: 1,
    tile_len: 1,
};
const EXPERTS_FEWEST: ExpertKernels = ExpertKernels {
    up: few("experts_up_fewest", 32, 6, 2),
    down: few("experts_down_fewest", 32, 8, 2),
    max_routes: 1,
    tile_len: 8,
};
const EXPERTS_FEW_8: ExpertKernels = ExpertKernels {
    up: few("experts_up_few_8", 32, 4, 2),
    down: few("experts_down_few_8", 32, 4, 3),
    max_routes: 4,
    tile_len: 8,
};
const EXPERTS_FEW_16: ExpertKernels = ExpertKernels {
    up: few("experts_up_few_16", 64, 4, 3),
    down: few("experts_down_few_16", 64, 4, 3),
    max_routes: 16,
    tile_len: 16,
};
const EXPERTS_MANY: ExpertKernels = ExpertKernels {
    up: many_routes("experts_up_many"),
    down: many_routes("experts_down_many"),
    max_routes: usize::MAX,
    tile_len: 96,
};

/// All pairs of kernels of the experts that take lists: the first that serves the routes is taken. On average an expert's
/// routes fill half a tile at most of the smallest, so that few experts need a second one and their weights once more.
const LISTED: [ExpertKernels; 4] = [EXPERTS_FEWEST, EXPERTS_FEW_8, EXPERTS_FEW_16, EXPERTS_MANY];

/// The kernels of the experts that take lists of that many routes, spread over that many experts.
pub(super) fn listed_experts(num_routes: usize, num_experts: usize) -> ExpertKernels {
    let average = num_routes.div_ceil(num_experts.max(1));
    LISTED.into_iter().find(|kernels| average <= kernels.max_routes).unwrap_or(EXPERTS_MANY)
}

/// The kernels of the experts for rows of that many routes each.
pub(super) fn experts(
    rows: usize,
    chosen: usize,
    num_experts: usize,
    listed: bool,
) -> ExpertKernels {
    match are_unlisted(rows, listed) {
        true => EXPERTS_ONE,
        false => listed_experts(rows * chosen, num_experts),
    }
}

/// All pairs of kernels that can serve that many rows.
pub(super) fn all_experts(rows: usize) -> impl Iterator<Item = ExpertKernels> {
    are_unlisted(rows, false).then_some(EXPERTS_ONE).into_iter().chain(LISTED)
}

/// The second kernel of adapters and the outputs of a block. Where there are blocks enough, a thread makes several outputs,
/// which share what it reads of the units.
pub(super) fn lora_expand(num_tiles: usize, outputs: usize) -> (&'static str, usize) {
    const OUTPUTS: [usize; 2] = [128, 512];
    let num_blocks = num_tiles * outputs.div_ceil(OUTPUTS[1]);
    match outputs.is_multiple_of(4) && num_blocks >= 2 * PROCESSORS {
        true => ("lora_expand_many", OUTPUTS[1]),
        false => ("lora_expand", OUTPUTS[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queries with keys and values, the attention's output, the router, the vocabulary: inputs and outputs.
    const PRODUCTS: [(usize, usize); 4] =
        [(2880, 5120), (4096, 2880), (2880, 128), (2880, 201_088)];

    #[test]
    fn every_tile_is_made_and_no_tile_is_cut_where_it_does_not_help() {
        for (inputs, outputs) in PRODUCTS {
            for rows in 33..2100 {
                let kernel = dense(rows, inputs, outputs);
                let cut = kernel.cut(rows, inputs, outputs);
                let num_tiles = rows.div_ceil(kernel.tile[0]) * outputs.div_ceil(kernel.tile[1]);
                let num_pieces = cut.num_whole + (num_tiles - cut.num_whole) * cut.num_parts;
                assert_eq!(cut.num_blocks, num_pieces.min(PROCESSORS), "{rows} {cut:?}");
                assert!(
                    (num_tiles - cut.num_whole) * cut.num_parts <= PROCESSORS,
                    "{rows} {cut:?}"
                );
                assert!(cut.num_parts <= inputs.div_ceil(STEP), "{rows} {cut:?}");
            }
        }
    }

    #[test]
    fn few_tiles_are_cut_until_the_processors_are_busy() {
        let choose = |rows, inputs, outputs| {
            let kernel = dense(rows, inputs, outputs);
            (kernel.name, kernel.cut(rows, inputs, outputs))
        };
        let (name, cut) = choose(64, 2880, 5120);
        assert_eq!((name, cut.num_parts, cut.num_blocks), ("linear_many_64", 3, 120));
        let (name, cut) = choose(64, 4096, 2880);
        assert_eq!((name, cut.num_parts, cut.num_blocks), ("linear_many_64", 5, 115));
        let (name, cut) = choose(64, 2880, 201_088);
        assert_eq!((name, cut.num_parts, cut.num_blocks), ("linear_many_64", 1, 132));
        let (name, cut) = choose(2048, 2880, 5120);
        assert_eq!((name, cut.num_whole, cut.num_parts), ("linear_many_256", 264, 2));
    }

    /// Microseconds of each kernel that suits, in the order of [`all_dense`], by rows; from the table of variants in
    /// `benches/results/h100-sxm/gpu.txt`. The products are the first two of [`PRODUCTS`] and the last.
    const MEASURED: [&[(usize, &[f32])]; 3] = [
        &[
            (1, &[12.3, 15.2]),
            (8, &[12.8, 15.2]),
            (16, &[15.4]),
            (32, &[15.3]),
            (64, &[15.8]),
            (128, &[18.4, 19.9]),
            (256, &[27.2, 27.7, 31.8]),
            (512, &[47.3, 41.0, 39.9]),
        ],
        &[
            (1, &[10.4, 13.3]),
            (8, &[10.9, 13.3]),
            (16, &[13.3]),
            (32, &[13.4]),
            (64, &[13.7]),
            (128, &[16.2, 17.9]),
            (256, &[24.7, 24.5, 28.1]),
            (512, &[39.9, 37.4, 37.5]),
        ],
        &[
            (1, &[382.6, 393.8]),
            (8, &[400.5, 403.5]),
            (16, &[409.5]),
            (32, &[417.0]),
            (64, &[429.1]),
            (128, &[476.0, 467.2]),
            (256, &[889.6, 714.1, 708.6]),
            (512, &[1719.9, 1369.9, 1083.3]),
        ],
    ];

    /// All are the fastest but these: of 256 rows queries, keys and values (by 0.5 us) and attention's output (by 0.2 us), and
    /// logits of 8 (by 3 us).
    #[test]
    fn a_card_had_no_kernel_that_was_much_faster_than_the_chosen_one() {
        let products = [PRODUCTS[0], PRODUCTS[1], PRODUCTS[3]];
        let mut not_fastest = Vec::new();
        for ((inputs, outputs), measured) in products.into_iter().zip(MEASURED) {
            for (rows, times) in measured {
                let names: Vec<_> = all_dense(*rows).map(|kernel| kernel.name).collect();
                assert_eq!(names.len(), times.len(), "{rows} rows: {names:?}");
                let chosen = dense(*rows, inputs, outputs).name;
                let time = times[names.iter().position(|name| *name == chosen).unwrap()];
                let fastest = times.iter().copied().fold(f32::INFINITY, f32::min);
                if time > fastest {
                    assert!(time < fastest * 1.07, "{rows} rows x {outputs}: {chosen} {time}");
                    not_fastest.push((*rows, outputs));
                }
            }
        }
        assert_eq!(not_fastest, [(256, 5120), (256, 2880), (8, 201_088)]);
    }
}
