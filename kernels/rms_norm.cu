// rms_norm: adds a block's output to the residual stream and normalizes the sum.
//
//   residual[r] += x[r] (if x is given), rounded to bf16
//   out[r]       = residual[r] / sqrt(mean(residual[r]^2) + eps) * gain, rounded once
//
// Shapes:  x, residual, out [rows, width] bf16; gain [width] bf16; width a multiple of 8, at most 8192.
// Launch:  one block of 256 threads a row; each thread keeps its part of the row in registers.
// Traffic: reads x, residual and gain once, writes residual (if x is given) and out once.

#include "common/ptx.cuh"

struct RmsNormParams {
    const bf16* x; // null: nothing is added
    bf16* residual;
    const bf16* gain;
    bf16* out;
    uint32_t width;
    float eps;
};

constexpr int kThreads = 256;
constexpr int kMaxVectors = 4; // of 8 elements, for each thread

static __device__ __forceinline__ void unpack(uint4 v, float (&to)[8]) {
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack_bf16x2(pairs[i]);
        to[2 * i] = pair.x;
        to[2 * i + 1] = pair.y;
    }
}

static __device__ __forceinline__ uint4 pack(const float (&from)[8]) {
    return make_uint4(pack_bf16x2(from[0], from[1]), pack_bf16x2(from[2], from[3]), pack_bf16x2(from[4], from[5]),
                      pack_bf16x2(from[6], from[7]));
}

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
        const size_t at = row + static_cast<size_t>(vector) * 8;
        unpack(ld_v4(p.residual + at), values[i]);
        if (p.x != nullptr) {
            float added[8];
            unpack(ld_v4(p.x + at), added);
            for (int j = 0; j < 8; j++) values[i][j] += added[j];
            const uint4 rounded = pack(values[i]);
            st_v4(p.residual + at, rounded);
            unpack(rounded, values[i]);
        }
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
        unpack(ldg_nc_v4(p.gain + vector * 8), gain);
        for (int j = 0; j < 8; j++) gain[j] *= values[i][j] * scale;
        st_v4(p.out + row + static_cast<size_t>(vector) * 8, pack(gain));
    }
}
