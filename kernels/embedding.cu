// embedding: copies the table's row of each token.
//
//   out[r] = table[tokens[r]]
//
// Shapes:  tokens [rows] u32, each below vocabulary; table [vocabulary, width] bf16; out [rows, width] bf16 or float32;
//          width a multiple of 8.
// Launch:  one block of 128 threads a row. A token outside the vocabulary gives a row of NaN instead of a wild read.
// Traffic: reads one row of the table and writes one row for each token.

#include "common/vector.cuh"

struct EmbeddingParams {
    const uint32_t* tokens;
    const bf16* table;
    void* out;
    uint32_t width;
    uint32_t vocabulary;
    uint32_t is_float;
    uint32_t unused;
};

KERNEL(embedding, EmbeddingParams, 128) {
    pdl_wait();
    const uint32_t token = p.tokens[blockIdx.x];
    const bf16* from = p.table + static_cast<size_t>(token) * p.width;
    const size_t to = static_cast<size_t>(blockIdx.x) * p.width;
    const uint4 nan = make_uint4(~0u, ~0u, ~0u, ~0u);
    for (uint32_t i = threadIdx.x * 8; i < p.width; i += blockDim.x * 8) {
        const uint4 row = token < p.vocabulary ? ld_v4(from + i) : nan;
        if (p.is_float) {
            float values[8];
            unpack_8(row, values);
            store_8(static_cast<float*>(p.out) + to + i, values);
        } else {
            st_v4(static_cast<bf16*>(p.out) + to + i, row);
        }
    }
    pdl_launch();
}
