// experts_many: the two products of the experts for many rows, grouped by expert, on tensor cores.
//
//   experts_up_many:    h[t] = swiglu(up_weight[e] x[t / k] + up_bias[e] + added[t])
//   experts_down_many:  y[t] = weight[t] * (down_weight[e] h[t] + down_bias[e])
//
// for every route t of a row to its expert e; k routes a row.
//
// Shapes:  as in experts_few.
// Launch:  grid (tiles of 256 outputs, tiles of up to 96 routes of one expert), four warpgroups of 64 outputs each.
// Traffic: an expert's weights are read once for every 96 of its routes, as they lie in memory, and its routes' inputs
//          once for every 256 outputs. Two steps of 128 inputs are under way while one is used. The scales of a tile
//          come at once, since those of one step are a few bytes of each of many rows.
//
// The weights are the left operand: they become bf16 in the registers from which wgmma reads them. The inputs of the
// routes are its right operand, in shared memory, as wide as the tile has routes, in steps of 16.

#include "common/mxfp4.cuh"
#include "common/routes.cuh"
#include "common/wgmma.cuh"

constexpr uint32_t kTileRoutes = 96;
constexpr uint32_t kManyThreads = 512;
constexpr uint32_t kTileOutputs = kManyThreads / 128 * 64;
constexpr uint32_t kManyStages = 4;
constexpr uint32_t kStepBlocks = 4; // of 32 inputs

// A step of a tile in shared memory: inputs as two tiles of wgmma, then the blocks of weights.
constexpr uint32_t kXBytes = kTileRoutes * 128, kStageBytes = 2 * kXBytes + kTileOutputs * kStepBlocks * 16;
// Behind the stages, the factors of a step's four blocks of each output, for two steps in turn; then all scales.
constexpr uint32_t kFactorsAt = kManyStages * kStageBytes, kScalesAt = kFactorsAt + 2 * kTileOutputs * kStepBlocks * 4;
static_assert(kStepBlocks == 4 && kManyThreads == 2 * kTileOutputs, "a thread makes two factors of a step");

// Block `block` of a step and output: the four of an output lie side by side, as they come, and in an order by which the
// eight outputs that a warp reads together lie in different banks.
__device__ __forceinline__ uint32_t block_at(uint32_t output, uint32_t block) {
    return 2 * kXBytes + output * 64 + (block ^ output / 2 % 4) * 16;
}

// What the routes of a tile wait in for their way out; rows are padded so that lanes meet different banks.
constexpr uint32_t kInnerStride = kTileOutputs / 2 + 8, kAnswerStride = kTileOutputs + 4;
static_assert(kTileRoutes * kAnswerStride * 4 <= kFactorsAt, "answers fit the stages");
// And what is added to them before the activation, on its way in.
constexpr uint32_t kAddedAt = kTileRoutes * kInnerStride * 2;
static_assert(kAddedAt % 16 == 0 && kAddedAt + kTileRoutes * kAnswerStride * 4 <= kFactorsAt, "it fits behind inner values");

