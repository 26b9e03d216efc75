// experts_many: the two products of the experts for many rows, grouped by expert, on tensor cores.
//
//   experts_up_many:    h[t] = swiglu(up_weight[e] x[t / k] + up_bias[e])
//   experts_down_many:  y[t] = weight[t] * (down_weight[e] h[t] + down_bias[e])
//
// for every route t of a row to its expert e; k routes a row.
//
// Shapes:  as in experts_few.
// Launch:  grid (tiles of 192 outputs, tiles of up to 128 routes of one expert), three warpgroups of 64 outputs each.
// Traffic: an expert's weights are read once for every 128 of its routes, as they lie in memory, and its routes' inputs
//          once for every 192 outputs. Three steps of 64 inputs are under way while one is used.
//
// The weights are the left operand: they become bf16 in the registers from which wgmma reads them. The inputs of the
// routes are its right operand, in shared memory, as wide as the tile has routes, in steps of 16.

#include "common/mxfp4.cuh"
#include "common/routes.cuh"
#include "common/wgmma.cuh"

struct ExpertsManyParams {
    const bf16* x;
    const uint8_t* blocks;
    const uint8_t* scales;
    const bf16* bias;
    const uint32_t* grouped;
    const uint32_t* offsets;
    const float* weights; // of the routes; null for up
    void* out;
    uint32_t num_experts, outputs, inputs;
    uint32_t routes_per_x; // k for up, 1 for down
    uint32_t num_routes;
    float limit, alpha;
    uint32_t unused;
};

constexpr uint32_t kTileOutputs = 192, kTileRoutes = 128;
constexpr uint32_t kManyThreads = 384;
constexpr uint32_t kManyStages = 5;
constexpr uint32_t kStepBlocks = 2; // of 32 inputs

// A step of a tile in shared memory.
constexpr uint32_t kXBytes = kTileRoutes * kStepBlocks * 64, kStoredBytes = kTileOutputs * kStepBlocks * 16;

// What the routes of a tile wait in for their way out; rows are padded so that lanes meet different banks.
constexpr uint32_t kInnerStride = kTileOutputs / 2 + 8, kAnswerStride = kTileOutputs + 4;
static_assert(kTileRoutes * kAnswerStride * 4 <= kManyStages * (kXBytes + kStoredBytes), "answers fit the stages");

