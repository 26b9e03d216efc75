// Looks at every load and store of a kernel. The compiler puts a call before each (-fsanitize=thread); this file
// answers those calls instead of a sanitizer's library, because it knows more: which
// global allocation is alive, which thread runs, and who wrote each byte of shared memory since which barrier.

#include "runtime.h"

// The image of the program: where constant tables of kernels lie.
extern "C" const char __executable_start[] __attribute__((weak));
extern "C" const char _end[] __attribute__((weak));

namespace host {

__thread Worker* worker = nullptr;

// A cell is one of these, or (event << kThreadBits | thread) + kFirst of the last write or read.
constexpr uint32_t kOutside = 0, kUnwritten = 1, kPending = 2, kAtomic = 3, kFirst = 4;
constexpr unsigned kThreadBits = 10;
constexpr uint32_t kMaxEvent = (1u << (32 - kThreadBits)) - 2;

namespace {

uint32_t cell(const Worker& w) { return (w.event << kThreadBits | w.current->linear) + kFirst; }

// The other thread whose access in `cell` no barrier separates from the current thread, or -1.
int unordered(const Worker& w, uint32_t cell) {
    if (cell < kFirst || w.event >= kMaxEvent) return -1;
    const uint32_t event = (cell - kFirst) >> kThreadBits;
    const unsigned thread = (cell - kFirst) & ((1u << kThreadBits) - 1);
    if (thread == w.current->linear || event < w.barrier_at) return -1;
    const bool is_same_warp = thread / 32 == w.current->linear / 32;
    if (is_same_warp && event < w.warps[thread / 32].synced_at) return -1;
    return static_cast<int>(thread);
}

const char* verb(Access access) { return access == Access::Read ? "reads" : "writes"; }

[[noreturn]] void outside_shared(const Worker& w, size_t at, size_t num_bytes, Access access) {
    const SharedArray* nearest = nullptr;
    ptrdiff_t distance = 0;
    for (const SharedArray& array : w.arrays) {
        const ptrdiff_t from = array.data - w.shared, offset = static_cast<ptrdiff_t>(at) - from;
        const ptrdiff_t here = offset < 0 ? -offset : offset - static_cast<ptrdiff_t>(array.num_bytes);
        if (nearest == nullptr || here < distance) nearest = &array, distance = here;
    }
    if (nearest == nullptr) fault(FaultKind::SharedBounds, "%s shared memory but has none", verb(access));
    fault(FaultKind::SharedBounds, "%s %zu bytes at offset %td of a shared array of %zu bytes", verb(access), num_bytes,
          static_cast<ptrdiff_t>(at) - (nearest->data - w.shared), nearest->num_bytes);
}

void check_shared(Worker& w, size_t at, size_t num_bytes, Access access) {
    uint32_t* writes = w.shadow->writes + at;
    uint32_t* reads = w.shadow->reads + at;
    const uint32_t mine = cell(w);
    uint32_t allowed = kOutside; // neighbours were mostly written together, and are judged once
    for (size_t i = 0; i < num_bytes; i++) {
        const uint32_t last = writes[i];
        if (last != allowed || last == kOutside) {
            if (last == kOutside) outside_shared(w, at, num_bytes, access);
            if (last == kPending) {
                fault(FaultKind::SharedRace, "%s shared memory that an asynchronous copy is being written to", verb(access));
            }
            if (last == kUnwritten && access != Access::Write) {
                fault(FaultKind::SharedUnwritten, "reads shared memory that no thread has written");
            }
            const int writer = last == mine || access == Access::Atomic ? -1 : unordered(w, last);
            if (writer >= 0) {
                fault(FaultKind::SharedRace, "%s shared memory that thread %d wrote, with no barrier between", verb(access),
                      writer);
            }
            allowed = last;
        }
        if (access == Access::Atomic) {
            writes[i] = kAtomic;
            continue;
        }
        if (access == Access::Read) {
            if (reads[i] != mine && unordered(w, reads[i]) < 0) reads[i] = mine;
            continue;
        }
        const int reader = unordered(w, reads[i]);
        if (reader >= 0) {
            fault(FaultKind::SharedRace, "writes shared memory that thread %d reads, with no barrier between", reader);
        }
        writes[i] = mine;
        reads[i] = 0;
    }
}

void check_global(const void* address, size_t num_bytes, Access access) {
    const Range range = global_range(address);
    const ptrdiff_t offset = static_cast<const unsigned char*>(address) - range.from;
    if (static_cast<size_t>(offset) + num_bytes <= range.num_bytes) return;
    if (range.num_bytes != 0) {
        fault(FaultKind::GlobalBounds, "%s %zu bytes at offset %td of a buffer of %zu bytes", verb(access), num_bytes,
              offset, range.num_bytes);
    }
    // Buffers begin at a granule: the byte before one belongs to no granule of it.
    const unsigned char* end = static_cast<const unsigned char*>(address) + 64 * 1024;
    const Range next = is_global(end) ? global_range(end) : Range{nullptr, 0};
    if (next.num_bytes != 0) {
        fault(FaultKind::GlobalBounds, "%s %zu bytes at %td bytes before a buffer of %zu bytes", verb(access), num_bytes,
              next.from - static_cast<const unsigned char*>(address), next.num_bytes);
    }
    fault(FaultKind::GlobalBounds, "%s %zu bytes at %p, where no buffer is", verb(access), num_bytes, address);
}

bool is_constant(const void* address, size_t num_bytes) {
    const char* at = static_cast<const char*>(address);
    return at >= __executable_start && at + num_bytes <= _end;
}

}  // namespace

void check(const void* address, size_t num_bytes, Access access) {
    Worker* w = worker;
    // Kernels register themselves before any runs.
    if (w == nullptr) return;
    const unsigned char* at = static_cast<const unsigned char*>(address);
    if (static_cast<size_t>(at - w->current->stack) < kStackBytes) return;
    const size_t shared_at = static_cast<size_t>(at - w->shared);
    if (shared_at < kSharedArena) return check_shared(*w, shared_at, num_bytes, access);
    if (is_global(address)) return check_global(address, num_bytes, access);
    if (access == Access::Read && is_constant(address, num_bytes)) return;
    fault(FaultKind::ForeignMemory, "%s %zu bytes at %p, which is no device memory", verb(access), num_bytes, address);
}

void check_aligned(const void* address, size_t num_bytes, Access access) {
    if (reinterpret_cast<uintptr_t>(address) % num_bytes != 0) {
        fault(FaultKind::Misaligned, "%s %zu bytes at %p, which is not a multiple of %zu", verb(access), num_bytes,
              address, num_bytes);
    }
    check(address, num_bytes, access);
}

void shadow_add(Worker& w, const unsigned char* from, size_t num_bytes) {
    for (size_t i = 0; i < num_bytes; i++) w.shadow->writes[from - w.shared + i] = kUnwritten;
}

void shadow_pending(Worker& w, const unsigned char* from, size_t num_bytes) {
    for (size_t i = 0; i < num_bytes; i++) w.shadow->writes[from - w.shared + i] = kPending;
}

void shadow_written(Worker& w, const unsigned char* from, size_t num_bytes) {
    for (size_t i = 0; i < num_bytes; i++) {
        w.shadow->writes[from - w.shared + i] = cell(w);
        w.shadow->reads[from - w.shared + i] = 0;
    }
}

void shadow_fenced(const Worker& w, const unsigned char* from, size_t num_bytes) {
    const uint32_t* writes = w.shadow->writes + (from - w.shared);
    for (size_t i = 0; i < num_bytes; i++) {
        const uint32_t last = writes[i];
        if ((i > 0 && last == writes[i - 1]) || last < kFirst || w.event >= kMaxEvent) continue;
        const unsigned writer = (last - kFirst) & ((1u << kThreadBits) - 1);
        if ((last - kFirst) >> kThreadBits >= w.threads[writer].fenced_at) {
            fault(FaultKind::SharedRace, "multiplies shared memory that thread %u wrote, with no fence_async_proxy since",
                  writer);
        }
    }
}

bool shadow_is_pending(const Worker& w, const unsigned char* from) { return w.shadow->writes[from - w.shared] == kPending; }

void shadow_end(Worker& w) {
    std::memset(w.shadow->writes, 0, w.shared_used * sizeof(uint32_t));
    std::memset(w.shadow->reads, 0, w.shared_used * sizeof(uint32_t));
}

}  // namespace host

#define CHECKS(SIZE)                                                                                        \
    extern "C" void __tsan_read##SIZE(void* address) { host::check(address, SIZE, host::Access::Read); }    \
    extern "C" void __tsan_write##SIZE(void* address) { host::check(address, SIZE, host::Access::Write); }
CHECKS(1)
CHECKS(2)
CHECKS(4)
CHECKS(8)
CHECKS(16)
extern "C" void __tsan_read_range(void* address, size_t num_bytes) {
    host::check(address, num_bytes, host::Access::Read);
}
extern "C" void __tsan_write_range(void* address, size_t num_bytes) {
    host::check(address, num_bytes, host::Access::Write);
}
// Called before main by every checked file; there is nothing to set up.
extern "C" void __tsan_init() {}
