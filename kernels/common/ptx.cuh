// Everything in our kernels that is not plain C++: declarations of kernels and shared memory, bf16, wide loads,
// asynchronous copies, ldmatrix, mma.sync, warp reductions, programmatic dependent launch.
//
// Compiled by nvcc, the wrappers are inline PTX for sm_90a; compiled by g++ for the host device they call
// host/ptx.h, which does the same on a CPU and finds mistakes. A kernel uses these wrappers and the CUDA built-ins
// that host/cuda.h lists, and nothing else; then both compilers take it.
#pragma once

#include <cstdint>

#ifdef __CUDACC__

#define KERNEL(NAME, PARAMS, ...) \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) NAME(const __grid_constant__ PARAMS p)
#define SHARED(TYPE, NAME, ...) __shared__ __align__(16) TYPE NAME __VA_ARGS__
#define SHARED_DYNAMIC(NAME) extern __shared__ __align__(1024) unsigned char NAME[]

#else

#include "../host/ptx.h"

#endif

// ---- bf16 ----------------------------------------------------------------------------------------------------------

// A bfloat16 as it lies in memory. Arithmetic is done in float.
struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

// Two bf16 in one register, the first in the low half.
__device__ __forceinline__ float2 unpack_bf16x2(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

// Rounds to nearest, ties to even; every NaN becomes 0x7fff as on the card.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
#ifdef __CUDACC__
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    const float both[2] = {low, high};
    uint32_t pair = 0;
    for (int i = 0; i < 2; i++) {
        const uint32_t bits = __float_as_uint(both[i]);
        const uint32_t rounded = both[i] != both[i] ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
        pair |= rounded << (16 * i);
    }
    return pair;
#endif
}

__device__ __forceinline__ bf16 to_bf16(float x) { return bf16{static_cast<uint16_t>(pack_bf16x2(x, 0.0f))}; }

// Two products at once; exact where the result has at most eight significant bits. Subnormals count.
__device__ __forceinline__ uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
#ifdef __CUDACC__
    uint32_t product;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
#else
    const float2 x = unpack_bf16x2(a), y = unpack_bf16x2(b);
    return pack_bf16x2(x.x * y.x, x.y * y.y);
#endif
}

// 2 to the power x, to about two units in the last place. What is smaller than a normal number is 0.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef __CUDACC__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return std::exp2(x);
#endif
}

// ---- global memory -------------------------------------------------------------------------------------------------

// 16 bytes through the ordinary caches. `from` is 16-byte aligned.
__device__ __forceinline__ uint4 ld_v4(const void* from) {
#ifndef __CUDACC__
    host::check_aligned(from, 16, host::Access::Read);
#endif
    return *static_cast<const uint4*>(from);
}

// A word and 16 bytes past L1, which may still hold what was there before: for reads before pdl_wait, and of what other
// blocks of this kernel have written. 16 bytes are aligned.
__device__ __forceinline__ uint32_t ld_cg(const uint32_t* from) {
#ifdef __CUDACC__
    uint32_t v;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
    return v;
#else
    return *from;
#endif
}

__device__ __forceinline__ uint4 ld_cg_v4(const void* from) {
#ifdef __CUDACC__
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from)
                 : "memory");
    return v;
#else
    return ld_v4(from);
#endif
}

__device__ __forceinline__ void st_v4(void* to, uint4 v) {
#ifndef __CUDACC__
    host::check_aligned(to, 16, host::Access::Write);
#endif
    *static_cast<uint4*>(to) = v;
}

// Asks for bytes to be brought to the level 2 cache, and goes on. `from` is 16-byte aligned, the number a multiple of 16.
__device__ __forceinline__ void prefetch_l2(const void* from, uint32_t num_bytes) {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(num_bytes) : "memory");
#else
    host::prefetch(from, num_bytes);
#endif
}

// Adds to a float, of which the kernel reads nothing, without waiting for what is there.
__device__ __forceinline__ void add_float(float* to, float x) {
#ifdef __CUDACC__
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(to), "f"(x) : "memory");
#else
    *to += x;
#endif
}

// ---- asynchronous copies to shared memory --------------------------------------------------------------------------

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
#endif

// Begins a copy of 16 bytes from global to shared memory, past L1; the rest of their 128 bytes, which come next wherever
// this is used, is brought to L2. Without `is_valid` nothing is read and zeros are
// written. Both addresses are 16-byte aligned. The bytes may be read after cp_async_wait, and by other threads after
// a barrier that follows it.
__device__ __forceinline__ void cp_async_16(void* to, const void* from, bool is_valid = true) {
#ifdef __CUDACC__
    const int num_read = is_valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(num_read)
                 : "memory");
#else
    host::async_copy(to, from, 16, is_valid ? 16 : 0);
#endif
}

// Puts the copies begun since the last commit into a group.
__device__ __forceinline__ void cp_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    host::async_commit();
#endif
}

// Waits until at most the `kNumOpen` youngest groups of this thread are under way.
template <int kNumOpen>
__device__ __forceinline__ void cp_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(kNumOpen) : "memory");
#else
    host::async_wait(kNumOpen);
#endif
}

// ---- matrices ------------------------------------------------------------------------------------------------------

// 8x8 matrices of 16-bit numbers from shared memory: lane i names row i % 8 of matrix i / 8 (16 bytes, aligned).
#ifdef __CUDACC__
#define SITE_HERE
#define SITE_ONLY
#else
#define SITE_HERE , host::Site site = HOST_SITE
#define SITE_ONLY host::Site site = HOST_SITE
#endif

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&out)[4], const void* row SITE_HERE) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    host::ldmatrix(out, 4, row, false, site);
#endif
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&out)[2], const void* row SITE_HERE) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(shared_address(row))
                 : "memory");
#else
    host::ldmatrix(out, 2, row, true, site);
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&out)[4], const void* row SITE_HERE) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    host::ldmatrix(out, 4, row, true, site);
#endif
}

// d[16x8] += a[16x16] b[16x8] in float, the operands bf16. With group = lane / 4 and place = lane % 4:
// a[i] holds row group + 8 * (i % 2), columns 2 * place + 8 * (i / 2) and the next; b[i] rows 2 * place + 8 * i and the
// next of column group; d[i] row group + 8 * (i / 2), column 2 * place + i % 2.
__device__ __forceinline__ void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] SITE_HERE) {
#ifdef __CUDACC__
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    host::mma_bf16(d, a, b, site);
#endif
}

// ---- warps ---------------------------------------------------------------------------------------------------------

// The sum or maximum of one value a lane, in every lane, always added in the same order. All 32 lanes take part.
__device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// ---- programmatic dependent launch ---------------------------------------------------------------------------------
//
// No block triggers or ends before its own wait, but for blocks without work in a grid where others wait. So when a kernel
// starts, its predecessor is past its wait, and all kernels before that one have ended: their writes may be read before
// the wait (past L1, with ld_cg, ld_cg_v4 or cp_async_16). What the predecessor itself reads or writes may not be touched.

// Waits until the kernels before this one have ended and their writes are visible. Call it before the first write, and
// before the first read of anything that the predecessor writes. On the host device kernels run one after another.
__device__ __forceinline__ void pdl_wait() {
#ifdef __CUDACC__
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel of the stream start its blocks.
__device__ __forceinline__ void pdl_launch() {
#ifdef __CUDACC__
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
