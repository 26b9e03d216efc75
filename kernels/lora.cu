// lora: what the adapters of a step's rows add to a product, in two launches; rows of different adapters share them.
//
//   lora_shrink:  inner[u] = A[set, expert] x[u]
//   lora_expand:  out[u] (+)= weight[u] * B[set, expert] inner[u]
//
// The product itself runs between them, where it can: it asks for its weights while lora_shrink works, and lora_expand makes
// its sums while the product works.
//
// for every unit u, by the set of matrices of its row's adapter. Units are the rows of a dense product, or the routes of an
// experts' product. A unit without a set gets nothing added, or zeros where the result is not added.
//
// Shapes:  x [units or rows, inputs] bf16, inputs a multiple of 32; a [sets, experts, rank, inputs] and b [sets, experts,
//          outputs, rank] bf16, rank a multiple of 8; adapters [rows] u32; sets [adapters] u32; grouped and tiles as
//          group_routes leaves them, or null; weights [units] float32 or null; parts [parts, units, rank] float32; out
//          [units, outputs] float32.
// Launch:  tiles of up to 16 units, in the order of rows or of the lists; for each a block of eight warps for every 768
//          inputs (shrink), a block of 128 threads for every 128 outputs (expand) or 512 (expand_many; outputs are a
//          multiple of four).
// Traffic: a set's matrices are read once for each of its tiles; the sums of each 768 inputs go through the caches. Units of
//          several sets in a tile are taken set by set.
//
// inner stays float32: only A, B and x are rounded.

#include "common/routes.cuh"
#include "common/vector.cuh"

struct LoraParams {
    const bf16* x;
    const bf16* a;
    const bf16* b;
    const uint32_t* adapters;
    const uint32_t* sets;
    const uint32_t* grouped;
    const uint4* tiles; // null: units are rows, and there is one expert
    const float* weights;
    float* parts;
    float* out;
    uint32_t num_adapters, num_sets, num_experts;
    uint32_t rank, inputs, outputs;
    uint32_t num_units, units_per_row, units_per_x;
    uint32_t tile_len; // of the lists
    uint32_t num_parts, is_added;
    // Whether the kernel before makes the lists (shrink), or is lora_shrink (expand): if not, they are there from the start.
    uint32_t waits_first, unused;
};

constexpr uint32_t kTileUnits = 16, kNoSet = 0xffffffffu;
constexpr uint32_t kShrinkWarps = 8, kShrinkSteps = 3; // of 32 inputs
constexpr uint32_t kRanksTogether = 32, kExpandThreads = 128;

// Up to 16 units of one expert, and of each lane's (lanes 16 to 31 repeat the others) which one it is and its set.
struct LoraTile {
    uint32_t expert, num;
    uint32_t unit, set;
    uint32_t open; // a bit for each unit that has a set
};

static __device__ __forceinline__ LoraTile find_tile(const LoraParams& p) {
    const uint32_t place = threadIdx.x % kTileUnits;
    RouteTile tile = {0, blockIdx.y * kTileUnits, kTileUnits};
    if (p.tiles == nullptr) {
        tile.num = min(tile.num, p.num_units - tile.first);
    } else {
        const uint32_t per_tile = (p.tile_len + kTileUnits - 1) / kTileUnits, skipped = blockIdx.y % per_tile * kTileUnits;
        tile = route_tile_at(p.tiles, blockIdx.y / per_tile, p.num_experts, p.num_units, p.tile_len);
        tile.num = skipped < tile.num ? min(kTileUnits, tile.num - skipped) : 0;
        tile.first += skipped;
    }
    uint32_t unit = 0, set = kNoSet;
    if (place < tile.num) {
        unit = p.tiles == nullptr ? tile.first + place : route_at(p.grouped, tile.first + place, p.num_units);
        const uint32_t adapter = ld_cg(p.adapters + unit / p.units_per_row);
        if (adapter < p.num_adapters) set = p.sets[adapter];
        if (set >= p.num_sets) set = kNoSet;
    }
    return {tile.expert, tile.num, unit, set, __ballot_sync(0xffffffffu, set != kNoSet) & 0xffffu};
}

// Calls `take(set, units)` for each set of the tile with a bit for each of its units; all lanes take part.
template <typename Take>
static __device__ __forceinline__ void for_each_set(const LoraTile& tile, Take take) {
    for (uint32_t left = tile.open; left != 0;) {
        const uint32_t set = __shfl_sync(0xffffffffu, tile.set, __ffs(static_cast<int>(left)) - 1);
        const uint32_t units = __ballot_sync(0xffffffffu, tile.set == set) & 0xffffu;
        left &= ~units;
        take(set, units);
    }
}

static __device__ __forceinline__ size_t first_set(const LoraTile& tile) {
    return __shfl_sync(0xffffffffu, tile.set, __ffs(static_cast<int>(tile.open)) - 1);
}

