// sample_scan, sample_choose: the token that follows each row, as its wish says, and its log-probabilities.
//
//   z = logits[r] with penalties and bias, -inf where the row's mask has no bit
//   greedy: the greatest z, the lowest index among equals
//   draw: the first token whose weights up to it, in the order of the tokens, are more than random / 2^64 of all weights;
//         weight = exp((z - max z) / temperature), of the tokens that truncate.cu keeps
//   logprobs[r] = log softmax of logits[r] itself: the chosen token, then the greatest ones
//   tokens[r] = 0xffffffff if a logit is a NaN or +inf, masked or not, or no z is finite; and for a row that is left out
//
// Shapes:  logits [rows, width] float32, of which the first `vocabulary` count, at most 256 slices of 2,048; wishes [rows];
//          adjustments [any]; masks [any, ceil(vocabulary / 32)] u32; tokens [rows] u32; logprobs [rows, 21];
//          slices [rows, slices]; cuts [rows].
// Launch:  sample_scan: grid (slices, rows); sample_choose: a block a row, which puts the slices together and reads again
//          only the one that it draws from. Blocks of 256 threads. Weights are whole numbers: see sampling.cuh.
// Traffic: reads the logits once, and a row's mask, 1/32 of them, if it has one.

#include "common/sampling.cuh"

// The greatest raw logits of a slice, one after another, and the sum of all.
static __device__ __forceinline__ void scan_raw(const Wish& wish, uint32_t first, uint32_t len, const float (&values)[kSliceLen],
                                                Exchange& exchange, Slice& slice) {
    const uint32_t num_tops = wish.num_logprobs > 1 ? wish.num_logprobs - 1 : 1;
    Best last = {INFINITY, kNoToken};
    float max = 0.0f;
    for (uint32_t i = 0; i < num_tops; i++) {
        Best best = {-INFINITY, kNoElement};
        for (uint32_t at = threadIdx.x; at < len; at += kSampleThreads) {
            const Best one = {values[at], first + at};
            // After the last one in the order: value falling, index rising.
            const bool is_after = one.value < last.value || (one.value == last.value && one.index > last.index);
            if (is_after && is_better(best, one)) best = one;
        }
        last = block_best(best, exchange.bests);
        if (i == 0 && last.value > -INFINITY) max = last.value;
        if (threadIdx.x == 0) slice.tops[i] = last;
    }
    float sum = 0.0f;
    for (uint32_t at = threadIdx.x; at < len; at += kSampleThreads) sum += __expf(values[at] - max);
    sum = block_sums(sum, exchange.floats).total;
    if (threadIdx.x == 0) slice.raw_sum = sum;
}

KERNEL(sample_scan, SampleParams, kSampleThreads) {
    SHARED(float, values, [kSliceLen]);
    SHARED(Exchange, exchange, [1]);
    const uint32_t row = blockIdx.y, first = blockIdx.x * kSliceLen, len = slice_len(p, blockIdx.x);
    pdl_wait();
    const Wish wish = p.wishes[row];
    if (is_left_out(p, wish)) return;
    Slice& slice = p.slices[static_cast<size_t>(row) * p.num_slices + blockIdx.x];
    load_slice(p, row, blockIdx.x, values);
    if (wish.num_logprobs > 0) scan_raw(wish, first, len, values, exchange[0], slice);
    adjust_slice(p, wish, blockIdx.x, values);
    Best best = {-INFINITY, kNoElement};
    for (uint32_t at = threadIdx.x; at < len; at += kSampleThreads) {
        const float value = values[at];
        const Best one = {value, value == value ? first + at : kNoToken};
        if (is_better(best, one)) best = one;
    }
    best = block_best(best, exchange[0].bests);
    pdl_launch();
    Mass mass = 0;
    if (wish.choice == kDraw) {
        for (uint32_t at = threadIdx.x; at < len; at += kSampleThreads) mass += weight(values[at], best.value, wish.scale);
        mass = block_sums(mass, exchange[0].masses).total;
    }
    if (threadIdx.x == 0) slice.mass = mass, slice.best = best, slice.num_equal = 0;
    if (p.truncates == 0 || !is_truncated(wish)) return;
    // Nothing is cut yet: truncate.cu begins with what is written here.
    Cut& cut = p.cuts[row];
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        cut.mass_before = cut.target = 0;
        cut.num_before = cut.key = cut.num_equal = cut.num_done = 0;
    }
    for (uint32_t i = blockIdx.x * kSampleThreads + threadIdx.x; i < kNumBins; i += p.num_slices * kSampleThreads) {
        cut.bins[i] = Bin{0, 0, 0};
    }
}

// Where a draw falls.
struct Draw {
    uint32_t slice, num_equal; // of the slice's tokens at the cut's key, how many may be drawn
    Mass place;                // within the slice's mass
    uint32_t token;
};

