// linear_few: a dense product for few rows; bound by reading the weights, which happens once.
//
//   out[r][n] = sum over k of x[r][k] * weight[n][k], + bias[n] if there is one
//
// Shapes:  x [rows, k] bf16, at most 8 rows; weight [n, k] bf16; bias [n] bf16; out [rows, n] bf16 or float32,
//          to which it may be added; k a multiple of 32.
// Launch:  eight warps for every 16 rows of the weight, each taking every eighth step of 32 k.
// Traffic: reads the weight once, in pieces of 64 bytes a row; x comes from the caches. A thread copies what it will
//          use itself, three steps ahead and so without a barrier: 24 KB of a block are on their way at any time.
//
// The weights are the left operand of mma, so that one instruction serves all rows of x. Within a step lane place p
// holds k 8 p .. 8 p + 7 of both operands: any order of k gives the same sums, and this one loads 16 bytes.

#include "common/output.cuh"

struct LinearFewParams {
    const bf16* x;
    const bf16* weight;
    const bf16* bias; // null: none
    void* out;
    uint32_t rows, n, k;
    OutputForm form;
};

constexpr uint32_t kFewWarps = 8;
constexpr uint32_t kFewStages = 4; // steps of a warp that are under way or in use
constexpr uint32_t kInputsAhead = 2;

KERNEL(linear_few, LinearFewParams, kFewWarps * 32) {
    SHARED(float, parts, [kFewWarps][8][16 + 1]);
    SHARED(uint4, ahead, [kFewStages][2][kFewWarps * 32]);
    const uint32_t warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    const uint32_t first = blockIdx.x * 16, last = p.n - 1;
    // Rows beyond the end repeat the last one; their sums are not written.
    const bf16* low = p.weight + static_cast<size_t>(first + group < last ? first + group : last) * p.k + place * 8;
    const bf16* high = p.weight + static_cast<size_t>(first + group + 8 < last ? first + group + 8 : last) * p.k + place * 8;
    float sums[4] = {};
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const uint32_t num_steps = p.k / 32;
    const auto load = [&](uint32_t step) {
        if (step < num_steps) {
            cp_async_16(&ahead[step / kFewWarps % kFewStages][0][threadIdx.x], low + step * 32);
            cp_async_16(&ahead[step / kFewWarps % kFewStages][1][threadIdx.x], high + step * 32);
        }
        cp_async_commit();
    };
    // Weights are written by no kernel, so they may be read before the one before this has ended.
    for (uint32_t i = 0; i < kFewStages - 1; i++) load(warp + i * kFewWarps);
    pdl_wait();
    pdl_launch();
    // x comes from a cache, at the price of several hundred cycles.
    const bf16* x = p.x + static_cast<size_t>(group) * p.k + place * 8;
    const auto load_x = [&](uint32_t step) { return group < p.rows && step < num_steps ? ld_v4(x + step * 32) : zero; };
    uint4 xs[kInputsAhead];
#pragma unroll
    for (uint32_t i = 0; i < kInputsAhead; i++) xs[i] = load_x(warp + i * kFewWarps);
    for (uint32_t step = warp; step < num_steps; step += kFewWarps) {
        const uint32_t right[2][2] = {{xs[0].x, xs[0].y}, {xs[0].z, xs[0].w}};
#pragma unroll
        for (uint32_t i = 0; i + 1 < kInputsAhead; i++) xs[i] = xs[i + 1];
        xs[kInputsAhead - 1] = load_x(step + kInputsAhead * kFewWarps);
        load(step + (kFewStages - 1) * kFewWarps);
        cp_async_wait<kFewStages - 1>();
        const uint4 l = ld_v4(&ahead[step / kFewWarps % kFewStages][0][threadIdx.x]);
        const uint4 h = ld_v4(&ahead[step / kFewWarps % kFewStages][1][threadIdx.x]);
        const uint32_t left[2][4] = {{l.x, h.x, l.y, h.y}, {l.z, h.z, l.w, h.w}};
        mma_bf16_16816(sums, left[0], right[0]);
        mma_bf16_16816(sums, left[1], right[1]);
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) parts[warp][place * 2 + i % 2][group + i / 2 * 8] = sums[i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < p.rows * 16; i += kFewWarps * 32) {
        const uint32_t row = i / 16, column = first + i % 16;
        if (column > last) continue;
        float sum = p.bias == nullptr ? 0.0f : to_float(p.bias[column]);
#pragma unroll
        for (uint32_t w = 0; w < kFewWarps; w++) sum += parts[w][row][i % 16];
        write_output(p.out, p.form, static_cast<size_t>(row) * p.n + column, sum);
    }
}
