// Small kernels that use each wrapper of common/ptx.cuh and common/wgmma.cuh once, so that crates/cuda/tests/emulation.rs can hold the
// host device's emulation against the PTX manual. Compiled for the host device only.

#include "../common/wgmma.cuh"

struct MatmulParams {
    const bf16* a; // [16, 16]
    const bf16* b; // [16, 8]
    float* d;      // [16, 8]
};

// d = a b by one warp: asynchronous copies to shared memory, ldmatrix, mma.
KERNEL(emulation_matmul, MatmulParams, 32) {
    SHARED(bf16, a, [16][16]);
    SHARED(bf16, b, [16][8]);
    const int lane = static_cast<int>(threadIdx.x);
    cp_async_16(&a[lane / 2][lane % 2 * 8], p.a + lane * 8);
    cp_async_commit();
    if (lane < 16) cp_async_16(b[lane], p.b + lane * 8);
    cp_async_commit();
    cp_async_wait<1>();
    __syncwarp();
    uint32_t a_parts[4], b_parts[2];
    ldmatrix_x4(a_parts, &a[lane % 16][lane / 16 * 8]);
    cp_async_wait<0>();
    __syncwarp();
    ldmatrix_x2_trans(b_parts, b[lane % 16]);
    float d[4] = {};
    mma_bf16_16816(d, a_parts, b_parts);
    for (int i = 0; i < 4; i++) p.d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

struct WgmmaParams {
    const bf16* a; // [64, 64]
    const bf16* b; // [96, 64]
    float* out;    // [3, 64, 96], then [64, 64]
};

// a b^T by one warpgroup, three times: with a in shared memory, with a in registers, and looked at too early; then a times
// the first 64 rows of b.
KERNEL(emulation_wgmma, WgmmaParams, 128) {
    SHARED_DYNAMIC(bytes);
    bf16* a = reinterpret_cast<bf16*>(bytes);
    bf16* b = a + 64 * 64;
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    for (int i = thread; i < 64 * 8; i += 128) cp_async_16(a + wgmma_chunk(i / 8, i % 8), p.a + i * 8);
    for (int i = thread; i < 96 * 8; i += 128) cp_async_16(b + wgmma_chunk(i / 8, i % 8), p.b + i * 8);
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();
    __syncthreads();
    const uint64_t a_tile = wgmma_tile(a), b_tile = wgmma_tile(b);
    float shared_sums[48] = {}, register_sums[48] = {}, early_sums[48] = {}, row_sums[32] = {};
    wgmma_fence();
    for (int k = 0; k < 4; k++) {
        uint32_t parts[4];
        ldmatrix_x4(parts, a + wgmma_chunk(warp * 16 + lane % 16, k * 2 + lane / 16));
        wgmma_bf16<96>(shared_sums, a_tile + k * 2, b_tile + k * 2);
        wgmma_bf16<96>(register_sums, parts, b_tile + k * 2);
        wgmma_bf16_rows(row_sums, parts, b_tile + k * kWgmmaRows);
    }
    wgmma_commit();
    wgmma_fence();
    wgmma_bf16<96>(early_sums, a_tile, b_tile);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_arrived(shared_sums);
    wgmma_arrived(register_sums);
    for (int i = 0; i < 48; i++) {
        const int at = (warp * 16 + lane / 4 + i / 2 % 2 * 8) * 96 + i / 4 * 8 + lane % 4 * 2 + i % 2;
        p.out[at] = shared_sums[i];
        p.out[64 * 96 + at] = register_sums[i];
        p.out[2 * 64 * 96 + at] = early_sums[i];
    }
    wgmma_wait<0>();
    wgmma_arrived(row_sums);
    for (int i = 0; i < 32; i++) {
        const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        p.out[3 * 64 * 96 + row * 64 + column] = row_sums[i];
    }
}

struct WarpParams {
    uint32_t* out;     // [10, 48]
    uint32_t* counter; // [1]
};

// One row of `out` an operation; two warps, the second of 16 lanes.
KERNEL(emulation_warp, WarpParams, 48) {
    SHARED(uint32_t, total, [1]);
    const unsigned i = threadIdx.x, all = 0xffffffffu;
    uint32_t* out = p.out + i;
    if (i == 0) total[0] = 0;
    __syncthreads();
    out[0 * 48] = __shfl_sync(all, i, 3);
    out[1 * 48] = __shfl_xor_sync(all, i, 5);
    out[2 * 48] = __shfl_down_sync(all, i, 4, 8);
    out[3 * 48] = __shfl_up_sync(all, i, 2, 16);
    out[4 * 48] = __ballot_sync(all, i % 3 == 0);
    out[5 * 48] = __reduce_add_sync(all, i);
    out[6 * 48] = __reduce_max_sync(all, i) << 16 | __reduce_min_sync(all, i);
    out[7 * 48] = static_cast<uint32_t>(__any_sync(all, i == 40)) << 1 | static_cast<uint32_t>(__all_sync(all, i < 40));
    // Half warps may go their own ways.
    if (i % 2 == 0) {
        out[8 * 48] = __reduce_add_sync(0x55555555u, i);
    } else {
        out[8 * 48] = __reduce_add_sync(0xaaaaaaaau, i);
    }
    atomicAdd(&total[0], i);
    atomicAdd(p.counter, 1u);
    __syncthreads();
    out[9 * 48] = total[0];
}

struct ZeroFillParams {
    const bf16* from; // [8]
    bf16* to;         // [16]
};

// A copy that is valid and one that is not.
KERNEL(emulation_zero_fill, ZeroFillParams, 2) {
    SHARED(bf16, tile, [16]);
    const int i = static_cast<int>(threadIdx.x);
    cp_async_16(tile + i * 8, p.from, i == 0);
    cp_async_commit();
    cp_async_wait<0>();
    st_v4(p.to + i * 8, ld_v4(tile + i * 8));
}
