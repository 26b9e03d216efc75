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

#include "common/choose.cuh"

struct RouterParams {
    const float* logits;
    const uint32_t* positions;
    uint32_t* experts;
    float* weights;
    uint32_t rows, num_experts, k;
    uint32_t unused;
};

KERNEL(router, RouterParams, 128) {
    const uint32_t lane = threadIdx.x % 32, row = blockIdx.x * 4 + threadIdx.x / 32;
    pdl_wait();
    pdl_launch();
    if (row >= p.rows) return;
    const size_t at = static_cast<size_t>(row) * p.k + lane;
    if (p.positions[row] == 0xffffffffu) {
        if (lane < p.k) p.experts[at] = 0xffffffffu;
        return;
    }
    const Chosen chosen = choose_experts(p.logits + static_cast<size_t>(row) * p.num_experts, p.num_experts, p.k);
    if (lane < p.k) p.experts[at] = chosen.expert, p.weights[at] = chosen.weight;
}
