// MXFP4 weights to bf16: exact, a weight has three significant bits.
//
// A weight is a nibble S E1 E0 M (sign, two exponent bits, one mantissa bit); 32 of them share one scale byte s that means
// 2^(s - 127). Their 16 bytes lie on the device as `arrange_blocks` leaves them: in word p (0 to 3), the low half holds
// weight 8 j + 2 p and the high half weight 8 j + 2 p + 1 for j = 0 to 3, so that pair j of word p is what place p of a
// warp needs as one register of mma's left operand. In each half the bits of weight j are
//
//   j   S  E1 E0 M
//   0  15   8  7 6      where bf16 has its sign, the end of its exponent and the start of its mantissa
//   1  10   5  4 3
//   2   9   2  1 0
//   3  11  14 13 12
//
// so a pair takes one to four operations to come to its place, and there it is its value times 2^-126, the subnormal 0.5
// included. One product with a power of two gives the weight times 2^-32: the factor for a scale of 1 would be over what
// bf16 holds. Sums of products are multiplied by 2^32 at last.
//
// Exact for scales from 2^-93 to 2^33. Below, weights lose bits and are 0 at last, at an absolute error under 2^-101; from
// 2^34 on they are infinite or NaN, as for the format's NaN (s = 255).
#pragma once

#include "ptx.cuh"

// What sums of products with these weights are multiplied by.
constexpr float kMxfp4Sums = 4294967296.0f; // 2^32

// The factor of a block, in both halves of a register.
__device__ __forceinline__ uint32_t mxfp4_scale(uint32_t byte) { return min(byte + 94u, 255u) * 0x00800080u; }

// Eight weights times 2^-32: out[j] holds pair j of this word.
__device__ __forceinline__ void mxfp4_pairs(uint32_t word, uint32_t scale, uint32_t (&out)[4]) {
    constexpr uint32_t kSign = 0x80008000u, kRest = 0x01c001c0u, kBoth = kSign | kRest;
    out[0] = mul_bf16x2(word & kBoth, scale);
    out[1] = mul_bf16x2((word << 3 & kRest) | (word << 5 & kSign), scale);
    out[2] = mul_bf16x2(word << 6 & kBoth, scale);
    out[3] = mul_bf16x2((word >> 6 & kRest) | (word << 4 & kSign), scale);
}
