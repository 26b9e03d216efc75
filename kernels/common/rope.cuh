// Rotation of a head's pairs, as every kernel that needs it does it: the same bits wherever a key is made.
#pragma once

#include "vector.cuh"

// (a cos - b sin, b cos + a sin), each product and sum rounded by itself, whatever the compiler would fuse.
__device__ __forceinline__ float2 rotate(float a, float b, float cos, float sin) {
    return make_float2(__fadd_rn(__fmul_rn(a, cos), -__fmul_rn(b, sin)), __fadd_rn(__fmul_rn(b, cos), __fmul_rn(a, sin)));
}

// Elements part .. part + 7 of a head and those 32 places on, as they go to the cache or to a product.
struct HeadPart {
    uint4 low, high;
};

__device__ __forceinline__ HeadPart head_part(const float* head, uint32_t part, const float2* rotations, bool is_rotated) {
    float a[8], b[8];
    load_8(head + part, a);
    load_8(head + part + 32, b);
    if (is_rotated) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float2 rotation = rotations[part + static_cast<uint32_t>(j)];
            const float2 rotated = rotate(a[j], b[j], rotation.x, rotation.y);
            a[j] = rotated.x;
            b[j] = rotated.y;
        }
    }
    return {pack_8(a), pack_8(b)};
}
