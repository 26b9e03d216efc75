// Work that the last of several blocks does with what all of them have made.
#pragma once

#include "ptx.cuh"

// Whether this block is the last of `num_blocks` to get here; then it sees what all of them have written to global memory.
// All threads call it. The ticket is zero before and after; `place` lies in shared memory.
__device__ __forceinline__ bool is_last_block(uint32_t* ticket, uint32_t num_blocks, uint32_t& place) {
    // What each thread has written is visible before the block counts itself.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        place = atomicAdd(ticket, 1u);
        if (place == num_blocks - 1) *ticket = 0;
    }
    __syncthreads();
    __threadfence();
    return place == num_blocks - 1;
}
