// arrange_blocks: the bytes of every MXFP4 block, in place, from the checkpoint's order to the one the experts unpack.
//
// Both orders are in common/mxfp4.cuh; a checkpoint has weight 2 i in the low and weight 2 i + 1 in the high nibble of
// byte i.
//
// Shapes:  blocks [num_blocks, 16] u8.
// Launch:  one thread a block, 256 threads.
// Traffic: reads and writes everything once, when weights are loaded.

#include "common/ptx.cuh"

struct ArrangeBlocksParams {
    uint8_t* blocks;
    uint32_t num_blocks;
    uint32_t unused;
};

KERNEL(arrange_blocks, ArrangeBlocksParams, 256) {
    const uint32_t block = blockIdx.x * 256 + threadIdx.x;
    if (block >= p.num_blocks) return;
    pdl_wait();
    // Where a pair's three low bits and its sign go.
    constexpr uint32_t kRest[4] = {6, 3, 0, 12}, kSign[4] = {15, 10, 9, 11};
    const uint4 stored = ld_v4(p.blocks + static_cast<size_t>(block) * 16);
    const uint32_t from[4] = {stored.x, stored.y, stored.z, stored.w};
    uint32_t to[4] = {};
#pragma unroll
    for (uint32_t word = 0; word < 4; word++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t byte = from[j] >> (8 * word), pair = (byte & 15) | (byte & 0xf0) << 12;
            to[word] |= (pair & 0x00070007u) << kRest[j] | (pair >> 3 & 0x00010001u) << kSign[j];
        }
    }
    st_v4(p.blocks + static_cast<size_t>(block) * 16, make_uint4(to[0], to[1], to[2], to[3]));
    pdl_launch();
}
