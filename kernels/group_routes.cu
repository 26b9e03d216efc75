// group_routes: lists the routes by expert, so that an expert's weights are read once for all its rows.
//
//   grouped[offsets[e] .. offsets[e + 1]] = the routes t with experts[t] = e, in rising order
//
// Shapes:  experts, grouped [routes] u32; offsets [num_experts + 1] u32.
// Launch:  one block of 256 threads an expert. Every block reads all routes: they are few bytes, and so each expert
//          knows its place without waiting for another, in an order that no race decides.
// Traffic: num_experts times the list, from the L2 cache.

#include "common/ptx.cuh"

struct GroupRoutesParams {
    const uint32_t* experts;
    uint32_t* grouped;
    uint32_t* offsets;
    uint32_t num_routes, num_experts;
};

constexpr uint32_t kGroupThreads = 256;

KERNEL(group_routes, GroupRoutesParams, kGroupThreads) {
    SHARED(uint32_t, befores, [kGroupThreads / 32]);
    SHARED(uint32_t, mines, [2][kGroupThreads / 32]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, expert = blockIdx.x;
    pdl_wait();
    // First how many routes come before this expert's.
    uint32_t num_before = 0;
    for (uint32_t i = threadIdx.x; i < p.num_routes; i += kGroupThreads) num_before += p.experts[i] < expert;
    num_before = __reduce_add_sync(0xffffffffu, num_before);
    if (lane == 0) befores[warp] = num_before;
    __syncthreads();
    uint32_t at = 0;
    for (uint32_t w = 0; w < kGroupThreads / 32; w++) at += befores[w];
    if (threadIdx.x == 0) p.offsets[expert] = at;
    // Then the list itself, 256 routes at a time; the two sets of counts take turns, so one barrier a turn is enough.
    for (uint32_t from = 0, turn = 0; from < p.num_routes; from += kGroupThreads, turn ^= 1) {
        const uint32_t i = from + threadIdx.x;
        const bool is_mine = i < p.num_routes && p.experts[i] == expert;
        const uint32_t votes = __ballot_sync(0xffffffffu, is_mine);
        if (lane == 0) mines[turn][warp] = static_cast<uint32_t>(__popc(votes));
        __syncthreads();
        uint32_t num_earlier = 0, num_all = 0;
        for (uint32_t w = 0; w < kGroupThreads / 32; w++) {
            num_earlier += w < warp ? mines[turn][w] : 0;
            num_all += mines[turn][w];
        }
        if (is_mine) p.grouped[at + num_earlier + static_cast<uint32_t>(__popc(votes & ((1u << lane) - 1)))] = i;
        at += num_all;
    }
    if (expert == p.num_experts - 1 && threadIdx.x == 0) p.offsets[p.num_experts] = at;
    pdl_launch();
}
