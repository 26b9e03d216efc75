// attention_prefill: attention of many rows of a sequence over its cached keys and values.
//
//   out[r][h] = sum over j of exp(q[r][h] . key[j] / 8) value[j] / (exp(sink[h]) + sum over j of exp(...))
//
// over the positions j up to the row's own, of which a window layer sees the last `window`.
//
// Shapes:  queries [rows, heads * 64] bf16, rotated; keys, values [blocks, kv_heads, block_len, 64] bf16; sinks [heads]
//          bf16; positions [rows] u32; tables u32; out [rows, heads * 64] bf16;
//          tiles [tiles]: first row, number of rows (at most 64 / group), start in tables, first block of the table.
//          A tile without rows, or with rows that do not exist, is left out.
// Launch:  grid (tiles, kv_heads), four warps of 16 queries each: the `group` query heads of a key head lie side by
//          side, so that a key is read once for all of them. The next 64 keys are under way while these are used.
// Traffic: each tile reads the keys and values it sees once.

#include "common/attention.cuh"

struct AttentionPrefillParams {
    const bf16* queries;
    const bf16* keys;
    const bf16* values;
    const bf16* sinks;
    const uint32_t* positions;
    const uint32_t* tables;
    const uint4* tiles;
    bf16* out;
    uint32_t num_heads, num_kv_heads, block_len, num_blocks;
    uint32_t num_rows, table_len, window;
    uint32_t unused;
};

constexpr int kTileKeys = 64;
constexpr int kPrefillThreads = 128;

KERNEL(attention_prefill, AttentionPrefillParams, kPrefillThreads) {
    SHARED(bf16, keys, [2][kTileKeys * kHeadLen]);
    SHARED(bf16, values, [2][kTileKeys * kHeadLen]);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t group = p.num_heads / p.num_kv_heads;
    pdl_wait();
    const uint4 tile = p.tiles[blockIdx.x];
    const uint32_t first_row = tile.x, num_rows = tile.y;
    if (num_rows == 0 || num_rows > p.num_rows || first_row > p.num_rows - num_rows || tile.z > p.table_len) return;
    const uint32_t first_position = p.positions[first_row];
    const uint32_t first_head = blockIdx.y * group;
    const KvSource source = {p.keys,      p.values,     p.tables + tile.z, p.table_len - tile.z, tile.w,
                             p.block_len, p.num_blocks, p.num_kv_heads,    blockIdx.y};
    // Query m of the tile is of row m / group and head m % group.
    uint32_t rows[2], heads[2];
    bool is_query[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t m = warp * 16 + half * 8 + lane / 4;
        rows[half] = m / group;
        heads[half] = first_head + m % group;
        is_query[half] = rows[half] < num_rows;
    }
    Attention attention;
    attention.begin([&](int half, int at) {
        if (!is_query[half]) return make_uint2(0, 0);
        const size_t row = first_row + rows[half];
        const bf16* from = p.queries + (row * p.num_heads + heads[half]) * kHeadLen + at;
        return make_uint2(*reinterpret_cast<const uint32_t*>(from), *reinterpret_cast<const uint32_t*>(from + 32));
    });
    const uint32_t end = first_position + num_rows;
    const uint32_t begin = first_position >= p.window ? first_position - p.window + 1 : 0;
    source.copy<kTileKeys, kPrefillThreads>(keys[0], values[0], begin, end, static_cast<int>(threadIdx.x));
    cp_async_commit();
    for (uint32_t start = begin, turn = 0; start < end; start += kTileKeys, turn ^= 1) {
        if (start + kTileKeys < end) {
            source.copy<kTileKeys, kPrefillThreads>(keys[turn ^ 1], values[turn ^ 1], start + kTileKeys, end,
                                                    static_cast<int>(threadIdx.x));
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        attention.attend<kTileKeys>(keys[turn], values[turn], [&](int half, int key) {
            const uint32_t position = start + static_cast<uint32_t>(key), own = first_position + rows[half];
            return position <= own && position + p.window > own;
        });
        __syncthreads();
    }
    pdl_launch();
    attention.end();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (!is_query[half]) continue;
        const float sink = to_float(p.sinks[heads[half]]), max = fmaxf(attention.max[half], sink);
        const float share = __expf(attention.max[half] - max);
        const float scale = share / (attention.total[half] * share + __expf(sink - max));
        const size_t row = first_row + rows[half];
        bf16* to = p.out + (row * p.num_heads + heads[half]) * kHeadLen + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float(&sum)[4] = attention.sums[n];
            *reinterpret_cast<uint32_t*>(to + n * 8) = pack_bf16x2(sum[half * 2] * scale, sum[half * 2 + 1] * scale);
        }
    }
}
