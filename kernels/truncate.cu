// sample_narrow, sample_weigh: which tokens of a row top_k, top_p and min_p keep, between sample_scan and sample_choose.
//
//   order the tokens by z falling, the lowest index first among equals; keep the shortest head of that order that
//   has top_k tokens or top_p of the weight of all;  of these, tokens with (z - max z) / temperature >= min_log
//
// Shapes:  as in sample.cu; cuts [rows] of 2,048 bins of weight and count.
// Launch:  grid (slices, rows), blocks of 256 threads. sample_narrow runs three times: each counts 11, 11 and 10 more bits of
//          the keys (sampling.cuh) into bins; the block that comes last finds the bin where the head ends. sample_weigh
//          then adds up the weights that stay. Rows that keep all their tokens leave at once.
// Traffic: the logits once a launch, from the L2 cache while the rows are few; nothing is sorted.

#include "common/sampling.cuh"
#include "common/ticket.cuh"

constexpr uint32_t kNumPasses = 3, kBinShare = kNumBins / kSampleThreads;

// A slice's bins. Shared memory adds 32 bits at a time, so weights are added in two halves: 2,048 times 2^20 fit each.
struct LocalBins {
    uint32_t counts[kNumBins], highs[kNumBins], lows[kNumBins];
};

// Whether a head with that many tokens and that much weight is long enough.
struct Goal {
    uint32_t count;
    Mass mass;
    __device__ __forceinline__ bool is_reached(uint32_t some_count, Mass some_mass) const {
        return some_count >= count || some_mass >= mass;
    }
};

// How many of a bin's `count` equal tokens, of the weight `mass` in all, come before the goal is reached.
static __device__ __forceinline__ uint32_t num_needed(const Goal& goal, uint32_t num_before, Mass mass_before,
                                                      uint32_t count, Mass mass) {
    const Mass each = mass / count, missing = goal.mass - mass_before;
    const Mass by_mass = each > 0 ? missing / each + (missing % each != 0) : count;
    const uint32_t by_count = goal.count - num_before, least = by_count < count ? by_count : count;
    return by_mass < least ? static_cast<uint32_t>(by_mass) : least;
}

// Finds the bin where the head ends and leaves all bins empty. Thread 0 has the bins of the greatest keys.
static __device__ __forceinline__ void find_bin(const SampleParams& p, const Wish& wish, uint32_t num_bits, Cut& cut,
                                                Exchange& exchange) {
    Mass masses[kBinShare], mass = 0;
    uint32_t counts[kBinShare], count = 0;
#pragma unroll
    for (uint32_t i = 0; i < kBinShare; i++) {
        Bin& bin = cut.bins[kNumBins - 1 - (threadIdx.x * kBinShare + i)];
        mass += masses[i] = atomicExch(&bin.mass, Mass{0});
        count += counts[i] = atomicExch(&bin.count, 0u);
    }
    const Mass before = cut.mass_before;
    const uint32_t num_before = cut.num_before, key = cut.key;
    Goal goal = {wish.top_k != 0 ? wish.top_k : 0xffffffffu, cut.target};
    const Sums<Mass> mass_sums = block_sums(mass, exchange.masses);
    if (p.pass == 0) {
        const double share = static_cast<double>(wish.top_p) * static_cast<double>(mass_sums.total);
        goal.mass = wish.top_p < 1.0f ? static_cast<Mass>(share) : ~Mass{0};
        if (goal.mass == 0) goal.mass = 1; // the best token always stays
    }
    mass = before + mass_sums.before;
    count = num_before + block_sums(count, exchange.counts).before;
    if (threadIdx.x == 0) cut.target = goal.mass;
#pragma unroll
    for (uint32_t i = 0; i < kBinShare; i++) {
        if (!goal.is_reached(count, mass) && goal.is_reached(count + counts[i], mass + masses[i])) {
            const uint32_t bin = kNumBins - 1 - (threadIdx.x * kBinShare + i);
            cut.key = key << num_bits | bin;
            cut.num_before = count;
            cut.mass_before = mass;
            if (p.pass == kNumPasses - 1) cut.num_equal = num_needed(goal, count, mass, counts[i], masses[i]);
        }
        count += counts[i];
        mass += masses[i];
    }
}

