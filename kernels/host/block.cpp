// Runs the threads of one block. Each is a fiber with a stack of its own that gives way only at barriers and warp
// operations, so a kernel without those runs straight through on a single stack.

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "runtime.h"

#ifndef __x86_64__
#error "the host device switches fibers with x86-64 code only"
#endif

// void harmonium_switch(void** from, void* to): saves the callee-saved registers on this stack and its pointer in
// *from, and goes on where the stack `to` was left. The floating-point modes are the same everywhere.
asm(R"(
.text
.globl harmonium_switch
.type harmonium_switch,@function
harmonium_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size harmonium_switch,.-harmonium_switch
)");
extern "C" void harmonium_switch(void** from, void* to);

namespace host {
namespace {

constexpr size_t kPage = 4096;
// Between two shared arrays, so that what runs over the end of one is not inside the next.
constexpr size_t kGap = 256;
constexpr size_t kSharedStart = 1024;

// Pages that cost nothing until they are touched, or null.
unsigned char* map(size_t num_bytes) {
    void* at = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<unsigned char*>(at);
}

// Keeps the first mistake of a launch and ends it; the launch's other threads stop at their next pause.
void keep(FaultKind kind, const char* format, va_list arguments) {
    Launch& launch = *worker->launch;
    const std::lock_guard<std::mutex> lock(launch.mutex);
    if (launch.is_over) return;
    const uint3 block = worker->block, thread = worker->current->index;
    launch.fault = {kind, {block.x, block.y, block.z}, {thread.x, thread.y, thread.z}, {}};
    std::vsnprintf(launch.fault.message, sizeof(launch.fault.message), format, arguments);
    launch.is_over = true;
}

__attribute__((format(printf, 2, 3))) void record(FaultKind kind, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    keep(kind, format, arguments);
    va_end(arguments);
}

// Goes back to the scheduler; returns when this thread is run again.
void pause(State state) {
    Thread* me = worker->current;
    me->state = state;
    harmonium_switch(&me->stack_pointer, worker->scheduler);
}

// Where a fiber begins: its parameters are copied to its stack, so they are memory it may read.
[[noreturn]] void enter() {
    Worker& w = *worker;
    const Kernel& kernel = *w.launch->kernel;
    void* params = __builtin_alloca_with_align(kernel.params_bytes, 128);
    std::memcpy(params, w.launch->params, kernel.params_bytes);
    kernel.run(params);
    w.num_done++;
    w.free_stacks.push_back(w.current->stack);
    pause(State::Done);
    __builtin_unreachable();
}

void run_thread(Worker& w, Thread& thread) {
    if (thread.state == State::New) {
        thread.stack = w.free_stacks.back();
        w.free_stacks.pop_back();
        void** top = reinterpret_cast<void**>(thread.stack + kStackBytes);
        // A return address nobody uses, then what harmonium_switch pops: `enter` and six registers.
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(enter);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        thread.stack_pointer = top;
        thread.state = State::Ready;
    }
    w.current = &thread;
    harmonium_switch(&w.scheduler, thread.stack_pointer);
}

void begin(Worker& w, uint3 block) {
    const dim3 size = w.launch->block;
    w.block = block;
    w.num_threads = size.x * size.y * size.z;
    w.num_done = w.num_at_barrier = 0;
    w.event = 1;
    w.barrier_at = 0;
    for (unsigned i = 0; i < w.num_threads; i++) {
        Thread& thread = w.threads[i];
        thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        thread.linear = i;
        thread.state = State::New;
        thread.num_groups = 0;
        thread.copies.clear();
        thread.fenced_at = 0;
    }
    for (unsigned i = 0; i * 32 < w.num_threads; i++) {
        const unsigned num_lanes = std::min(w.num_threads - i * 32, 32u);
        w.warps[i] = {num_lanes == 32 ? 0xffffffffu : (1u << num_lanes) - 1, 0, 0, false, 0, {}};
    }
    // After a mistake threads are left where they were, with their stacks.
    w.free_stacks.clear();
    for (unsigned i = w.num_threads; i-- > 0;) w.free_stacks.push_back(w.stacks + i * (kStackBytes + kPage) + kPage);
    w.arrays.clear();
    w.num_static = 0;
    w.shared_used = kSharedStart + w.launch->shared_bytes;
    if (w.launch->shared_bytes != 0) {
        w.arrays.push_back({nullptr, w.shared + kSharedStart, w.launch->shared_bytes});
        shadow_add(w, w.shared + kSharedStart, w.launch->shared_bytes);
    }
}

const char* place(const Thread& thread, char* text, size_t len) {
    const char* file = std::strrchr(thread.site.file, '/');
    std::snprintf(text, len, "%s:%d", file == nullptr ? thread.site.file : file + 1, thread.site.line);
    return text;
}

// Nothing can run although not all threads are done: some wait for others that will never come.
void explain_deadlock(Worker& w) {
    const Thread* missing = nullptr;
    Thread* waiting = nullptr;
    for (unsigned i = 0; i < w.num_threads; i++) {
        Thread& thread = w.threads[i];
        if (thread.state == State::InWarp) waiting = &thread;
    }
    for (unsigned i = 0; i < w.num_threads; i++) {
        Thread& thread = w.threads[i];
        if (waiting == nullptr && thread.state == State::AtBarrier) waiting = &thread;
    }
    const bool is_warp = waiting->state == State::InWarp;
    for (unsigned i = 0; i < w.num_threads && missing == nullptr; i++) {
        const Thread& thread = w.threads[i];
        const bool is_wanted = !is_warp || (i / 32 == waiting->linear / 32 && (waiting->mask >> (i % 32) & 1));
        if (is_wanted && thread.state != waiting->state) missing = &thread;
    }
    char at[100], elsewhere[100];
    w.current = waiting;
    place(*waiting, at, sizeof(at));
    const char* what = is_warp ? "warp operation" : "barrier";
    if (missing == nullptr) {
        return record(FaultKind::Barrier, "waits at the %s in %s for lanes with another mask or operation", what, at);
    }
    if (missing->state == State::Done) {
        return record(FaultKind::Barrier, "waits at the %s in %s, which thread %u never reached", what, at,
                      missing->linear);
    }
    record(FaultKind::Barrier, "waits at the %s in %s while thread %u waits in %s", what, at, missing->linear,
           place(*missing, elsewhere, sizeof(elsewhere)));
}

// Lets all threads go on after a barrier that all have reached at the same place.
void release(Worker& w) {
    const Site site = w.threads[0].site;
    for (unsigned i = 0; i < w.num_threads; i++) {
        Thread& thread = w.threads[i];
        if (thread.site.line != site.line || std::strcmp(thread.site.file, site.file) != 0) {
            char here[100], there[100];
            w.current = &thread;
            return record(FaultKind::Barrier, "waits at the barrier in %s while thread 0 waits in %s",
                          place(thread, here, sizeof(here)), place(w.threads[0], there, sizeof(there)));
        }
    }
    for (unsigned i = 0; i < w.num_threads; i++) w.threads[i].state = State::Ready;
    w.num_at_barrier = 0;
    w.barrier_at = ++w.event;
}

// Runs every thread of a warp that can run until none can.
bool run_warp(Worker& w, unsigned first) {
    const unsigned end = std::min(first + 32, w.num_threads);
    bool has_run = false;
    for (bool is_going = true; is_going;) {
        is_going = false;
        for (unsigned i = first; i < end; i++) {
            if (w.threads[i].state > State::Ready) continue;
            run_thread(w, w.threads[i]);
            if (w.launch->is_over.load(std::memory_order_relaxed)) return false;
            is_going = has_run = true;
        }
    }
    return has_run;
}

void run_threads(Worker& w) {
    while (w.num_done < w.num_threads) {
        bool has_run = false;
        for (unsigned first = 0; first < w.num_threads; first += 32) {
            has_run |= run_warp(w, first);
            if (w.launch->is_over.load(std::memory_order_relaxed)) return;
        }
        if (w.num_at_barrier == w.num_threads) {
            release(w);
        } else if (!has_run) {
            return explain_deadlock(w);
        }
        if (w.launch->is_over.load(std::memory_order_relaxed)) return;
    }
}

}  // namespace

void fault(FaultKind kind, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    keep(kind, format, arguments);
    va_end(arguments);
    pause(State::Done);
    __builtin_unreachable();
}

Worker* worker_new() {
    unsigned char* stacks = map(kMaxThreads * (kStackBytes + kPage));
    unsigned char* shared = map(kSharedArena);
    unsigned char* shadow = map(sizeof(Shadow));
    if (stacks == nullptr || shared == nullptr || shadow == nullptr) return nullptr;
    // A stack that runs over hits a page that nobody may touch, not its neighbour.
    for (unsigned i = 0; i < kMaxThreads; i++) mprotect(stacks + i * (kStackBytes + kPage), kPage, PROT_NONE);
    Worker* w = new Worker();
    w->threads.resize(kMaxThreads);
    w->free_stacks.reserve(kMaxThreads);
    w->stacks = stacks;
    w->shared = shared;
    w->shadow = reinterpret_cast<Shadow*>(shadow);
    return w;
}

void run_block(Worker& w, uint3 block) {
    worker = &w;
    begin(w, block);
    run_threads(w);
    shadow_end(w);
    worker = nullptr;
}

uint3 thread_index() { return worker->current->index; }
uint3 block_index() { return worker->block; }
dim3 block_size() { return worker->launch->block; }
dim3 grid_size() { return worker->launch->grid; }
int lane_index() { return static_cast<int>(worker->current->linear % 32); }

void* shared_array(const void* tag, size_t num_bytes) {
    Worker& w = *worker;
    for (const SharedArray& array : w.arrays) {
        if (array.tag == tag) return array.data;
    }
    const size_t at = (w.shared_used + kGap + 127) / 128 * 128;
    w.num_static += num_bytes;
    if (w.num_static + w.launch->shared_bytes > kMaxShared || at + num_bytes + kGap > kSharedArena) {
        fault(FaultKind::Launch, "needs %zu bytes of static and %zu of dynamic shared memory", w.num_static,
              w.launch->shared_bytes);
    }
    w.arrays.push_back({tag, w.shared + at, num_bytes});
    w.shared_used = at + num_bytes;
    shadow_add(w, w.shared + at, num_bytes);
    return w.shared + at;
}

void* dynamic_shared() { return worker->shared + kSharedStart; }

void block_barrier(Site site) {
    worker->current->site = site;
    worker->num_at_barrier++;
    pause(State::AtBarrier);
}

void warp_join(unsigned mask, void* data, Resolve resolve, Site site) {
    Worker& w = *worker;
    Thread& me = *w.current;
    const unsigned first = me.linear / 32 * 32, lane = me.linear % 32;
    Warp& warp = w.warps[first / 32];
    const unsigned wanted = mask & warp.lanes;
    me.site = site;
    if ((wanted >> lane & 1) == 0) fault(FaultKind::Barrier, "is not in the mask %08x of its own warp operation", mask);
    me.mask = wanted;
    me.data = data;
    me.resolve = resolve;
    warp.waiting |= 1u << lane;
    void* lanes[32] = {};
    bool is_complete = (warp.waiting & wanted) == wanted;
    for (unsigned i = 0; i < 32 && is_complete; i++) {
        if ((wanted >> i & 1) == 0) continue;
        const Thread& other = w.threads[first + i];
        is_complete = other.mask == wanted && other.resolve == resolve;
        lanes[i] = other.data;
    }
    // Where masks differ nobody goes on, and the scheduler finds out.
    if (!is_complete) return pause(State::InWarp);
    if (resolve != nullptr) {
        resolve(lanes);
    } else {
        warp.synced_at = ++w.event;
    }
    warp.waiting &= ~wanted;
    for (unsigned i = 0; i < 32; i++) {
        if (wanted >> i & 1) w.threads[first + i].state = State::Ready;
    }
}

}  // namespace host
