// router: chooses each row's experts from their logits.
//
//   experts[r] = the k greatest of logits[r], lowest index first among equals
//   weights[r] = softmax over those k
//
// A row at position 0xffffffff pads the batch: its experts are 0xffffffff, so that it wakes none.
//
// Shapes:  logits [rows, num_experts] float32; positions [rows] u32; experts [rows, k] u32; weights [rows, k] float32; k at most 8.
// Launch:  one warp a row, four rows a block. A NaN counts as less than every number.
// Traffic: reads the logits once.

#include "common/ptx.cuh"

struct RouterParams {
    const float* logits;
    const uint32_t* positions;
    uint32_t* experts;
    float* weights;
    uint32_t rows, num_experts, k;
    uint32_t unused;
};

constexpr uint32_t kMaxChosen = 8;

KERNEL(router, RouterParams, 128) {
    const uint32_t lane = threadIdx.x % 32, row = blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= p.rows) return;
    pdl_wait();
    if (p.positions[row] == 0xffffffffu) {
        if (lane < p.k) p.experts[static_cast<size_t>(row) * p.k + lane] = 0xffffffffu;
        return;
    }
    const float* logits = p.logits + static_cast<size_t>(row) * p.num_experts;
    float chosen[kMaxChosen];
    float last_value = 0.0f;
    uint32_t last_index = 0;
#pragma unroll
    for (uint32_t i = 0; i < kMaxChosen; i++) {
        if (i >= p.k) break;
        // The greatest that comes after the last one in the order (value falling, index rising).
        float best = -INFINITY;
        uint32_t index = 0xffffffffu;
        for (uint32_t expert = lane; expert < p.num_experts; expert += 32) {
            const float read = logits[expert], value = read == read ? read : -INFINITY;
            const bool is_after = i == 0 || value < last_value || (value == last_value && expert > last_index);
            if (is_after && (index == 0xffffffffu || value > best)) best = value, index = expert;
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, best, step);
            const uint32_t other_index = __shfl_xor_sync(0xffffffffu, index, step);
            const bool is_better = other > best || (other == best && other_index < index);
            if (other_index != 0xffffffffu && (index == 0xffffffffu || is_better)) best = other, index = other_index;
        }
        chosen[i] = last_value = best;
        last_index = index;
        if (lane == 0) p.experts[static_cast<size_t>(row) * p.k + i] = index;
    }
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kMaxChosen; i++) {
        if (i < p.k) sum += __expf(chosen[i] - chosen[0]);
    }
    if (lane != 0) return;
#pragma unroll
    for (uint32_t i = 0; i < kMaxChosen; i++) {
        if (i < p.k) p.weights[static_cast<size_t>(row) * p.k + i] = __expf(chosen[i] - chosen[0]) / sum;
    }
    pdl_launch();
}
