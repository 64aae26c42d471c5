/* A job on CPU threads for the tests of the device API: npes symmetric copies in one allocation, a state and
 * a mailbox for each PE, teams with their areas; run() executes a kernel on all PEs at once. */
#ifndef HOST_SCENE_H
#define HOST_SCENE_H

#include "shmem_device.h"

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>

inline std::atomic<unsigned long> failures{0}, passed{0};

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (condition) {                                                                                     \
            passed.fetch_add(1, std::memory_order_relaxed);                                                  \
        } else if (failures.fetch_add(1) < 20) {                                                             \
            std::fprintf(stderr, "%s:%d: FAILED %s: PE %d: ", __FILE__, __LINE__, #condition,                \
                         shmem::arch::here().state != nullptr ? shmem::my_pe() : -1);                                                               \
            std::fprintf(stderr, __VA_ARGS__);                                                               \
            std::fputc('\n', stderr);                                                                        \
        }                                                                                                    \
    } while (0)

struct scene {
    static constexpr std::size_t user_bytes = 1 << 20, stride = 1 << 21, slot_bytes = 2048;
    int npes;
    unsigned char *memory;
    std::vector<shmemx_device_state> states;
    std::vector<std::vector<shmemx_device_team>> teams;
    std::vector<shmemx_device_error> boxes;
    std::vector<unsigned> claims;
    std::vector<int> reversed;
    std::vector<unsigned long long> reversed_copies;

    static constexpr unsigned row = 4, column = 5;

    /* Device teams: 0 world, 1 shared (= world), 2 the even PEs, 3 all PEs in reverse order (by table); with nodes of so
     * many PEs each the own node and the PEs of the own number in all nodes, which have no areas. */
    explicit scene(int n, bool lines, unsigned long long timeout_ns = 0, int per_node = 0)
        : npes(n), states(static_cast<std::size_t>(n)), teams(static_cast<std::size_t>(n)),
          boxes(static_cast<std::size_t>(n)), claims(static_cast<std::size_t>(n))
    {
        memory = static_cast<unsigned char *>(std::aligned_alloc(4096, stride * static_cast<std::size_t>(n)));
        std::memset(memory, 0, stride * static_cast<std::size_t>(n));
        for (int i = 0; i < n; ++i)
            reversed.push_back(n - 1 - i);
        for (int pe : reversed)
            reversed_copies.push_back(reinterpret_cast<std::uintptr_t>(memory) +
                                      stride * static_cast<std::size_t>(pe));
        for (int pe = 0; pe < n; ++pe) {
            auto &t = teams[static_cast<std::size_t>(pe)];
            for (int k = 0; k < 4; ++k) {
                shmemx_device_team team = {};
                team.n = k == 2 ? (n + 1) / 2 : n;
                team.me = k == 2 ? pe / 2 : k == 3 ? n - 1 - pe : pe;
                team.stride = k == 2 ? 2 : 1;
                if (k == 2 && pe % 2 != 0)
                    team.n = 0;
                if (k == 3) {
                    team.table = reinterpret_cast<std::uintptr_t>(reversed.data());
                    team.bases = reinterpret_cast<std::uintptr_t>(reversed_copies.data());
                }
                team.sync = user_bytes + static_cast<std::size_t>(k) * (256 << 10);
                team.packets = team.sync + 4096;
                team.slot_bytes = slot_bytes;
                t.push_back(team);
            }
            if (per_node != 0) {
                shmemx_device_team team = {};
                team.n = per_node;
                team.me = pe % per_node;
                team.start = pe / per_node * per_node;
                team.stride = 1;
                t.push_back(team);
                team.n = n / per_node;
                team.me = pe / per_node;
                team.start = pe % per_node;
                team.stride = per_node;
                t.push_back(team);
            }
            shmemx_device_state &s = states[static_cast<std::size_t>(pe)];
            s = {};
            s.version = SHMEMX_DEVICE_STATE_VERSION;
            s.me = pe;
            s.npes = n;
            s.flags = lines ? SHMEMX_DEVICE_LINES128 : 0;
            s.heap = reinterpret_cast<std::uintptr_t>(memory);
            s.stride = stride;
            s.bytes = stride;
            s.mailbox = reinterpret_cast<std::uintptr_t>(&boxes[static_cast<std::size_t>(pe)]);
            s.timeout_ns = timeout_ns;
            s.internal = user_bytes;
            s.teams = reinterpret_cast<std::uintptr_t>(t.data());
            s.nteams = static_cast<unsigned>(t.size());
            s.claim = reinterpret_cast<std::uintptr_t>(&claims[static_cast<std::size_t>(pe)]);
            s.copy = s.heap + stride * static_cast<std::size_t>(pe);
            s.world_sync = t[0].sync;
            s.world_packets = t[0].packets;
            s.world_slot_bytes = t[0].slot_bytes;
        }
    }
    ~scene()
    {
        std::free(memory);
    }
    scene(const scene &) = delete;
    scene &operator=(const scene &) = delete;

    void clear_mailboxes()
    {
        for (std::size_t i = 0; i < boxes.size(); ++i) {
            boxes[i] = shmemx_device_error();
            claims[i] = 0;
        }
    }
    template <class Kernel>
    void run(unsigned blocks, unsigned threads, std::size_t shared_bytes, Kernel kernel)
    {
        std::vector<std::thread> pes;
        for (const shmemx_device_state &s : states)
            pes.emplace_back([&s, blocks, threads, shared_bytes, &kernel] {
                shmem::host::launch(s, blocks, threads, shared_bytes, kernel);
            });
        for (std::thread &pe : pes)
            pe.join();
    }
};

/* Address `offset` bytes into the calling lane's own copy. */
template <class T> T *mine(std::size_t offset)
{
    return reinterpret_cast<T *>(shmem::detail::my_copy() + offset);
}
/* Bytes that differ by place, case and PE. */
inline unsigned char pattern(std::size_t i, unsigned salt, int pe)
{
    return static_cast<unsigned char>(i * 131 + (i >> 8) * 7 + salt * 29 + static_cast<unsigned>(pe) * 59 +
                                      1);
}
inline bool leader()
{
    return shmem::arch::thread_index() == 0;
}

#endif
