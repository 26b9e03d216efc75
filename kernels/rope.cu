// rope: rotates queries and keys by their positions and puts keys and values into the cache.
//
//   query head:  (a, b) -> (a cos - b sin, b cos + a sin) for elements i and i + 32 of its 64
//   key head:    the same, written to keys[slot]; value head: written to values[slot]
//
// rounded to bf16 here and not before.
//
// Shapes:  qkv [rows, (heads + 2 * kv_heads) * 64] float32, queries first, then keys, then values; queries [rows, heads *
//          64] bf16; positions, slots [rows] u32, a slot being block * block_len + offset; rotations [context, 32]
//          (cos, sin) float32; keys, values [blocks, kv_heads, block_len, 64] bf16.
// Launch:  one block of 256 threads a row; a thread takes eight pairs or sixteen elements. A row without a valid
//          position and slot is left out. Steps of single rows do without: attention_decode rotates what it needs.
// Traffic: reads qkv once and writes half as many bytes; the rotation of a position is 256 bytes.

#include "common/rope.cuh"

struct RopeParams {
    const float* qkv;
    bf16* queries;
    const uint32_t* positions;
    const uint32_t* slots;
    const float2* rotations;
    bf16* keys;
    bf16* values;
    uint32_t num_heads, num_kv_heads, block_len, num_blocks, context_len;
    uint32_t unused;
};

KERNEL(rope, RopeParams, 256) {
    const uint32_t row = blockIdx.x;
    pdl_wait();
    const uint32_t position = p.positions[row], slot = p.slots[row];
    const uint32_t block = slot / p.block_len, offset = slot % p.block_len;
    if (position >= p.context_len || block >= p.num_blocks) return;
    const float2* rotations = p.rotations + static_cast<size_t>(position) * 32;
    const float* qkv = p.qkv + static_cast<size_t>(row) * (p.num_heads + 2 * p.num_kv_heads) * 64;
    const uint32_t num_rotated = (p.num_heads + p.num_kv_heads) * 4;
    for (uint32_t i = threadIdx.x; i < num_rotated + p.num_kv_heads * 4; i += blockDim.x) {
        const uint32_t head = i / 4, part = i % 4 * 8;
        const bool is_query = head < p.num_heads, is_value = i >= num_rotated;
        bf16* to = p.queries + (static_cast<size_t>(row) * p.num_heads + head) * 64 + part;
        if (!is_query) {
            const uint32_t kv_head = (head - p.num_heads) % p.num_kv_heads;
            to = (is_value ? p.values : p.keys) +
                 ((static_cast<size_t>(block) * p.num_kv_heads + kv_head) * p.block_len + offset) * 64 + part;
        }
        const HeadPart both = head_part(qkv + head * 64, part, rotations, !is_value);
        st_v4(to, both.low);
        st_v4(to + 32, both.high);
    }
    pdl_launch();
}
