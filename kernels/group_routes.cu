// group_routes: lists the routes by expert, so that an expert's weights are read once for all its rows, and cuts each
// expert's routes into tiles for the kernels of the experts.
//
//   grouped = the routes t to expert 0 in rising order, then those to expert 1, ...
//   tiles   = {expert, first place in grouped, number of routes, 0} by rising place, then zeros
//
// A route to no expert there is (a row that pads) is in neither list.
//
// Shapes:  experts, grouped [routes] u32; tiles [num_tiles] uint4, enough of them; at most 1024 experts.
// Launch:  one block of 256 threads an expert. Every block reads all routes and counts every expert's: they are few bytes,
//          and so each expert knows its place without waiting for another, in an order that no race decides.
// Traffic: num_experts times the list, from the L2 cache; twice for experts in use.

#include "common/ptx.cuh"

struct GroupRoutesParams {
    const uint32_t* experts;
    uint32_t* grouped;
    uint4* tiles;
    uint32_t num_routes, num_experts;
    uint32_t tile_len, num_tiles;
};

constexpr uint32_t kGroupThreads = 256, kMaxExperts = 1024;

KERNEL(group_routes, GroupRoutesParams, kGroupThreads) {
    SHARED(uint32_t, counts, [kMaxExperts]);
    SHARED(uint32_t, befores, [2][kGroupThreads / 32]);
    SHARED(uint32_t, mines, [2][kGroupThreads / 32]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, expert = blockIdx.x;
    for (uint32_t other = threadIdx.x; other < p.num_experts; other += kGroupThreads) counts[other] = 0;
    __syncthreads();
    pdl_wait();
    for (uint32_t i = threadIdx.x; i < p.num_routes; i += kGroupThreads) {
        const uint32_t other = p.experts[i];
        if (other < p.num_experts) atomicAdd(&counts[other], 1u);
    }
    __syncthreads();
    // How many routes and tiles come before this expert's.
    const uint32_t num_mine = counts[expert], num_my_tiles = (num_mine + p.tile_len - 1) / p.tile_len;
    const bool is_last = expert == p.num_experts - 1;
    if (num_mine == 0 && !is_last) return;
    uint32_t routes_before = 0, tiles_before = 0;
    for (uint32_t other = threadIdx.x; other < expert; other += kGroupThreads) {
        routes_before += counts[other];
        tiles_before += (counts[other] + p.tile_len - 1) / p.tile_len;
    }
    routes_before = __reduce_add_sync(0xffffffffu, routes_before);
    tiles_before = __reduce_add_sync(0xffffffffu, tiles_before);
    if (lane == 0) befores[0][warp] = routes_before, befores[1][warp] = tiles_before;
    __syncthreads();
    uint32_t at = 0, first_tile = 0;
    for (uint32_t w = 0; w < kGroupThreads / 32; w++) at += befores[0][w], first_tile += befores[1][w];
    const uint32_t end = is_last ? p.num_tiles : min(first_tile + num_my_tiles, p.num_tiles);
    for (uint32_t tile = first_tile + threadIdx.x; tile < end; tile += kGroupThreads) {
        const uint32_t first = (tile - first_tile) * p.tile_len;
        const bool is_one = tile - first_tile < num_my_tiles;
        st_v4(&p.tiles[tile], is_one ? make_uint4(expert, at + first, min(p.tile_len, num_mine - first), 0)
                                     : make_uint4(0, 0, 0, 0));
    }
    if (num_mine == 0) return;
    // The routes, 256 at a time; the two sets of counts take turns, so one barrier a turn is enough.
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
    pdl_launch();
}