KERNEL(sample_narrow, SampleParams, kSampleThreads) {
    SHARED(float, values, [kSliceLen]);
    SHARED(LocalBins, bins, [1]);
    SHARED(Exchange, exchange, [1]);
    SHARED(uint32_t, place, [1]);
    const uint32_t row = blockIdx.y, num_bits = p.pass < 2 ? 11 : 10, shift = p.pass == 0 ? 21 : p.pass == 1 ? 10 : 0;
    pdl_wait();
    const Wish wish = p.wishes[row];
    if (is_left_out(p, wish) || !is_cut(wish)) return;
    Cut& cut = p.cuts[row];
    const uint32_t prefix = cut.key;
    for (uint32_t i = threadIdx.x; i < kNumBins; i += kSampleThreads) {
        bins[0].counts[i] = bins[0].highs[i] = bins[0].lows[i] = 0;
    }
    load_slice(p, row, blockIdx.x, values);
    adjust_slice(p, wish, blockIdx.x, values);
    const float best = row_best(p, row, exchange[0]).value;
    for (uint32_t at = threadIdx.x; at < slice_len(p, blockIdx.x); at += kSampleThreads) {
        if (values[at] == -INFINITY) continue; // never drawn; what a mask leaves out would crowd into one bin
        const uint32_t key = key_of(values[at]);
        if (p.pass > 0 && key >> (shift + num_bits) != prefix) continue;
        const uint32_t bin = key >> shift & ((1u << num_bits) - 1);
        const Mass mass = weight(values[at], best, wish.scale);
        atomicAdd(&bins[0].counts[bin], 1u);
        atomicAdd(&bins[0].highs[bin], static_cast<uint32_t>(mass >> 20));
        atomicAdd(&bins[0].lows[bin], static_cast<uint32_t>(mass & 0xfffff));
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < kNumBins; i += kSampleThreads) {
        if (bins[0].counts[i] == 0) continue;
        atomicAdd(&cut.bins[i].count, bins[0].counts[i]);
        atomicAdd(&cut.bins[i].mass, (static_cast<Mass>(bins[0].highs[i]) << 20) + bins[0].lows[i]);
    }
    const bool is_last = is_last_block(&cut.num_done, p.num_slices, place[0]);
    pdl_launch();
    if (!is_last) return;
    find_bin(p, wish, num_bits, cut, exchange[0]);
}

KERNEL(sample_weigh, SampleParams, kSampleThreads) {
    SHARED(float, values, [kSliceLen]);
    SHARED(Exchange, exchange, [1]);
    const uint32_t row = blockIdx.y;
    pdl_wait();
    const Wish wish = p.wishes[row];
    if (is_left_out(p, wish) || !is_truncated(wish)) return;
    Slice& slice = p.slices[static_cast<size_t>(row) * p.num_slices + blockIdx.x];
    load_slice(p, row, blockIdx.x, values);
    adjust_slice(p, wish, blockIdx.x, values);
    const Kept kept = kept_tokens(p, row, wish, row_best(p, row, exchange[0]).value);
    pdl_launch();
    Mass mass = 0;
    uint32_t num_equal = 0;
    for (uint32_t at = threadIdx.x; at < slice_len(p, blockIdx.x); at += kSampleThreads) {
        if (kept.is_above(values[at])) mass += weight(values[at], slice.best.value, wish.scale);
        num_equal += kept.is_equal(values[at]);
    }
    mass = block_sums(mass, exchange[0].masses).total;
    num_equal = block_sums(num_equal, exchange[0].counts).total;
    if (threadIdx.x == 0) slice.mass = mass, slice.num_equal = num_equal;
}
