// linear_many: a dense product for more rows than 32, on tensor cores.
//
//   out[r][n] = sum over k of x[r][k] * weight[n][k], + bias[n] if there is one
//
// Shapes:  x [rows, k] bf16; weight [n, k] bf16; bias [n] bf16; out [rows, n] bf16 or float32, to which it may be added;
//          k a multiple of 32.
// Launch:  at most one block a processor; each takes the next piece of work when it is done. A tile of out is 128
//          outputs and 64, 128 or 256 rows (one kernel each), rows first, so that blocks side by side share weights. The
//          first `num_whole` tiles are a piece each; what they leave of the processors' last round is cut along k, into
//          `num_parts` pieces a tile.
// Traffic: a tile reads its weights and its rows once. Copies run on from piece to piece, 96 to 144 KB of a block at any
//          time.
// Parts:   float32 sums of a tile's pieces. The last block to arrive (`tickets`, zero before and after) adds them in
//          their order, so that the sum does not depend on who is last.
//
// The weights are the left operand: a warpgroup has 64 outputs of all rows of the tile, and a weight goes through the
// tensor cores once for up to 256 rows. While they work on a step of 64 k, all threads begin to copy a later one.

#include "common/output.cuh"
#include "common/wgmma.cuh"

struct LinearManyParams {
    const bf16* x;
    const bf16* weight;
    const bf16* bias; // null: none
    void* out;
    uint4* parts; // a piece's sums in the order of its threads' registers
    uint32_t* tickets;
    uint32_t rows, n, k;
    OutputForm form;
    uint32_t num_whole, num_parts, num_pieces;
    uint32_t unused;
};

constexpr int kOutputs = 128, kThreads = 256;

// Steps of 64 k `step` .. `end` of a tile.
struct Piece {
    uint32_t first_row, first_output, step, end;
    uint32_t cut, part; // which of the tiles that are cut, and which of its pieces
    bool is_whole;
};

template <int kRows>
static __device__ __forceinline__ Piece find_piece(const LinearManyParams& p, uint32_t index) {
    const uint32_t row_tiles = (p.rows + kRows - 1) / kRows, num_steps = (p.k + kWgmmaK - 1) / kWgmmaK;
    const bool is_whole = index < p.num_whole;
    const uint32_t cut = is_whole ? 0 : (index - p.num_whole) / p.num_parts;
    const uint32_t part = is_whole ? 0 : (index - p.num_whole) % p.num_parts;
    const uint32_t tile = is_whole ? index : p.num_whole + cut, num_parts = is_whole ? 1 : p.num_parts;
    return {tile % row_tiles * kRows, tile / row_tiles * kOutputs, part * num_steps / num_parts,
            (part + 1) * num_steps / num_parts, cut, part, is_whole || p.num_parts == 1};
}

// Which step is copied next. A thread copies one chunk of every 32nd row.
template <int kRows>
struct Ahead {
    uint32_t index, stage;
    Piece piece;

    __device__ __forceinline__ void begin(const LinearManyParams& p) {
        if (index < p.num_pieces) piece = find_piece<kRows>(p, index);
    }

    // Rows of 64 k of `from` [end, k] from `first` on; what lies beyond either end is zeros.
    template <int kNum>
    __device__ __forceinline__ void copy(bf16* to, const bf16* from, uint32_t first, uint32_t end, uint32_t k) const {
        const int row = static_cast<int>(threadIdx.x / 8), chunk = static_cast<int>(threadIdx.x % 8);
        const uint32_t at = piece.step * kWgmmaK + static_cast<uint32_t>(chunk) * 8;
#pragma unroll
        for (int i = 0; i < kNum / 32; i++) {
            const uint32_t source = first + static_cast<uint32_t>(row + i * 32);
            const bool is_there = source < end && at < k;
            cp_async_16(to + wgmma_chunk(row, chunk) + i * 32 * kWgmmaK, from + (static_cast<size_t>(source) * k + at), is_there);
        }
    }

    __device__ __forceinline__ void copy_weights(const LinearManyParams& p, bf16* stage_at) const {
        if (index < p.num_pieces) copy<kOutputs>(stage_at, p.weight, piece.first_output, p.n, p.k);
    }

    __device__ __forceinline__ void copy_rows(const LinearManyParams& p, bf16* stage_at) const {
        if (index < p.num_pieces) copy<kRows>(stage_at + kOutputs * kWgmmaK, p.x, piece.first_row, p.rows, p.k);
    }

    __device__ __forceinline__ void advance(const LinearManyParams& p, uint32_t num_stages) {
        stage = stage + 1 == num_stages ? 0 : stage + 1;
        if (++piece.step < piece.end) return;
        index += gridDim.x;
        begin(p);
    }
};

// Leaves a piece's sums for the block that adds up its tile; true in that block, which then has the tile's sums.
template <int kRows>
static __device__ __forceinline__ bool add_parts(const LinearManyParams& p, const Piece& piece, float (&sums)[kRows / 2]) {
    SHARED(uint32_t, num_arrived, [1]);
    constexpr size_t kPart = kRows / 8 * kThreads;
    uint4* parts = p.parts + piece.cut * p.num_parts * kPart + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kRows / 8; i++) {
        st_v4(parts + piece.part * kPart + static_cast<size_t>(i) * kThreads,
              make_uint4(__float_as_uint(sums[4 * i]), __float_as_uint(sums[4 * i + 1]), __float_as_uint(sums[4 * i + 2]),
                         __float_as_uint(sums[4 * i + 3])));
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) num_arrived[0] = atomicAdd(&p.tickets[piece.cut], 1u) + 1;
    __syncthreads();
    if (num_arrived[0] != p.num_parts) return false;
    if (threadIdx.x == 0) p.tickets[piece.cut] = 0;
    __threadfence();