// One tile with up to kN routes.
template <bool kIsUp, int kN>
static __device__ __forceinline__ void experts_many(const ExpertsParams& p, const RouteTile& tile, unsigned char* bytes) {
    constexpr uint32_t kXRows = kManyThreads / 16, kXEach = (kN + kXRows - 1) / kXRows;
    constexpr uint32_t kBlockRows = kManyThreads / 4, kBlocksEach = kTileOutputs / kBlockRows;
    const uint32_t thread = threadIdx.x, group = thread % 32 / 4, place = thread % 4;
    const uint32_t first_output = blockIdx.x * kTileOutputs, num_blocks = p.inputs / 32;
    const uint32_t num_steps = (num_blocks + kStepBlocks - 1) / kStepBlocks;
    // Outputs beyond the end repeat the first one of the expert; their sums are not written.
    const auto row_of = [&](uint32_t output) {
        return tile.expert * p.outputs + (first_output + output < p.outputs ? first_output + output : 0);
    };
    // Of the inputs a thread copies chunk `thread % 16` of every 32nd route, of the weights block `thread % 4` of every
    // 128th output.
    // Where these begin, in pieces of 16 bytes.
    uint32_t x_from[kXEach], blocks_from[kBlocksEach];
#pragma unroll
    for (uint32_t i = 0; i < kXEach; i++) {
        const uint32_t row = thread / 16 + i * kXRows;
        const uint32_t route = row < tile.num ? route_at(p.grouped, tile.first + row, p.num_routes) : 0;
        x_from[i] = route / p.routes_per_x * (num_blocks * 4);
    }
#pragma unroll
    for (uint32_t i = 0; i < kBlocksEach; i++) blocks_from[i] = row_of(thread / 4 + i * kBlockRows) * num_blocks;
    const uint32_t x_to = thread % 16 / 8 * kXBytes + thread / 16 * 128 + (thread % 8 ^ thread / 16 % 8) * 16;
    const uint32_t block_to = block_at(thread / 4, place);
    const auto load = [&](uint32_t step) {
        if (step < num_steps) {
            unsigned char* stage = bytes + step % kManyStages * kStageBytes;
            const uint32_t block = step * kStepBlocks + place, chunk = step * kStepBlocks * 4 + thread % 16;
            const bool is_x = chunk < num_blocks * 4, is_block = block < num_blocks;
            const uint4* x = reinterpret_cast<const uint4*>(p.x) + (is_x ? chunk : 0);
            const uint4* blocks = reinterpret_cast<const uint4*>(p.blocks) + (is_block ? block : 0);
#pragma unroll
            for (uint32_t i = 0; i < kXEach; i++) {
                static_assert(kXRows % 8 == 0, "the swizzle of each row is that of the first");
                if (kXEach * kXRows > kN && thread / 16 + i * kXRows >= kN) continue;
                cp_async_16(stage + x_to + i * kXRows * 128, x + x_from[i], is_x && thread / 16 + i * kXRows < tile.num);
            }
#pragma unroll
            for (uint32_t i = 0; i < kBlocksEach; i++) {
                cp_async_16(stage + block_to + i * kBlockRows * 64, blocks + blocks_from[i], is_block);
            }
        }
        cp_async_commit();
    };
    // Scales of neighbouring outputs follow one another, in whole pieces of 16 bytes.
    const uint32_t num_outputs = min(kTileOutputs, p.outputs - first_output);
    const uint8_t* scales = p.scales + static_cast<size_t>(row_of(0)) * num_blocks;
    for (uint32_t i = thread; i < num_outputs * num_blocks / 16; i += kManyThreads) {
        cp_async_16(bytes + kScalesAt + i * 16, scales + i * 16);
    }
    for (uint32_t step = 0; step < kManyStages - 2; step++) load(step);
    // Two of the four factors of output thread / 2.
    const auto make_factors = [&](uint32_t step) {
        uint32_t factors[2];
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t block = step * kStepBlocks + thread % 2 * 2 + i;
            const bool is_one = block < num_blocks && thread / 2 < num_outputs;
            factors[i] = mxfp4_scale(is_one ? bytes[kScalesAt + thread / 2 * num_blocks + block] : 0);
        }
        *reinterpret_cast<uint2*>(bytes + kFactorsAt + step % 2 * (kTileOutputs * 16) + thread * 8) =
            make_uint2(factors[0], factors[1]);
    };
    // The scales are part of the first step.
    cp_async_wait<kManyStages - 3>();
    __syncthreads();
    make_factors(0);
    // The outputs of this thread, as mma has them: two of the 16 of its warp.
    const uint32_t low = thread / 32 * 16 + group, high = low + 8;
    float sums[kN / 2] = {};
    wgmma_arrived(sums);
    // In turn: what is multiplied, and what is made.
    constexpr int kTurns = 4;
    uint32_t lefts[kTurns][2][4] = {};
    for (uint32_t step = 0; step < num_steps; step++) {
        const unsigned char* stage = bytes + step % kManyStages * kStageBytes;
        cp_async_wait<kManyStages - 3>();
        fence_async_proxy();
        __syncthreads();
        // Into the stage of two steps ago: all warps have waited for its products.
        load(step + kManyStages - 2);
        make_factors(step + 1);
        const unsigned char* factors = bytes + kFactorsAt + step % 2 * (kTileOutputs * 16);
        const uint64_t right = wgmma_tile(stage);
        const auto word = [](const unsigned char* from) { return *reinterpret_cast<const uint32_t*>(from); };
#pragma unroll
        for (uint32_t i = 0; i < kStepBlocks; i++) {
            uint32_t(&left)[2][4] = lefts[i % kTurns];
            // The products that had these registers are done.
            wgmma_wait<kTurns - 1>();
            wgmma_arrived(left[0]);
            wgmma_arrived(left[1]);
            uint32_t low_pairs[4], high_pairs[4];
            mxfp4_pairs(word(stage + block_at(low, i) + place * 4), word(factors + low * 16 + i * 4), low_pairs);
            mxfp4_pairs(word(stage + block_at(high, i) + place * 4), word(factors + high * 16 + i * 4), high_pairs);
#pragma unroll
            for (uint32_t k = 0; k < 2; k++) {
                left[k][0] = low_pairs[2 * k];
                left[k][1] = high_pairs[2 * k];
                left[k][2] = low_pairs[2 * k + 1];
                left[k][3] = high_pairs[2 * k + 1];
            }
            wgmma_fence();
#pragma unroll
            for (uint32_t k = 0; k < 2; k++) {
                // Of the two tiles the second begins 64 inputs on.
                wgmma_bf16<kN>(sums, left[k], right + i / 2 * (kXBytes / 16) + (i % 2 * 2 + k) * 2);
            }
            wgmma_commit();
        }
    }
    wgmma_wait<0>();
    wgmma_arrived(sums);
