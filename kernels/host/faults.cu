// Kernels with one mistake each, for the tests of the host device: crates/cuda/tests/faults.rs says what must be
// found. They are compiled for the host device only. All run as one block of 64 threads on `data`, 64 floats;
// those of products as one block of 128.

#include "../common/wgmma.cuh"

struct FaultParams {
    float* data;
    float* scratch; // 64 floats more
};

KERNEL(fault_none, FaultParams, 64) {
    SHARED(float, tile, [64]);
    const unsigned i = threadIdx.x;
    tile[i] = p.data[i];
    __syncthreads();
    p.data[i] = tile[63 - i];
}

KERNEL(fault_global_after_end, FaultParams, 64) { p.data[threadIdx.x + 1] = 1.0f; }

KERNEL(fault_global_before_begin, FaultParams, 64) {
    const int i = static_cast<int>(threadIdx.x);
    p.scratch[i] = p.data[i - 1];
}

KERNEL(fault_global_wide, FaultParams, 64) {
    // The last four bytes of the load are outside.
    if (threadIdx.x == 5) p.scratch[0] = __uint_as_float(ld_v4(p.data + 64).x);
}

KERNEL(fault_misaligned, FaultParams, 64) {
    if (threadIdx.x == 7) p.scratch[0] = __uint_as_float(ld_v4(p.data + 1).x);
}

KERNEL(fault_shared_after_end, FaultParams, 64) {
    SHARED(float, tile, [63]);
    tile[threadIdx.x] = 0.0f;
}

KERNEL(fault_shared_before_begin, FaultParams, 64) {
    SHARED(float, tile, [64]);
    const int i = static_cast<int>(threadIdx.x);
    tile[i - 1] = 0.0f;
}

KERNEL(fault_dynamic_shared, FaultParams, 64) {
    SHARED_DYNAMIC(bytes);
    reinterpret_cast<float*>(bytes)[threadIdx.x] = 0.0f;
}

KERNEL(fault_unwritten, FaultParams, 64) {
    SHARED(float, tile, [64]);
    const unsigned i = threadIdx.x;
    if (i != 20) tile[i] = p.data[i];
    __syncthreads();
    p.data[i] = tile[63 - i];
}

KERNEL(fault_barrier_left_out, FaultParams, 64) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
}

KERNEL(fault_barrier_in_branch, FaultParams, 64) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

KERNEL(fault_shuffle_left_out, FaultParams, 64) {
    const unsigned i = threadIdx.x;
    if (i != 40) p.data[i] = __shfl_xor_sync(0xffffffffu, p.data[i], 1);
}

KERNEL(fault_race_read, FaultParams, 64) {
    SHARED(float, tile, [64]);
    const unsigned i = threadIdx.x;
    tile[i] = p.data[i];
    p.data[i] = tile[i / 32 * 32]; // written by another lane, no __syncwarp between
}

KERNEL(fault_race_write, FaultParams, 64) {
    SHARED(float, tile, [64]);
    const unsigned i = threadIdx.x;
    tile[i] = p.data[i];
    __syncthreads();
    if (i < 32) {
        p.data[i] = tile[63 - i];
    } else {
        tile[i] = 0.0f; // the other warp may not have read it yet
    }
}

KERNEL(fault_copy_not_awaited, FaultParams, 64) {
    SHARED(float, tile, [64]);
    const unsigned i = threadIdx.x;
    if (i < 16) cp_async_16(tile + i * 4, p.data + i * 4);
    cp_async_commit();
    __syncthreads();
    p.data[i] = tile[i];
}

KERNEL(fault_copy_not_committed, FaultParams, 64) {
    SHARED(float, tile, [64]);
    const unsigned i = threadIdx.x;
    if (i < 16) cp_async_16(tile + i * 4, p.data + i * 4);
    cp_async_wait<0>(); // nothing was committed, so nothing is waited for
    __syncthreads();
    p.data[i] = tile[i];
}

KERNEL(fault_other_threads_locals, FaultParams, 64) {
    SHARED(float*, pointer, [1]);
    volatile float local = 1.0f;
    if (threadIdx.x == 0) pointer[0] = const_cast<float*>(&local);
    __syncthreads();
    p.data[threadIdx.x] = *pointer[0];
}

// A tile of 64 rows of ones with one mistake in using it.
static __device__ void multiply(bf16* tile, int first_k, bool is_visible, bool is_begun, bool is_changed) {
    const int thread = static_cast<int>(threadIdx.x);
    const uint4 ones = make_uint4(0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u);
    for (int i = thread; i < 64 * 8; i += 128) st_v4(tile + i * 8, ones);
    if (is_visible) fence_async_proxy();
    __syncthreads();
    float sums[32] = {};
    if (is_begun) wgmma_fence();
    wgmma_bf16<64>(sums, wgmma_tile(tile), wgmma_tile(tile) + static_cast<uint64_t>(first_k / 8));
    wgmma_commit();
    if (is_changed && thread == 127) st_v4(tile, ones);
    wgmma_wait<0>();
}

KERNEL(fault_wgmma_copied_over, FaultParams, 128) {
    SHARED_DYNAMIC(bytes);
    bf16* tile = reinterpret_cast<bf16*>(bytes);
    for (int i = 0; i < 4; i++) st_v4(tile + threadIdx.x * 32 + i * 8, make_uint4(0, 0, 0, 0));
    fence_async_proxy();
    __syncthreads();
    float sums[32] = {};
    wgmma_fence();
    wgmma_bf16<64>(sums, wgmma_tile(tile), wgmma_tile(tile));
    wgmma_commit();
    __syncthreads();
    cp_async_16(tile + threadIdx.x * 8, p.data, true);
    wgmma_wait<0>();
}

KERNEL(fault_wgmma_small_group, FaultParams, 64) {
    SHARED_DYNAMIC(bytes);
    multiply(reinterpret_cast<bf16*>(bytes), 0, true, true, false);
}

KERNEL(fault_wgmma_misaligned_tile, FaultParams, 128) {
    SHARED_DYNAMIC(bytes);
    multiply(reinterpret_cast<bf16*>(bytes + 512), 0, true, true, false);
}

KERNEL(fault_wgmma_beyond_row, FaultParams, 128) {
    SHARED_DYNAMIC(bytes);
    multiply(reinterpret_cast<bf16*>(bytes), 64, true, true, false);
}

KERNEL(fault_wgmma_not_visible, FaultParams, 128) {
    SHARED_DYNAMIC(bytes);
    multiply(reinterpret_cast<bf16*>(bytes), 0, false, true, false);
}

KERNEL(fault_wgmma_not_begun, FaultParams, 128) {
    SHARED_DYNAMIC(bytes);
    multiply(reinterpret_cast<bf16*>(bytes), 0, true, false, false);
}

KERNEL(fault_wgmma_changed, FaultParams, 128) {
    SHARED_DYNAMIC(bytes);
    multiply(reinterpret_cast<bf16*>(bytes), 0, true, true, true);
}
