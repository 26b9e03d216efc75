// Products of a warpgroup (four warps, the first a multiple of four) on Hopper's tensor cores, which read shared memory
// by themselves and run on while the threads do something else.
//
// An operand in shared memory is a tile of rows of 64 bf16 (128 bytes): chunk c of 16 bytes of row r lies at place
// c ^ r % 8 of its row, and the tile begins at a multiple of 1,024 bytes.
//
// A group of products: wgmma_fence, any number of wgmma_bf16, wgmma_commit. Until wgmma_wait has seen its end nobody may
// touch its sums, nor write the tiles that it reads. What threads wrote to a tile, by stores or by cp_async_16 (then after
// cp_async_wait), it sees after fence_async_proxy of the writer and a barrier.
#pragma once

#include "ptx.cuh"

constexpr int kWgmmaK = 64; // elements of a tile's row

// Where chunk `chunk` of row `row` of a tile begins, in elements.
__device__ __forceinline__ int wgmma_chunk(int row, int chunk) { return (row * 8 + (chunk ^ (row % 8))) * 8; }

// Begins a group: what this thread last did to the sums and to registers of A comes before it.
__device__ __forceinline__ void wgmma_fence(SITE_ONLY) {
#ifdef __CUDACC__
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    host::wgmma_fence(site);
#endif
}

// Ends a group.
__device__ __forceinline__ void wgmma_commit(SITE_ONLY) {
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    host::wgmma_commit(site);
#endif
}

// Waits until at most the `kNumOpen` youngest groups are under way.
template <int kNumOpen>
__device__ __forceinline__ void wgmma_wait(SITE_ONLY) {
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNumOpen) : "memory");
#else
    host::wgmma_wait(kNumOpen, site);
#endif
}

// Call it on sums between wgmma_wait and their first use, and between what else sets them and wgmma_fence: the compiler
// does not know that products change them meanwhile.
template <int kNum>
__device__ __forceinline__ void wgmma_arrived([[maybe_unused]] float (&d)[kNum]) {
#ifdef __CUDACC__
#pragma unroll
    for (int i = 0; i < kNum; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// Call it on registers of A between wgmma_wait and their next use, for the same reason.
__device__ __forceinline__ void wgmma_arrived([[maybe_unused]] uint32_t (&a)[4]) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory");
#endif
}

// Lets products see what this thread has written to shared memory.
__device__ __forceinline__ void fence_async_proxy() {
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    host::fence_async_proxy();
#endif
}

// Describes a tile to wgmma_bf16, beginning with its first 16 columns; those 16 * i further on are at + 2 * i.
__device__ __forceinline__ uint64_t wgmma_tile(const void* tile) {
#ifdef __CUDACC__
    const uint32_t address = shared_address(tile);
#else
    const uint32_t address = host::tile_address(tile);
#endif
    // Groups of eight rows are 1,024 bytes apart; 128-byte swizzle. The other stride has no meaning with it.
    constexpr uint64_t kForm = uint64_t{1} << 62 | uint64_t{1024 / 16} << 32 | uint64_t{1} << 16;
    return kForm | (address & 0x3ffffu) >> 4;
}

// d[64 x kN] += a[64 x 16] b[kN x 16]^T in float, the operands bf16. Warp w of the group has rows 16 w .. 16 w + 15 of a
// and d. With group = lane / 4 and place = lane % 4: a[i] holds row group + 8 * (i % 2), columns 2 * place + 8 * (i / 2)
// and the next; d[4 * n + i] row group + 8 * (i / 2), column 8 * n + 2 * place + i % 2. Registers of a may be written again
// after wgmma_wait.
template <int kN>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b SITE_HERE);

// d[64 x 64] += a[64 x 16] b[16 x 64]: `b` is wgmma_tile of 16 rows, which are what is summed over; the next 16 rows are at
// + kWgmmaRows.
constexpr uint64_t kWgmmaRows = 16 * 128 / 16;
__device__ __forceinline__ void wgmma_bf16_rows(float (&d)[32], const uint32_t (&a)[4], uint64_t b SITE_HERE);

// The same as the first with a in shared memory, 64 rows of a tile.
template <int kN>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kN / 2], uint64_t a, uint64_t b SITE_HERE);

#ifdef __CUDACC__

// The sums as operands of an instruction, and their numbers in its text.
#define WGMMA_8(I)                                                                                                      \
    "+f"(d[I]), "+f"(d[I + 1]), "+f"(d[I + 2]), "+f"(d[I + 3]), "+f"(d[I + 4]), "+f"(d[I + 5]), "+f"(d[I + 6]),         \
        "+f"(d[I + 7])
