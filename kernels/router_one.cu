// router_one: for one row all that lies between attention and the experts, in one launch: the norm and the router's product.
// The experts' kernels choose from the logits themselves.
//
//   normed = residual / sqrt(mean(residual^2) + eps) * gain, rounded once
//   logits[e] = sum over i of normed[i] * weight[e][i], + bias[e]
//
// Shapes:  residual [width] float32; gain and normed [width] bf16, width a multiple of 8 up to 8192; weight
//          [num_experts, width] and bias [num_experts] bf16; logits [num_experts] float32.
// Launch:  one block of 128 threads an expert. Each normalizes the row for itself, and the first one writes it.
// Traffic: reads the weight once, before the kernel before has ended; the row comes from the caches.

#include "common/vector.cuh"

struct RouterOneParams {
    const float* residual;
    const bf16* gain;
    bf16* normed;
    const bf16* weight;
    const bf16* bias;
    float* logits;
    uint32_t num_experts, width;
    float eps;
    uint32_t unused;
};

constexpr uint32_t kOneThreads = 128, kOneWarps = kOneThreads / 32;
constexpr uint32_t kHeldVectors = 3; // of eight elements, that a thread keeps in registers: rows of up to 3072
constexpr uint32_t kMaxOneVectors = 8192 / 8;

// The sum of one number a thread, in every thread.
static __device__ __forceinline__ float block_sum(float x, float (&sums)[kOneWarps]) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (uint32_t w = 0; w < kOneWarps; w++) sum += sums[w];
    return sum;
}

KERNEL(router_one, RouterOneParams, kOneThreads) {
    SHARED(uint4, gains, [kMaxOneVectors]);
    SHARED(uint4, weights, [kMaxOneVectors]);
    SHARED(float, squares, [kOneWarps]);
    SHARED(float, products, [kOneWarps]);
    const uint32_t expert = blockIdx.x, num_vectors = p.width / 8;
    // A thread copies what it will use itself. Weights are written by no kernel of a step.
    for (uint32_t i = threadIdx.x; i < num_vectors; i += kOneThreads) {
        cp_async_16(&weights[i], p.weight + static_cast<size_t>(expert) * p.width + i * 8);
        cp_async_16(&gains[i], p.gain + i * 8);
    }
    cp_async_commit();
    const float bias = to_float(p.bias[expert]);
    pdl_wait();
    pdl_launch();
    float held[kHeldVectors][8] = {};
#pragma unroll
    for (uint32_t v = 0; v < kHeldVectors; v++) {
        const uint32_t i = threadIdx.x + v * kOneThreads;
        if (i < num_vectors) load_8(p.residual + i * 8, held[v]);
    }
    float sum = 0.0f;
    const auto add_squares = [&](const float(&values)[8]) {
#pragma unroll
        for (int n = 0; n < 8; n++) sum += values[n] * values[n];
    };
#pragma unroll
    for (uint32_t v = 0; v < kHeldVectors; v++) add_squares(held[v]);
    for (uint32_t i = threadIdx.x + kHeldVectors * kOneThreads; i < num_vectors; i += kOneThreads) {
        float values[8];
        load_8(p.residual + i * 8, values);
        add_squares(values);
    }
    const float scale = rsqrtf(block_sum(sum, squares) / static_cast<float>(p.width) + p.eps);
    cp_async_wait<0>();
    sum = 0.0f;
    const auto add_products = [&](uint32_t i, const float(&values)[8]) {
        float gain[8], normed[8], weight[8];
        unpack_8(ld_v4(&gains[i]), gain);
        unpack_8(ld_v4(&weights[i]), weight);
#pragma unroll
        for (int n = 0; n < 8; n++) normed[n] = gain[n] * (values[n] * scale);
        const uint4 rounded = pack_8(normed);
        if (expert == 0) st_v4(p.normed + i * 8, rounded);
        unpack_8(rounded, normed);
#pragma unroll
        for (int n = 0; n < 8; n++) sum += normed[n] * weight[n];
    };
#pragma unroll
    for (uint32_t v = 0; v < kHeldVectors; v++) {
        const uint32_t i = threadIdx.x + v * kOneThreads;
        if (i < num_vectors) add_products(i, held[v]);
    }
    for (uint32_t i = threadIdx.x + kHeldVectors * kOneThreads; i < num_vectors; i += kOneThreads) {
        float values[8];
        load_8(p.residual + i * 8, values);
        add_products(i, values);
    }
    sum = block_sum(sum, products);
    if (threadIdx.x == 0) p.logits[expert] = bias + sum;
}
