// experts_few: the two products of the experts for few rows; bound by reading the weights of the experts in use.
//
//   experts_up_few_R:    h[t] = swiglu(up_weight[e] x[t / k] + up_bias[e] + added[t])
//   experts_down_few_R:  y[t] = weight[t] * (down_weight[e] h[t] + down_bias[e])
//
// for every route t of a row to its expert e; k routes a row; tiles of up to R = 8 or 16 routes. `experts_*_fewest` have
// tiles of up to 8, and are for so few of them that more warps must share each. `experts_*_one` serve one row: every block
// chooses the row's experts itself, from the router's logits.
//
// Shapes:  x [rows, inputs] bf16 (up), h [routes, inputs] bf16 (down); blocks [experts, outputs, inputs / 32, 16] as
//          arrange_blocks leaves them; scales [experts, outputs, inputs / 32] u8; bias [experts, outputs] bf16;
//          grouped [routes] u32; tiles [tiles] uint4; out [routes, outputs / 2] bf16 (up) or [routes, outputs] float32
//          (down); added [routes, outputs] float32 (up) or null; outputs a multiple of 32.
//          For one row its logits [experts] float32 stand for weights, grouped and tiles.
// Launch:  grid (outputs / (4 R) rounded up, tiles of up to R routes of one expert), four to eight warps a block that
//          share the inputs; dynamic shared memory: steps of 2 KB (8) or 4 KB (16) of weights a warp, and R / 8 bytes for
//          each input. 24 warps (8) or 16 (16) a processor.
// Traffic: the weights of a tile's expert are read once a tile, two or three steps of a warp at a time; a thread copies
//          what it will use itself. The inputs come through L1 from L2, as many bytes as weights where a tile is full: L2
//          is the limit, so 16 routes go with twice the rows. Where all blocks begin together, more steps at a time only
//          make the first ones wait, while nothing is computed; the down product asks before it has inputs and gains.
//
// As in linear_few the weights are the left operand of mma. Place p holds block 4 i + p of a row: its 16 bytes are one
// load, and they become bf16 in registers. The inputs of that block are 16 words of a route, of which pair j of word q
// wants word 4 j + q.

#include "common/choose.cuh"
#include "common/mxfp4.cuh"
#include "common/routes.cuh"

// What a block of so many warps makes with so many times eight routes, which share the unpacked weights; and the steps of a
// warp that are under way or in use.
template <uint32_t kRouteEights, uint32_t kWarps, uint32_t kAhead>
struct FewTile {
    static constexpr uint32_t kStepBlocks = kWarps * 4; // of a row that the warps take in a step
    static constexpr uint32_t kRoutes = kRouteEights * 8;
    static constexpr uint32_t kEights = kRouteEights * 4; // times eight rows of weights: a block's outputs
    static constexpr uint32_t kOutputs = kEights * 8, kPairs = kOutputs / 2;
    static constexpr uint32_t kPartLen = kOutputs + 4; // of a route's sums, so that a warp's lie in different banks
    // Of the threads, each of which makes a pair of outputs for some routes.
    static constexpr uint32_t kPlacesTogether = kWarps * 32 / kPairs;
    static constexpr uint32_t kTurns = (kRoutes + kPlacesTogether - 1) / kPlacesTogether;

    // A warp's steps in shared memory, then its sums.
    union WarpMemory {
        uint4 steps[kAhead][kEights][32];
        float parts[kRoutes][kPartLen];
    };
};

// A block's share of the bytes that the next kernels read first.
static __device__ __forceinline__ void prefetch_share(const ExpertsParams& p) {
    const uint32_t num_blocks = gridDim.x * gridDim.y;
    const uint32_t share = (p.next_bytes / num_blocks + 127) / 128 * 128, from = share * (blockIdx.y * gridDim.x + blockIdx.x);
    if (from >= p.next_bytes) return;
    prefetch_l2(static_cast<const uint8_t*>(p.next) + from, min(share, p.next_bytes - from));
}

// A tile, and what its answer is multiplied with if there are no weights of routes.
struct Work {
    RouteTile tile;
    float weight;
};

template <bool kIsOne, uint32_t kRoutes>
static __device__ __forceinline__ Work find_work(const ExpertsParams& p) {
    if (!kIsOne) return {route_tile_at(p.tiles, blockIdx.y, p.num_experts, p.num_routes, kRoutes), 1.0f};
    const Chosen chosen = choose_experts(p.logits, p.num_experts, p.num_routes);
    const uint32_t expert = __shfl_sync(0xffffffffu, chosen.expert, static_cast<int>(blockIdx.y));
    const float weight = __shfl_sync(0xffffffffu, chosen.weight, static_cast<int>(blockIdx.y));
    return {{expert, blockIdx.y, 1}, weight};
}

