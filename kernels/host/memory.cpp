// Global memory of the host device: one reserved range of addresses, in which every allocation has inaccessible
// space on both sides and no address is ever used twice. An access outside of a live allocation is thus always
// found, also after it was freed.

#include <sys/mman.h>

#include "runtime.h"

namespace host {
namespace {

constexpr size_t kArena = size_t(1) << 40;
constexpr size_t kGranule = 64 * 1024;

struct Arena {
    unsigned char* base = nullptr;
    // For each granule 1 + the granule where its allocation begins, or 0; for each first granule the length.
    std::atomic<uint32_t>* owner = nullptr;
    std::atomic<uint64_t>* len = nullptr;
    size_t next = 1;
    std::mutex mutex;
};

void* reserve(size_t num_bytes, int protection) {
    void* at = mmap(nullptr, num_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}

Arena arena;

bool prepare() {
    if (arena.base != nullptr) return true;
    const size_t num_granules = kArena / kGranule;
    void* owner = reserve(num_granules * sizeof(*arena.owner), PROT_READ | PROT_WRITE);
    void* len = reserve(num_granules * sizeof(*arena.len), PROT_READ | PROT_WRITE);
    void* base = reserve(kArena, PROT_NONE);
    if (owner == nullptr || len == nullptr || base == nullptr) return false;
    arena.owner = static_cast<std::atomic<uint32_t>*>(owner);
    arena.len = static_cast<std::atomic<uint64_t>*>(len);
    arena.base = static_cast<unsigned char*>(base);
    return true;
}

size_t granules(uint64_t num_bytes) { return (num_bytes + kGranule - 1) / kGranule; }

}  // namespace

bool is_global(const void* address) {
    return arena.base != nullptr && static_cast<size_t>(static_cast<const unsigned char*>(address) - arena.base) < kArena;
}

Range global_range(const void* address) {
    const size_t granule = static_cast<size_t>(static_cast<const unsigned char*>(address) - arena.base) / kGranule;
    const uint32_t owner = arena.owner[granule].load(std::memory_order_relaxed);
    if (owner == 0) return {nullptr, 0};
    return {arena.base + (owner - 1) * kGranule, arena.len[owner - 1].load(std::memory_order_relaxed)};
}

}  // namespace host

// Memory for `num_bytes` bytes (at least 1), or null. It is filled with ones (NaN in every float format), so that
// what nobody wrote shows in results.
extern "C" void* harmonium_host_alloc(uint64_t num_bytes) {
    using namespace host;
    const std::lock_guard<std::mutex> lock(arena.mutex);
    if (num_bytes == 0 || num_bytes > kArena || !prepare()) return nullptr;
    const size_t num_granules = granules(num_bytes);
    if (arena.next + num_granules + 1 > kArena / kGranule) return nullptr;
    const size_t first = arena.next;
    unsigned char* data = arena.base + first * kGranule;
    if (mprotect(data, num_granules * kGranule, PROT_READ | PROT_WRITE) != 0) return nullptr;
    arena.next += num_granules + 1;
    std::memset(data, 0xff, num_bytes);
    arena.len[first] = num_bytes;
    for (size_t i = 0; i < num_granules; i++) arena.owner[first + i] = static_cast<uint32_t>(first + 1);
    return data;
}

// Gives memory back. `data` comes from harmonium_host_alloc and is given back once.
extern "C" void harmonium_host_free(void* data) {
    using namespace host;
    const std::lock_guard<std::mutex> lock(arena.mutex);
    const size_t first = static_cast<size_t>(static_cast<unsigned char*>(data) - arena.base) / kGranule;
    const size_t num_granules = granules(arena.len[first]);
    for (size_t i = 0; i < num_granules; i++) arena.owner[first + i] = 0;
    madvise(data, num_granules * kGranule, MADV_DONTNEED);
    mprotect(data, num_granules * kGranule, PROT_NONE);
}
