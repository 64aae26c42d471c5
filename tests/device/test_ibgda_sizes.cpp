// device/ibgda.h where the heap is large or in parts, and the job is large. Part of test_ibgda.
#include "mini_nic.h"

using namespace shmem;
using detail::ibgda;

static constexpr unsigned depth = 64;
void test_sizes();

/* Over the border of two chunks, each with a key of its own: data in a WQE, memory of the heap that has the border too, at
 * another place, what comes to other memory; signals and atomics on either side. By one thread, which finds at the peer what
 * is there. */
static void test_border()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, 65500);
    job.run(1, 1, 0, [&] {
        if (my_pe() != 0)
            return;
        constexpr std::size_t border = mini_nic::chunk_end;
        unsigned char other[220], back[220];
        unsigned char *there = job.memory + scene::stride, *heap = mine<unsigned char>(border - 3);
        u64 signals = 0;
        for (unsigned bytes : {2u, 8u, 28u, 29u, 64u, 65u, 220u})
            for (unsigned before : {1u, 7u, bytes - 1})
                for (bool registered : {false, true}) {
                    if (before >= bytes)
                        continue;
                    const std::size_t at = border - before, sig = border + (signals % 2 ? 1024 : -1024);
                    unsigned char *src = registered ? heap : other;
                    for (unsigned i = 0; i < bytes; ++i)
                        src[i] = pattern(i, bytes * 2 + registered, static_cast<int>(before));
                    ibgda::put_signal(thread, 1, at, src, bytes, sig, 1, signal_add);
                    CHECK(ibgda::quiet(thread, 1), "quiet");
                    CHECK(std::memcmp(there + at, src, bytes) == 0, "%u bytes, %u before the border, heap %d",
                          bytes, before, registered);
                    u64 have;
                    std::memcpy(&have, there + sig, 8);
                    CHECK(have == signals / 2 + 1, "signal %llu at 0x%zx", have, sig);
                    ++signals;
                    unsigned char *to = registered ? mine<unsigned char>(border - 5 - bytes / 2) : back;
                    std::memset(to, 0, bytes);
                    ibgda::get(thread, 1, at, to, bytes);
                    CHECK(ibgda::quiet(thread, 1), "quiet");
                    CHECK(std::memcmp(there + at, to, bytes) == 0, "get of %u bytes, %u before the border",
                          bytes, before);
                }
        for (std::size_t at : {border - 8, border}) {
            ibgda::amo(1, at, detail::amo_set, 8, at, 0, false);
            CHECK(ibgda::amo(1, at, detail::amo_add, 8, 1, 0, true) == at, "atomic at 0x%zx", at);
        }
    });
    CHECK(job.boxes[0].kind == 0, "error %u", job.boxes[0].kind);
}

/* Big-endian, in the WQE of block `block`. */
static u64 field(const mini_nic::queue &q, unsigned block, unsigned at, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = 0; i < bytes; ++i)
        v = v << 8 | q.wq[block % depth * 64 + at + i];
    return v;
}
/* WQEs from `block` on, one block each, that move `bytes` bytes: each within one chunk on both sides and of at most 1 GiB, and
 * all of it. Returns the block behind them. */
static unsigned covers(const mini_nic::queue &q, unsigned block, u64 opcode, u64 border, u64 remote,
                       u64 local, u64 bytes, const char *what)
{
    const u64 here = reinterpret_cast<u64>(mine<unsigned char>(0)), there = here + scene::stride;
    for (u64 n; bytes != 0; ++block, remote += n, local += n, bytes -= n) {
        n = field(q, block, 32, 4);
        const bool second = remote >= border, second_here = local >= border;
        if (n == 0 || n > SHMEMX_MLX5_MOST_MESSAGE || n > bytes) {
            CHECK(false, "%s, block %u: %llu bytes of %llu", what, block, n, bytes);
            return block;
        }
        CHECK(field(q, block, 3, 1) == opcode && field(q, block, 16, 8) == there + remote &&
                  field(q, block, 40, 8) == here + local,
              "%s, block %u: opcode %llu, 0x%llx, 0x%llx", what, block, field(q, block, 3, 1),
              field(q, block, 16, 8) - there, field(q, block, 40, 8) - here);
        CHECK((second || remote + n <= border) && (second_here || local + n <= border) &&
                  field(q, block, 24, 4) == mini_nic::remote_key + second &&
                  field(q, block, 36, 4) == mini_nic::local_key + second_here,
              "%s, block %u: %llu bytes at 0x%llx and 0x%llx, keys 0x%llx and 0x%llx", what, block, n, remote,
              local, field(q, block, 24, 4), field(q, block, 36, 4));
    }
    return block;
}
/* More than 4 GiB, and 4 GiB, whose lower half is 0, in a heap of 8 with the border of two chunks in it. The NIC stands still:
 * no byte of it is touched. */