template <bool kIsUp, bool kIsOne, uint32_t kRouteEights, uint32_t kWarps, uint32_t kAhead>
static __device__ __forceinline__ void experts_few(const ExpertsParams& p) {
    using Tile = FewTile<kRouteEights, kWarps, kAhead>;
    using WarpMemory = typename Tile::WarpMemory;
    constexpr uint32_t kRoutes = Tile::kRoutes, kEights = Tile::kEights, kOutputs = Tile::kOutputs;
    constexpr uint32_t kPairs = Tile::kPairs, kTurns = Tile::kTurns, kStepBlocks = Tile::kStepBlocks;
    SHARED_DYNAMIC(memory);
    WarpMemory* warps = reinterpret_cast<WarpMemory*>(memory);
    uint8_t* scales = memory + kWarps * sizeof(WarpMemory);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
    const uint32_t num_blocks = p.inputs / 32;
    // Before the up product it was decided who goes where: the down product may ask for its weights while that one works.
    if (kIsUp) {
        pdl_wait();
        pdl_launch();
    }
    const Work work = find_work<kIsOne, kRoutes>(p);
    const RouteTile& tile = work.tile;
    if (tile.num == 0) {
        if (!kIsUp) pdl_wait();
        return;
    }
    // Outputs are a multiple of 32: the last block may have half of its rows. The others count as zeros.
    const uint32_t first_output = blockIdx.x * kOutputs;
    const bool is_full = kOutputs == 32 || first_output + kOutputs <= p.outputs;
    const size_t first_row = static_cast<size_t>(tile.expert) * p.outputs + first_output;
    const size_t eight_rows = static_cast<size_t>(num_blocks) * (8 * 16);
    uint32_t next_block = warp * 4 + place;
    const uint8_t* next = p.blocks + ((first_row + group) * num_blocks + next_block) * 16;
    const auto load = [&](uint32_t at) {
#pragma unroll
        for (uint32_t i = 0; i < kEights; i++) {
            cp_async_16(&warps[warp].steps[at][i][lane], next + i * eight_rows,
                        next_block < num_blocks && (i < 4 || is_full));
        }
        cp_async_commit();
        next += kStepBlocks * 16;
        next_block += kStepBlocks;
    };
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < num_blocks * (kOutputs / 16); i += kWarps * 32) {
        cp_async_16(scales + i * 16, p.scales + first_row * num_blocks + i * 16, i < num_blocks * 2 || is_full);
    }
#pragma unroll
    for (uint32_t step = 0; step < kAhead - 1; step++) load(step);
    // Places of the tile without a route repeat the last one; their sums go nowhere.
    const auto route_of = [&](uint32_t at) {
        return kIsOne ? tile.first : route_at(p.grouped, tile.first + min(at, tile.num - 1), p.num_routes);
    };
    uint32_t routes[kRouteEights];
#pragma unroll
    for (uint32_t r = 0; r < kRouteEights; r++) routes[r] = route_of(r * 8 + group);
    // What this thread makes of the sums at last: two outputs of each of these routes.
    const uint32_t my_place = threadIdx.x / kPairs, pair = threadIdx.x % kPairs;
    const bool has_pair = pair < 16 || is_full;
    uint32_t to[kTurns];
#pragma unroll
    for (uint32_t n = 0; n < kTurns; n++) to[n] = route_of(my_place + n * Tile::kPlacesTogether);
    const uint32_t bias_at = has_pair ? pair * 2 : 0;
    const float2 bias = unpack_bf16x2(*reinterpret_cast<const uint32_t*>(p.bias + first_row + bias_at));
    if (!kIsUp) pdl_wait();
    float weights[kTurns] = {};
    const bf16* x[kRouteEights];
#pragma unroll
    for (uint32_t n = 0; n < kTurns; n++) {
        if (!kIsUp) weights[n] = kIsOne ? work.weight : p.weights[to[n]];
    }
