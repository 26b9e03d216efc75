// What the kernels of the experts share: their arguments, which rows go to which expert, the activation.
#pragma once

#include "ptx.cuh"

struct ExpertsParams {
    const bf16* x;
    const uint8_t* blocks;
    const uint8_t* scales;
    const bf16* bias;
    const uint32_t* grouped;
    const uint4* tiles;
    const float* weights; // of the routes, for down
    const float* logits;  // of one row, from which its routes are chosen; there are no lists of them then
    const float* added;   // to the sums of the up product, [routes, outputs]; null: nothing
    const void* next;     // weights that are read after these
    void* out;
    uint32_t num_experts, outputs, inputs;
    uint32_t routes_per_x; // k for up, 1 for down
    uint32_t num_routes;
    uint32_t next_bytes; // of these, how many the down product asks for as it ends: a multiple of 16
    float limit, alpha;
};

// Some routes of one expert: places first..first + num of the grouped list. No routes mean that there is no such tile.
struct RouteTile {
    uint32_t expert, first, num;
};

// An entry of the list of tiles: {expert, first, num, 0}. Whatever it holds, the tile leaves no list and has at most
// `tile_len` routes.
__device__ __forceinline__ RouteTile route_tile_at(const uint4* tiles, uint32_t at, uint32_t num_experts,
                                                   uint32_t num_routes, uint32_t tile_len) {
    const uint4 entry = ld_cg_v4(tiles + at);
    if (entry.x >= num_experts || entry.y >= num_routes) return {0, 0, 0};
    return {entry.x, entry.y, min(min(entry.z, tile_len), num_routes - entry.y)};
}

// A route as the grouped list has it; one that does not exist becomes the first.
__device__ __forceinline__ uint32_t route_at(const uint32_t* grouped, uint32_t at, uint32_t num_routes) {
    const uint32_t route = ld_cg(grouped + at);
    return route < num_routes ? route : 0;
}

// Gate and up of one intermediate value: the gate is clamped above, the up on both sides.
__device__ __forceinline__ float swiglu(float gate, float up, float limit, float alpha) {
    gate = fminf(gate, limit);
    up = fmaxf(fminf(up, limit), -limit);
    return gate / (1.0f + __expf(-alpha * gate)) * (up + 1.0f);
}
