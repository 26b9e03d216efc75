// What the files of the host device share: memory, blocks, fibers, and how a launch ends with an error.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "ptx.h"

namespace host {

// Limits of the card that the host device holds launches to (compute capability 9.0).
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 * 1024;

// The kinds of mistake a launch can end with. The numbers are known to crates/cuda/src/host.rs.
enum class FaultKind : int32_t {
    None = 0,
    GlobalBounds = 1,
    SharedBounds = 2,
    Barrier = 3,
    SharedUnwritten = 4,
    SharedRace = 5,
    Misaligned = 6,
    ForeignMemory = 7,
    Launch = 8,
};

// Filled in by the first thread of a launch that makes a mistake.
struct Fault {
    FaultKind kind;
    uint32_t block[3];
    uint32_t thread[3];
    char message[300];
};

// A copy that cp.async has begun and no wait has completed.
struct AsyncCopy {
    unsigned char* to;
    const unsigned char* from;
    unsigned num_bytes, num_read, group;
};

// A product of one warp of a warpgroup that no wgmma_wait has completed.
struct Product {
    float* sums[32];
    std::vector<float> held; // what the sums are while nobody may read them; empty if an earlier product holds them
    bool has_registers;
    unsigned a[32][4];
    uint64_t a_tile, b_tile;
    unsigned num_columns, group;
    bool sums_rows;
};

enum class State { New, Ready, AtBarrier, InWarp, Done };

struct Thread {
    uint3 index;
    unsigned linear;
    State state;
    void* stack_pointer;
    unsigned char* stack;
    Site site;
    unsigned mask;
    void* data;
    Resolve resolve;
    unsigned num_groups;
    std::vector<AsyncCopy> copies;
    uint32_t fenced_at; // event of the last fence_async_proxy
};

struct Warp {
    unsigned lanes;     // lanes that the block's size gives this warp
    unsigned waiting;   // lanes in warp_join
    uint32_t synced_at; // event of the last __syncwarp
    bool is_fenced;     // whether a group of products has begun
    unsigned num_groups;
    std::vector<Product> products;
};

struct SharedArray {
    const void* tag;
    unsigned char* data;
    size_t num_bytes;
};

struct Launch {
    const Kernel* kernel;
    const void* params;
    dim3 grid, block;
    size_t shared_bytes;
    std::atomic<uint64_t> next_block;
    std::atomic<bool> is_over;
    std::mutex mutex;
    Fault fault;
};

constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kSharedArena = 512 * 1024;

// What is known of every byte of a block's shared memory: whether it exists, was written, and who touched it last.
// The meaning of a number is check.cpp's.
struct Shadow {
    uint32_t writes[kSharedArena];
    uint32_t reads[kSharedArena];
};

// What one operating system thread needs to run blocks, kept from launch to launch.
struct Worker {
    Launch* launch;
    Thread* current;
    void* scheduler;
    uint3 block;
    unsigned num_threads, num_done, num_at_barrier;
    std::vector<Thread> threads;
    Warp warps[kMaxThreads / 32];
    unsigned char* stacks;
    std::vector<unsigned char*> free_stacks;
    unsigned char* shared;
    size_t shared_used, num_static;
    std::vector<SharedArray> arrays;
    Shadow* shadow;
    uint32_t event;      // counts barriers; orders the accesses to shared memory
    uint32_t barrier_at; // event of the last __syncthreads
};

// The worker that this operating system thread is running a block for, or null.
extern __thread Worker* worker;

// Records the mistake (only the first of a launch counts) and leaves the current thread for good.
[[noreturn]] void fault(FaultKind kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

// A worker, or null without memory for it.
Worker* worker_new();
// Runs one block to its end or to the first mistake.
void run_block(Worker& worker, uint3 block);

// check.cpp
void shadow_end(Worker& worker);
void shadow_add(Worker& worker, const unsigned char* from, size_t num_bytes);
void shadow_pending(Worker& worker, const unsigned char* from, size_t num_bytes);
void shadow_written(Worker& worker, const unsigned char* from, size_t num_bytes);
// Ends the launch with an error unless the writers of these bytes have called fence_async_proxy since.
void shadow_fenced(const Worker& worker, const unsigned char* from, size_t num_bytes);
// Whether an asynchronous copy is to write this byte.
bool shadow_is_pending(const Worker& worker, const unsigned char* from);

// memory.cpp: global memory
struct Range {
    const unsigned char* from;
    size_t num_bytes;
};
bool is_global(const void* address);
// The allocation around an address; no bytes where there is none.
Range global_range(const void* address);

}  // namespace host
