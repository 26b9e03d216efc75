// Floats as whole numbers in the same order.
#pragma once

#include "ptx.cuh"

// Greater for a greater value, the same for both zeros, never 0 but for a NaN.
__device__ __forceinline__ uint32_t key_of(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f); // no negative zero
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
