// What the kernels that choose tokens share: a row's wish, a slice of its logits as the wish changes them, weights as
// whole numbers, and how the threads of a block put their findings together.
//
// A weight is exp((logit - reference) * scale) in units of 2^-40, rounded down: of 2^18 tokens that takes at most 2^-22 of
// the best one's weight. Whole numbers add up to the same in any order, so a choice depends on nothing but its row.
#pragma once

#include "order.cuh"

constexpr uint32_t kSampleThreads = 256, kSampleWarps = kSampleThreads / 32;
constexpr uint32_t kSliceLen = 2048, kSliceShare = kSliceLen / kSampleThreads; // logits of a block, of a thread
constexpr uint32_t kMaxTop = 20;                                               // alternatives that the API can ask for
constexpr uint32_t kNoToken = 0xffffffffu;                                     // a NaN was found, or nothing to choose
constexpr uint32_t kNoElement = 0xfffffffeu;                                   // nothing was looked at
constexpr uint32_t kNumBins = 2048;                                            // 11 bits of a key at a time

using Mass = unsigned long long; // the type that the card can add atomically

enum Choice : uint32_t { kLeftOut = 0, kGreedy = 1, kDraw = 2 };

struct Wish {
    Mass random;                                // the place of a draw, as a share of 2^64
    uint32_t first_adjustment, num_adjustments; // each token at most once
    uint32_t choice, top_k;                     // top_k 0 keeps all
    float scale, top_p, min_log;                // 1 / temperature; least log of a probability over the best one's
    float repetition, frequency, presence;
    uint32_t num_logprobs; // 0 for none, else the chosen token's and those of the best ones
    uint32_t mask;         // 0 for none, else one more than its row of the masks
};

struct Best {
    float value;
    uint32_t index;
};

// What is known of 2,048 logits of a row.
struct Slice {
    Mass mass;          // of the tokens that may be drawn, those at the cut's key left out
    Best best;          // adjusted; its value is the reference of `mass`
    float raw_sum;      // of exp(raw logit - greatest raw logit)
    uint32_t num_equal; // tokens at the cut's key
    Best tops[kMaxTop]; // greatest raw logits, best first
};

struct Bin {
    Mass mass;
    uint32_t count, unused;
};

// Where a row's truncation cuts: tokens with a greater key stay, and the first `num_equal` of those with this key.
struct Cut {
    Mass mass_before, target;                      // of greater keys; that must be reached
    uint32_t num_before, key, num_equal, num_done; // num_done: blocks that have counted
    Bin bins[kNumBins];
};

struct Logprob {
    uint32_t token;
    float logprob;
};

struct SampleParams {
    const float* logits;
    const Wish* wishes;
    const uint4* adjustments; // token, times generated, whether repetition counts, bias
    const uint32_t* masks;    // a bit a token, lowest first: whether it may be chosen
    uint32_t* tokens;
    Logprob* logprobs;
    Slice* slices;
    Cut* cuts;
    uint32_t width, vocabulary, num_slices, num_adjustments;
    uint32_t num_masks, mask_len, truncates, pass;
};

static_assert(sizeof(Wish) == 56 && sizeof(Slice) == 184 && sizeof(Cut) == 32800 && sizeof(Logprob) == 8,
              "as ops/sample.rs has them");

// What the threads of a block tell each other.
struct Exchange {
    Best bests[kSampleWarps];
    Mass masses[kSampleWarps];
    float floats[kSampleWarps];
    uint32_t counts[kSampleWarps];
};

__device__ __forceinline__ bool is_cut(const Wish& wish) {
    return wish.choice == kDraw && (wish.top_k != 0 || wish.top_p < 1.0f);
}
__device__ __forceinline__ bool is_truncated(const Wish& wish) {
    return is_cut(wish) || (wish.choice == kDraw && wish.min_log > -INFINITY);
}

// Whether a row is not chosen here: it pads the batch, or asks for what this launch does not do.
__device__ __forceinline__ bool is_left_out(const SampleParams& p, const Wish& wish) {
    const bool has_adjustments = wish.first_adjustment <= p.num_adjustments &&
                                 wish.num_adjustments <= p.num_adjustments - wish.first_adjustment;
    const bool is_known = wish.choice == kGreedy || wish.choice == kDraw;
    const bool is_served = is_known && (p.truncates != 0 || !is_truncated(wish));
    return !is_served || !has_adjustments || wish.num_logprobs > 1 + kMaxTop || wish.mask > p.num_masks;
}

// ---- a slice of logits ---------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t slice_len(const SampleParams& p, uint32_t slice) {
    const uint32_t left = p.vocabulary - slice * kSliceLen;
    return left < kSliceLen ? left : kSliceLen;
}

// Reads a slice: each thread the tokens that it goes on with.
__device__ __forceinline__ void load_slice(const SampleParams& p, uint32_t row, uint32_t slice, float (&values)[kSliceLen]) {
    const float* from = p.logits + static_cast<size_t>(row) * p.width + slice * kSliceLen;
    for (uint32_t i = threadIdx.x; i < slice_len(p, slice); i += kSampleThreads) values[i] = from[i];
}

