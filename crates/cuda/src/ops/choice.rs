//! Which kernel serves which number of rows: the one place where that is decided.

/// A kernel of the dense product.
#[derive(Clone, Copy, Debug)]
pub(super) struct DenseKernel {
    pub(super) name: &'static str,
    /// Most rows that it serves.
    pub(super) max_rows: usize,
    /// Rows and columns of the result that a block makes; a kernel for few rows makes all rows.
    pub(super) tile: [usize; 2],
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

/// Bytes that a tile's pipeline holds: four steps of 32 bf16 of its rows and columns.
const fn staged(tile: [usize; 2]) -> u32 {
    ((tile[0] + tile[1]) * 32 * 2 * 4) as u32
}

const fn few(name: &'static str, max_rows: usize) -> DenseKernel {
    DenseKernel { name, max_rows, tile: [max_rows, 16], threads: 128, shared_bytes: 0 }
}

const fn many(name: &'static str, tile: [usize; 2], threads: u32) -> DenseKernel {
    DenseKernel { name, max_rows: usize::MAX, tile, threads, shared_bytes: staged(tile) }
}

/// The dense products, each up to this many rows.
const DENSE: [(usize, DenseKernel); 5] = [
    (8, few("linear_few_8", 8)),
    (16, few("linear_few_16", 16)),
    (32, few("linear_few_32", 32)),
    (256, many("linear_many_narrow", [64, 64], 128)),
    (usize::MAX, many("linear_many_wide", [128, 128], 256)),
];

/// All kernels that can make the dense product of that many rows.
pub(super) fn all_dense(rows: usize) -> impl Iterator<Item = DenseKernel> {
    let kernels = DENSE.into_iter().map(|(_, kernel)| kernel);
    kernels.filter(move |kernel| rows <= kernel.max_rows)
}

/// The kernel of the dense product for that many rows.
pub(super) fn dense(rows: usize) -> DenseKernel {
    let (_, kernel) = DENSE.into_iter().find(|(max, _)| rows <= *max).unwrap_or(DENSE[4]);
    kernel
}

/// Rows up to which one kernel makes the router's product, chooses the experts and lists the routes.
pub(super) const ROUTED_TOGETHER: usize = 16;

/// A pair of kernels of the experts.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertKernels {
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    /// Routes and outputs that a block makes.
    pub(super) tile: [usize; 2],
    pub(super) threads: u32,
    /// Shared memory, and how much of it more for each input.
    pub(super) shared_bytes: u32,
    pub(super) shared_bytes_per_input: u32,
}

impl ExpertKernels {
    /// Tiles of routes at most: each expert in use begins one of its own.
    pub(super) fn num_tiles(&self, num_routes: usize, num_experts: usize) -> usize {
        num_routes.min(num_experts + num_routes / self.tile[0])
    }
}

const EXPERTS_FEW: ExpertKernels = ExpertKernels {
    up: "experts_up_few",
    down: "experts_down_few",
    tile: [8, 32],
    threads: 128,
    shared_bytes: 32 << 10,
    shared_bytes_per_input: 1,
};
const EXPERTS_MANY: ExpertKernels = ExpertKernels {
    up: "experts_up_many",
    down: "experts_down_many",
    tile: [64, 128],
    threads: 256,
    shared_bytes: 0,
    shared_bytes_per_input: 0,
};

/// The kernels of the experts for that many routes, spread over that many experts. Above eight routes an expert on
/// average, the kernels for few would read most weights twice.
pub(super) fn experts(num_routes: usize, num_experts: usize) -> ExpertKernels {
    if num_routes <= num_experts * EXPERTS_FEW.tile[0] { EXPERTS_FEW } else { EXPERTS_MANY }
}

/// All pairs of kernels of the experts.
pub(super) fn all_experts() -> [ExpertKernels; 2] {
    [EXPERTS_FEW, EXPERTS_MANY]
}