// One tile with up to kN routes.
template <bool kIsUp, int kN>
static __device__ __forceinline__ void experts_many(const ExpertsManyParams& p, const RouteTile& tile, unsigned char* bytes) {
    constexpr uint32_t kRowsAtOnce = kManyThreads / 8, kRowsEach = (kN + kRowsAtOnce - 1) / kRowsAtOnce;
    const uint32_t thread = threadIdx.x, first_output = blockIdx.x * kTileOutputs, num_blocks = p.inputs / 32;
    const uint32_t group = thread % 32 / 4, place = thread % 4;
    unsigned char* xs = bytes;
    unsigned char* stored = bytes + kManyStages * kXBytes;
    // Of the inputs a thread copies chunk `thread % 8` of every 48th row.
    const bf16* x[kRowsEach];
#pragma unroll
    for (uint32_t i = 0; i < kRowsEach; i++) {
        const uint32_t row = thread / 8 + i * kRowsAtOnce;
        const uint32_t route = row < tile.num ? route_at(p.grouped, tile.first + row, p.num_routes) : 0;
        x[i] = p.x + static_cast<size_t>(route / p.routes_per_x) * p.inputs + thread % 8 * 8;
    }
    // And one block of weights.
    const auto row_of = [&](uint32_t output) {
        return static_cast<size_t>(tile.expert) * p.outputs + (output < p.outputs ? output : 0);
    };
    const uint32_t copied_output = thread / 2, copied_block = thread % 2;
    const bool is_output = first_output + copied_output < p.outputs;
    const uint8_t* blocks = p.blocks + (row_of(first_output + copied_output) * num_blocks + copied_block) * 16;
    const uint32_t num_steps = (num_blocks + kStepBlocks - 1) / kStepBlocks;
    const auto load = [&](uint32_t step) {
        if (step < num_steps) {
            const uint32_t stage = step % kManyStages, chunk = thread % 8;
            const bool is_x = step * 64 + chunk * 8 < p.inputs;
#pragma unroll
            for (uint32_t i = 0; i < kRowsEach; i++) {
                const uint32_t row = thread / 8 + i * kRowsAtOnce;
                if (row >= kN) continue;
                cp_async_16(xs + stage * kXBytes + wgmma_chunk(static_cast<int>(row), static_cast<int>(chunk)) * 2, x[i] + (is_x ? step * 64 : 0),
                            is_x && row < tile.num);
            }
            const bool is_block = step * kStepBlocks + copied_block < num_blocks;
            cp_async_16(stored + stage * kStoredBytes + (copied_block * kTileOutputs + copied_output) * 16,
                        blocks + (is_block ? step * kStepBlocks * 16 : 0), is_block && is_output);
        }
        cp_async_commit();
    };
    for (uint32_t step = 0; step < kManyStages - 2; step++) load(step);
    // The outputs of this thread, as mma has them: two rows of the 16 of its warp.
    const uint32_t low = thread / 32 * 16 + group, high = low + 8;
    const uint8_t* low_scales = p.scales + row_of(first_output + low) * num_blocks;
    const uint8_t* high_scales = p.scales + row_of(first_output + high) * num_blocks;
    uint32_t next[kStepBlocks][2];
    const auto load_scales = [&](uint32_t step) {
#pragma unroll
        for (uint32_t i = 0; i < kStepBlocks; i++) {
            const uint32_t block = step * kStepBlocks + i < num_blocks ? step * kStepBlocks + i : 0;
            next[i][0] = low_scales[block];
            next[i][1] = high_scales[block];
        }
    };
    load_scales(0);
    float sums[kN / 2] = {};
    uint32_t parts[2][2][4]; // by turn: what is multiplied, and what is made
    for (uint32_t step = 0; step < num_steps; step++) {
        const uint32_t stage = step % kManyStages;
        cp_async_wait<kManyStages - 3>();
        fence_async_proxy();
        __syncthreads();
        // Into the stage of two steps ago: all warps have waited for its products.
        load(step + kManyStages - 2);
        uint32_t scales[kStepBlocks][2];
#pragma unroll
        for (uint32_t i = 0; i < kStepBlocks; i++) {
            scales[i][0] = mxfp4_scale(next[i][0]);
            scales[i][1] = mxfp4_scale(next[i][1]);
        }
        load_scales(step + 1);
        const uint64_t right = wgmma_tile(xs + stage * kXBytes);
#pragma unroll
        for (uint32_t i = 0; i < kStepBlocks; i++) {
            const unsigned char* words = stored + stage * kStoredBytes + i * kTileOutputs * 16 + place * 4;
            const uint32_t low_word = *reinterpret_cast<const uint32_t*>(words + low * 16);
            const uint32_t high_word = *reinterpret_cast<const uint32_t*>(words + high * 16);
            uint32_t low_pairs[4], high_pairs[4];
            mxfp4_pairs(low_word, scales[i][0], low_pairs);
            mxfp4_pairs(high_word, scales[i][1], high_pairs);
            // The registers of two products ago.
            wgmma_wait<1>();
#pragma unroll
            for (uint32_t k = 0; k < 2; k++) {
                parts[i][k][0] = low_pairs[2 * k];
                parts[i][k][1] = high_pairs[2 * k];
                parts[i][k][2] = low_pairs[2 * k + 1];
                parts[i][k][3] = high_pairs[2 * k + 1];
            }
            wgmma_fence();
            wgmma_bf16<kN>(sums, parts[i][0], right + i * 4);
            wgmma_bf16<kN>(sums, parts[i][1], right + i * 4 + 2);
            wgmma_commit();
        }
    }
    wgmma_wait<0>();
    wgmma_arrived(sums);
    pdl_launch();
    __syncthreads();
    // Each route's outputs side by side in shared memory first, then out in wide pieces.
    const float low_bias = to_float(p.bias[row_of(first_output + low)]), high_bias = to_float(p.bias[row_of(first_output + high)]);
    bf16* inner = reinterpret_cast<bf16*>(bytes);
    float* answers = reinterpret_cast<float*>(bytes);
#pragma unroll
    for (uint32_t n = 0; n < kN / 8; n++) {
        const uint32_t column = n * 8 + place * 2;
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const float bias = half == 0 ? low_bias : high_bias;
            const float left = sums[n * 4 + half * 2] * kMxfp4Sums + bias;
            const float right = sums[n * 4 + half * 2 + 1] * kMxfp4Sums + bias;
            const uint32_t output = half == 0 ? low : high;
            if (kIsUp) {
                // Gates are in the lanes of even groups, ups beside them: the even lane takes the left route.
                const bool is_gate = group % 2 == 0;
                const float other = __shfl_xor_sync(0xffffffffu, is_gate ? right : left, 4);
                const float value = is_gate ? swiglu(left, other, p.limit, p.alpha) : swiglu(other, right, p.limit, p.alpha);
                inner[(column + (is_gate ? 0 : 1)) * kInnerStride + output / 2] = to_bf16(value);
            } else {
                answers[column * kAnswerStride + output] = left;
                answers[(column + 1) * kAnswerStride + output] = right;
            }
        }
    }
    __syncthreads();
    constexpr uint32_t kWidth = kIsUp ? kTileOutputs / 2 : kTileOutputs, kEach = kIsUp ? 8 : 4; // outputs in 16 bytes
    const uint32_t first = blockIdx.x * kWidth, width = kIsUp ? p.outputs / 2 : p.outputs;
    for (uint32_t i = thread; i < tile.num * (kWidth / kEach); i += kManyThreads) {
        const uint32_t row = i / (kWidth / kEach), output = i % (kWidth / kEach) * kEach;
        if (first + output >= width) continue;
        const uint32_t to = route_at(p.grouped, tile.first + row, p.num_routes);
        const size_t at = static_cast<size_t>(to) * width + first + output;
        if (kIsUp) {
            st_v4(static_cast<bf16*>(p.out) + at, ld_v4(inner + row * kInnerStride + output));
        } else {
            const uint4 bits = ld_v4(answers + row * kAnswerStride + output);
            const float weight = p.weights[to];
            const auto times = [&](uint32_t value) { return __float_as_uint(weight * __uint_as_float(value)); };
            st_v4(static_cast<float*>(p.out) + at, make_uint4(times(bits.x), times(bits.y), times(bits.z), times(bits.w)));
        }
    }
}