#pragma unroll
    for (uint32_t r = 0; r < kRouteEights; r++) {
        x[r] = p.x + static_cast<size_t>(routes[r] / p.routes_per_x) * p.inputs;
    }
    uint4 xs[kRouteEights][4];
    const auto load_x = [&](uint32_t block) {
#pragma unroll
        for (uint32_t r = 0; r < kRouteEights; r++) {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) xs[r][j] = ld_v4(x[r] + block * 32 + j * 8);
        }
    };
    // Beyond the last block are weights of zero, so any inputs serve.
    uint32_t block = min(warp * 4 + place, num_blocks - 1);
    load_x(block);
    cp_async_wait<kAhead - 2>();
    __syncthreads();
    float sums[kEights / 2][kRouteEights][4] = {};
    const uint8_t* my_scales = scales + group * num_blocks;
    uint32_t at = 0;
    for (uint32_t first = warp * 4; first < num_blocks; first += kStepBlocks) {
        load((at + kAhead - 1) % kAhead);
        cp_async_wait<kAhead - 1>();
        const uint4(*from)[32] = warps[warp].steps[at];
        at = (at + 1) % kAhead;
#pragma unroll
        for (uint32_t i = 0; i < kEights / 2; i++) {
            const uint8_t* scale = my_scales + i * 16 * num_blocks + block;
            const uint32_t low_scale = mxfp4_scale(scale[0]), high_scale = mxfp4_scale(scale[8 * num_blocks]);
            const uint4 lows = ld_v4(&from[i * 2][lane]), highs = ld_v4(&from[i * 2 + 1][lane]);
            // Two words at a time: their inputs are two registers side by side, as mma takes them.
            const auto multiply = [&](uint32_t low, uint32_t next_low, uint32_t high, uint32_t next_high, uint32_t word) {
                uint32_t a[4][4];
                mxfp4_pairs(low, low_scale, a[0]);
                mxfp4_pairs(high, high_scale, a[1]);
                mxfp4_pairs(next_low, low_scale, a[2]);
                mxfp4_pairs(next_high, high_scale, a[3]);
#pragma unroll
                for (uint32_t j = 0; j < 4; j++) {
                    const uint32_t of_pair[4] = {a[0][j], a[1][j], a[2][j], a[3][j]};
#pragma unroll
                    for (uint32_t r = 0; r < kRouteEights; r++) {
                        const uint4& four = xs[r][j];
                        const uint32_t b[2] = {word == 0 ? four.x : four.z, word == 0 ? four.y : four.w};
                        mma_bf16_16816(sums[i][r], of_pair, b);
                    }
                }
            };
            multiply(lows.x, lows.y, highs.x, highs.y, 0);
            multiply(lows.z, lows.w, highs.z, highs.w, 2);
        }
        block = min(first + kStepBlocks + place, num_blocks - 1);
        load_x(block);
    }
    if (!kIsUp) {
        pdl_launch();
        // Until the next kernels have begun to read, the memory would be idle.
        if (threadIdx.x == 0) prefetch_share(p);
    }
    // The sums take the place of the warp's steps, of which the last are zeros that may still be under way.
    cp_async_wait<0>();
    __syncwarp();
#pragma unroll
    for (uint32_t i = 0; i < kEights / 2; i++) {
#pragma unroll
        for (uint32_t r = 0; r < kRouteEights; r++) {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                float(&of_route)[Tile::kPartLen] = warps[warp].parts[r * 8 + place * 2 + j % 2];
                of_route[i * 16 + group + j / 2 * 8] = kMxfp4Sums * sums[i][r][j];
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (uint32_t n = 0; n < kTurns; n++) {
        const uint32_t at_place = my_place + n * Tile::kPlacesTogether;
        if (at_place >= tile.num || !has_pair) return;
        float2 sum = bias;
#pragma unroll
        for (uint32_t w = 0; w < kWarps; w++) {
            const float2 part = *reinterpret_cast<const float2*>(&warps[w].parts[at_place][pair * 2]);
            sum.x += part.x, sum.y += part.y;
        }
        const size_t at_pair = static_cast<size_t>(to[n]) * (p.outputs / 2) + first_output / 2 + pair;
        if (kIsUp && !kIsOne && p.added != nullptr) {
            const float2 more = reinterpret_cast<const float2*>(p.added)[at_pair];
            sum.x += more.x, sum.y += more.y;
        }
        if (kIsUp) {
            static_cast<bf16*>(p.out)[at_pair] = to_bf16(swiglu(sum.x, sum.y, p.limit, p.alpha));
        } else {
            static_cast<float2*>(p.out)[at_pair] = make_float2(weights[n] * sum.x, weights[n] * sum.y);
        }
    }
}

// How many warps share a block's outputs, and how far they copy ahead, was measured; see `benches/results/h100-sxm/`.
KERNEL(experts_up_one, ExpertsParams, 128, 6) { experts_few<true, true, 1, 4, 2>(p); }
KERNEL(experts_down_one, ExpertsParams, 256, 3) { experts_few<false, true, 1, 8, 3>(p); }
KERNEL(experts_up_fewest, ExpertsParams, 192, 4) { experts_few<true, false, 1, 6, 2>(p); }
KERNEL(experts_down_fewest, ExpertsParams, 256, 3) { experts_few<false, false, 1, 8, 2>(p); }
KERNEL(experts_up_few_8, ExpertsParams, 128, 6) { experts_few<true, false, 1, 4, 2>(p); }
KERNEL(experts_down_few_8, ExpertsParams, 128, 6) { experts_few<false, false, 1, 4, 3>(p); }
KERNEL(experts_up_few_16, ExpertsParams, 128, 4) { experts_few<true, false, 2, 4, 3>(p); }
KERNEL(experts_down_few_16, ExpertsParams, 128, 4) { experts_few<false, false, 2, 4, 3>(p); }
