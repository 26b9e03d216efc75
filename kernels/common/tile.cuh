// A block's tile of a matrix product on tensor cores: out[m][n] += sum over k of a[m][k] * b[n][k], both operands in
// shared memory in steps of 32 k.
//
// A row of 32 bf16 is 64 bytes, four chunks of 16. Chunk c of row r lies at place c ^ (r / 2 % 4), so that the eight
// rows that ldmatrix reads together lie in different banks.
#pragma once

#include "ptx.cuh"

constexpr int kTileK = 32;

__device__ __forceinline__ int tile_chunk(int row, int chunk) { return (row * 4 + (chunk ^ (row / 2 % 4))) * 8; }

// kWarpsM x kWarpsN warps share a tile of kM x kN.
template <int kM, int kN, int kWarpsM, int kWarpsN>
struct Tile {
    static constexpr int kRowsM = kM / kWarpsM / 16, kColumnsN = kN / kWarpsN / 8;
    static constexpr int kThreads = kWarpsM * kWarpsN * 32;
    static_assert(kColumnsN % 2 == 0, "two columns of fragments are loaded together");
    float sums[kRowsM][kColumnsN][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < kRowsM; m++) {
#pragma unroll
            for (int n = 0; n < kColumnsN; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[m][n][i] = 0.0f;
            }
        }
    }

    // One step of 32 k.
    __device__ __forceinline__ void multiply(const bf16* a, const bf16* b) {
        const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
        const int first_m = warp / kWarpsN * kRowsM * 16, first_n = warp % kWarpsN * kColumnsN * 8;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint32_t a_parts[kRowsM][4];
#pragma unroll
            for (int m = 0; m < kRowsM; m++) {
                ldmatrix_x4(a_parts[m], a + tile_chunk(first_m + m * 16 + lane % 16, k * 2 + lane / 16));
            }
#pragma unroll
            for (int n = 0; n < kColumnsN; n += 2) {
                uint32_t b_parts[4];
                ldmatrix_x4(b_parts, b + tile_chunk(first_n + n * 8 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
                const uint32_t left[2] = {b_parts[0], b_parts[1]}, right[2] = {b_parts[2], b_parts[3]};
#pragma unroll
                for (int m = 0; m < kRowsM; m++) {
                    mma_bf16_16816(sums[m][n], a_parts[m], left);
                    mma_bf16_16816(sums[m][n + 1], a_parts[m], right);
                }
            }
        }
    }

    // Calls use(row, column, value, value of the next column) for this thread's sums; columns are even.
    template <typename Use>
    __device__ __forceinline__ void for_each(Use use) const {
        const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
        const int first_m = warp / kWarpsN * kRowsM * 16 + lane / 4;
        const int first_n = warp % kWarpsN * kColumnsN * 8 + lane % 4 * 2;
#pragma unroll
        for (int m = 0; m < kRowsM; m++) {
#pragma unroll
            for (int n = 0; n < kColumnsN; n++) {
                const float(&sum)[4] = sums[m][n];
                use(first_m + m * 16, first_n + n * 8, sum[0], sum[1]);
                use(first_m + m * 16 + 8, first_n + n * 8, sum[2], sum[3]);
            }
        }
    }
};
