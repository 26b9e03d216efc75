// Attention of sixteen queries by one warp over keys and values in shared memory, on tensor cores, with the softmax
// taken on the way. Heads have 64 elements.
//
// A row of 64 bf16 is 128 bytes, eight chunks of 16. Chunk c of row r lies at place c ^ r % 8, so that the eight rows
// that ldmatrix reads together lie in different banks. Wgmma takes the same order.
#pragma once

#include "ptx.cuh"

constexpr int kHeadLen = 64;

__device__ __forceinline__ int kv_chunk(int row, int chunk) { return (row * 8 + (chunk ^ (row % 8))) * 8; }

// Where the cache holds the keys and values of one sequence and key head.
struct KvSource {
    const bf16* keys;
    const bf16* values;
    const uint32_t* table; // its first entry is of block `first_block` of positions
    uint32_t table_len, first_block, num_blocks, num_kv_heads, kv_head;
    uint32_t block_shift; // a block has 1 << block_shift positions

    // The blocks of positions `start` .. `start + kKeys`, as far as they are below `end`; num_blocks or more for those that
    // do not exist. The `kThreads` threads that share the work are numbered by `thread`, and each looks up its own.
    template <int kKeys, int kThreads>
    __device__ __forceinline__ void find(uint32_t (&blocks)[kKeys * 8 / kThreads], uint32_t start, uint32_t end, int thread) const {
#pragma unroll
        for (int i = 0; i < kKeys * 8 / kThreads; i++) {
            const uint32_t position = start + static_cast<uint32_t>(thread / 8 + i * (kThreads / 8));
            const uint32_t index = (position >> block_shift) - first_block;
            blocks[i] = position < end && index < table_len ? table[index] : num_blocks;
        }
    }

    // Begins to copy the positions whose blocks were found; where there is none, zeros.
    template <int kKeys, int kThreads>
    __device__ __forceinline__ void copy(bf16* keys_to, bf16* values_to, const uint32_t (&blocks)[kKeys * 8 / kThreads],
                                         uint32_t start, int thread) const {
        const int chunk = thread % 8;
#pragma unroll
        for (int i = 0; i < kKeys * 8 / kThreads; i++) {
            const int row = thread / 8 + i * (kThreads / 8);
            const uint32_t offset = (start + static_cast<uint32_t>(row)) & ((1u << block_shift) - 1);
            const bool is_valid = blocks[i] < num_blocks;
            const uint32_t place = is_valid ? ((blocks[i] * num_kv_heads + kv_head) << block_shift) + offset : 0;
            // In bytes, so that it is one multiply-add.
            const size_t at = static_cast<size_t>(place) * (kHeadLen * sizeof(bf16)) + static_cast<size_t>(chunk) * 16;
            cp_async_16(keys_to + kv_chunk(row, chunk), reinterpret_cast<const char*>(keys) + at, is_valid);
            cp_async_16(values_to + kv_chunk(row, chunk), reinterpret_cast<const char*>(values) + at, is_valid);
        }
    }
};

// What a score is multiplied with in the exponent of 2: 1 / sqrt(64), and log2 of e.
constexpr float kExponent = 0.125f * 1.44269504f;

// A lane holds two queries: lane / 4 and that + 8. Its sums are of elements 8 * n + 2 * (lane % 4) and the next. Scores are
// products of query and key, not divided by 8, and so is their greatest, `max`.
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

    // Hides keys: `is_visible(half, key)` says which of them a query sees.
    template <int kKeys, typename Visible>
    static __device__ __forceinline__ void hide(float (&scores)[kKeys / 8][4], Visible is_visible) {
        const int first = static_cast<int>(threadIdx.x % 4 * 2);
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (!is_visible(i / 2, n * 8 + first + i % 2)) scores[n][i] = -INFINITY;
            }
        }
    }

    // Makes shares of scores, and what is summed already to shares of the same greatest score.
    template <int kKeys>
    __device__ __forceinline__ void weigh(float (&scores)[kKeys / 8][4]) {
        float old_share[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float greatest = max[half];
#pragma unroll
            for (int n = 0; n < kKeys / 8; n++) {
                greatest = fmaxf(greatest, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
            }
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
            // Nothing seen yet: there is no greatest score to subtract.
            const float from = greatest == -INFINITY ? 0.0f : greatest * kExponent;
            old_share[half] = exp2_approx(max[half] * kExponent - from);
            max[half] = greatest;
            float total_here = 0.0f;
#pragma unroll
            for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float& score = scores[n][half * 2 + i];
                    score = exp2_approx(score * kExponent - from);
                    total_here += score;
                }
            }
            total[half] = total[half] * old_share[half] + total_here;
        }
        // Further on in a long context the greatest score seldom changes.
        if (!__any_sync(0xffffffffu, old_share[0] != 1.0f || old_share[1] != 1.0f)) return;
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] *= old_share[i / 2];
        }
    }

    // The shares of sixteen keys as the left operand of a product with their values.
    static __device__ __forceinline__ void pack(uint32_t (&shares)[4], const float (&left)[4], const float (&right)[4]) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            shares[half] = pack_bf16x2(left[half * 2], left[half * 2 + 1]);
            shares[half + 2] = pack_bf16x2(right[half * 2], right[half * 2 + 1]);
        }
    }

    // Keys and values [kKeys][64]. Unless `is_all`, which is the same in all lanes, `is_visible` says what is seen.
    template <int kKeys, typename Visible>
    __device__ __forceinline__ void attend(const bf16* keys, const bf16* values, bool is_all, Visible is_visible) {
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
        if (!is_all) hide<kKeys>(scores, is_visible);
        weigh<kKeys>(scores);
#pragma unroll
        for (int k = 0; k < kKeys / 16; k++) {
            uint32_t shares[4];
            pack(shares, scores[2 * k], scores[2 * k + 1]);
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
