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
//          (down); outputs a multiple of 16.
// Launch:  grid (outputs / 16, tiles of up to 8 routes of one expert), four warps a block that share the inputs.
// Traffic: the weights of an expert with up to 8 routes are read once, 64 bytes of a row at a time. A thread copies what
//          it will use itself, five steps ahead and so without a barrier: 20 KB of a block are on their way at any time.
//
// As in linear_few the weights are the left operand of mma. Place p holds block 4 i + p of a row: its 16 bytes are one
// load, and they become bf16 in registers.

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
constexpr uint32_t kAhead = 6; // steps of a warp that are under way or in use

template <bool kIsUp>
static __device__ __forceinline__ void experts_few(const ExpertsFewParams& p) {
    SHARED(float, parts, [kExpertWarps][kRoutes][16 + 1]);
    SHARED(uint4, ahead, [kAhead][2][kExpertWarps * 32]);
    const uint32_t warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    pdl_wait();
    const RouteTile tile = route_tile_at(p.tiles, blockIdx.y, p.num_experts, p.num_routes, kRoutes);
    if (tile.num == 0) return;
    const uint32_t num_blocks = p.inputs / 32;
    const size_t row = static_cast<size_t>(tile.expert) * p.outputs + blockIdx.x * 16 + group;
    const uint8_t* low = p.blocks + row * num_blocks * 16;
    const uint8_t* high = low + static_cast<size_t>(8) * num_blocks * 16;
    const uint8_t* low_scales = p.scales + row * num_blocks;
    const uint8_t* high_scales = low_scales + static_cast<size_t>(8) * num_blocks;
    const bool is_route = group < tile.num;
    const uint32_t route = is_route ? route_at(p.grouped, tile.first + group, p.num_routes) : 0;
    const bf16* x = p.x + static_cast<size_t>(route / p.routes_per_x) * p.inputs;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    float sums[4] = {};
    const auto load = [&](uint32_t step) {
        const uint32_t block = step * 4 + place;
        if (block < num_blocks) {
            cp_async_16(&ahead[step / kExpertWarps % kAhead][0][threadIdx.x], low + block * 16);
            cp_async_16(&ahead[step / kExpertWarps % kAhead][1][threadIdx.x], high + block * 16);
        }
        cp_async_commit();
    };
    const uint32_t num_steps = (num_blocks + 3) / 4;
    for (uint32_t i = 0; i < kAhead - 1; i++) load(warp + i * kExpertWarps);
    for (uint32_t step = warp; step < num_steps; step += kExpertWarps) {
        const uint32_t block = step * 4 + place;
        const bool is_block = block < num_blocks;
        const uint32_t low_scale = mxfp4_scale(is_block ? low_scales[block] : 127);
        const uint32_t high_scale = mxfp4_scale(is_block ? high_scales[block] : 127);
        load(step + (kAhead - 1) * kExpertWarps);
        cp_async_wait<kAhead - 1>();
        const uint4 lows = is_block ? ld_v4(&ahead[step / kExpertWarps % kAhead][0][threadIdx.x]) : zero;
        const uint4 highs = is_block ? ld_v4(&ahead[step / kExpertWarps % kAhead][1][threadIdx.x]) : zero;
        const uint32_t low_words[4] = {lows.x, lows.y, lows.z, lows.w};
        const uint32_t high_words[4] = {highs.x, highs.y, highs.z, highs.w};
        uint32_t xs[4][4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const uint4 eight = is_route && is_block ? ld_v4(x + block * 32 + j * 8) : zero;
            xs[j][0] = eight.x, xs[j][1] = eight.y, xs[j][2] = eight.z, xs[j][3] = eight.w;
        }
#pragma unroll
        for (uint32_t word = 0; word < 4; word++) {
            uint32_t l[4], h[4];
            mxfp4_pairs(low_words[word], low_scale, l);
            mxfp4_pairs(high_words[word], high_scale, h);
            const uint32_t a_first[4] = {l[0], h[0], l[1], h[1]}, a_second[4] = {l[2], h[2], l[3], h[3]};
            const uint32_t b_first[2] = {xs[0][word], xs[1][word]}, b_second[2] = {xs[2][word], xs[3][word]};
            mma_bf16_16816(sums, a_first, b_first);
            mma_bf16_16816(sums, a_second, b_second);
        }
    }
    pdl_launch();
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) parts[warp][place * 2 + i % 2][group + i / 2 * 8] = kMxfp4Sums * sums[i];
    __syncthreads();
    const auto sum = [&](uint32_t place_of_route, uint32_t output) {
        float sum = to_float(p.bias[static_cast<size_t>(tile.expert) * p.outputs + blockIdx.x * 16 + output]);
#pragma unroll
        for (uint32_t w = 0; w < kExpertWarps; w++) sum += parts[w][place_of_route][output];
        return sum;
    };
    constexpr uint32_t kOutputs = kIsUp ? 8 : 16;
    for (uint32_t i = threadIdx.x; i < tile.num * kOutputs; i += kExpertWarps * 32) {
        const uint32_t place_of_route = i / kOutputs, output = i % kOutputs;
        const uint32_t to = route_at(p.grouped, tile.first + place_of_route, p.num_routes);
        const size_t at = (static_cast<size_t>(to) * gridDim.x + blockIdx.x) * kOutputs + output;
        if (kIsUp) {
            const float gate = sum(place_of_route, output * 2), up = sum(place_of_route, output * 2 + 1);
            static_cast<bf16*>(p.out)[at] = to_bf16(swiglu(gate, up, p.limit, p.alpha));
        } else {
            static_cast<float*>(p.out)[at] = p.weights[to] * sum(place_of_route, output);
        }
    }
}

KERNEL(experts_up_few, ExpertsFewParams, kExpertWarps * 32) { experts_few<true>(p); }
KERNEL(experts_down_few, ExpertsFewParams, kExpertWarps * 32) { experts_few<false>(p); }
