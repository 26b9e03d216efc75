// The host device's side of common/ptx.cuh: what stands there as inline PTX is a call here.
#pragma once

#include "cuda.h"

namespace host {

// d[16x8] += a[16x16] b[16x8], each lane with its fragments.
void mma_bf16(float* d, const unsigned* a, const unsigned* b, Site site);
// `num` (1, 2 or 4) 8x8 matrices of 16-bit numbers from shared memory.
void ldmatrix(unsigned* out, unsigned num, const void* row, bool is_transposed, Site site);
// Bytes that a kernel asks for before it needs them: all of them must be there.
void prefetch(const void* from, unsigned num_bytes);
// Begins a copy of `num_bytes` bytes to shared memory, of which `num_read` come from global memory; the rest are zero.
void async_copy(void* to, const void* from, unsigned num_bytes, unsigned num_read);
void async_commit();
void async_wait(unsigned num_open);

// What common/wgmma.cuh says. `a` is this thread's registers, or null for the tile `a_tile`. `sums_rows`: the rows of
// `b_tile` are what is summed over.
void wgmma_fence(Site site);
void wgmma_bf16(float* d, unsigned num_columns, const unsigned* a, uint64_t a_tile, uint64_t b_tile, bool sums_rows,
                Site site);
void wgmma_commit(Site site);
void wgmma_wait(unsigned num_open, Site site);
void fence_async_proxy();
// Where a tile begins, in bytes from the start of shared memory.
unsigned tile_address(const void* tile);

struct Kernel {
    const char* name;
    void (*run)(const void* params);
    size_t params_bytes;
    unsigned max_threads;
};
// Called before main, for every kernel.
void add_kernel(const Kernel& kernel);
constexpr unsigned first(unsigned max_threads, unsigned = 0) { return max_threads; }

}  // namespace host

// Declares a kernel: KERNEL(name, Params, max_threads[, min_blocks]) { ... p.field ... }. It registers itself.
#define KERNEL(NAME, PARAMS, ...)                                                                                   \
    static void NAME([[maybe_unused]] const PARAMS& p);                                                             \
    static void NAME##_enter(const void* params) { NAME(*static_cast<const PARAMS*>(params)); }                     \
    __attribute__((constructor)) static void NAME##_register() {                                                    \
        host::add_kernel({#NAME, NAME##_enter, sizeof(PARAMS), host::first(__VA_ARGS__)});                          \
    }                                                                                                               \
    static void NAME([[maybe_unused]] const PARAMS& p)

// Declares shared memory: SHARED(float, tile, [4][32]); the dynamic part: SHARED_DYNAMIC(bytes).
#define SHARED(TYPE, NAME, ...)                   \
    typedef TYPE NAME##_shared_t __VA_ARGS__;     \
    static char NAME##_shared_tag;                \
    NAME##_shared_t& NAME = *static_cast<NAME##_shared_t*>(host::shared_array(&NAME##_shared_tag, sizeof(NAME##_shared_t)))
#define SHARED_DYNAMIC(NAME) unsigned char* const NAME = static_cast<unsigned char*>(host::dynamic_shared())
