// experts_few: the two products of the experts for few rows; bound by reading the weights of the experts in use.
//
//   experts_up_few:    h[t] = swiglu(up_weight[e] x[t / k] + up_bias[e])
//   experts_down_few:  y[t] = weight[t] * (down_weight[e] h[t] + down_bias[e])
//
// for every route t of a row to its expert e; k routes a row.
//
// Shapes:  x [rows, inputs] bf16 (up), h [routes, inputs] bf16 (down); blocks [experts, outputs, inputs / 32, 16] as
//          arrange_blocks leaves them; scales [experts, outputs, inputs / 32] u8; bias [experts, outputs] bf16;
//          grouped [routes] u32; tiles [tiles] uint4; out [routes, outputs / 2] bf16 (up) or [routes, outputs] float32
//          (down); outputs a multiple of 32.
// Launch:  grid (outputs / 32, tiles of up to 8 routes of one expert), four warps a block that share the inputs;
//          dynamic shared memory: 32 KB of weights and a byte for each input. Six blocks a processor.
// Traffic: the weights of an expert with up to 8 routes are read once, a block's 32 rows by four steps of 8 KB ahead; a
//          thread copies what it will use itself. The inputs come through L1, as many bytes as weights at 8 routes.
//
// As in linear_few the weights are the left operand of mma. Place p holds block 4 i + p of a row: its 16 bytes are one
// load, and they become bf16 in registers. The inputs of that block are 16 words of a route, of which pair j of word q
// wants word 4 j + q.

#include "common/mxfp4.cuh"
#include "common/routes.cuh"

struct ExpertsFewParams {
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

constexpr uint32_t kExpertWarps = 4;
constexpr uint32_t kRoutes = 8;
constexpr uint32_t kEights = 4;                // times eight rows of weights: a block's outputs
constexpr uint32_t kOutputs = kEights * 8;
constexpr uint32_t kStepBlocks = kExpertWarps * 4; // of a row that the warps take in a step
constexpr uint32_t kAhead = 4;                 // steps of a warp that are under way or in use
constexpr uint32_t kPartLen = kOutputs + 4;    // of a route's sums, so that a warp's lie in different banks

// A warp's steps in shared memory, then its sums.
union WarpMemory {
    uint4 steps[kAhead][kEights][32];
    float parts[kRoutes][kPartLen];
};

template <bool kIsUp>
static __device__ __forceinline__ void experts_few(const ExpertsFewParams& p) {
    SHARED_DYNAMIC(memory);
    WarpMemory* warps = reinterpret_cast<WarpMemory*>(memory);
    uint8_t* scales = memory + kExpertWarps * sizeof(WarpMemory);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
    const uint32_t num_blocks = p.inputs / 32;
    // The tiles were listed just before the up product: this one may ask for its weights while that one works.
    if (kIsUp) {
        pdl_wait();
        pdl_launch();
    }
    const RouteTile tile = route_tile_at(p.tiles, blockIdx.y, p.num_experts, p.num_routes, kRoutes);
    if (tile.num == 0) {
        if (!kIsUp) pdl_wait();
        return;
    }
    const size_t first_row = static_cast<size_t>(tile.expert) * p.outputs + blockIdx.x * kOutputs;
    const size_t eight_rows = static_cast<size_t>(num_blocks) * (8 * 16);
    uint32_t next_block = warp * 4 + place;
    const uint8_t* next = p.blocks + ((first_row + group) * num_blocks + next_block) * 16;
    const auto load = [&](uint32_t at) {
#pragma unroll
        for (uint32_t i = 0; i < kEights; i++) {
            cp_async_16(&warps[warp].steps[at][i][lane], next + i * eight_rows, next_block < num_blocks);
        }
        cp_async_commit();
        next += kStepBlocks * 16;
        next_block += kStepBlocks;
    };
    for (uint32_t i = threadIdx.x; i < num_blocks * (kOutputs / 16); i += kExpertWarps * 32) {
        cp_async_16(scales + i * 16, p.scales + first_row * num_blocks + i * 16);
    }
#pragma unroll
    for (uint32_t step = 0; step < kAhead - 1; step++) load(step);
    if (!kIsUp) pdl_wait();
    // Places of the tile without a route repeat the last one; their sums go nowhere.
    const uint32_t route = route_at(p.grouped, tile.first + min(group, tile.num - 1), p.num_routes);
    const bf16* x = p.x + static_cast<size_t>(route / p.routes_per_x) * p.inputs;
    cp_async_wait<kAhead - 2>();
    __syncthreads();
    float sums[kEights / 2][4] = {};
    const uint8_t* my_scales = scales + group * num_blocks;
    uint32_t at = 0;
    for (uint32_t first = warp * 4; first < num_blocks; first += kStepBlocks) {
        load((at + kAhead - 1) % kAhead);
        // Beyond the last block are weights of zero, so any inputs serve.
        const uint32_t block = min(first + place, num_blocks - 1);
        uint4 xs[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) xs[j] = ld_v4(x + block * 32 + j * 8);
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
                    const uint32_t b[2] = {word == 0 ? xs[j].x : xs[j].z, word == 0 ? xs[j].y : xs[j].w};
                    mma_bf16_16816(sums[i], of_pair, b);
                }
            };
            multiply(lows.x, lows.y, highs.x, highs.y, 0);
            multiply(lows.z, lows.w, highs.z, highs.w, 2);
        }
    }
    if (!kIsUp) pdl_launch();
    // The sums take the place of the warp's steps, of which the last are zeros that may still be under way.
    cp_async_wait<0>();
    __syncwarp();
#pragma unroll
    for (uint32_t i = 0; i < kEights / 2; i++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            warps[warp].parts[place * 2 + j % 2][i * 16 + group + j / 2 * 8] = kMxfp4Sums * sums[i][j];
        }
    }
    __syncthreads();
    const bf16* bias = p.bias + first_row;
    const auto sum = [&](uint32_t place_of_route, uint32_t output) {
        float sum = to_float(bias[output]);
#pragma unroll
        for (uint32_t w = 0; w < kExpertWarps; w++) sum += warps[w].parts[place_of_route][output];
        return sum;
    };
    constexpr uint32_t kValues = kIsUp ? kOutputs / 2 : kOutputs;
    for (uint32_t i = threadIdx.x; i < tile.num * kValues; i += kExpertWarps * 32) {
        const uint32_t place_of_route = i / kValues, value = i % kValues;
        const uint32_t to = route_at(p.grouped, tile.first + place_of_route, p.num_routes);
        const size_t at = (static_cast<size_t>(to) * gridDim.x + blockIdx.x) * kValues + value;
        if (kIsUp) {
            const float gate = sum(place_of_route, value * 2), up = sum(place_of_route, value * 2 + 1);
            static_cast<bf16*>(p.out)[at] = to_bf16(swiglu(gate, up, p.limit, p.alpha));
        } else {
            static_cast<float*>(p.out)[at] = p.weights[to] * sum(place_of_route, value);
        }
    }
}

KERNEL(experts_up_few, ExpertsFewParams, kExpertWarps * 32, 6) { experts_few<true>(p); }
KERNEL(experts_down_few, ExpertsFewParams, kExpertWarps * 32, 6) { experts_few<false>(p); }
