// attention_decode: attention of single rows over their cached keys and values, from what the product gave: queries and
// the row's own key are rotated here. Each context is cut into splits, so that one long sequence fills the card.
//
//   out[r][h] = sum over j of exp(q[r][h] . key[j] / 8) value[j] / (exp(sink[h]) + sum over j of exp(...))
//
// over the positions j up to the row's own, of which a window layer sees the last `window`. Unless it is there already,
// the row's own key and value go to the cache on the way, at its own position by its table.
//
// Shapes:  qkv, rotations, keys, values as in rope; sinks, tables, out as in attention_prefill; rows: row, position, start in
//          tables, first block of the table; parts [rows, heads, splits, 64] and stats [rows, heads, splits] (greatest
//          score, sum) float32; tickets [rows, kv_heads] u32, zero before and after; at most 16 heads for a key head.
//          A row at a position beyond the context pads the batch and is left out.
// Launch:  grid (splits, kv_heads, rows), four warps that take turns at 16 keys, all heads of a key head together. The last
//          split of a key head to end puts all of them together, in their order.
// Traffic: keys and values once, in pieces of 2 KB; two turns of each warp, 32 KB of a block, are on their way at any time,
//          the first before the kernel before has ended. The parts are small beside them.

#include "common/attention.cuh"
#include "common/rope.cuh"
#include "common/ticket.cuh"

struct AttentionDecodeParams {
    const float* qkv;
    const float2* rotations;
    bf16* keys;
    bf16* values;
    const bf16* sinks;
    const uint32_t* tables;
    const uint4* rows;
    float* parts;
    float2* stats;
    uint32_t* tickets;
    bf16* out;
    uint32_t num_heads, num_kv_heads, block_len, num_blocks;
    uint32_t num_rows, table_len, context_len, window;
    uint32_t num_splits;
    uint32_t is_cached; // the rows' own keys and values, by the kernels before this one
};

constexpr int kDecodeWarps = 4, kDecodeKeys = 16, kDecodeStages = 3;
constexpr uint32_t kDecodeThreads = kDecodeWarps * 32;
constexpr uint32_t kStagedLen = kDecodeKeys * kHeadLen; // elements of a warp's turn, of keys or values
constexpr uint32_t kSumsStride = kHeadLen + 8;          // floats: the rows of a warp's store lie in different banks
constexpr int kSplitsTogether = 8;                      // whose parts are loaded at the same time

// Four elements of a head over several pieces of a context.
struct Merged {
    float max, total;
    float sums[4];

    template <int kNum>
    __device__ __forceinline__ void add(const float2 (&stats)[kNum], const uint4 (&parts)[kNum]) {
        float greatest = max;
#pragma unroll
        for (int i = 0; i < kNum; i++) greatest = fmaxf(greatest, stats[i].x);
        const float from = greatest == -INFINITY ? 0.0f : greatest, share = __expf(max - from);
        max = greatest;
        total *= share;
#pragma unroll
        for (int j = 0; j < 4; j++) sums[j] *= share;
#pragma unroll
        for (int i = 0; i < kNum; i++) {
            const float part_share = __expf(stats[i].x - from);
            const uint32_t bits[4] = {parts[i].x, parts[i].y, parts[i].z, parts[i].w};
            total += stats[i].y * part_share;
#pragma unroll
            for (int j = 0; j < 4; j++) sums[j] += __uint_as_float(bits[j]) * part_share;
        }
    }
};