// Leaves only the tokens that the row's mask has, of those that this thread has loaded; a logit that makes the row an error
// stays. A warp's tokens share a word, and the words of neighbouring warps lie side by side.
__device__ __forceinline__ void mask_slice(const SampleParams& p, const Wish& wish, uint32_t slice,
                                           float (&values)[kSliceLen]) {
    if (wish.mask == 0) return;
    const uint32_t* words = p.masks + static_cast<size_t>(wish.mask - 1) * p.mask_len + slice * (kSliceLen / 32);
    for (uint32_t i = threadIdx.x; i < slice_len(p, slice); i += kSampleThreads) {
        const bool is_allowed = (words[i / 32] >> (i % 32) & 1) != 0;
        if (!is_allowed && values[i] < INFINITY) values[i] = -INFINITY;
    }
}

// Makes of a slice as it was loaded what is chosen from; the block is in step afterwards. Penalties and bias are rounded
// after each operation as the processor's sampler does; they leave minus infinity what it is, so the mask may come first.
__device__ __forceinline__ void adjust_slice(const SampleParams& p, const Wish& wish, uint32_t slice,
                                             float (&values)[kSliceLen]) {
    mask_slice(p, wish, slice, values);
    __syncthreads();
    if (wish.num_adjustments == 0) return;
    for (uint32_t i = threadIdx.x; i < wish.num_adjustments; i += kSampleThreads) {
        const uint4 adjustment = ld_v4(p.adjustments + wish.first_adjustment + i);
        const uint32_t at = adjustment.x - slice * kSliceLen;
        if (at >= slice_len(p, slice)) continue;
        float value = values[at];
        if (adjustment.z != 0) value = value > 0.0f ? value / wish.repetition : __fmul_rn(value, wish.repetition);
        if (adjustment.y != 0) {
            value -= __fmul_rn(wish.frequency, static_cast<float>(adjustment.y));
            value -= wish.presence;
        }
        values[at] = value + __uint_as_float(adjustment.w);
    }
    __syncthreads();
}

// ---- weights and their order ---------------------------------------------------------------------------------------

// Nothing for a NaN.
__device__ __forceinline__ Mass weight(float value, float reference, float scale) {
    const float share = __expf((value - reference) * scale);
    return share > 0.0f ? static_cast<Mass>(share * 0x1p40f) : 0;
}

// Which tokens of a row may be drawn.
struct Kept {
    float best, scale, min_log;
    uint32_t key, num_equal;

    __device__ __forceinline__ bool is_likely(float value) const { return (value - best) * scale >= min_log; }
    __device__ __forceinline__ bool is_above(float value) const { return key_of(value) > key && is_likely(value); }
    // Of these the first `num_equal` may be drawn.
    __device__ __forceinline__ bool is_equal(float value) const { return key_of(value) == key && is_likely(value); }
};

__device__ __forceinline__ Kept kept_tokens(const SampleParams& p, uint32_t row, const Wish& wish, float best) {
    if (!is_truncated(wish)) return {best, wish.scale, -INFINITY, 0, 0}; // key 0 is a NaN's
    return {best, wish.scale, wish.min_log, p.cuts[row].key, p.cuts[row].num_equal};
}

// ---- blocks --------------------------------------------------------------------------------------------------------

// Whether b is better than a: greater, or of a lower index. No index stands for a NaN, which beats every number.
__device__ __forceinline__ bool is_better(Best a, Best b) {
    if (a.index == kNoToken || b.index == kNoToken) return a.index != kNoToken;
    return b.value > a.value || (b.value == a.value && b.index < a.index);
}

// The best of one a thread, in every thread.
__device__ __forceinline__ Best block_best(Best best, Best (&warps)[kSampleWarps]) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const Best other = {__shfl_xor_sync(0xffffffffu, best.value, step), __shfl_xor_sync(0xffffffffu, best.index, step)};
        if (is_better(best, other)) best = other;
    }
    __syncthreads(); // all have read what an earlier call left here
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
    __syncthreads();
    best = warps[0];
    for (uint32_t warp = 1; warp < kSampleWarps; warp++) {
        if (is_better(best, warps[warp])) best = warps[warp];
    }
    return best;
}

template <typename T>
struct Sums {
    T before, total; // of the threads before this one; of all
};

// Sums of one number a thread, always added in the same order.
template <typename T>
__device__ __forceinline__ Sums<T> block_sums(T mine, T (&warps)[kSampleWarps]) {
    const uint32_t lane = threadIdx.x % 32, my_warp = threadIdx.x / 32;
    T sum = mine;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
        const T other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
    }
    __syncthreads();
    if (lane == 31) warps[my_warp] = sum;
    __syncthreads();
    Sums<T> sums = {sum - mine, 0};
    for (uint32_t warp = 0; warp < kSampleWarps; warp++) {
        if (warp < my_warp) sums.before += warps[warp];
        sums.total += warps[warp];
    }
    return sums;
}

// The best adjusted logit of a row.
__device__ __forceinline__ Best row_best(const SampleParams& p, uint32_t row, Exchange& exchange) {
    const Slice* slices = p.slices + static_cast<size_t>(row) * p.num_slices;
    const Best none = {-INFINITY, kNoElement};
    return block_best(threadIdx.x < p.num_slices ? slices[threadIdx.x].best : none, exchange.bests);
}