#pragma unroll
    for (int i = 0; i < kRows / 2; i++) sums[i] = 0.0f;
    for (uint32_t part = 0; part < p.num_parts; part++) {
#pragma unroll
        for (int i = 0; i < kRows / 8; i++) {
            const uint4 from = ld_cg_v4(parts + part * kPart + static_cast<size_t>(i) * kThreads);
            sums[4 * i] += __uint_as_float(from.x);
            sums[4 * i + 1] += __uint_as_float(from.y);
            sums[4 * i + 2] += __uint_as_float(from.z);
            sums[4 * i + 3] += __uint_as_float(from.w);
        }
    }
    return true;
}

// A thread has outputs `output` and that + 8 of two rows of every eight.
template <int kRows, OutputForm kForm>
static __device__ __forceinline__ void write_tile(const LinearManyParams& p, const Piece& piece, const float (&sums)[kRows / 2]) {
    const uint32_t lane = threadIdx.x % 32, output = piece.first_output + threadIdx.x / 32 * 16 + lane / 4;
    const bool is_low = output < p.n, is_high = output + 8 < p.n, has_bias = p.bias != nullptr;
    const float low = is_low && has_bias ? to_float(p.bias[output]) : 0.0f;
    const float high = is_high && has_bias ? to_float(p.bias[output + 8]) : 0.0f;
    uint32_t row = piece.first_row + lane % 4 * 2;
    size_t to = static_cast<size_t>(row) * p.n + output;
#pragma unroll
    for (uint32_t i = 0; i < kRows / 8; i++) {
#pragma unroll
        for (uint32_t next = 0; next < 2; next++) {
            if (row + next < p.rows && is_low) write_output(p.out, kForm, to + next * p.n, sums[4 * i + next] + low);
            if (row + next < p.rows && is_high) write_output(p.out, kForm, to + next * p.n + 8, sums[4 * i + 2 + next] + high);
        }
        row += 8;
        to += static_cast<size_t>(p.n) * 8;
    }
}

template <int kRows, int kStages>
static __device__ __forceinline__ void linear_many(const LinearManyParams& p) {
    constexpr int kStage = (kOutputs + kRows) * kWgmmaK;
    // The products of one step may still read their stage while those of the next begin, so two are not copied to.
    constexpr int kAhead = kStages - 2;
    SHARED_DYNAMIC(bytes);
    bf16* stages = reinterpret_cast<bf16*>(bytes);
    Ahead<kRows> ahead = {blockIdx.x, 0, {}};
    ahead.begin(p);
    // Weights are written by no kernel, so they may be read before the one before this has ended. The first of its rows
    // wait for these, and the other half of the stages is on its way meanwhile.
    Ahead<kRows> early = ahead;
    for (int i = 0; i < kAhead / 2; i++) {
        early.copy_weights(p, stages + i * kStage);
        early.advance(p, kStages);
    }
    pdl_wait();
    for (int i = 0; i < kAhead; i++) {
        if (i >= kAhead / 2) ahead.copy_weights(p, stages + i * kStage);
        ahead.copy_rows(p, stages + i * kStage);
        ahead.advance(p, kStages);
        cp_async_commit();
    }
    const uint64_t weights = wgmma_tile(stages + threadIdx.x / 128 * 64 * kWgmmaK);
    const uint64_t rows = wgmma_tile(stages + kOutputs * kWgmmaK);
    uint32_t stage = 0;
    for (uint32_t index = blockIdx.x; index < p.num_pieces; index += gridDim.x) {
        const Piece piece = find_piece<kRows>(p, index);
        float sums[kRows / 2];
#pragma unroll
        for (int i = 0; i < kRows / 2; i++) sums[i] = 0.0f;
        wgmma_arrived(sums);
        for (uint32_t step = piece.step; step < piece.end; step++) {
            cp_async_wait<kAhead - 1>();
            fence_async_proxy();
            // Also, all are done with the stage that was used two steps ago.
            __syncthreads();
            const uint64_t at = stage * (kStage * sizeof(bf16) / 16);
            wgmma_fence();
#pragma unroll
            for (uint64_t k = 0; k < kWgmmaK / 16; k++) wgmma_bf16<kRows>(sums, weights + at + k * 2, rows + at + k * 2);
            wgmma_commit();
            ahead.copy_weights(p, stages + ahead.stage * kStage);
            ahead.copy_rows(p, stages + ahead.stage * kStage);
            ahead.advance(p, kStages);
            cp_async_commit();
            wgmma_wait<1>();
            stage = stage + 1 == kStages ? 0 : stage + 1;
        }
        wgmma_wait<0>();
        wgmma_arrived(sums);
        if (index + gridDim.x >= p.num_pieces) pdl_launch();
        if (!piece.is_whole && !add_parts<kRows>(p, piece, sums)) continue;
        switch (p.form) {
            case OutputForm::Bf16: write_tile<kRows, OutputForm::Bf16>(p, piece, sums); break;
            case OutputForm::Float: write_tile<kRows, OutputForm::Float>(p, piece, sums); break;
            case OutputForm::Added: write_tile<kRows, OutputForm::Added>(p, piece, sums); break;
        }
    }
}

KERNEL(linear_many_64, LinearManyParams, kThreads, 1) { linear_many<64, 8>(p); }
KERNEL(linear_many_128, LinearManyParams, kThreads, 1) { linear_many<128, 6>(p); }
KERNEL(linear_many_256, LinearManyParams, kThreads, 1) { linear_many<256, 4>(p); }
