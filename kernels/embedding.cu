// embedding: copies the table's row of each token.
//
//   out[r] = table[tokens[r]]
//
// Shapes:  tokens [rows] u32, each below vocabulary; table [vocabulary, width] bf16; out [rows, width] bf16;
//          width a multiple of 8.
// Launch:  one block of 128 threads a row. A token outside the vocabulary gives a row of NaN instead of a wild read.
// Traffic: reads one row of the table and writes one row for each token.

#include "common/ptx.cuh"

struct EmbeddingParams {
    const uint32_t* tokens;
    const bf16* table;
    bf16* out;
    uint32_t width;
    uint32_t vocabulary;
};

KERNEL(embedding, EmbeddingParams, 128) {
    pdl_wait();
    const uint32_t token = p.tokens[blockIdx.x];
    const bf16* from = p.table + static_cast<size_t>(token) * p.width;
    bf16* to = p.out + static_cast<size_t>(blockIdx.x) * p.width;
    const uint4 nan = make_uint4(~0u, ~0u, ~0u, ~0u);
    for (uint32_t i = threadIdx.x * 8; i < p.width; i += blockDim.x * 8) {
        st_v4(to + i, token < p.vocabulary ? ldg_nc_v4(from + i) : nan);
    }
    pdl_launch();
}
