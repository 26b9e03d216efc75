// fill: seeded random bytes, for weights that nobody trained.
//
//   word i of out = 64 bits that key and i decide, taken as they are (kind 0), as four bf16 between mean - spread and
//   mean + spread (1), or as eight scales of MXFP4 around `scale` (2)
//
// Shapes:  out [num_bytes], 8-byte aligned; the last word may be cut off.
// Launch:  blocks of 256 threads, each thread every so many words of eight bytes.
// Traffic: writes every byte once.

#include "common/ptx.cuh"

struct FillParams {
    unsigned char* out;
    uint64_t key;
    uint64_t num_bytes;
    float mean, spread;
    int32_t scale;
    uint32_t kind;
};

constexpr uint32_t kFillThreads = 256;

// The finalizer of splitmix64: a bijection that spreads every bit.
static __device__ __forceinline__ uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// Each operation rounds by itself, so that every machine makes the same bits.
static __device__ __forceinline__ float between(uint32_t bits, float mean, float spread) {
    const float unit = __fadd_rn(static_cast<float>(bits) / 32767.5f, -1.0f);
    return __fadd_rn(mean, __fmul_rn(spread, unit));
}

static __device__ __forceinline__ uint64_t make(const FillParams& p, uint64_t random) {
    if (p.kind == 0) return random;
    uint64_t word = 0;
    if (p.kind == 1) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t bits = static_cast<uint32_t>(random >> (32 * i));
            const uint32_t pair = pack_bf16x2(between(bits & 0xffff, p.mean, p.spread), between(bits >> 16, p.mean, p.spread));
            word |= static_cast<uint64_t>(pair) << (32 * i);
        }
        return word;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t eighth = static_cast<uint32_t>(random >> (8 * i)) % 8;
        const int32_t scale = p.scale + (eighth == 1) - (eighth == 0);
        word |= static_cast<uint64_t>(scale >= 0 && scale < 256 ? scale : 254) << (8 * i);
    }
    return word;
}

KERNEL(fill, FillParams, kFillThreads) {
    pdl_wait();
    const uint64_t num_words = (p.num_bytes + 7) / 8, step = static_cast<uint64_t>(gridDim.x) * kFillThreads;
    for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * kFillThreads + threadIdx.x; i < num_words; i += step) {
        const uint64_t word = make(p, mix(p.key + i * 0x9e3779b97f4a7c15ull));
        unsigned char* to = p.out + i * 8;
        if (i * 8 + 8 <= p.num_bytes) {
            *reinterpret_cast<uint2*>(to) =
                make_uint2(static_cast<uint32_t>(word), static_cast<uint32_t>(word >> 32));
            continue;
        }
        for (uint32_t byte = 0; i * 8 + byte < p.num_bytes; byte++) to[byte] = static_cast<unsigned char>(word >> (8 * byte));
    }
    pdl_launch();
}