KERNEL(attention_decode, AttentionDecodeParams, kDecodeThreads, 4) {
    SHARED_DYNAMIC(dynamic);
    SHARED(float2, warp_stats, [kDecodeWarps][16]);
    SHARED(float, sinks, [16]);
    SHARED(uint32_t, place, [1]);
    bf16* const staged = reinterpret_cast<bf16*>(dynamic);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, split = blockIdx.x, kv_head = blockIdx.y;
    const uint32_t group = p.num_heads / p.num_kv_heads, first_head = kv_head * group;
    // What no kernel of this step writes is read before the one before this has ended.
    const uint4 row = p.rows[blockIdx.z];
    const uint32_t own = row.y;
    const bool is_row = row.x < p.num_rows && own < p.context_len && row.z <= p.table_len;
    const uint32_t block_shift = static_cast<uint32_t>(__ffs(static_cast<int>(p.block_len))) - 1;
    const KvSource source = {p.keys,       p.values,       p.tables + row.z, p.table_len - row.z, row.w,
                             p.num_blocks, p.num_kv_heads, kv_head,          block_shift};
    // Whole turns of all warps for a split, so that no two splits share a turn.
    const uint32_t seen_from = own >= p.window ? own - p.window + 1 : 0, turn_len = kDecodeWarps * kDecodeKeys;
    const uint32_t num_turns = (own + 1 - seen_from + turn_len - 1) / turn_len;
    const uint32_t split_turns = (num_turns + p.num_splits - 1) / p.num_splits, split_len = split_turns * turn_len;
    const uint32_t begin = seen_from + split * split_len;
    const uint32_t end = begin + split_len < own + 1 ? begin + split_len : own + 1;
    // A short context does not fill all splits.
    const bool is_used = is_row && begin < end;
    const uint32_t my_begin = begin + warp * kDecodeKeys;
    const auto stage = [&](uint32_t turn, uint32_t is_value) {
        return staged + ((turn % kDecodeStages * kDecodeWarps + warp) * 2 + is_value) * kStagedLen;
    };
    const auto load = [&](uint32_t turn) {
        const uint32_t start = my_begin + turn * turn_len;
        if (start < end) {
            // The own key may not be in the cache yet; zeros hold its place.
            uint32_t blocks[kDecodeKeys / 4];
            source.find<kDecodeKeys, 32>(blocks, start, end < own ? end : own, static_cast<int>(lane));
            source.copy<kDecodeKeys, 32>(stage(turn, 0), stage(turn, 1), blocks, start, static_cast<int>(lane));
        }
        cp_async_commit();
    };
    if (threadIdx.x < group) sinks[threadIdx.x] = to_float(p.sinks[first_head + threadIdx.x]);
    if (p.is_cached) pdl_wait();
    const float2* rotations = p.rotations + static_cast<size_t>(own) * 32;
    uint4 query_rotations[4] = {};
    if (is_used) {
        for (uint32_t turn = 0; turn < kDecodeStages - 1; turn++) load(turn);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) query_rotations[i] = ld_v4(rotations + i * 8 + lane % 4 * 2);
    }
    pdl_wait();
    pdl_launch();
    if (!is_used) return;
    const float* qkv = p.qkv + static_cast<size_t>(row.x) * (p.num_heads + 2 * p.num_kv_heads) * kHeadLen;
    // Eight lanes of the warp that attends to the row's own position bring its key and value.
    const bool is_owner = own < end && (own - begin) / kDecodeKeys % kDecodeWarps == warp;
    const uint32_t is_own_value = lane / 4, own_part = lane % 4;
    HeadPart own_half = {};
    if (is_owner && lane < 8) {
        const uint32_t head = p.num_heads + is_own_value * p.num_kv_heads + kv_head;
        own_half = head_part(qkv + head * kHeadLen, own_part * 8, rotations, is_own_value == 0);
        const uint32_t index = (own >> block_shift) - row.w;
        const uint32_t block = index < p.table_len - row.z ? p.tables[row.z + index] : p.num_blocks;
        if (!p.is_cached && block < p.num_blocks) {
            const size_t at = (static_cast<size_t>(block) * p.num_kv_heads + kv_head) * p.block_len + (own & (p.block_len - 1));
            bf16* to = (is_own_value ? p.values : p.keys) + at * kHeadLen + own_part * 8;
            st_v4(to, own_half.low);
            st_v4(to + 32, own_half.high);
        }
    }
    Attention attention;
    attention.begin([&](int half, int at) {
        const uint32_t head = static_cast<uint32_t>(half) * 8 + lane / 4;
        if (head >= group) return make_uint2(0, 0);
        const float* from = qkv + (first_head + head) * kHeadLen + at;
        const float2 a = *reinterpret_cast<const float2*>(from), b = *reinterpret_cast<const float2*>(from + 32);
        const uint4 bits = query_rotations[at / 8];
        const float2 first = rotate(a.x, b.x, __uint_as_float(bits.x), __uint_as_float(bits.y));
        const float2 second = rotate(a.y, b.y, __uint_as_float(bits.z), __uint_as_float(bits.w));
        return make_uint2(pack_bf16x2(first.x, second.x), pack_bf16x2(first.y, second.y));
    });
    uint32_t turn = 0;
    for (uint32_t start = my_begin; start < end; start += turn_len, turn++) {
        load(turn + kDecodeStages - 1);
        cp_async_wait<kDecodeStages - 1>();
        __syncwarp();
        if (own - start < kDecodeKeys) {
            if (lane < 8) {
                const int key = static_cast<int>(own - start), chunk = static_cast<int>(own_part);
                st_v4(stage(turn, is_own_value) + kv_chunk(key, chunk), own_half.low);
                st_v4(stage(turn, is_own_value) + kv_chunk(key, chunk + 4), own_half.high);
            }
            __syncwarp();
        }
        const bool is_all = end - start >= kDecodeKeys;
        attention.attend<kDecodeKeys>(stage(turn, 0), stage(turn, 1), is_all, [&](int, int key) {
            return start + static_cast<uint32_t>(key) < end;
        });
        __syncwarp();
    }
    attention.end();
    // The warps' sums take the place of the keys and values, once all are done with those.
    float* sums = reinterpret_cast<float*>(dynamic);
    static_assert(16 * kSumsStride <= kDecodeStages * 2 * kStagedLen / 2, "the sums fit");
    __syncthreads();
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t head = half * 8 + lane / 4;
        if (head >= group) continue;
        if (lane % 4 == 0) warp_stats[warp][head] = make_float2(attention.max[half] * 0.125f, attention.total[half]);
