// Several numbers at a time: eight bf16 as 16 bytes, four or eight floats.
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

__device__ __forceinline__ void load_4(const float* from, float (&to)[4]) {
    const uint4 bits = ld_v4(from);
    to[0] = __uint_as_float(bits.x), to[1] = __uint_as_float(bits.y);
    to[2] = __uint_as_float(bits.z), to[3] = __uint_as_float(bits.w);
}

__device__ __forceinline__ void store_4(float* to, const float (&from)[4]) {
    st_v4(to, make_uint4(__float_as_uint(from[0]), __float_as_uint(from[1]), __float_as_uint(from[2]),
                         __float_as_uint(from[3])));
}

__device__ __forceinline__ void load_8(const float* from, float (&to)[8]) {
    const uint4 low = ld_v4(from), high = ld_v4(from + 4);
    const uint32_t bits[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = __uint_as_float(bits[i]);
}

__device__ __forceinline__ void store_8(float* to, const float (&from)[8]) {
    uint32_t bits[8];
#pragma unroll
    for (int i = 0; i < 8; i++) bits[i] = __float_as_uint(from[i]);
    st_v4(to, make_uint4(bits[0], bits[1], bits[2], bits[3]));
    st_v4(to + 4, make_uint4(bits[4], bits[5], bits[6], bits[7]));
}
