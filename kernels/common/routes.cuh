// Which rows go to which expert, as kernels of the experts find it.
#pragma once

#include "ptx.cuh"

// Some routes of one expert: places first..first + num of the grouped list. No routes mean that there is no such tile.
struct RouteTile {
    uint32_t expert, first, num;
};

// The tile with this index when each expert's routes are cut into tiles of `tile_len`. All 32 lanes call it together.
// offsets [num_experts + 1]: where each expert's routes begin in the grouped list of `num_routes`.
__device__ __forceinline__ RouteTile find_route_tile(const uint32_t* offsets, uint32_t num_experts, uint32_t num_routes,
                                                     uint32_t tile_len, uint32_t index) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t num_before = 0;
    for (uint32_t base = 0; base < num_experts; base += 32) {
        const uint32_t expert = base + lane;
        const bool is_one = expert < num_experts;
        const uint32_t first = is_one ? offsets[expert] : 0, next = is_one ? offsets[expert + 1] : 0;
        // Whatever the lists hold, no tile leaves them.
        const uint32_t end = next < first || next > num_routes ? first : next;
        const uint32_t num_tiles = (end - first + tile_len - 1) / tile_len;
        uint32_t up_to = num_tiles;
#pragma unroll
        for (uint32_t step = 1; step < 32; step *= 2) {
            const uint32_t other = __shfl_up_sync(0xffffffffu, up_to, step);
            if (lane >= step) up_to += other;
        }
        up_to += num_before;
        const uint32_t hits = __ballot_sync(0xffffffffu, index < up_to);
        if (hits != 0) {
            const int winner = __ffs(static_cast<int>(hits)) - 1;
            const uint32_t from = first + (index - (up_to - num_tiles)) * tile_len;
            const uint32_t num = end - from < tile_len ? end - from : tile_len;
            return {base + static_cast<uint32_t>(winner), __shfl_sync(0xffffffffu, from, winner),
                    __shfl_sync(0xffffffffu, num, winner)};
        }
        num_before = __shfl_sync(0xffffffffu, up_to, 31);
    }
    return {0, 0, 0};
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