#pragma unroll
        for (uint32_t n = 0; n < 8; n++) {
            float2* to = reinterpret_cast<float2*>(sums + (warp * 16 + head) * kSumsStride + n * 8 + lane % 4 * 2);
            *to = make_float2(attention.sums[n][half * 2], attention.sums[n][half * 2 + 1]);
        }
    }
    __syncthreads();
    const uint32_t num_used = (num_turns + split_turns - 1) / split_turns;
    const size_t first_part = (static_cast<size_t>(blockIdx.z) * p.num_heads + first_head) * p.num_splits;
    const auto with_sink = [&](uint32_t head) {
        return Merged{sinks[head], 1.0f, {0.0f, 0.0f, 0.0f, 0.0f}};
    };
    const auto write = [&](uint32_t head, uint32_t element, const Merged& merged) {
        const size_t at = (static_cast<size_t>(row.x) * p.num_heads + first_head + head) * kHeadLen + element;
        const float scale = 1.0f / merged.total;
        *reinterpret_cast<uint2*>(p.out + at) = make_uint2(pack_bf16x2(merged.sums[0] * scale, merged.sums[1] * scale),
                                                           pack_bf16x2(merged.sums[2] * scale, merged.sums[3] * scale));
    };
    for (uint32_t i = threadIdx.x; i < group * (kHeadLen / 4); i += kDecodeThreads) {
        const uint32_t head = i / (kHeadLen / 4), element = i % (kHeadLen / 4) * 4;
        Merged merged = num_used == 1 ? with_sink(head) : Merged{-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f}};
        float2 stats[kDecodeWarps];
        uint4 parts[kDecodeWarps];
#pragma unroll
        for (uint32_t w = 0; w < kDecodeWarps; w++) {
            stats[w] = warp_stats[w][head];
            parts[w] = ld_v4(sums + (w * 16 + head) * kSumsStride + element);
        }
        merged.add(stats, parts);
        if (num_used == 1) {
            write(head, element, merged);
            continue;
        }
        const size_t at = first_part + head * p.num_splits + split;
        store_4(p.parts + at * kHeadLen + element, merged.sums);
        if (element == 0) p.stats[at] = make_float2(merged.max, merged.total);
    }
    if (num_used == 1) return;
    if (!is_last_block(p.tickets + blockIdx.z * p.num_kv_heads + kv_head, num_used, place[0])) return;
    for (uint32_t i = threadIdx.x; i < group * (kHeadLen / 4); i += kDecodeThreads) {
        const uint32_t head = i / (kHeadLen / 4), element = i % (kHeadLen / 4) * 4;
        Merged merged = with_sink(head);
        for (uint32_t from = 0; from < num_used; from += kSplitsTogether) {
            float2 stats[kSplitsTogether];
            uint4 parts[kSplitsTogether];
#pragma unroll
            for (uint32_t j = 0; j < kSplitsTogether; j++) {
                const bool is_one = from + j < num_used;
                const size_t at = first_part + head * p.num_splits + from + j;
                stats[j] = is_one ? p.stats[at] : make_float2(-INFINITY, 0.0f);
                parts[j] = is_one ? ld_v4(p.parts + at * kHeadLen + element) : make_uint4(0, 0, 0, 0);
            }
            merged.add(stats, parts);
        }
        write(head, element, merged);
    }
}
