// router_few: for few rows all that lies between a norm and the experts, in one launch: the router's product, the choice
// of each row's experts, and the lists of routes and tiles.
//
//   logits[r][e] = sum over i of x[r][i] * weight[e][i], + bias[e];  experts, weights as in router;  grouped, tiles as in
//   group_routes
//
// Shapes:  x [rows, width] bf16, rows at most 16, width a multiple of 8 up to 8192; weight [num_experts, width] and bias
//          [num_experts] bf16; logits [rows, num_experts] float32; positions, experts, weights as in router; grouped, tiles
//          as in group_routes, at most 128 routes; ticket u32, zero before and after.
// Launch:  one block of 128 threads an expert, for all rows. The last to end chooses and lists for all.
// Traffic: reads the weight once, before the kernel before has ended; x comes from the caches.

#include "common/choose.cuh"
#include "common/ticket.cuh"
#include "common/vector.cuh"

struct RouterFewParams {
    const bf16* x;
    const bf16* weight;
    const bf16* bias;
    const uint32_t* positions;
    float* logits;
    uint32_t* experts;
    float* weights;
    uint32_t* grouped;
    uint4* tiles;
    uint32_t* ticket;
    uint32_t rows, num_experts, width, k;
    uint32_t tile_len, num_tiles;
};

constexpr uint32_t kRouterThreads = 128, kRouterWarps = kRouterThreads / 32;
constexpr uint32_t kRouterRows = 16;
constexpr uint32_t kRowsTogether = 4;      // that share a weight in registers
constexpr uint32_t kMaxVectors = 8192 / 8; // of eight elements, in a row of the weight
constexpr uint32_t kVectorsTogether = 3;   // of a thread, whose loads are on their way at the same time
constexpr uint32_t kMaxRoutes = kRouterThreads;

// The products of rows `first` .. `first + kRows` with the block's weight, a part for each warp.
template <uint32_t kRows>
static __device__ __forceinline__ void add_rows(const RouterFewParams& p, uint32_t first, const uint4 (&ahead)[kMaxVectors],
                                                float (&parts)[kRouterWarps][kRouterRows]) {
    const uint32_t num_vectors = p.width / 8;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    float sums[kRows] = {};
    for (uint32_t base = threadIdx.x; base < num_vectors; base += kVectorsTogether * kRouterThreads) {
        uint4 xs[kVectorsTogether][kRows];
#pragma unroll
        for (uint32_t v = 0; v < kVectorsTogether; v++) {
            const uint32_t i = base + v * kRouterThreads;
#pragma unroll
            for (uint32_t j = 0; j < kRows; j++) {
                xs[v][j] = i < num_vectors ? ld_v4(p.x + static_cast<size_t>(first + j) * p.width + i * 8) : zero;
            }
        }
#pragma unroll
        for (uint32_t v = 0; v < kVectorsTogether; v++) {
            const uint32_t i = base + v * kRouterThreads;
            float weight[8];
            unpack_8(i < num_vectors ? ld_v4(&ahead[i]) : zero, weight);
#pragma unroll
            for (uint32_t j = 0; j < kRows; j++) {
                float x[8];
                unpack_8(xs[v][j], x);
#pragma unroll
                for (int n = 0; n < 8; n++) sums[j] += x[n] * weight[n];
            }
        }
    }
#pragma unroll
    for (uint32_t j = 0; j < kRows; j++) {
        const float sum = warp_sum(sums[j]);
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][first + j] = sum;
    }
}

// Lists routes by expert and cuts them into tiles; a thread a route. An expert that does not exist is in no list.
static __device__ __forceinline__ void list_routes(const RouterFewParams& p, const uint32_t (&experts)[kMaxRoutes],
                                                   uint32_t (&begins)[kMaxRoutes]) {
    const uint32_t route = threadIdx.x, num_routes = p.rows * p.k;
    const uint32_t expert = route < num_routes ? experts[route] : 0xffffffffu;
    const bool is_listed = expert < p.num_experts;
    uint32_t num_lower = 0, num_earlier = 0, num_same = 0;
    for (uint32_t other = 0; other < num_routes; other++) {
        num_lower += experts[other] < expert;
        num_same += experts[other] == expert;
        num_earlier += experts[other] == expert && other < route;
    }
    const uint32_t at = num_lower + num_earlier;
    const bool begins_tile = is_listed && num_earlier % p.tile_len == 0;
    begins[route] = 0;
    __syncthreads();
    if (is_listed) p.grouped[at] = route, begins[at] = begins_tile;
    __syncthreads();
    uint32_t tile = 0, num_tiles = 0;
    for (uint32_t other = 0; other < num_routes; other++) {
        tile += other < at ? begins[other] : 0;
        num_tiles += begins[other];
    }
    if (begins_tile && tile < p.num_tiles) {
        st_v4(p.tiles + tile, make_uint4(expert, at, min(p.tile_len, num_same - num_earlier), 0));
    }
    for (uint32_t i = num_tiles + threadIdx.x; i < p.num_tiles; i += kRouterThreads) {
        st_v4(p.tiles + i, make_uint4(0, 0, 0, 0));
    }
}

KERNEL(router_few, RouterFewParams, kRouterThreads) {
    SHARED(uint4, ahead, [kMaxVectors]);
    SHARED(float, parts, [kRouterWarps][kRouterRows]);
    SHARED(uint32_t, chosen_experts, [kMaxRoutes]);
    SHARED(uint32_t, begins, [kMaxRoutes]);
    SHARED(uint32_t, place, [1]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, expert = blockIdx.x, num_vectors = p.width / 8;
    // A thread copies what it will use itself. Weights are written by no kernel of a step.
    for (uint32_t i = threadIdx.x; i < num_vectors; i += kRouterThreads) {
        cp_async_16(&ahead[i], p.weight + static_cast<size_t>(expert) * p.width + i * 8);
    }
    cp_async_commit();
    const float bias = to_float(p.bias[expert]);
    pdl_wait();
    pdl_launch();
    cp_async_wait<0>();
    for (uint32_t row = 0; row < p.rows;) {
        if (p.rows - row >= kRowsTogether) {
            add_rows<kRowsTogether>(p, row, ahead, parts);
            row += kRowsTogether;
        } else {
            add_rows<1>(p, row, ahead, parts);
            row++;
        }
    }
    __syncthreads();
    if (threadIdx.x < p.rows) {
        float sum = bias;
        for (uint32_t w = 0; w < kRouterWarps; w++) sum += parts[w][threadIdx.x];
        p.logits[static_cast<size_t>(threadIdx.x) * p.num_experts + expert] = sum;
    }
    if (!is_last_block(p.ticket, p.num_experts, place[0])) return;
    for (uint32_t row = warp; row < p.rows; row += kRouterWarps) {
        Chosen chosen = {0xffffffffu, 0.0f};
        if (p.positions[row] != 0xffffffffu) {
            chosen = choose_experts(p.logits + static_cast<size_t>(row) * p.num_experts, p.num_experts, p.k);
        }
        if (lane >= p.k) continue;
        const uint32_t route = row * p.k + lane;
        chosen_experts[route] = p.experts[route] = chosen.expert;
        p.weights[route] = chosen.weight;
    }
    __syncthreads();
    list_routes(p, chosen_experts, begins);
}