static void test_huge()
{
    constexpr u64 gib = 1ull << 30, border = 3 * gib + 4096, heap = 8 * gib;
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, 0);
    auto &q = nic.at(0, 1);
    q.stalled = true;
    job.states[0].bytes = heap;
    nic.views[0].most = SHMEMX_MLX5_MOST_MESSAGE;
    nic.chunks[0][0].end = q.qp->first_end = border;
    nic.chunks[0][1].end = heap;
    job.run(1, 1, 0, [&] {
        if (my_pe() != 0)
            return;
        auto *at = mine<unsigned char>(2 * gib + 7);
        ibgda::put(thread, 1, gib + 100, at, 5 * gib + 1000);
        ibgda::get(thread, 1, gib + 100, at, 5 * gib + 1000);
        ibgda::put_signal(thread, 1, 4 * gib - 64, mine<unsigned char>(border), 4 * gib, heap - 8, 1,
                          signal_add);
        ibgda::amo(1, 6 * gib + 8, detail::amo_add, 4, 1, 0, false);
        unsigned n =
            covers(q, 0, SHMEMX_MLX5_RDMA_WRITE, border, gib + 100, 2 * gib + 7, 5 * gib + 1000, "put");
        n = covers(q, n, SHMEMX_MLX5_RDMA_READ, border, gib + 100, 2 * gib + 7, 5 * gib + 1000, "get");
        n = covers(q, n, SHMEMX_MLX5_RDMA_WRITE, border, 4 * gib - 64, border, 4 * gib, "put_signal");
        const u64 there = reinterpret_cast<u64>(mine<unsigned char>(0)) + scene::stride;
        CHECK(field(q, n, 3, 1) == SHMEMX_MLX5_ATOMIC_FA && field(q, n, 16, 8) == there + heap - 8 &&
                  field(q, n, 24, 4) == mini_nic::remote_key + 1,
              "signal: opcode %llu", field(q, n, 3, 1));
        CHECK(field(q, n + 1, 16, 8) == there + 6 * gib + 8 && q.qp->reserved == n + 2,
              "atomic: block %u of %llu", n + 1, q.qp->reserved);
    });
    CHECK(job.boxes[0].kind == 0, "error %u", job.boxes[0].kind);
}
/* A job of a thousand PEs, 64 queue pairs to each: where these are, and which way goes to whom, by a table and without one. */
static void test_many_pes()
{
    constexpr unsigned pes = 1000, qps = 64;
    scene job(1, false);
    mini_nic nic(job, depth, 1, 0);
    std::vector<unsigned char> paths(pes);
    for (unsigned pe = 0; pe < pes; ++pe)
        paths[pe] = pe % 3 ? SHMEMX_NIC_IBGDA : pe % 2 ? SHMEMX_NIC_PROXY : SHMEMX_NIC_MAPPED;
    auto &ways = job.states[0].ways;
    const auto before = ways;
    nic.nics[0].path = reinterpret_cast<std::uintptr_t>(paths.data());
    ways.qps = qps;
    for (unsigned path : {SHMEMX_NIC_TABLE, SHMEMX_NIC_IBGDA}) {
        ways.path = path;
        ways.mapped_first = 250;
        ways.mapped = 300;
        job.run(1, 1, 0, [&] {
            for (unsigned pe = 0; pe < pes; ++pe) {
                const bool near = pe >= 250 && pe < 550;
                const unsigned want = path == SHMEMX_NIC_TABLE ? paths[pe] : near ? 0u : path;
                CHECK(detail::path_to(static_cast<int>(pe)) == want, "path %u to PE %u",
                      detail::path_to(static_cast<int>(pe)), pe);
            }
            CHECK(reinterpret_cast<u64>(&ibgda::at(pes - 1, qps - 1)) == ways.qp + 256ull * (pes * qps - 1),
                  "the last queue pair");
        });
    }
    ways = before;
}

void test_sizes()
{
    test_border();
    test_huge();
    test_many_pes();
}
