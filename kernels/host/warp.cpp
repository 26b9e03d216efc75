// What a whole warp does at once: votes and reductions, matrix products, loads of matrices; and asynchronous copies.

#include "runtime.h"

namespace host {
namespace {

template <typename Combine>
void reduce(void* const* lanes, unsigned start, Combine combine) {
    unsigned result = start;
    for (unsigned i = 0; i < 32; i++) {
        if (lanes[i] != nullptr) result = combine(result, static_cast<VoteLane*>(lanes[i])->in, i);
    }
    for (unsigned i = 0; i < 32; i++) {
        if (lanes[i] != nullptr) static_cast<VoteLane*>(lanes[i])->out = result;
    }
}

float widen(unsigned bits) {
    bits <<= 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

struct MmaLane {
    float* d;
    const unsigned* a;
    const unsigned* b;
};

// The fragment layouts of the PTX manual, mma.m16n8k16 with .bf16: lane = 4 * group + place.
void mma_resolve(void* const* lanes) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < 32; lane++) {
        const MmaLane& in = *static_cast<const MmaLane*>(lanes[lane]);
        const unsigned group = lane / 4, place = lane % 4 * 2;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = group + i % 2 * 8, column = place + i / 2 * 8;
            a[row][column] = widen(in.a[i] & 0xffffu);
            a[row][column + 1] = widen(in.a[i] >> 16);
        }
        for (unsigned i = 0; i < 2; i++) {
            b[place + i * 8][group] = widen(in.b[i] & 0xffffu);
            b[place + i * 8 + 1][group] = widen(in.b[i] >> 16);
        }
    }
    float d[16][8] = {};
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned k = 0; k < 16; k++) {
            for (unsigned column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
        }
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        float* out = static_cast<MmaLane*>(lanes[lane])->d;
        for (unsigned i = 0; i < 4; i++) out[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

struct LdmatrixLane {
    const void* row;
    unsigned out[4];
};

// Lane i names row i % 8 of matrix i / 8; every lane gets two neighbours of a row, or of a column if transposed.
template <unsigned kNum, bool kIsTransposed>
void ldmatrix_resolve(void* const* lanes) {
    for (unsigned matrix = 0; matrix < kNum; matrix++) {
        uint16_t rows[8][8];
        for (unsigned i = 0; i < 8; i++) {
            std::memcpy(rows[i], static_cast<LdmatrixLane*>(lanes[matrix * 8 + i])->row, 16);
        }
        for (unsigned lane = 0; lane < 32; lane++) {
            const unsigned major = lane / 4, minor = lane % 4 * 2;
            const unsigned low = kIsTransposed ? rows[minor][major] : rows[major][minor];
            const unsigned high = kIsTransposed ? rows[minor + 1][major] : rows[major][minor + 1];
            static_cast<LdmatrixLane*>(lanes[lane])->out[matrix] = low | high << 16;
        }
    }
}

bool is_shared(const void* address) {
    return static_cast<size_t>(static_cast<const unsigned char*>(address) - worker->shared) < kSharedArena;
}

void check_shared_row(const void* row) {
    if (!is_shared(row)) fault(FaultKind::ForeignMemory, "names %p, which is no shared memory", row);
    check_aligned(row, 16, Access::Read);
}

template <unsigned kNum>
void load_matrices(unsigned* out, const void* row, bool is_transposed, Site site) {
    // The lanes beyond 8 * kNum name no row, but take part.
    if (lane_index() < int(8 * kNum)) check_shared_row(row);
    LdmatrixLane lane = {row, {}};
    warp_join(0xffffffffu, &lane, is_transposed ? ldmatrix_resolve<kNum, true> : ldmatrix_resolve<kNum, false>, site);
    std::memcpy(out, lane.out, kNum * sizeof(unsigned));
}

}  // namespace

void ballot_resolve(void* const* lanes) {
    reduce(lanes, 0, [](unsigned all, unsigned value, unsigned lane) { return all | value << lane; });
}
void add_resolve(void* const* lanes) {
    reduce(lanes, 0, [](unsigned all, unsigned value, unsigned) { return all + value; });
}
void min_resolve(void* const* lanes) {
    reduce(lanes, 0xffffffffu, [](unsigned all, unsigned value, unsigned) { return value < all ? value : all; });
}
void max_resolve(void* const* lanes) {
    reduce(lanes, 0, [](unsigned all, unsigned value, unsigned) { return value > all ? value : all; });
}

unsigned vote(unsigned mask, unsigned value, Resolve resolve, Site site) {
    VoteLane lane = {value, 0};
    warp_join(mask, &lane, resolve, site);
    return lane.out;
}

void mma_bf16(float* d, const unsigned* a, const unsigned* b, Site site) {
    if (worker->warps[worker->current->linear / 32].lanes != 0xffffffffu) {
        fault(FaultKind::Barrier, "multiplies matrices in a warp of fewer than 32 lanes");
    }
    MmaLane lane = {d, a, b};
    warp_join(0xffffffffu, &lane, mma_resolve, site);
}

void ldmatrix(unsigned* out, unsigned num, const void* row, bool is_transposed, Site site) {
    if (worker->warps[worker->current->linear / 32].lanes != 0xffffffffu) {
        fault(FaultKind::Barrier, "loads matrices in a warp of fewer than 32 lanes");
    }
    if (num == 1) return load_matrices<1>(out, row, is_transposed, site);
    if (num == 2) return load_matrices<2>(out, row, is_transposed, site);
    load_matrices<4>(out, row, is_transposed, site);
}

void prefetch(const void* from, unsigned num_bytes) {
    if (num_bytes % 16 != 0) fault(FaultKind::Misaligned, "prefetches %u bytes, no multiple of 16", num_bytes);
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0) check_aligned(from, 16, Access::Read);
    check(from, num_bytes, Access::Read);
}

void async_copy(void* to, const void* from, unsigned num_bytes, unsigned num_read) {
    if (!is_shared(to)) fault(FaultKind::ForeignMemory, "copies to %p, which is no shared memory", to);
    check_aligned(to, num_bytes, Access::Write);
    if (num_read != 0) {
        if (reinterpret_cast<uintptr_t>(from) % num_bytes != 0) check_aligned(from, num_bytes, Access::Read);
        check(from, num_read, Access::Read);
    }
    unsigned char* target = static_cast<unsigned char*>(to);
    shadow_pending(*worker, target, num_bytes);
    Thread& me = *worker->current;
    me.copies.push_back({target, static_cast<const unsigned char*>(from), num_bytes, num_read, me.num_groups});
}

void async_commit() { worker->current->num_groups++; }

// The bytes arrive only now: a kernel that forgets to wait sees what the card might show it.
void async_wait(unsigned num_open) {
    Thread& me = *worker->current;
    size_t num_done = 0;
    for (const AsyncCopy& copy : me.copies) {
        if (copy.group + num_open >= me.num_groups) break;
        std::memset(copy.to, 0, copy.num_bytes);
        if (copy.num_read != 0) std::memcpy(copy.to, copy.from, copy.num_read);
        shadow_written(*worker, copy.to, copy.num_bytes);
        num_done++;
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<ptrdiff_t>(num_done));
}

}  // namespace host
