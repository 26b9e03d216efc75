// experts_many: the two products of the experts for many rows, grouped by expert, on tensor cores.
//
//   experts_up_many:    h[t] = swiglu(up_weight[e] x[t / k] + up_bias[e])
//   experts_down_many:  y[t] = weight[t] * (down_weight[e] h[t] + down_bias[e])
//
// for every route t of a row to its expert e; k routes a row.
//
// Shapes:  as in experts_few.
// Launch:  grid (tiles of 384 outputs, tiles of up to 96 routes of one expert), three warpgroups of 128 outputs each.
// Traffic: an expert's weights are read once for every 96 of its routes, as they lie in memory, and its routes' inputs
//          once for every 384 outputs. Two steps of 128 inputs are under way while one is used.
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
    const uint4* tiles;
    const float* weights; // of the routes; null for up
    void* out;
    uint32_t num_experts, outputs, inputs;
    uint32_t routes_per_x; // k for up, 1 for down
    uint32_t num_routes;
    float limit, alpha;
    uint32_t unused;
};

constexpr uint32_t kTileRoutes = 96;
constexpr uint32_t kManyThreads = 384;
constexpr uint32_t kParts = 2; // of 64 outputs, for each warpgroup
constexpr uint32_t kTileOutputs = kManyThreads / 128 * kParts * 64;
constexpr uint32_t kManyStages = 4;
constexpr uint32_t kStepBlocks = 4; // of 32 inputs

// A step of a tile in shared memory: inputs as two tiles of wgmma, blocks of weights with those of one place together.
constexpr uint32_t kXBytes = kTileRoutes * 128, kPlaneBytes = kTileOutputs * 16;
constexpr uint32_t kStageBytes = 2 * kXBytes + kStepBlocks * kPlaneBytes;
// Behind the stages, a step's four scales of each output as a word, for two steps in turn.
constexpr uint32_t kScalesAt = kManyStages * kStageBytes;
static_assert(kStepBlocks == 4 && kManyThreads == kTileOutputs, "a thread brings the scales of one output");

// What the routes of a tile wait in for their way out; rows are padded so that lanes meet different banks.
constexpr uint32_t kInnerStride = kTileOutputs / 2 + 8, kAnswerStride = kTileOutputs + 4;
static_assert(kTileRoutes * kAnswerStride * 4 <= kScalesAt, "answers fit the stages");

