// argmax: the greedy token of each row.
//
//   tokens[r] = the index of the greatest of logits[r], the lowest among equals; 0xffffffff if any is a NaN
//
// Shapes:  logits [rows, width] float32, of which the first `vocabulary` count; tokens [rows] u32.
// Launch:  one block of 1,024 threads a row.
// Traffic: reads the logits once.

#include "common/ptx.cuh"

struct ArgmaxParams {
    const float* logits;
    uint32_t* tokens;
    uint32_t width, vocabulary;
};

constexpr uint32_t kArgmaxThreads = 1024;

// Whether b is a better choice than a. No index stands for a NaN, which beats every number.
static __device__ __forceinline__ bool is_better(float a, uint32_t a_index, float b, uint32_t b_index) {
    if (a_index == 0xffffffffu || b_index == 0xffffffffu) return a_index != 0xffffffffu;
    return b > a || (b == a && b_index < a_index);
}

KERNEL(argmax, ArgmaxParams, kArgmaxThreads) {
    SHARED(float, values, [kArgmaxThreads / 32]);
    SHARED(uint32_t, indexes, [kArgmaxThreads / 32]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    pdl_wait();
    const float* logits = p.logits + static_cast<size_t>(blockIdx.x) * p.width;
    float best = -INFINITY;
    uint32_t index = 0xfffffffeu; // of no element, but no NaN
    for (uint32_t i = threadIdx.x; i < p.vocabulary; i += kArgmaxThreads) {
        const float value = logits[i];
        const uint32_t its_index = value == value ? i : 0xffffffffu;
        if (is_better(best, index, value, its_index)) best = value, index = its_index;
    }
    const auto reduce = [&] {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, best, step);
            const uint32_t other_index = __shfl_xor_sync(0xffffffffu, index, step);
            if (is_better(best, index, other, other_index)) best = other, index = other_index;
        }
    };
    reduce();
    if (lane == 0) values[warp] = best, indexes[warp] = index;
    __syncthreads();
    if (warp != 0) return;
    best = values[lane];
    index = indexes[lane];
    reduce();
    if (lane == 0) p.tokens[blockIdx.x] = index;
    pdl_launch();
}
