// Attention of sixteen queries by one warp over keys and values in shared memory, on tensor cores, with the softmax
// taken on the way. Heads have 64 elements.
//
// A row of 64 bf16 is 128 bytes, eight chunks of 16. Chunk c of row r lies at place c ^ r % 8, so that the eight rows
// that ldmatrix reads together lie in different banks.
#pragma once

#include "ptx.cuh"

constexpr int kHeadLen = 64;

__device__ __forceinline__ int kv_chunk(int row, int chunk) { return (row * 8 + (chunk ^ (row % 8))) * 8; }

// Where the cache holds the keys and values of one sequence and key head.
struct KvSource {
    const bf16* keys;
    const bf16* values;
    const uint32_t* table; // its first entry is of block `first_block` of positions
    uint32_t table_len, first_block, block_len, num_blocks, num_kv_heads, kv_head;

    // Begins to copy positions `start` .. `start + kKeys`, as far as they are below `end`; the rest are zeros, and so
    // is a position whose block does not exist. The `kThreads` threads that share the work are numbered by `thread`.
    template <int kKeys, int kThreads>
    __device__ __forceinline__ void copy(bf16* keys_to, bf16* values_to, uint32_t start, uint32_t end, int thread) const {
        constexpr int kCopies = kKeys * 8 / kThreads;
        // All entries of the table first: a wait for one of them is a wait for all.
        size_t places[kCopies];
        bool are_valid[kCopies];
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const uint32_t position = start + static_cast<uint32_t>((thread + i * kThreads) / 8);
            const uint32_t index = position / block_len - first_block;
            const size_t block = position < end && index < table_len ? table[index] : num_blocks;
            are_valid[i] = block < num_blocks;
            places[i] = ((block * num_kv_heads + kv_head) * block_len + position % block_len) * kHeadLen;
        }
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const int row = (thread + i * kThreads) / 8, chunk = thread % 8;
            const size_t at = are_valid[i] ? places[i] + static_cast<size_t>(chunk) * 8 : 0;
            cp_async_16(keys_to + kv_chunk(row, chunk), keys + at, are_valid[i]);
            cp_async_16(values_to + kv_chunk(row, chunk), values + at, are_valid[i]);
        }
    }
};

// A lane holds two queries: lane / 4 and that + 8. Its sums are of elements 8 * n + 2 * (lane % 4) and the next.
struct Attention {
    uint32_t queries[4][4];
    float sums[8][4];
    float max[2], total[2];

    // `query(half, at)` gives elements at, at + 1 and at + 32, at + 33 of the query, as two pairs; zeros for none.
    template <typename Query>
    __device__ __forceinline__ void begin(Query query) {
        const int place = static_cast<int>(threadIdx.x % 4);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            max[half] = -INFINITY;
            total[half] = 0.0f;
#pragma unroll
            for (int k = 0; k < 2; k++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint2 pairs = query(half, k * 16 + i * 8 + place * 2);
                    queries[k][i * 2 + half] = pairs.x;
                    queries[k + 2][i * 2 + half] = pairs.y;
                }
            }
        }
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
        }
    }

    // Keys and values [kKeys][64]. `is_visible(half, key)` says which key of them a query sees.
    template <int kKeys, typename Visible>
    __device__ __forceinline__ void attend(const bf16* keys, const bf16* values, Visible is_visible) {
        const int lane = static_cast<int>(threadIdx.x % 32);
        float scores[kKeys / 8][4];
#pragma unroll
        for (int n = 0; n < kKeys / 8; n += 2) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = scores[n + 1][i] = 0.0f;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                uint32_t parts[4];
                ldmatrix_x4(parts, keys + kv_chunk(n * 8 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
                const uint32_t left[2] = {parts[0], parts[1]}, right[2] = {parts[2], parts[3]};
                mma_bf16_16816(scores[n], queries[k], left);
                mma_bf16_16816(scores[n + 1], queries[k], right);
            }
        }
        float old_share[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float greatest = max[half];
#pragma unroll
            for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float& score = scores[n][half * 2 + i];
                    score = is_visible(half, n * 8 + lane % 4 * 2 + i) ? score * 0.125f : -INFINITY;
                    greatest = fmaxf(greatest, score);
                }
            }
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
            // Nothing seen yet: there is no greatest score to subtract.
            const float from = greatest == -INFINITY ? 0.0f : greatest;
            old_share[half] = __expf(max[half] - from);
            max[half] = greatest;
            float total_here = 0.0f;
#pragma unroll
            for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float& score = scores[n][half * 2 + i];
                    score = __expf(score - from);
                    total_here += score;
                }
            }
            total[half] = total[half] * old_share[half] + total_here;
        }
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] *= old_share[i / 2];
        }
#pragma unroll
        for (int k = 0; k < kKeys / 16; k++) {
            const float(&left)[4] = scores[2 * k];
            const float(&right)[4] = scores[2 * k + 1];
            const uint32_t shares[4] = {pack_bf16x2(left[0], left[1]), pack_bf16x2(left[2], left[3]),
                                        pack_bf16x2(right[0], right[1]), pack_bf16x2(right[2], right[3])};
#pragma unroll
            for (int n = 0; n < 8; n += 2) {
                uint32_t parts[4];
                ldmatrix_x4_trans(parts, values + kv_chunk(k * 16 + lane % 16, n + lane / 16));
                const uint32_t even[2] = {parts[0], parts[1]}, odd[2] = {parts[2], parts[3]};
                mma_bf16_16816(sums[n], shares, even);
                mma_bf16_16816(sums[n + 1], shares, odd);
            }
        }
    }

    // Adds up what the four lanes of a query have of its total.
    __device__ __forceinline__ void end() {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
            total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
        }
    }
};
