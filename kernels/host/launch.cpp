// Finds kernels by name and spreads the blocks of a launch over a few operating system threads.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "runtime.h"

namespace host {
namespace {

using Clock = std::chrono::steady_clock;

// Below this much work, other threads would take longer to start than to help.
constexpr auto kWorthThreads = std::chrono::microseconds(300);
constexpr unsigned kMaxWorkers = 8;

// Made on first use: registrations run before main, in no particular order.
std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}

std::mutex idle_mutex;
std::vector<Worker*> idle;

Worker* take_worker() {
    const std::lock_guard<std::mutex> lock(idle_mutex);
    if (idle.empty()) return worker_new();
    Worker* w = idle.back();
    idle.pop_back();
    return w;
}

void give_back(Worker* w) {
    const std::lock_guard<std::mutex> lock(idle_mutex);
    idle.push_back(w);
}

uint64_t num_blocks(const Launch& launch) { return uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z; }

bool run_next(Worker& w, Launch& launch) {
    const uint64_t i = launch.next_block.fetch_add(1);
    if (i >= num_blocks(launch) || launch.is_over) return false;
    const dim3 grid = launch.grid;
    w.launch = &launch;
    run_block(w, {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)});
    return true;
}

void run_all(Launch& launch) {
    Worker* w = take_worker();
    if (w == nullptr) return;
    while (run_next(*w, launch)) {
    }
    give_back(w);
}

bool refuse(Fault* fault, const char* why, unsigned long long value, unsigned long long limit) {
    fault->kind = FaultKind::Launch;
    std::snprintf(fault->message, sizeof(fault->message), "%s %llu, the limit is %llu", why, value, limit);
    return false;
}

bool is_allowed(const Launch& launch, size_t params_bytes, Fault* fault) {
    const dim3 grid = launch.grid, block = launch.block;
    const uint64_t num_threads = uint64_t(block.x) * block.y * block.z;
    if (params_bytes != launch.kernel->params_bytes) {
        return refuse(fault, "the parameters have another size:", params_bytes, launch.kernel->params_bytes);
    }
    if (num_threads > launch.kernel->max_threads) {
        return refuse(fault, "the block's number of threads is", num_threads, launch.kernel->max_threads);
    }
    if (launch.shared_bytes > kMaxShared) {
        return refuse(fault, "the bytes of shared memory are", launch.shared_bytes, kMaxShared);
    }
    if (num_blocks(launch) == 0 || num_threads == 0) return refuse(fault, "the number of blocks or threads is", 0, 0);
    if (grid.x > 0x7fffffffu) return refuse(fault, "the grid's width is", grid.x, 0x7fffffffu);
    if (grid.y > 65535) return refuse(fault, "the grid's height is", grid.y, 65535);
    if (grid.z > 65535) return refuse(fault, "the grid's depth is", grid.z, 65535);
    return true;
}

const Kernel* find(const char* name) {
    for (const Kernel& kernel : kernels()) {
        if (std::strcmp(kernel.name, name) == 0) return &kernel;
    }
    return nullptr;
}

}  // namespace

void add_kernel(const Kernel& kernel) { kernels().push_back(kernel); }

}  // namespace host

// Whether there is a kernel of this name.
extern "C" bool harmonium_host_has(const char* name) { return host::find(name) != nullptr; }

// Runs a launch to its end. `fault->kind` is 0 if all went well. `sizes` holds the grid's and the block's dimensions
// and the bytes of dynamic shared memory.
extern "C" void harmonium_host_launch(const char* name, const uint32_t sizes[7], const void* params,
                                      uint64_t params_bytes, host::Fault* fault) {
    using namespace host;
    Launch launch = {};
    launch.kernel = find(name);
    if (launch.kernel == nullptr) {
        fault->kind = FaultKind::Launch;
        std::snprintf(fault->message, sizeof(fault->message), "there is no such kernel");
        return;
    }
    launch.params = params;
    launch.grid = {sizes[0], sizes[1], sizes[2]};
    launch.block = {sizes[3], sizes[4], sizes[5]};
    launch.shared_bytes = sizes[6];
    if (!is_allowed(launch, params_bytes, fault)) return;
    Worker* w = take_worker();
    if (w == nullptr) {
        refuse(fault, "no memory for the stacks of a block; threads:", kMaxThreads, kMaxThreads);
        return;
    }
    const auto began = Clock::now();
    run_next(*w, launch);
    const uint64_t num_left = num_blocks(launch) - 1;
    std::vector<std::thread> helpers;
    if ((Clock::now() - began) * num_left > kWorthThreads) {
        const uint64_t num_cores = std::min(std::max(std::thread::hardware_concurrency(), 1u), kMaxWorkers);
        for (uint64_t i = 1; i < std::min(num_cores, num_left); i++) helpers.emplace_back([&] { run_all(launch); });
    }
    while (run_next(*w, launch)) {
    }
    for (std::thread& helper : helpers) helper.join();
    give_back(w);
    *fault = launch.fault;
}