static __device__ __forceinline__ void load_each(const float* from, float (&to)[1]) { to[0] = *from; }
static __device__ __forceinline__ void load_each(const float* from, float (&to)[4]) { load_4(from, to); }
static __device__ __forceinline__ void store_each(float* to, const float (&from)[1]) { *to = from[0]; }
static __device__ __forceinline__ void store_each(float* to, const float (&from)[4]) { store_4(to, from); }

// The units are the rows of mma's left operand and ranks the columns of its right one. Within a step lane place p holds
// inputs 8 p .. 8 p + 7 of both: any order of them gives the same sums, and this one loads 16 bytes.
KERNEL(lora_shrink, LoraParams, kShrinkWarps * 32) {
    SHARED(float, sums, [kShrinkWarps][kTileUnits][kRanksTogether + 1]);
    constexpr uint32_t kEights = kRanksTogether / 8;
    const uint32_t warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    if (p.waits_first) pdl_wait();
    const LoraTile tile = find_tile(p);
    if (tile.open == 0) {
        if (!p.waits_first) pdl_wait();
        return;
    }
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const auto input_of = [&](uint32_t step) {
        return ((blockIdx.x * kShrinkSteps + step) * kShrinkWarps + warp) * 32 + place * 8;
    };
    uint4 as[kShrinkSteps][kEights];
    const auto load_a = [&](size_t set, uint32_t first_rank) {
        const bf16* a = p.a + ((set * p.num_experts + tile.expert) * p.rank + first_rank + group) * p.inputs;
#pragma unroll
        for (uint32_t step = 0; step < kShrinkSteps; step++) {
#pragma unroll
            for (uint32_t n = 0; n < kEights; n++) {
                const bool is_one = first_rank + n * 8 < p.rank && input_of(step) < p.inputs;
                as[step][n] = is_one ? ld_v4(a + static_cast<size_t>(n) * 8 * p.inputs + input_of(step)) : zero;
            }
        }
    };
    const size_t first = first_set(tile);
    load_a(first, 0);
    if (!p.waits_first) pdl_wait();
    pdl_launch();
    uint4 xs[kShrinkSteps][2];
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t unit = __shfl_sync(0xffffffffu, tile.unit, static_cast<int>(half * 8 + group));
        const bf16* x = p.x + static_cast<size_t>(unit / p.units_per_x) * p.inputs;
        const bool is_open = (tile.open >> (half * 8 + group) & 1) != 0;
#pragma unroll
        for (uint32_t step = 0; step < kShrinkSteps; step++) {
            xs[step][half] = is_open && input_of(step) < p.inputs ? ld_v4(x + input_of(step)) : zero;
        }
    }
    for (uint32_t first_rank = 0; first_rank < p.rank; first_rank += kRanksTogether) {
        float of_ranks[kEights][4] = {};
        for_each_set(tile, [&](size_t set, uint32_t units) {
            if (first_rank > 0 || set != first) load_a(set, first_rank);
            const bool is_low = (units >> group & 1) != 0, is_high = (units >> (group + 8) & 1) != 0;
#pragma unroll
            for (uint32_t step = 0; step < kShrinkSteps; step++) {
                const uint4 l = is_low ? xs[step][0] : zero, h = is_high ? xs[step][1] : zero;
                const uint32_t left[2][4] = {{l.x, h.x, l.y, h.y}, {l.z, h.z, l.w, h.w}};
#pragma unroll
                for (uint32_t n = 0; n < kEights; n++) {
                    const uint4& a = as[step][n];
                    const uint32_t right[2][2] = {{a.x, a.y}, {a.z, a.w}};
                    mma_bf16_16816(of_ranks[n], left[0], right[0]);
                    mma_bf16_16816(of_ranks[n], left[1], right[1]);
                }
            }
        });
        if (first_rank > 0) __syncthreads();
#pragma unroll
        for (uint32_t n = 0; n < kEights; n++) {
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                sums[warp][group + i / 2 * 8][n * 8 + place * 2 + i % 2] = of_ranks[n][i];
            }
        }
        __syncthreads();
        const uint32_t rank = threadIdx.x % 32;
#pragma unroll
        for (uint32_t u = warp; u < kTileUnits; u += kShrinkWarps) {
            const size_t unit = __shfl_sync(0xffffffffu, tile.unit, static_cast<int>(u));
            if ((tile.open >> u & 1) == 0 || first_rank + rank >= p.rank) continue;
            float sum = 0.0f;
#pragma unroll
            for (uint32_t w = 0; w < kShrinkWarps; w++) sum += sums[w][u][rank];
            p.parts[(blockIdx.x * static_cast<size_t>(p.num_units) + unit) * p.rank + first_rank + rank] = sum;
        }
    }
}

