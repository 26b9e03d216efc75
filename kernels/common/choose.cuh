// How a warp chooses a row's experts.
#pragma once

#include "order.cuh"

// What lane i knows of the i-th best expert.
struct Chosen {
    uint32_t expert;
    float weight;
};

// The k greatest of `num_experts` logits, the lowest index first among equals, and their softmax; a NaN counts as less than
// every number. The logits may be read before pdl_wait if the kernel that wrote them has ended. All 32 lanes call it
// together; k is at most 32 and at most `num_experts`.
__device__ __forceinline__ Chosen choose_experts(const float* logits, uint32_t num_experts, uint32_t k) {
    constexpr uint32_t kHeld = 4; // keys of a lane that stay in registers, 0 for experts that do not exist
    const uint32_t lane = threadIdx.x % 32, none = 0xffffffffu;
    const auto key_at = [&](uint32_t expert) {
        const float value = __uint_as_float(ld_cg(reinterpret_cast<const uint32_t*>(logits) + expert));
        return key_of(value == value ? value : -INFINITY);
    };
    uint32_t held[kHeld];
#pragma unroll
    for (uint32_t j = 0; j < kHeld; j++) held[j] = lane + 32 * j < num_experts ? key_at(lane + 32 * j) : 0;
    uint32_t last_key = none, last_expert = none, mine = none;
    float first_value = 0.0f, exponential = 0.0f;
    for (uint32_t i = 0; i < k; i++) {
        // The greatest that comes after the last one in the order (key falling, index rising).
        uint32_t best_key = 0, best_expert = none;
        const auto consider = [&](uint32_t key, uint32_t expert) {
            const bool is_after = i == 0 || key < last_key || (key == last_key && expert > last_expert);
            if (is_after && key > best_key) best_key = key, best_expert = expert;
        };
#pragma unroll
        for (uint32_t j = 0; j < kHeld; j++) consider(held[j], lane + 32 * j);
        for (uint32_t expert = lane + 32 * kHeld; expert < num_experts; expert += 32) consider(key_at(expert), expert);
        last_key = __reduce_max_sync(0xffffffffu, best_key);
        last_expert = __reduce_min_sync(0xffffffffu, best_key == last_key ? best_expert : none);
        const float value = value_of(last_key);
        if (i == 0) first_value = value;
        if (i == lane) mine = last_expert, exponential = __expf(value - first_value);
    }
    return {mine, __fdividef(exponential, warp_sum(exponential))};
}
