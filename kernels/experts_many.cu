// experts_many: the two products of the experts for many rows, grouped by expert, on tensor cores.
//
//   experts_up_many:    h[t] = swiglu(up_weight[e] x[t / k] + up_bias[e])
//   experts_down_many:  y[t] = weight[t] * (down_weight[e] h[t] + down_bias[e])
//
// for every route t of a row to its expert e; k routes a row.
//
// Shapes:  as in experts_few; outputs may be any even number.
// Launch:  grid (tiles of 128 outputs, tiles of up to 64 routes of one expert), 256 threads.
// Traffic: an expert's weights are read once for every 64 of its routes, as stored; they become bf16 on their way from
//          one part of shared memory to the other. Two steps of 32 inputs are under way while one is used.

#include "common/mxfp4.cuh"
#include "common/routes.cuh"
#include "common/tile.cuh"

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

constexpr int kTileRoutes = 64, kTileOutputs = 128, kManyThreads = 256, kManyStages = 3;

template <bool kIsUp>
static __device__ __forceinline__ void experts_many(const ExpertsManyParams& p) {
    using Sums = Tile<kTileRoutes, kTileOutputs, 2, 4>;
    static_assert(Sums::kThreads == kManyThreads && kTileRoutes * 4 == kManyThreads, "a thread copies one chunk of x");
    SHARED(bf16, xs, [kManyStages][kTileRoutes * kTileK]);
    SHARED(uint8_t, stored, [kManyStages][kTileOutputs * 16]);
    SHARED(bf16, weights, [2][kTileOutputs * kTileK]);
    const int thread = static_cast<int>(threadIdx.x);
    const uint32_t first_output = blockIdx.x * kTileOutputs, num_blocks = p.inputs / 32;
    pdl_wait();
    const RouteTile tile = route_tile_at(p.tiles, blockIdx.y, p.num_experts, p.num_routes, kTileRoutes);
    if (tile.num == 0) return;
    // What this thread copies: a chunk of one route's inputs, and (half of the threads) one block of weights.
    const uint32_t place = static_cast<uint32_t>(thread / 4);
    const bool is_route = place < tile.num;
    const uint32_t route = is_route ? route_at(p.grouped, tile.first + place, p.num_routes) : 0;
    const bf16* x = p.x + static_cast<size_t>(route / p.routes_per_x) * p.inputs + thread % 4 * 8;
    // Two threads share an output: each turns half of its block to bf16.
    const int my_output = thread / 2, half = thread % 2;
    const uint32_t output = first_output + static_cast<uint32_t>(my_output);
    const bool is_output = output < p.outputs;
    const size_t row = static_cast<size_t>(tile.expert) * p.outputs + (is_output ? output : 0);
    const uint8_t* blocks = p.blocks + row * num_blocks * 16;
    const uint8_t* scales = p.scales + row * num_blocks;
    Sums sums;
    sums.clear();
    const auto load = [&](uint32_t step) {
        if (step < num_blocks) {
            const uint32_t stage = step % kManyStages;
            cp_async_16(&xs[stage][tile_chunk(thread / 4, thread % 4)], x + step * 32, is_route);
            if (half == 0) cp_async_16(&stored[stage][my_output * 16], blocks + step * 16, is_output);
        }
        cp_async_commit();
    };
    for (uint32_t step = 0; step < kManyStages - 1; step++) load(step);
    uint32_t next_scale = scales[0];
    for (uint32_t step = 0; step < num_blocks; step++) {
        const uint32_t stage = step % kManyStages, scale = mxfp4_scale(next_scale);
        if (step + 1 < num_blocks) next_scale = scales[step + 1];
        cp_async_wait<kManyStages - 2>();
        __syncthreads();
        bf16* unpacked = weights[step % 2];
        const uint2 words = *reinterpret_cast<const uint2*>(&stored[stage][my_output * 16 + half * 8]);
        uint32_t first[4], second[4];
        mxfp4_pairs(words.x, scale, first);
        mxfp4_pairs(words.y, scale, second);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bf16* to = unpacked + tile_chunk(my_output, j) + half * 4;
            *reinterpret_cast<uint2*>(to) = make_uint2(first[j], second[j]);
        }
        __syncthreads();
        // The stage of the step before: the first barrier of this step says that all are done with it.
        load(step + kManyStages - 1);
        sums.multiply(xs[stage], unpacked);
    }
    pdl_launch();
    const bf16* bias = p.bias + static_cast<size_t>(tile.expert) * p.outputs;
    sums.for_each([&](int m, int n, float left, float right) {
        const uint32_t column = first_output + static_cast<uint32_t>(n);
        if (static_cast<uint32_t>(m) >= tile.num || column >= p.outputs) return;
        const uint32_t to = route_at(p.grouped, tile.first + static_cast<uint32_t>(m), p.num_routes);
        left = kMxfp4Sums * left + to_float(bias[column]);
        right = kMxfp4Sums * right + to_float(bias[column + 1]);
        if (kIsUp) {
            const size_t at = static_cast<size_t>(to) * (p.outputs / 2) + column / 2;
            static_cast<bf16*>(p.out)[at] = to_bf16(swiglu(left, right, p.limit, p.alpha));
        } else {
            const float weight = p.weights[to];
            const size_t at = static_cast<size_t>(to) * p.outputs + column;
            static_cast<float*>(p.out)[at] = weight * left;
            static_cast<float*>(p.out)[at + 1] = weight * right;
        }
    });
}

KERNEL(experts_up_many, ExpertsManyParams, kManyThreads) { experts_many<true>(p); }
KERNEL(experts_down_many, ExpertsManyParams, kManyThreads) { experts_many<false>(p); }
