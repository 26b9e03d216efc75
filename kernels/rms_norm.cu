// rms_norm: adds a block's output to the residual stream and normalizes the sum.
//
//   residual[r] += x[r][0] + x[r][1] + ... (if x is given)
//   out[r]       = residual[r] / sqrt(mean(residual[r]^2) + eps) * gain, rounded once
//
// Shapes:  x [rows, parts, width] and residual [rows, width] float32; out [rows, width] and gain [width] bf16; width a
//          multiple of 8, at most 8192.
// Launch:  one block a row, four elements a thread; up to 1024 threads, which take wider rows in two turns. All loads of a
//          thread are on their way together, the gain's before the kernel before has ended.
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

constexpr uint32_t kMaxNormThreads = 1024;
constexpr uint32_t kNormTurns = 2;     // of four elements, for each thread
constexpr uint32_t kPartsTogether = 4; // whose loads are on their way at the same time

KERNEL(rms_norm, RmsNormParams, kMaxNormThreads) {
    SHARED(float, sums, [kMaxNormThreads / 32]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float* residual = p.residual + static_cast<size_t>(blockIdx.x) * p.width;
    float values[kNormTurns][4];
    uint2 gains[kNormTurns];
#pragma unroll
    for (uint32_t i = 0; i < kNormTurns; i++) {
        const uint32_t at = (threadIdx.x + i * blockDim.x) * 4;
        if (at < p.width) gains[i] = *reinterpret_cast<const uint2*>(p.gain + at);
    }
    pdl_wait();
    pdl_launch();
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kNormTurns; i++) {
        const uint32_t at = (threadIdx.x + i * blockDim.x) * 4;
        if (at >= p.width) continue;
        load_4(residual + at, values[i]);
        if (p.x != nullptr) {
            const float* x = p.x + static_cast<size_t>(blockIdx.x) * p.num_parts * p.width;
            for (uint32_t first = 0; first < p.num_parts; first += kPartsTogether) {
                float added[kPartsTogether][4];
#pragma unroll
                for (uint32_t part = 0; part < kPartsTogether; part++) {
                    if (first + part < p.num_parts) {
                        load_4(x + static_cast<size_t>(first + part) * p.width + at, added[part]);
                    }
                }
#pragma unroll
                for (uint32_t part = 0; part < kPartsTogether; part++) {
                    if (first + part >= p.num_parts) continue;
#pragma unroll
                    for (int j = 0; j < 4; j++) values[i][j] += added[part][j];
                }
            }
            store_4(residual + at, values[i]);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) sum += values[i][j] * values[i][j];
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    const float total = warp_sum(lane < blockDim.x / 32 ? sums[lane] : 0.0f);
    const float scale = rsqrtf(total / static_cast<float>(p.width) + p.eps);
    bf16* out = p.out + static_cast<size_t>(blockIdx.x) * p.width;
#pragma unroll
    for (uint32_t i = 0; i < kNormTurns; i++) {
        const uint32_t at = (threadIdx.x + i * blockDim.x) * 4;
        if (at >= p.width) continue;
        const float2 low = unpack_bf16x2(gains[i].x), high = unpack_bf16x2(gains[i].y);
        *reinterpret_cast<uint2*>(out + at) =
            make_uint2(pack_bf16x2(low.x * (values[i][0] * scale), low.y * (values[i][1] * scale)),
                       pack_bf16x2(high.x * (values[i][2] * scale), high.y * (values[i][3] * scale)));
    }
}
