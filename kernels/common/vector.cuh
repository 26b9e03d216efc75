// Eight bf16 at a time, as 16 bytes and as floats.
#pragma once

#include "ptx.cuh"

__device__ __forceinline__ void unpack_8(uint4 v, float (&to)[8]) {
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack_bf16x2(pairs[i]);
        to[2 * i] = pair.x;
        to[2 * i + 1] = pair.y;
    }
}

__device__ __forceinline__ uint4 pack_8(const float (&from)[8]) {
    return make_uint4(pack_bf16x2(from[0], from[1]), pack_bf16x2(from[2], from[3]), pack_bf16x2(from[4], from[5]),
                      pack_bf16x2(from[6], from[7]));
}
