// rms_norm: adds a block's output to the residual stream and normalizes the sum.
//
//   residual[r] += x[r][0] + x[r][1] + ... (if x is given)
//   out[r]       = residual[r] / sqrt(mean(residual[r]^2) + eps) * gain, rounded once
//
// Shapes:  x [rows, parts, width] and residual [rows, width] float32; out [rows, width] and gain [width] bf16; width a
//          multiple of 8, at most 8192.
// Launch:  one block of 256 threads a row; each thread keeps its part of the row in registers.
// Traffic: reads x, residual and gain once, writes residual (if x is given) and out once.

#include "common/vector.cuh"

struct RmsNormParams {
    const float* x; // null: nothing is added
    float* residual;
    const bf16* gain;
    bf16* out;
    uint32_t width;
    uint32_t num_parts;
    float eps;
    uint32_t unused;
};

constexpr int kThreads = 256;
constexpr int kMaxVectors = 4; // of 8 elements, for each thread

KERNEL(rms_norm, RmsNormParams, kThreads) {
    SHARED(float, sums, [kThreads / 32]);
    const int thread = static_cast<int>(threadIdx.x);
    const int num_vectors = static_cast<int>(p.width / 8);
    const size_t row = static_cast<size_t>(blockIdx.x) * p.width;
    float values[kMaxVectors][8];
    float sum = 0.0f;
    pdl_wait();
#pragma unroll
    for (int i = 0; i < kMaxVectors; i++) {
        const int vector = thread + i * kThreads;
        if (vector >= num_vectors) continue;
        float* at = p.residual + row + static_cast<size_t>(vector) * 8;
        load_8(at, values[i]);
        if (p.x != nullptr) {
            for (uint32_t part = 0; part < p.num_parts; part++) {
                float added[8];
                load_8(p.x + (static_cast<size_t>(blockIdx.x) * p.num_parts + part) * p.width + vector * 8, added);
#pragma unroll
                for (int j = 0; j < 8; j++) values[i][j] += added[j];
            }
            store_8(at, values[i]);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) sum += values[i][j] * values[i][j];
    }
    pdl_launch();
    sum = warp_sum(sum);
    if (thread % 32 == 0) sums[thread / 32] = sum;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < kThreads / 32; i++) total += sums[i];
    const float scale = rsqrtf(total / static_cast<float>(p.width) + p.eps);
#pragma unroll
    for (int i = 0; i < kMaxVectors; i++) {
        const int vector = thread + i * kThreads;
        if (vector >= num_vectors) continue;
        float gain[8];
        unpack_8(ldg_nc_v4(p.gain + vector * 8), gain);
#pragma unroll
        for (int j = 0; j < 8; j++) gain[j] *= values[i][j] * scale;
        st_v4(p.out + row + static_cast<size_t>(vector) * 8, pack_8(gain));
    }
}
