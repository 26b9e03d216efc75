// Products of a warpgroup. Each warp does its own share, sixteen rows, and only when it waits: what a kernel does too
// early, with tiles or with sums, gives wrong numbers here as on the card.

#include <limits>

#include "runtime.h"

namespace host {
namespace {

constexpr unsigned kRowBytes = 128, kStepBytes = 32;

Warp& my_warp() {
    Warp& warp = worker->warps[worker->current->linear / 32];
    const unsigned first = worker->current->linear / 128 * 4;
    if (worker->num_threads < (first + 4) * 32) {
        fault(FaultKind::Barrier, "multiplies in a warpgroup of fewer than 128 threads");
    }
    return warp;
}

float widen(unsigned bits) {
    bits <<= 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// Sixteen bytes of a row of a tile, where the swizzle puts them: bits 4 to 6 of an address are changed by bits 7 to 9.
const unsigned char* chunk(uint64_t tile, unsigned row, unsigned half) {
    const unsigned linear = static_cast<unsigned>(tile & 0x3fff) * 16 + row * kRowBytes + half * 16;
    return worker->shared + (linear ^ (linear >> 3 & 0x70));
}

// A store that comes later finds that its bytes are read; of a copy that begins later, read_row does.
void check_tile(uint64_t tile, unsigned first, unsigned num_rows) {
    constexpr uint64_t kForm = uint64_t{1} << 62 | uint64_t{1024 / 16} << 32;
    constexpr uint64_t kFormBits = uint64_t{3} << 62 | uint64_t{0x3fff} << 32;
    if ((tile & kFormBits) != kForm) fault(FaultKind::Launch, "multiplies %016lx, which no wgmma_tile made", tile);
    if ((tile & 0x3f) > (kRowBytes - kStepBytes) / 16 || tile % 2 != 0) {
        fault(FaultKind::Misaligned, "multiplies columns at offset %lu of a row of 128 bytes", (tile & 0x3f) * 16);
    }
    for (unsigned row = first; row < first + num_rows; row++) {
        for (unsigned half = 0; half < 2; half++) {
            check(chunk(tile, row, half), 16, Access::Read);
            shadow_fenced(*worker, chunk(tile, row, half), 16);
        }
    }
}

void read_row(uint64_t tile, unsigned row, float* to) {
    for (unsigned half = 0; half < 2; half++) {
        if (shadow_is_pending(*worker, chunk(tile, row, half))) {
            fault(FaultKind::SharedRace, "multiplies shared memory that an asynchronous copy is being written to");
        }
        uint16_t bits[8];
        std::memcpy(bits, chunk(tile, row, half), 16);
        for (unsigned i = 0; i < 8; i++) to[half * 8 + i] = widen(bits[i]);
    }
}

unsigned first_row() { return worker->current->linear / 32 % 4 * 16; }

const Product* earlier(const Warp& warp, const float* sums, size_t end) {
    for (size_t i = end; i-- > 0;) {
        if (warp.products[i].sums[0] == sums) return &warp.products[i];
    }
    return nullptr;
}

// Takes the sums away until the product is done.
void hold(Product& product) {
    const unsigned num = product.num_columns / 2;
    product.held.resize(num * 32);
    for (unsigned lane = 0; lane < 32; lane++) {
        std::memcpy(&product.held[lane * num], product.sums[lane], num * sizeof(float));
        for (unsigned i = 0; i < num; i++) product.sums[lane][i] = std::numeric_limits<float>::quiet_NaN();
    }
}

struct WgmmaLane {
    float* d;
    unsigned num_columns;
    const unsigned* a;
    uint64_t a_tile, b_tile;
    bool sums_rows;
};

void begin_product(void* const* lanes) {
    Warp& warp = my_warp();
    const WgmmaLane& one = *static_cast<const WgmmaLane*>(lanes[0]);
    Product product = {{}, {}, one.a != nullptr, {}, one.a_tile, one.b_tile, one.num_columns, warp.num_groups,
                       one.sums_rows};
    for (unsigned i = 0; i < 32; i++) {
        const WgmmaLane& lane = *static_cast<const WgmmaLane*>(lanes[i]);
        if (lane.a_tile != one.a_tile || lane.b_tile != one.b_tile) {
            fault(FaultKind::Launch, "multiplies other tiles than lane 0 of its warp");
        }
        product.sums[i] = lane.d;
        if (lane.a != nullptr) std::memcpy(product.a[i], lane.a, sizeof(product.a[i]));
    }
    if (!warp.is_fenced) fault(FaultKind::Barrier, "multiplies with no wgmma_fence before");
    if (!product.has_registers) check_tile(product.a_tile, first_row(), 16);
    if (product.sums_rows) {
        if (product.b_tile % 64 != 0) fault(FaultKind::Misaligned, "sums over rows of a tile that begin in one of them");
        for (unsigned i = 0; i < product.num_columns / 16; i++) check_tile(product.b_tile + 2 * i, 0, 16);
    } else {
        check_tile(product.b_tile, 0, product.num_columns);
    }
    if (earlier(warp, product.sums[0], warp.products.size()) == nullptr) hold(product);
    warp.products.push_back(std::move(product));
}

void multiply(const Product& product) {
    float a[16][16]; // by columns: the rows of one are multiplied together
    if (product.has_registers) {
        for (unsigned lane = 0; lane < 32; lane++) {
            for (unsigned i = 0; i < 4; i++) {
                const unsigned row = lane / 4 + i % 2 * 8, k = lane % 4 * 2 + i / 2 * 8;
                a[k][row] = widen(product.a[lane][i] & 0xffffu);
                a[k + 1][row] = widen(product.a[lane][i] >> 16);
            }
        }
    } else {
        for (unsigned row = 0; row < 16; row++) {
            float values[16];
            read_row(product.a_tile, first_row() + row, values);
            for (unsigned k = 0; k < 16; k++) a[k][row] = values[k];
        }
    }
    std::vector<float> by_rows(product.sums_rows ? product.num_columns * 16 : 0);
    for (unsigned i = 0; i < by_rows.size() / 16; i++) {
        const unsigned k = i % 16, first = i / 16 * 16;
        float row[16];
        read_row(product.b_tile + first / 8, k, row);
        for (unsigned j = 0; j < 16; j++) by_rows[(first + j) * 16 + k] = row[j];
    }
    for (unsigned column = 0; column < product.num_columns; column++) {
        float b[16];
        if (product.sums_rows) {
            std::memcpy(b, &by_rows[column * 16], sizeof(b));
        } else {
            read_row(product.b_tile, column, b);
        }
        float sums[16] = {};
        for (unsigned k = 0; k < 16; k++) {
            for (unsigned row = 0; row < 16; row++) sums[row] += a[k][row] * b[k];
        }
        for (unsigned row = 0; row < 16; row++) {
            product.sums[row % 8 * 4 + column % 8 / 2][column / 8 * 4 + row / 8 * 2 + column % 2] += sums[row];
        }
    }
}

void wait_for_products(void* const* lanes) {
    Warp& warp = my_warp();
    const unsigned num_open = *static_cast<const unsigned*>(lanes[0]);
    size_t num_done = 0;
    while (num_done < warp.products.size()) {
        const Product& product = warp.products[num_done];
        if (product.group + num_open >= warp.num_groups) break;
        if (!product.held.empty()) {
            const unsigned num = product.num_columns / 2;
            for (unsigned lane = 0; lane < 32; lane++) {
                std::memcpy(product.sums[lane], &product.held[lane * num], num * sizeof(float));
            }
        }
        multiply(product);
        num_done++;
    }
    warp.products.erase(warp.products.begin(), warp.products.begin() + static_cast<ptrdiff_t>(num_done));
    // Sums that a younger product adds to are not to be read yet.
    for (size_t i = 0; i < warp.products.size(); i++) {
        Product& product = warp.products[i];
        if (product.held.empty() && earlier(warp, product.sums[0], i) == nullptr) hold(product);
    }
}

void begin_group(void* const*) { my_warp().is_fenced = true; }

void end_group(void* const*) {
    Warp& warp = my_warp();
    warp.num_groups++;
    warp.is_fenced = false;
}

}  // namespace

void wgmma_fence(Site site) { warp_join(0xffffffffu, nullptr, begin_group, site); }

void wgmma_bf16(float* d, unsigned num_columns, const unsigned* a, uint64_t a_tile, uint64_t b_tile, bool sums_rows,
                Site site) {
    my_warp();
    WgmmaLane lane = {d, num_columns, a, a_tile, b_tile, sums_rows};
    warp_join(0xffffffffu, &lane, begin_product, site);
}

void wgmma_commit(Site site) { warp_join(0xffffffffu, nullptr, end_group, site); }

void wgmma_wait(unsigned num_open, Site site) { warp_join(0xffffffffu, &num_open, wait_for_products, site); }

void fence_async_proxy() { worker->current->fenced_at = ++worker->event; }

unsigned tile_address(const void* tile) {
    const size_t at = static_cast<size_t>(static_cast<const unsigned char*>(tile) - worker->shared);
    if (at >= kSharedArena) fault(FaultKind::ForeignMemory, "multiplies %p, which is no shared memory", tile);
    if (at % 1024 != 0) fault(FaultKind::Misaligned, "multiplies a tile at %p, which is not a multiple of 1024", tile);
    if (at >= 256 * 1024) fault(FaultKind::SharedBounds, "multiplies a tile at %zu of shared memory", at);
    return static_cast<unsigned>(at);
}

}  // namespace host
