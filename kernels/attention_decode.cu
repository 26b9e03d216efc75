// attention_decode: attention of single rows over their cached keys and values, each context cut into splits so that
// one long sequence fills the card; attention_combine puts the splits together.
//
//   out[r][h] = sum over j of exp(q[r][h] . key[j] / 8) value[j] / (exp(sink[h]) + sum over j of exp(...))
//
// over the positions j up to the row's own, of which a window layer sees the last `window`.
//
// Shapes:  queries, keys, values, sinks, positions, tables, out as in attention_prefill; rows [rows]: row, 1, start in
//          tables, first block of the table; parts [rows, heads, splits, 64] and stats [rows, heads, splits] (greatest score,
//          sum) float32; at most 16 heads for a key head. A row with 0 in place of 1 pads the batch and is left out.
// Launch:  attention_decode: grid (splits, kv_heads, rows), four warps that take turns at 16 keys, all heads of a key
//          head together. attention_combine: grid (heads, rows), one thread an element.
// Traffic: keys and values once, in pieces of 2 KB; the parts are small beside them.

#include "common/attention.cuh"

struct AttentionDecodeParams {
    const bf16* queries;
    const bf16* keys;
    const bf16* values;
    const bf16* sinks;
    const uint32_t* positions;
    const uint32_t* tables;
    const uint4* rows;
    float* parts;
    float2* stats;
    bf16* out;
    uint32_t num_heads, num_kv_heads, block_len, num_blocks;
    uint32_t num_rows, table_len, window;
    uint32_t num_splits;
};

constexpr int kDecodeWarps = 4, kDecodeKeys = 16;

KERNEL(attention_decode, AttentionDecodeParams, kDecodeWarps * 32) {
    SHARED(bf16, staged, [kDecodeWarps][2][2][kDecodeKeys * kHeadLen]); // warp, turn, keys or values
    SHARED(float2, stats, [kDecodeWarps][16]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, split = blockIdx.x;
    const uint32_t group = p.num_heads / p.num_kv_heads;
    pdl_wait();
    const uint4 row = p.rows[blockIdx.z];
    if (row.y == 0 || row.x >= p.num_rows || row.z > p.table_len) return;
    const uint32_t own = p.positions[row.x], first_head = blockIdx.y * group;
    const KvSource source = {p.keys,      p.values,     p.tables + row.z, p.table_len - row.z, row.w,
                             p.block_len, p.num_blocks, p.num_kv_heads,   blockIdx.y};
    // Whole turns of all warps for a split, so that no two splits share a turn.
    const uint32_t seen_from = own >= p.window ? own - p.window + 1 : 0, turn_len = kDecodeWarps * kDecodeKeys;
    const uint32_t num_turns = (own + 1 - seen_from + turn_len - 1) / turn_len;
    const uint32_t split_len = (num_turns + p.num_splits - 1) / p.num_splits * turn_len;
    const uint32_t begin = seen_from + split * split_len;
    const uint32_t end = begin + split_len < own + 1 ? begin + split_len : own + 1;
    const size_t stride = p.num_splits, first = (static_cast<size_t>(blockIdx.z) * p.num_heads + first_head) * stride + split;
    if (begin >= end) {
        // A short context does not fill all splits.
        if (threadIdx.x < group) p.stats[first + threadIdx.x * stride] = make_float2(-INFINITY, 0.0f);
        return;
    }
    Attention attention;
    attention.begin([&](int half) {
        const uint32_t head = static_cast<uint32_t>(half) * 8 + lane / 4;
        return head < group ? p.queries + (static_cast<size_t>(row.x) * p.num_heads + first_head + head) * kHeadLen : nullptr;
    });
    const uint32_t my_begin = begin + warp * kDecodeKeys;
    const auto load = [&](uint32_t start, uint32_t turn) {
        if (start < end) {
            source.copy<kDecodeKeys, 32>(staged[warp][turn][0], staged[warp][turn][1], start, end, static_cast<int>(lane));
        }
        cp_async_commit();
    };
    load(my_begin, 0);
    for (uint32_t start = my_begin, turn = 0; start < end; start += turn_len, turn ^= 1) {
        load(start + turn_len, turn ^ 1);
        cp_async_wait<1>();
        __syncwarp();
        attention.attend<kDecodeKeys>(staged[warp][turn][0], staged[warp][turn][1], [&](int, int key) {
            return start + static_cast<uint32_t>(key) < end;
        });
        __syncwarp();
    }
    pdl_launch();
    attention.end();
    // The warps' sums take the place of the keys and values, once all are done with those.
    float* sums = reinterpret_cast<float*>(&staged[0][0][0][0]);
    const auto place_of = [](uint32_t w, uint32_t head, uint32_t element) { return (w * 16 + head) * kHeadLen + element; };
    static_assert(sizeof(staged) >= kDecodeWarps * 16 * kHeadLen * sizeof(float), "the sums fit");
    __syncthreads();
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t head = half * 8 + lane / 4;
        if (lane % 4 == 0) stats[warp][head] = make_float2(attention.max[half], attention.total[half]);
#pragma unroll
        for (uint32_t n = 0; n < 8; n++) {
            const uint32_t at = place_of(warp, head, n * 8 + lane % 4 * 2);
            sums[at] = attention.sums[n][half * 2];
            sums[at + 1] = attention.sums[n][half * 2 + 1];
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < group * kHeadLen; i += kDecodeWarps * 32) {
        const uint32_t head = i / kHeadLen, element = i % kHeadLen;
        float max = -INFINITY, total = 0.0f, sum = 0.0f;
        for (uint32_t w = 0; w < kDecodeWarps; w++) max = fmaxf(max, stats[w][head].x);
        const float from = max == -INFINITY ? 0.0f : max;
        for (uint32_t w = 0; w < kDecodeWarps; w++) {
            const float share = __expf(stats[w][head].x - from);
            total += stats[w][head].y * share;
            sum += sums[place_of(w, head, element)] * share;
        }
        const size_t at = first + head * stride;
        p.parts[at * kHeadLen + element] = sum;
        if (element == 0) p.stats[at] = make_float2(max, total);
    }
}

KERNEL(attention_combine, AttentionDecodeParams, kHeadLen) {
    const uint32_t head = blockIdx.x, element = threadIdx.x;
    pdl_wait();
    const uint4 tile = p.rows[blockIdx.y];
    if (tile.y == 0 || tile.x >= p.num_rows || tile.z > p.table_len) return;
    const uint32_t row = tile.x;
    const size_t first = (static_cast<size_t>(blockIdx.y) * p.num_heads + head) * p.num_splits;
    const float sink = to_float(p.sinks[head]);
    float max = sink;
    for (uint32_t split = 0; split < p.num_splits; split++) max = fmaxf(max, p.stats[first + split].x);
    float total = __expf(sink - max), sum = 0.0f;
    for (uint32_t split = 0; split < p.num_splits; split++) {
        const float2 stats = p.stats[first + split];
        if (stats.y == 0.0f) continue;
        const float share = __expf(stats.x - max);
        total += stats.y * share;
        sum += p.parts[(first + split) * kHeadLen + element] * share;
    }
    pdl_launch();
    p.out[(static_cast<size_t>(row) * p.num_heads + head) * kHeadLen + element] = to_bf16(sum / total);
}