template <bool kIsUp>
static __device__ __forceinline__ void experts_many(const ExpertsManyParams& p) {
    SHARED_DYNAMIC(bytes);
    pdl_wait();
    const RouteTile tile = find_route_tile(p.offsets, p.num_experts, p.num_routes, kTileRoutes, blockIdx.y);
    if (tile.num == 0) return;
    if (tile.num <= 16) {
        experts_many<kIsUp, 16>(p, tile, bytes);
    } else if (tile.num <= 32) {
        experts_many<kIsUp, 32>(p, tile, bytes);
    } else if (tile.num <= 48) {
        experts_many<kIsUp, 48>(p, tile, bytes);
    } else if (tile.num <= 64) {
        experts_many<kIsUp, 64>(p, tile, bytes);
    } else if (tile.num <= 80) {
        experts_many<kIsUp, 80>(p, tile, bytes);
    } else if (tile.num <= 96) {
        experts_many<kIsUp, 96>(p, tile, bytes);
    } else {
        experts_many<kIsUp, 128>(p, tile, bytes);
    }
}

KERNEL(experts_up_many, ExpertsManyParams, kManyThreads, 1) { experts_many<true>(p); }
KERNEL(experts_down_many, ExpertsManyParams, kManyThreads, 1) { experts_many<false>(p); }
