// The part of the CUDA language that kernels use, as C++ for the host device: built-in variables, vector types,
// intrinsics, atomics, barriers, warp operations and shared memory.
//
// Every plain load and store of a kernel is checked as well: kernels are compiled with -fsanitize=thread, whose calls
// are answered in check.cpp. Nothing here needs a GPU or CUDA's headers.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __host__
#define __global__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// For code in this header that reaches memory the running thread may not, such as another lane's stack.
#define HOST_UNCHECKED __attribute__((no_sanitize("thread")))

namespace host {

// Where in a kernel's source something stands; the default arguments name the caller's line.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// Constant within one thread, so the compiler may keep what they return.
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();

// The same memory for every thread of a block that asks with the same tag; its bytes count as unwritten.
void* shared_array(const void* tag, size_t num_bytes);
// The dynamic shared memory of the launch.
void* dynamic_shared();

void block_barrier(Site site);

// Called with one pointer a lane (null for lanes not in the mask) when all lanes of the mask have arrived.
typedef void (*Resolve)(void* const* lanes);
// Joins the lanes of `mask`. `data` is this lane's in- and output, `resolve` may be null (then it is a barrier).
void warp_join(unsigned mask, void* data, Resolve resolve, Site site);

enum class Access { Read, Write, Atomic };
// Ends the launch with an error unless this thread may access these bytes.
void check(const void* address, size_t num_bytes, Access access);
// As above; also the address must be a multiple of `num_bytes`.
void check_aligned(const void* address, size_t num_bytes, Access access);

template <typename T>
struct ShuffleLane {
    T in, out;
    int source;
};
template <typename T>
HOST_UNCHECKED void shuffle_resolve(void* const* lanes) {
    for (int i = 0; i < 32; i++) {
        if (lanes[i] == nullptr) continue;
        ShuffleLane<T>* lane = static_cast<ShuffleLane<T>*>(lanes[i]);
        // Reading a lane that does not take part is undefined: a value that no test overlooks.
        if (lanes[lane->source] == nullptr) {
            std::memset(&lane->out, 0xff, sizeof(T));
        } else {
            lane->out = static_cast<ShuffleLane<T>*>(lanes[lane->source])->in;
        }
    }
}
int lane_index();
template <typename T>
T shuffle(unsigned mask, T value, int source, Site site) {
    ShuffleLane<T> lane = {value, value, source};
    warp_join(mask, &lane, shuffle_resolve<T>, site);
    return lane.out;
}

struct VoteLane {
    unsigned in, out;
};
void ballot_resolve(void* const* lanes);
void add_resolve(void* const* lanes);
void min_resolve(void* const* lanes);
void max_resolve(void* const* lanes);
unsigned vote(unsigned mask, unsigned value, Resolve resolve, Site site);

template <typename T, typename Update>
HOST_UNCHECKED T atomic_update(T* address, Update update) {
    check_aligned(address, sizeof(T), Access::Atomic);
    T seen;
    __atomic_load(address, &seen, __ATOMIC_SEQ_CST);
    for (;;) {
        T wanted = update(seen);
        if (__atomic_compare_exchange(address, &seen, &wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return seen;
    }
}

}  // namespace host

#define threadIdx (host::thread_index())
#define blockIdx (host::block_index())
#define blockDim (host::block_size())
#define gridDim (host::grid_size())
#define HOST_SITE host::Site::here()

inline void __syncthreads(host::Site site = HOST_SITE) { host::block_barrier(site); }
inline void __syncwarp(unsigned mask = 0xffffffffu, host::Site site = HOST_SITE) {
    host::warp_join(mask, nullptr, nullptr, site);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, host::Site site = HOST_SITE) {
    const int lane = host::lane_index();
    return host::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, host::Site site = HOST_SITE) {
    const int lane = host::lane_index();
    const int source = lane ^ lane_mask;
    return host::shuffle(mask, value, source < (lane & ~(width - 1)) + width ? source : lane, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, host::Site site = HOST_SITE) {
    const int lane = host::lane_index();
    const bool is_inside = (lane & (width - 1)) + static_cast<int>(delta) < width;
    return host::shuffle(mask, value, is_inside ? lane + static_cast<int>(delta) : lane, site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, host::Site site = HOST_SITE) {
    const int lane = host::lane_index();
    const bool is_inside = (lane & (width - 1)) >= static_cast<int>(delta);
    return host::shuffle(mask, value, is_inside ? lane - static_cast<int>(delta) : lane, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, host::Site site = HOST_SITE) {
    return host::vote(mask, predicate != 0, host::ballot_resolve, site);
}
inline int __any_sync(unsigned mask, int predicate, host::Site site = HOST_SITE) {
    return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, host::Site site = HOST_SITE) {
    return __ballot_sync(mask, !predicate, site) == 0;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, host::Site site = HOST_SITE) {
    return host::vote(mask, value, host::add_resolve, site);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, host::Site site = HOST_SITE) {
    return host::vote(mask, value, host::min_resolve, site);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, host::Site site = HOST_SITE) {
    return host::vote(mask, value, host::max_resolve, site);
}

template <typename T>
T atomicAdd(T* address, T value) {
    return host::atomic_update(address, [=](T seen) { return static_cast<T>(seen + value); });
}
template <typename T>
T atomicMax(T* address, T value) {
    return host::atomic_update(address, [=](T seen) { return seen < value ? value : seen; });
}
template <typename T>
T atomicMin(T* address, T value) {
    return host::atomic_update(address, [=](T seen) { return value < seen ? value : seen; });
}
template <typename T>
T atomicExch(T* address, T value) {
    return host::atomic_update(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, T expected, T value) {
    return host::atomic_update(address, [=](T seen) { return seen == expected ? value : seen; });
}
// Every atomic operation here is sequentially consistent, which orders the plain accesses around it.
inline void __threadfence() {}

template <typename T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
    return a < b ? b : a;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
// Byte i of the result is byte (selector >> 4 * i) % 8 of the eight bytes of b:a; no selector here has its top bit set.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= unsigned(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
