// The WQE builder of kernels (device/ibgda_wqe.h) against golden.def: for the same request it stores what rdma-core's
// provider writes, in the same place of the ring, byte by byte; what it has no form for is named here.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "golden.h"
#include "shmem_device.h"

namespace
{

using namespace shmem::detail;
using shmem::arch::big;

int failed, compared;

struct ring {
    explicit ring(const golden_wqe &g) : bytes(g.depth * 64 + 64, 0xee)
    {
        q.wq = (reinterpret_cast<uint64_t>(bytes.data()) + 63) / 64 * 64;
        q.mask = g.depth - 1;
        q.qpn = GOLDEN_QPN << 8;
    }
    std::vector<unsigned char> bytes;
    alignas(256) shmemx_ibgda_qp q{};
};

nic_place place(uint64_t address, uint32_t key)
{
    return {address, big(key)};
}

// The operation of OpenSHMEM that is this masked atomic.
bool operation(const golden_wqe &g, atomic_op &op, uint64_t &value)
{
    const uint64_t all = g.opmod == SHMEMX_MLX5_OPMOD_4 ? 0xffffffffu : ~0ull;
    value = g.swap_add;
    switch (g.opcode) {
    case SHMEMX_MLX5_ATOMIC_FA:
        return op = amo_add, true;
    case SHMEMX_MLX5_ATOMIC_CS:
        return op = amo_compare_swap, true;
    case SHMEMX_MLX5_ATOMIC_MASKED_FA:
        op = g.swap_mask ? amo_xor : amo_add;
        return g.swap_mask == all || (g.swap_mask == 0 && g.opmod == SHMEMX_MLX5_OPMOD_4);
    case SHMEMX_MLX5_ATOMIC_MASKED_CS:
        op = g.compare_mask         ? amo_compare_swap
             : g.swap_mask == all   ? amo_swap
             : g.swap_mask == value ? amo_or
                                    : amo_and;
        if (op == amo_and)
            return (~value & all) == g.swap_mask;
        return op != amo_compare_swap || g.opmod == SHMEMX_MLX5_OPMOD_4;
    }
    return false;
}

// Builds it; false = kernels have no such request.
bool build(const golden_wqe &g, const wqe &w)
{
    const uint32_t flags = (g.flags & GOLDEN_SIGNALLED ? 0u + SHMEMX_MLX5_CE_ALWAYS : 0u) |
                           (g.flags & GOLDEN_FENCE ? 0u + SHMEMX_MLX5_FENCE_STRONG : 0u) |
                           (g.flags & GOLDEN_SOLICITED ? 0u + SHMEMX_MLX5_SOLICITED : 0u);
    const nic_place there = place(g.raddr, g.rkey), here = place(g.sge[0].address, g.sge[0].lkey);
    const uint32_t bytes = g.sges ? g.sge[0].bytes : 0;
    unsigned char inlined[GOLDEN_MOST];
    const auto n = static_cast<uint32_t>(golden_bytes(g.inlined, inlined, sizeof inlined));
    atomic_op op;
    uint64_t value;
    switch (g.opcode) {
    case SHMEMX_MLX5_NOP:
        return build_nop(w, flags), true;
    case SHMEMX_MLX5_RDMA_WRITE:
        if (g.flags & GOLDEN_INLINE)
            return build_inline(w, there, inlined, n, load_inline(inlined, n), flags), true;
        if (g.sges > 1)
            return build_gather(
                       w, there, static_cast<uint32_t>(g.sges),
                       [&](uint32_t i) {
                           return gather_part{place(g.sge[i].address, g.sge[i].lkey), g.sge[i].bytes};
                       },
                       flags),
                   true;
        return build_write(w, there, here, bytes, flags), true;
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
        if (g.flags & GOLDEN_INLINE)
            return false;
        return build_write_imm(w, there, here, bytes, g.imm, flags), true;
    case SHMEMX_MLX5_RDMA_READ:
        if (g.sges != 1)
            return false;
        return build_read(w, there, here, bytes, flags), true;
    default:
        if (!operation(g, op, value))
            return false;
        const uint32_t size = g.opmod == SHMEMX_MLX5_OPMOD_4 ? 4 : 8;
        return build_amo(w, there, here, op, size, value, g.compare, flags), true;
    }
}

void compare(const golden_wqe &g)
{
    unsigned char want[GOLDEN_MOST];
    const size_t n = golden_bytes(g.wqe, want, sizeof want), counts = n - golden_filling(&g);
    ring r(g);
    const auto *stored = reinterpret_cast<const unsigned char *>(r.q.wq);
    // Blocks have 64-bit numbers here, of which the NIC sees 16.
    if (!build(g, wqe(queue(r.q), 0x30000ull + g.index)))
        return;
    ++compared;
    for (size_t i = 0; i < g.depth * 64u; ++i) {
        const size_t at = (g.index % g.depth * 64u + i) % (g.depth * 64u);
        const bool written = i < counts, filling = i >= counts && i < (n + 15) / 16 * 16;
        const unsigned expected = written ? want[i] : 0xee;
        if (stored[at] != expected && !filling && failed++ < 20)
            std::fprintf(stderr, "%s: byte %zu is %02x, not %02x\n", g.name, i, stored[at], expected);
    }
}

} // namespace

int main()
{
    // What kernels do not ask for: receives, lists of reads, inline data with an immediate, adding in fields of their own, and
    // those that have a form without masks.
    const std::vector<std::string> others = {
        "write_imm_inline",      "read_two",     "send",           "send_imm",
        "masked_compare_swap_8", "masked_add_8", "masked_fields_8"};
    for (const golden_wqe &g : golden_wqes) {
        const int before = compared;
        compare(g);
        bool named = false;
        for (const std::string &name : others)
            named |= name == g.name;
        if (named == (compared > before) && failed++ < 20)
            std::fprintf(stderr, "%s: %s\n", g.name,
                         named ? "is built, take it off the list" : "is not built");
    }
    std::printf("%d of %d golden WQEs compared\n", compared, static_cast<int>(GOLDEN_WQES));
    return failed != 0;
}
