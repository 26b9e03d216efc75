// attention_prefill: attention of many rows of a sequence over its cached keys and values.
//
//   out[r][h] = sum over j of exp(q[r][h] . key[j] / 8) value[j] / (exp(sink[h]) + sum over j of exp(...))
//
// over the positions j up to the row's own, of which a window layer sees the last `window`.
//
// Shapes:  queries [rows, heads * 64] bf16, rotated; keys, values [blocks, kv_heads, block_len, 64] bf16, block_len a power
//          of two; sinks [heads] bf16; positions [rows] u32; tables u32; out [rows, heads * 64] bf16;
//          tiles [tiles]: first row, number of rows (at most 128 / group), start in tables, first block of the table.
//          A tile without rows, or with rows that do not exist, is left out.
// Launch:  grid (tiles, kv_heads), two warpgroups of 64 queries each: the `group` query heads of a key head lie side by
//          side, so that a key is read once for all of them. The next 128 keys are under way while 64 are used.
//          Scores stay in registers from one product to the next; while a block takes exponentials, the tensor cores work
//          for the other block of the processor. Only tiles that some query of a warp does not see whole are masked.
// Traffic: each tile reads the keys and values it sees once.

#include "common/attention.cuh"
#include "common/wgmma.cuh"

struct AttentionPrefillParams {
    const bf16* queries;
    const bf16* keys;
    const bf16* values;
    const bf16* sinks;
    const uint32_t* positions;
    const uint32_t* tables;
    const uint4* tiles;
    bf16* out;
    uint32_t num_heads, num_kv_heads, block_shift, num_blocks; // a block has 1 << block_shift positions
    uint32_t num_rows, table_len, window;
    uint32_t unused;
};

constexpr uint32_t kTileKeys = 64, kPrefillStages = 4;
constexpr int kPrefillThreads = 256;
constexpr uint32_t kTileLen = kTileKeys * kHeadLen;

// The scores or sums of eight columns, four of them in each lane, as wgmma takes them.
static __device__ __forceinline__ float (&flat(float (&parts)[8][4]))[32] { return reinterpret_cast<float(&)[32]>(parts); }

KERNEL(attention_prefill, AttentionPrefillParams, kPrefillThreads, 2) {
    SHARED_DYNAMIC(bytes);
    bf16* const stages = reinterpret_cast<bf16*>(bytes);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t group = p.num_heads / p.num_kv_heads;
    // What no kernel of this step writes is read before the one before this has ended. The last rows of a sequence see the
    // most keys; they start first.
    const uint4 tile = p.tiles[gridDim.x - 1 - blockIdx.x];
    const uint32_t first_row = tile.x, num_rows = tile.y;
    if (num_rows == 0 || num_rows > p.num_rows || first_row > p.num_rows - num_rows || tile.z > p.table_len) {
        pdl_wait();
        return;
    }
    const uint32_t first_position = p.positions[first_row], first_head = blockIdx.y * group;
    const uint32_t end = first_position + num_rows;
    const uint32_t begin = first_position >= p.window ? first_position - p.window + 1 : 0;
    const KvSource source = {p.keys,       p.values,       p.tables + tile.z, p.table_len - tile.z, tile.w,
                             p.num_blocks, p.num_kv_heads, blockIdx.y,        p.block_shift};
    const int thread = static_cast<int>(threadIdx.x);
    uint32_t ahead = begin, blocks[kTileKeys * 8 / kPrefillThreads];
    const auto find = [&] { source.find<kTileKeys, kPrefillThreads>(blocks, ahead, end, thread); };
    // Copies what was found last, and looks up what is copied next, so that no copy waits for the table.
    const auto copy = [&](uint32_t stage) {
        if (ahead < end) {
            bf16* const to = stages + stage * 2 * kTileLen;
            source.copy<kTileKeys, kPrefillThreads>(to, to + kTileLen, blocks, ahead, thread);
            ahead += kTileKeys;
            find();
        }
        cp_async_commit();
    };
    find();
    pdl_wait();
    copy(0);
    copy(1);
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
    // Positions of the warp's first and last query.
    const uint32_t warp_first = first_position + warp * 16 / group, warp_last = first_position + (warp * 16 + 15) / group;
    Attention attention;
    attention.begin([&](int half, int at) {
        if (!is_query[half]) return make_uint2(0, 0);
        const size_t row = first_row + rows[half];
        const bf16* from = p.queries + (row * p.num_heads + heads[half]) * kHeadLen + at;
        return make_uint2(*reinterpret_cast<const uint32_t*>(from), *reinterpret_cast<const uint32_t*>(from + 32));
    });
    const uint64_t first_tile = wgmma_tile(stages);
    uint32_t stage = 0, shares[4][4] = {};
    for (uint32_t start = begin; start < end; start += kTileKeys, stage = (stage + 1) % kPrefillStages) {
        cp_async_wait<1>();
        fence_async_proxy();
        // Also, all are done with the stage that was used two turns ago.
        __syncthreads();
        const uint64_t keys = first_tile + stage * (2 * kTileLen * sizeof(bf16) / 16);
        const uint64_t values = keys + kTileLen * sizeof(bf16) / 16;
        float scores[kTileKeys / 8][4];
#pragma unroll
        for (uint32_t n = 0; n < kTileKeys / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
        }
        wgmma_arrived(flat(scores));
        wgmma_fence();
#pragma unroll
        for (uint64_t k = 0; k < 4; k++) wgmma_bf16<64>(flat(scores), attention.queries[k], keys + k * 2);
        wgmma_commit();
        copy((stage + 2) % kPrefillStages);
        // The values of the turn before are done too.
        wgmma_wait<0>();
        wgmma_arrived(flat(scores));
        wgmma_arrived(flat(attention.sums));
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_arrived(shares[k]);
        if (start + kTileKeys - 1 > warp_first || warp_last - start >= p.window) {
            attention.hide<kTileKeys>(scores, [&](int half, int key) {
                return first_position + rows[half] - (start + static_cast<uint32_t>(key)) < p.window;
            });
        }
        attention.weigh<kTileKeys>(scores);
#pragma unroll
        for (int k = 0; k < 4; k++) Attention::pack(shares[k], scores[2 * k], scores[2 * k + 1]);
        wgmma_arrived(flat(attention.sums));
        wgmma_fence();
#pragma unroll
        for (uint64_t k = 0; k < 4; k++) wgmma_bf16_rows(flat(attention.sums), shares[k], values + k * kWgmmaRows);
        wgmma_commit();
    }
    wgmma_wait<0>();
    wgmma_arrived(flat(attention.sums));
    pdl_launch();
    attention.end();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (!is_query[half]) continue;
        const float sink = to_float(p.sinks[heads[half]]) * 8.0f, max = fmaxf(attention.max[half], sink);
        const float share = exp2_approx((attention.max[half] - max) * kExponent);
        const float scale = share / (attention.total[half] * share + exp2_approx((sink - max) * kExponent));
        const size_t row = first_row + rows[half];
        bf16* to = p.out + (row * p.num_heads + heads[half]) * kHeadLen + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float(&sum)[4] = attention.sums[n];
            *reinterpret_cast<uint32_t*>(to + n * 8) = pack_bf16x2(sum[half * 2] * scale, sum[half * 2 + 1] * scale);
        }
    }
}
