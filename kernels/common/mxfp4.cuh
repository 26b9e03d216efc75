// MXFP4 weights to bf16: exact, a weight has three significant bits.
//
// A nibble is sign, two exponent bits, one mantissa bit; 16 bytes hold 32 of them, low nibble first, and share one
// scale byte s that means 2^(s - 127).
#pragma once

#include "ptx.cuh"

// The scale of a block in both halves of a register.
__device__ __forceinline__ uint32_t mxfp4_scale(uint32_t byte) {
    // 0 is the one power of two here that bf16 holds as a subnormal, 255 the format's only NaN.
    const uint32_t bits = byte == 0 ? 0x0040u : byte == 255 ? 0x7fc0u : byte << 7;
    return bits << 16 | bits;
}

// Eight weights: out[j] holds weight j in its low and weight j + 4 in its high half.
//
// The three low bits of a nibble, put where bf16 has the end of its exponent and the start of its mantissa, are its
// value times 2^-126, the subnormal 0.5 included; so two exact products give the weight.
__device__ __forceinline__ void mxfp4_weights(uint32_t nibbles, uint32_t scale, uint32_t (&out)[4]) {
    constexpr uint32_t kSign = 0x80008000u, kRest = 0x01c001c0u, kUp = 0x7e807e80u; // 2^126 twice
    const uint32_t raw[4] = {
        (nibbles << 12 & kSign) | (nibbles << 6 & kRest),
        (nibbles << 8 & kSign) | (nibbles << 2 & kRest),
        (nibbles << 4 & kSign) | (nibbles >> 2 & kRest),
        (nibbles & kSign) | (nibbles >> 6 & kRest),
    };
#pragma unroll
    for (int j = 0; j < 4; j++) out[j] = mul_bf16x2(mul_bf16x2(raw[j], kUp), scale);
}

// Values j and j + 4 of eight bf16, as mxfp4_weights pairs them.
__device__ __forceinline__ void pair_with_fourth(uint4 x, uint32_t (&out)[4]) {
    out[0] = __byte_perm(x.x, x.z, 0x5410);
    out[1] = __byte_perm(x.x, x.z, 0x7632);
    out[2] = __byte_perm(x.y, x.w, 0x5410);
    out[3] = __byte_perm(x.y, x.w, 0x7632);
}

// The way back: the pairs of mxfp4_weights in their order along the row.
__device__ __forceinline__ uint4 in_order(const uint32_t (&pairs)[4]) {
    return make_uint4(__byte_perm(pairs[0], pairs[1], 0x5410), __byte_perm(pairs[2], pairs[3], 0x5410),
                      __byte_perm(pairs[0], pairs[1], 0x7632), __byte_perm(pairs[2], pairs[3], 0x7632));
}
