// linear_many: a dense product for many rows, on tensor cores.
//
//   out[r][n] = sum over k of x[r][k] * weight[n][k], + bias[n] if there is one
//
// Shapes:  x [rows, k] bf16; weight [n, k] bf16; bias [n] bf16; out [rows, n] bf16 or float32; k a multiple of 32.
// Launch:  one block for each tile of 64 x 64 (narrow: more blocks for medium rows) or 128 x 128 (wide) of out.
// Traffic: each operand is read once per tile of the other; three steps of 32 k are on their way while one is used.

#include "common/tile.cuh"

struct LinearManyParams {
    const bf16* x;
    const bf16* weight;
    const bf16* bias; // null: none
    void* out;
    uint32_t rows, n, k;
    uint32_t is_float;
};

constexpr int kStages = 4;

// Begins to copy 32 k of `kRows` rows from `first` on; rows from `end` on are zeros.
template <int kRows, int kThreads>
static __device__ __forceinline__ void load_rows(bf16* to, const bf16* from, uint32_t first, uint32_t end, uint32_t k, uint32_t at) {
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < kRows * 4; i += kThreads) {
        const int row = i / 4, chunk = i % 4;
        const uint32_t source = first + static_cast<uint32_t>(row);
        const bool is_row = source < end;
        cp_async_16(to + tile_chunk(row, chunk), from + static_cast<size_t>(is_row ? source : 0) * k + at + chunk * 8, is_row);
    }
}

template <int kM, int kN, int kWarpsM, int kWarpsN>
static __device__ __forceinline__ void linear_many(const LinearManyParams& p) {
    using Sums = Tile<kM, kN, kWarpsM, kWarpsN>;
    constexpr int kThreads = Sums::kThreads, kStage = (kM + kN) * kTileK;
    SHARED_DYNAMIC(bytes);
    bf16* stages = reinterpret_cast<bf16*>(bytes);
    const uint32_t first_m = blockIdx.y * kM, first_n = blockIdx.x * kN, num_steps = p.k / kTileK;
    Sums sums;
    sums.clear();
    const auto load = [&](uint32_t step) {
        if (step < num_steps) {
            bf16* stage = stages + step % kStages * kStage;
            load_rows<kM, kThreads>(stage, p.x, first_m, p.rows, p.k, step * kTileK);
            load_rows<kN, kThreads>(stage + kM * kTileK, p.weight, first_n, p.n, p.k, step * kTileK);
        }
        cp_async_commit();
    };
    pdl_wait();
    for (uint32_t step = 0; step < kStages - 1; step++) load(step);
    for (uint32_t step = 0; step < num_steps; step++) {
        cp_async_wait<kStages - 2>();
        __syncthreads();
        // Its stage was used one step ago, and the barrier says that all are done with it.
        load(step + kStages - 1);
        const bf16* stage = stages + step % kStages * kStage;
        sums.multiply(stage, stage + kM * kTileK);
    }
    pdl_launch();
    sums.for_each([&](int m, int n, float left, float right) {
        const uint32_t row = first_m + static_cast<uint32_t>(m), column = first_n + static_cast<uint32_t>(n);
        if (row >= p.rows) return;
        const float both[2] = {left, right};
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            if (column + i >= p.n) continue;
            const float sum = both[i] + (p.bias == nullptr ? 0.0f : to_float(p.bias[column + i]));
            const size_t at = static_cast<size_t>(row) * p.n + column + i;
            if (p.is_float) {
                static_cast<float*>(p.out)[at] = sum;
            } else {
                static_cast<bf16*>(p.out)[at] = to_bf16(sum);
            }
        }
    });
}

KERNEL(linear_many_narrow, LinearManyParams, 128) { linear_many<64, 64, 2, 2>(p); }
KERNEL(linear_many_wide, LinearManyParams, 256) { linear_many<128, 128, 2, 4>(p); }
