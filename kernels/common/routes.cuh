// Which rows go to which expert, as kernels of the experts find it.
#pragma once

#include "ptx.cuh"

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
    const uint32_t route = grouped[at];
    return route < num_routes ? route : 0;
}

// Gate and up of one intermediate value: the gate is clamped above, the up on both sides.
__device__ __forceinline__ float swiglu(float gate, float up, float limit, float alpha) {
    gate = fminf(gate, limit);
    up = fmaxf(fminf(up, limit), -limit);
    return gate / (1.0f + __expf(-alpha * gate)) * (up + 1.0f);
}