// The slice that a draw falls into, in `draw`.
static __device__ __forceinline__ void draw_slice(const SampleParams& p, uint32_t row, const Wish& wish, const Kept& kept,
                                                  Exchange& exchange, Draw& draw) {
    const uint32_t slice = threadIdx.x;
    Mass own_mass = 0;
    float reference = kept.best;
    uint32_t num_all = 0;
    if (slice < p.num_slices) {
        const Slice& known = p.slices[static_cast<size_t>(row) * p.num_slices + slice];
        own_mass = known.mass, reference = known.best.value, num_all = known.num_equal;
    }
    const uint32_t num_before = block_sums(num_all, exchange.counts).before;
    uint32_t num_equal = num_before < kept.num_equal ? kept.num_equal - num_before : 0;
    if (num_equal > num_all) num_equal = num_all;
    if (num_equal > 0) own_mass += num_equal * weight(value_of(kept.key), reference, kept.scale);
    // From the slice's reference to the row's.
    const double share = __expf((reference - kept.best) * kept.scale);
    const Mass mass = static_cast<Mass>(static_cast<double>(own_mass) * share);
    const Sums<Mass> sums = block_sums(mass, exchange.masses);
    const Mass target = __umul64hi(wish.random, sums.total);
    if (target >= sums.before && target - sums.before < mass) {
        const double within = static_cast<double>(target - sums.before) / static_cast<double>(mass);
        draw = Draw{slice, num_equal, static_cast<Mass>(within * static_cast<double>(own_mass)), kNoToken};
    }
    __syncthreads();
}

// The token of the slice that a draw falls on, in `draw`.
static __device__ __forceinline__ void draw_token(const SampleParams& p, const Kept& kept, float reference,
                                                  const float (&values)[kSliceLen], Exchange& exchange, Draw& draw) {
    const uint32_t first = threadIdx.x * kSliceShare, len = slice_len(p, draw.slice);
    uint32_t num_equal = 0;
    for (uint32_t at = first; at < first + kSliceShare && at < len; at++) num_equal += kept.is_equal(values[at]);
    uint32_t rank = block_sums(num_equal, exchange.counts).before;
    Mass weights[kSliceShare], mass = 0;
#pragma unroll
    for (uint32_t i = 0; i < kSliceShare; i++) {
        weights[i] = 0;
        if (first + i >= len) continue;
        const float value = values[first + i];
        const bool is_drawn = kept.is_above(value) || (kept.is_equal(value) && rank++ < draw.num_equal);
        if (is_drawn) weights[i] = weight(value, reference, kept.scale);
        mass += weights[i];
    }
    const Sums<Mass> sums = block_sums(mass, exchange.masses);
    const Mass place = draw.place < sums.total ? draw.place : sums.total - 1;
    Mass before = sums.before;
#pragma unroll
    for (uint32_t i = 0; i < kSliceShare; i++) {
        if (place >= before && place - before < weights[i]) draw.token = draw.slice * kSliceLen + first + i;
        before += weights[i];
    }
    __syncthreads();
}

// Log-probabilities of the chosen token and of the greatest logits: the slices' lists, merged.
static __device__ __forceinline__ void report(const SampleParams& p, uint32_t row, const Wish& wish, uint32_t token,
                                              Exchange& exchange) {
    const Slice* slices = p.slices + static_cast<size_t>(row) * p.num_slices;
    const bool has_slice = threadIdx.x < p.num_slices;
    const Best none = {-INFINITY, kNoElement};
    Best head = has_slice ? slices[threadIdx.x].tops[0] : none;
    const float max = block_best(head, exchange.bests).value;
    const float share = has_slice ? slices[threadIdx.x].raw_sum * __expf(head.value - max) : 0.0f;
    const float log_sum = logf(block_sums(share, exchange.floats).total);
    Logprob* out = p.logprobs + static_cast<size_t>(row) * (1 + kMaxTop);
    if (threadIdx.x == 0) out[0] = {token, p.logits[static_cast<size_t>(row) * p.width + token] - max - log_sum};
    for (uint32_t i = 1, next = 1; i < wish.num_logprobs; i++) {
        const Best best = block_best(head, exchange.bests);
        if (threadIdx.x == 0) out[i] = {best.index, best.value - max - log_sum};
        if (!has_slice || head.index != best.index) continue;
        head = next + 1 < wish.num_logprobs ? slices[threadIdx.x].tops[next] : none;
        next++;
    }
}

KERNEL(sample_choose, SampleParams, kSampleThreads) {
    SHARED(float, values, [kSliceLen]);
    SHARED(Exchange, exchange, [1]);
    SHARED(Draw, draw, [1]);
    const uint32_t row = blockIdx.x;
    pdl_wait();
    const Wish wish = p.wishes[row];
    uint32_t token = kNoToken;
    if (!is_left_out(p, wish)) {
        const Best best = row_best(p, row, exchange[0]);
        if (fabsf(best.value) < INFINITY) token = best.index;
        if (token != kNoToken && wish.choice == kDraw) {
            const Kept kept = kept_tokens(p, row, wish, best.value);
            // Stays only if nothing has any weight.
            if (threadIdx.x == 0) draw[0] = Draw{best.index / kSliceLen, 0, 0, kNoToken};
            draw_slice(p, row, wish, kept, exchange[0], draw[0]);
            load_slice(p, row, draw[0].slice, values);
            adjust_slice(p, wish, draw[0].slice, values);
            const size_t slice = static_cast<size_t>(row) * p.num_slices + draw[0].slice;
            draw_token(p, kept, p.slices[slice].best.value, values, exchange[0], draw[0]);
            token = draw[0].token;
        }
        if (token != kNoToken && wish.num_logprobs > 0) report(p, row, wish, token, exchange[0]);
    }
    pdl_launch();
    if (threadIdx.x == 0) p.tokens[row] = token;
}