#pragma unroll
    for (int turn = 0; turn < kTurns; turn++) {
        wgmma_arrived(lefts[turn][0]);
        wgmma_arrived(lefts[turn][1]);
    }
    pdl_launch();
    __syncthreads();
    // Each route's outputs side by side in shared memory first, then out in wide pieces.
    bf16* inner = reinterpret_cast<bf16*>(bytes);
    float* answers = reinterpret_cast<float*>(bytes);
    float* added = reinterpret_cast<float*>(bytes + kAddedAt);
    if (kIsUp && p.added != nullptr) {
        for (uint32_t i = thread; i < tile.num * (kTileOutputs / 4); i += kManyThreads) {
            const uint32_t row = i / (kTileOutputs / 4), output = i % (kTileOutputs / 4) * 4;
            if (output >= num_outputs) continue;
            const size_t route = route_at(p.grouped, tile.first + row, p.num_routes);
            cp_async_16(added + row * kAnswerStride + output, p.added + route * p.outputs + first_output + output);
        }
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t output = half == 0 ? low : high;
        const float bias = to_float(p.bias[row_of(output)]);
#pragma unroll
        for (uint32_t n = 0; n < kN / 8; n++) {
            const uint32_t column = n * 8 + place * 2;
            float left = sums[n * 4 + half * 2] * kMxfp4Sums + bias;
            float right = sums[n * 4 + half * 2 + 1] * kMxfp4Sums + bias;
            if (kIsUp && p.added != nullptr && output < num_outputs) {
                if (column < tile.num) left += added[column * kAnswerStride + output];
                if (column + 1 < tile.num) right += added[(column + 1) * kAnswerStride + output];
            }
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
static __device__ __forceinline__ void experts_many(const ExpertsParams& p) {
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

KERNEL(experts_up_many, ExpertsParams, kManyThreads, 1) { experts_many<true>(p); }
KERNEL(experts_down_many, ExpertsParams, kManyThreads, 1) { experts_many<false>(p); }