#define WGMMA_NUM_8 WGMMA_8(0)
#define WGMMA_NUM_16 WGMMA_NUM_8, WGMMA_8(8)
#define WGMMA_NUM_24 WGMMA_NUM_16, WGMMA_8(16)
#define WGMMA_NUM_32 WGMMA_NUM_24, WGMMA_8(24)
#define WGMMA_NUM_40 WGMMA_NUM_32, WGMMA_8(32)
#define WGMMA_NUM_48 WGMMA_NUM_40, WGMMA_8(40)
#define WGMMA_NUM_64 WGMMA_NUM_48, WGMMA_8(48), WGMMA_8(56)
#define WGMMA_NUM_128                                                                                                       \
    WGMMA_NUM_64, WGMMA_8(64), WGMMA_8(72), WGMMA_8(80), WGMMA_8(88), WGMMA_8(96), WGMMA_8(104), WGMMA_8(112), WGMMA_8(120)
#define WGMMA_TEXT_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_TEXT_16 WGMMA_TEXT_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_TEXT_24 WGMMA_TEXT_16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define WGMMA_TEXT_32 WGMMA_TEXT_24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_TEXT_40 WGMMA_TEXT_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define WGMMA_TEXT_48 WGMMA_TEXT_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define WGMMA_TEXT_64 WGMMA_TEXT_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_TEXT_128                                                                                                  \
    WGMMA_TEXT_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,"   \
                  "%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,"  \
                  "%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

// N columns have NUM sums a thread; A0 .. A4 are the numbers of the operands behind the sums.
#define WGMMA(N, NUM, A0, A1, A2, A3, A4)                                                                               \
    template <>                                                                                                         \
    __device__ __forceinline__ void wgmma_bf16<N>(float (&d)[NUM], const uint32_t (&a)[4], uint64_t b) {                \
        asm volatile("{.reg .pred adds; setp.eq.u32 adds, 0, 0; wgmma.mma_async.sync.aligned.m64n" #N                   \
                     "k16.f32.bf16.bf16 {" WGMMA_TEXT_##NUM "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #A4           \
                     ", adds, 1, 1, 0;}"                                                                                \
                     : WGMMA_NUM_##NUM                                                                                      \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                             \
    }                                                                                                                   \
    template <>                                                                                                         \
    __device__ __forceinline__ void wgmma_bf16<N>(float (&d)[NUM], uint64_t a, uint64_t b) {                            \
        asm volatile("{.reg .pred adds; setp.eq.u32 adds, 0, 0; wgmma.mma_async.sync.aligned.m64n" #N                   \
                     "k16.f32.bf16.bf16 {" WGMMA_TEXT_##NUM "}, %" #A0 ", %" #A1 ", adds, 1, 1, 0, 0;}"                 \
                     : WGMMA_NUM_##NUM                                                                                      \
                     : "l"(a), "l"(b));                                                                                 \
    }

__device__ __forceinline__ void wgmma_bf16_rows(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
    asm volatile("{.reg .pred adds; setp.eq.u32 adds, 0, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" WGMMA_TEXT_32 "}, {%32,%33,%34,%35}, %36, adds, 1, 1, 1;}"
                 : WGMMA_NUM_32
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

WGMMA(16, 8, 8, 9, 10, 11, 12)
WGMMA(32, 16, 16, 17, 18, 19, 20)
WGMMA(48, 24, 24, 25, 26, 27, 28)
WGMMA(64, 32, 32, 33, 34, 35, 36)
WGMMA(80, 40, 40, 41, 42, 43, 44)
WGMMA(96, 48, 48, 49, 50, 51, 52)
WGMMA(128, 64, 64, 65, 66, 67, 68)
WGMMA(256, 128, 128, 129, 130, 131, 132)

#else

template <int kN>
void wgmma_bf16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, host::Site site) {
    host::wgmma_bf16(d, kN, a, 0, b, false, site);
}

inline void wgmma_bf16_rows(float (&d)[32], const uint32_t (&a)[4], uint64_t b, host::Site site) {
    host::wgmma_bf16(d, 64, a, 0, b, true, site);
}

template <int kN>
void wgmma_bf16(float (&d)[kN / 2], uint64_t a, uint64_t b, host::Site site) {
    host::wgmma_bf16(d, kN, nullptr, a, b, false, site);
}

#endif