// One tile with up to kN routes.
template <bool kIsUp, int kN>
static __device__ __forceinline__ void experts_many(const ExpertsManyParams& p, const RouteTile& tile, unsigned char* bytes) {
    constexpr uint32_t kXRows = kManyThreads / 16, kXEach = (kN + kXRows - 1) / kXRows;
    constexpr uint32_t kBlockRows = kManyThreads / 4, kBlocksEach = kTileOutputs / kBlockRows;
    const uint32_t thread = threadIdx.x, group = thread % 32 / 4, place = thread % 4;
    const uint32_t first_output = blockIdx.x * kTileOutputs, num_blocks = p.inputs / 32;
    const uint32_t num_steps = (num_blocks + kStepBlocks - 1) / kStepBlocks;
    // Outputs beyond the end repeat the first one of the expert; their sums are not written.
    const auto row_of = [&](uint32_t output) {
        return tile.expert * p.outputs + (first_output + output < p.outputs ? first_output + output : 0);
    };
    // Of the inputs a thread copies chunk `thread % 16` of every 24th route, of the weights block `thread % 4` of every
    // 96th output.
    uint32_t x_rows[kXEach];
#pragma unroll
    for (uint32_t i = 0; i < kXEach; i++) {
        const uint32_t row = thread / 16 + i * kXRows;
        x_rows[i] = row < tile.num ? route_at(p.grouped, tile.first + row, p.num_routes) / p.routes_per_x : 0;
    }
    uint32_t block_rows[kBlocksEach];
#pragma unroll
    for (uint32_t i = 0; i < kBlocksEach; i++) block_rows[i] = row_of(thread / 4 + i * kBlockRows);
    const uint32_t x_to = thread % 16 / 8 * kXBytes + thread / 16 * 128 + (thread % 8 ^ thread / 16 % 8) * 16;
    const uint32_t block_to = 2 * kXBytes + place * kPlaneBytes + thread / 4 * 16;
    const auto load = [&](uint32_t step) {
        if (step < num_steps) {
            unsigned char* stage = bytes + step % kManyStages * kStageBytes;
            const uint32_t block = step * kStepBlocks + place, chunk = step * kStepBlocks * 4 + thread % 16;
            const bool is_x = chunk < num_blocks * 4, is_block = block < num_blocks;
#pragma unroll
            for (uint32_t i = 0; i < kXEach; i++) {
                static_assert(kXRows % 8 == 0, "the swizzle of each row is that of the first");
                if (kXEach * kXRows > kN && thread / 16 + i * kXRows >= kN) continue;
                const bf16* from = p.x + static_cast<size_t>(x_rows[i]) * p.inputs + (is_x ? chunk * 8 : 0);
                cp_async_16(stage + x_to + i * kXRows * 128, from, is_x && thread / 16 + i * kXRows < tile.num);
            }
#pragma unroll
            for (uint32_t i = 0; i < kBlocksEach; i++) {
                const uint8_t* from = p.blocks + (static_cast<size_t>(block_rows[i]) * num_blocks + (is_block ? block : 0)) * 16;
                cp_async_16(stage + block_to + i * kBlockRows * 16, from, is_block);
            }
        }
        cp_async_commit();
    };
    const uint8_t* scales = p.scales + static_cast<size_t>(row_of(thread)) * num_blocks;
    const auto load_scales = [&](uint32_t step) {
        uint32_t word = 0;
#pragma unroll
        for (uint32_t i = 0; i < kStepBlocks; i++) {
            const uint32_t block = step * kStepBlocks + i;
            word |= static_cast<uint32_t>(block < num_blocks ? scales[block] : 0) << 8 * i;
        }
        return word;
    };
    uint32_t* scale_words = reinterpret_cast<uint32_t*>(bytes + kScalesAt);
    for (uint32_t step = 0; step < kManyStages - 2; step++) load(step);
    scale_words[thread] = load_scales(0);
    uint32_t next_scales = load_scales(1);
    // The outputs of this thread, as mma has them: two rows of the 16 of its warp, in each part.
    const uint32_t low = thread / 128 * (kParts * 64) + thread / 32 % 4 * 16 + group;
    float sums[kParts][kN / 2] = {};
#pragma unroll
    for (uint32_t part = 0; part < kParts; part++) wgmma_arrived(sums[part]);
    uint32_t lefts[2][kParts][2][4] = {}; // in turn: what is multiplied, and what is made
    for (uint32_t step = 0; step < num_steps; step++) {
        unsigned char* stage = bytes + step % kManyStages * kStageBytes;
        cp_async_wait<kManyStages - 3>();
        fence_async_proxy();
        __syncthreads();
        // Into the stage of two steps ago: all warps have waited for its products.
        load(step + kManyStages - 2);
        const uint32_t* my_scales = scale_words + step % 2 * kTileOutputs + low;
        scale_words[(step + 1) % 2 * kTileOutputs + thread] = next_scales;
        next_scales = load_scales(step + 2);
        uint32_t low_scales[kParts], high_scales[kParts];
#pragma unroll
        for (uint32_t part = 0; part < kParts; part++) {
            low_scales[part] = my_scales[part * 64];
            high_scales[part] = my_scales[part * 64 + 8];
        }
        const uint64_t right = wgmma_tile(stage);
#pragma unroll
        for (uint32_t i = 0; i < kStepBlocks; i++) {
            const unsigned char* words = stage + 2 * kXBytes + i * kPlaneBytes + low * 16 + place * 4;
            // The products of the block before last are done with these registers.
            wgmma_wait<1>();
#pragma unroll
            for (uint32_t part = 0; part < kParts; part++) {
                uint32_t(&left)[2][4] = lefts[i % 2][part];
                wgmma_arrived(left[0]);
                wgmma_arrived(left[1]);
                uint32_t low_pairs[4], high_pairs[4];
                mxfp4_pairs(*reinterpret_cast<const uint32_t*>(words + part * 1024),
                            mxfp4_scale(low_scales[part] >> 8 * i & 0xff), low_pairs);
                mxfp4_pairs(*reinterpret_cast<const uint32_t*>(words + part * 1024 + 128),
                            mxfp4_scale(high_scales[part] >> 8 * i & 0xff), high_pairs);
#pragma unroll
                for (uint32_t k = 0; k < 2; k++) {
                    left[k][0] = low_pairs[2 * k];
                    left[k][1] = high_pairs[2 * k];
                    left[k][2] = low_pairs[2 * k + 1];
                    left[k][3] = high_pairs[2 * k + 1];
                }
            }
            wgmma_fence();
#pragma unroll
            for (uint32_t k = 0; k < 2; k++) {
                // Of the two tiles the second begins 64 inputs on.
                const uint64_t columns = right + i / 2 * (kXBytes / 16) + (i % 2 * 2 + k) * 2;
#pragma unroll
                for (uint32_t part = 0; part < kParts; part++) wgmma_bf16<kN>(sums[part], lefts[i % 2][part][k], columns);
            }
            wgmma_commit();
        }
    }
    wgmma_wait<0>();
#pragma unroll
    for (uint32_t part = 0; part < kParts; part++) {
        wgmma_arrived(sums[part]);
#pragma unroll
        for (uint32_t k = 0; k < 2; k++) {
            wgmma_arrived(lefts[0][part][k]);
            wgmma_arrived(lefts[1][part][k]);
        }
    }
    pdl_launch();
    __syncthreads();
    // Each route's outputs side by side in shared memory first, then out in wide pieces.
    bf16* inner = reinterpret_cast<bf16*>(bytes);
    float* answers = reinterpret_cast<float*>(bytes);
#pragma unroll
    for (uint32_t part = 0; part < kParts; part++) {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t output = low + part * 64 + half * 8;
            const float bias = to_float(p.bias[row_of(output)]);
#pragma unroll
            for (uint32_t n = 0; n < kN / 8; n++) {
                const uint32_t column = n * 8 + place * 2;
                const float left = sums[part][n * 4 + half * 2] * kMxfp4Sums + bias;
                const float right = sums[part][n * 4 + half * 2 + 1] * kMxfp4Sums + bias;
                if (kIsUp) {
                    // Gates are in the lanes of even groups, ups beside them: the even lane takes the left route.
                    const bool is_gate = group % 2 == 0;
                    const float other = __shfl_xor_sync(0xffffffffu, is_gate ? right : left, 4);
                    const float gate = is_gate ? left : other, up = is_gate ? other : right;
                    inner[(column + (is_gate ? 0 : 1)) * kInnerStride + output / 2] = to_bf16(swiglu(gate, up, p.limit, p.alpha));
                } else {
                    answers[column * kAnswerStride + output] = left;
                    answers[(column + 1) * kAnswerStride + output] = right;
                }
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
    const RouteTile tile = route_tile_at(p.tiles, blockIdx.y, p.num_experts, p.num_routes, kTileRoutes);
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
    } else {
        experts_many<kIsUp, 96>(p, tile, bytes);
    }
}

KERNEL(experts_up_many, ExpertsManyParams, kManyThreads, 1) { experts_many<true>(p); }
KERNEL(experts_down_many, ExpertsManyParams, kManyThreads, 1) { experts_many<false>(p); }