// Each thread has some outputs of all units, for so many ranks at a time: one output if there are few units, so that there
// are blocks enough; several if there are many, which share what is read of inner.
template <uint32_t kEach, uint32_t kRanks>
static __device__ __forceinline__ void expand(const LoraParams& p) {
    SHARED(float, inner, [kTileUnits][kRanks]);
    constexpr uint32_t kEights = kRanks / 8, kUnitsTogether = kTileUnits / 2;
    const uint32_t output = (blockIdx.x * kExpandThreads + threadIdx.x) * kEach;
    const bool is_one = output < p.outputs;
    if (p.waits_first) pdl_wait();
    const LoraTile tile = find_tile(p);
    if (tile.num == 0 || (tile.open == 0 && p.is_added)) {
        if (!p.waits_first) pdl_wait();
        return;
    }
    uint4 bs[kEach][kEights];
    const auto load_b = [&](size_t set, uint32_t first_rank) {
        const bf16* b = p.b + ((set * p.num_experts + tile.expert) * p.outputs + (is_one ? output : 0)) * p.rank + first_rank;
#pragma unroll
        for (uint32_t i = 0; i < kEach; i++) {
#pragma unroll
            for (uint32_t n = 0; n < kEights; n++) {
                const bool is_rank = first_rank + n * 8 < p.rank;
                bs[i][n] = is_rank ? ld_v4(b + static_cast<size_t>(i) * p.rank + n * 8) : make_uint4(0, 0, 0, 0);
            }
        }
    };
    const uint32_t* parts = reinterpret_cast<const uint32_t*>(p.parts);
    const size_t part_len = static_cast<size_t>(p.num_units) * p.rank;
    float sums[kTileUnits][kEach] = {};
    const uint32_t num_ranks = tile.open == 0 ? 0 : p.rank;
    for (uint32_t first_rank = 0; first_rank < num_ranks; first_rank += kRanks) {
        const size_t first = first_set(tile);
        load_b(first, first_rank);
        if (first_rank > 0) __syncthreads();
        // A warp takes whole units, or parts of a few.
        for (uint32_t i = threadIdx.x; i < kTileUnits * kRanks; i += kExpandThreads) {
            const uint32_t u = i / kRanks, rank = i % kRanks;
            const size_t unit = __shfl_sync(0xffffffffu, tile.unit, static_cast<int>(u));
            float sum = 0.0f;
            if ((tile.open >> u & 1) != 0 && first_rank + rank < p.rank) {
                const uint32_t* part = parts + unit * p.rank + first_rank + rank;
                for (uint32_t n = 0; n < p.num_parts; n++) sum += __uint_as_float(ld_cg(part + n * part_len));
            }
            inner[u][rank] = sum;
        }
        __syncthreads();
        for_each_set(tile, [&](size_t set, uint32_t units) {
            if (set != first) load_b(set, first_rank);
#pragma unroll
            for (uint32_t n = 0; n < kEights; n++) {
                if (first_rank + n * 8 >= p.rank) break;
                float b[kEach][8];
#pragma unroll
                for (uint32_t i = 0; i < kEach; i++) unpack_8(bs[i][n], b[i]);
#pragma unroll
                for (uint32_t u = 0; u < kTileUnits; u++) {
                    if ((units >> u & 1) == 0) continue;
                    float of_unit[8];
                    load_8(&inner[u][n * 8], of_unit);
#pragma unroll
                    for (uint32_t i = 0; i < kEach; i++) {
#pragma unroll
                        for (int r = 0; r < 8; r++) sums[u][i] += b[i][r] * of_unit[r];
                    }
                }
            }
        });
    }
    if (!p.waits_first) pdl_wait();
    pdl_launch();
    const bool is_unit = threadIdx.x % kTileUnits < tile.num;
    const float weight = p.weights != nullptr && is_unit ? p.weights[tile.unit] : 1.0f;
#pragma unroll
    for (uint32_t first = 0; first < kTileUnits; first += kUnitsTogether) {
        // All of what is added to first: a store would hold up the loads behind it.
        float* to[kUnitsTogether];
        float before[kUnitsTogether][kEach] = {};
#pragma unroll
        for (uint32_t i = 0; i < kUnitsTogether; i++) {
            const uint32_t u = first + i;
            const size_t unit = __shfl_sync(0xffffffffu, tile.unit, static_cast<int>(u));
            const bool is_written = is_one && u < tile.num && (!p.is_added || (tile.open >> u & 1) != 0);
            to[i] = is_written ? p.out + unit * p.outputs + output : nullptr;
            if (p.is_added && is_written) load_each(to[i], before[i]);
        }
#pragma unroll
        for (uint32_t i = 0; i < kUnitsTogether; i++) {
            const float of_unit = __shfl_sync(0xffffffffu, weight, static_cast<int>(first + i));
            if (to[i] == nullptr) continue;
#pragma unroll
            for (uint32_t n = 0; n < kEach; n++) before[i][n] += of_unit * sums[first + i][n];
            store_each(to[i], before[i]);
        }
    }
}

KERNEL(lora_expand, LoraParams, kExpandThreads) { expand<1, 32>(p); }
KERNEL(lora_expand_many, LoraParams, kExpandThreads) { expand<4, 16>(p); }
