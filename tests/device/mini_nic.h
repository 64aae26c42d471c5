/* As much of an mlx5 NIC as the tests of device/ibgda.h need, in one process: it executes WQEs on the copies of a scene,
 * checks what it is given, and fails when told to. The real thing is libshmem/sim. */
#ifndef MINI_NIC_H
#define MINI_NIC_H

#include "host_scene.h"

class mini_nic
{
  public:
    static constexpr unsigned remote_key = 0x1100, local_key = 0x2200, answers_key = 0x3300;

    struct queue {
        shmemx_ibgda_qp *qp = nullptr;
        int owner = 0; // the PE that posts
        alignas(8) unsigned record[2] = {0, 0};
        alignas(8) unsigned long long uar = 0;
        unsigned char *wq = nullptr, *cq = nullptr, *answers = nullptr;
        std::vector<unsigned> slots;
        unsigned long long next = 0;
        std::atomic<unsigned long long> entries{0}, doorbells{0}, executed{0};
        std::atomic<unsigned long long> seen{0};
        std::atomic<bool> stalled{false}, dead{false};
        int error = 0; // 1: in the error state
    };

    /* Queue pairs of `depth` blocks, `each` to every PE, whose blocks are numbered from `first` on. */
    mini_nic(scene &job, unsigned depth, unsigned each, unsigned long long first) : job_(job), depth_(depth)
    {
        const auto n = static_cast<std::size_t>(job.npes);
        views.resize(n);
        nics.resize(n);
        paths.assign(n, SHMEMX_NIC_IBGDA);
        chunks.resize(n);
        keys.resize(n);
        for (std::size_t pe = 0; pe < n; ++pe) {
            qps.push_back(static_cast<shmemx_ibgda_qp *>(std::aligned_alloc(256, 256 * n * each)));
            std::memset(qps[pe], 0, 256 * n * each);
            for (std::size_t to = 0; to < n; ++to)
                for (unsigned k = 0; k < each; ++k)
                    open(static_cast<int>(pe), static_cast<int>(to), k, qps[pe][to * each + k], first);
            // two chunks that meet in the middle of the user's memory
            chunks[pe] = {{chunk_end, arch::big(local_key), 0}, {scene::stride, arch::big(local_key + 1), 0}};
            for (std::size_t to = 0; to < n; ++to)
                for (unsigned c = 0; c < 2; ++c)
                    keys[pe].push_back({copy(static_cast<int>(to)), arch::big(remote_key + c), 0});
            views[pe] = {2,
                         2,
                         most,
                         0,
                         reinterpret_cast<std::uintptr_t>(chunks[pe].data()),
                         reinterpret_cast<std::uintptr_t>(keys[pe].data())};
            nics[pe] = {static_cast<unsigned>(job.npes),
                        1u << SHMEMX_NIC_IBGDA,
                        reinterpret_cast<std::uintptr_t>(paths.data()),
                        0,
                        reinterpret_cast<std::uintptr_t>(&views[pe]),
                        0,
                        0,
                        0,
                        0};
            job.states[pe].ways = {
                SHMEMX_NIC_IBGDA, 0, 0, each, reinterpret_cast<std::uintptr_t>(qps[pe]), 0, 0, 0, 0, 0,
                SHMEMX_NIC_IBGDA, 0};
            job.states[pe].nic = reinterpret_cast<std::uintptr_t>(&nics[pe]);
        }
        thread_ = std::thread([this] { run(); });
    }
    ~mini_nic()
    {
        stop_ = true;
        thread_.join();
        for (auto &q : queues) {
            std::free(q->wq);
            std::free(q->cq);
            std::free(q->answers);
        }
        for (shmemx_ibgda_qp *q : qps)
            std::free(q);
    }
    mini_nic(const mini_nic &) = delete;
    mini_nic &operator=(const mini_nic &) = delete;

    queue &at(int pe, int to, unsigned k = 0)
    {
        const unsigned each = job_.states[0].ways.qps;
        return *queues[static_cast<std::size_t>((pe * job_.npes + to)) * each + k];
    }
    /* What the owner has reserved is all executed. */
    bool drained(queue &q)
    {
        for (int i = 0; i < 5000; ++i) {
            if (q.seen.load() == __atomic_load_n(&q.qp->reserved, __ATOMIC_ACQUIRE))
                return true;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return false;
    }

    std::atomic<shmem::u64> immediates{0}; // the sum of all that came with a write
    std::atomic<bool> pauses{false};       // it lets others run between the last 8 bytes of 128 and the rest
    static constexpr std::size_t chunk_end = 512 << 10;
    static constexpr unsigned most = 4096; // bytes of a WQE
    std::vector<shmemx_device_ibgda> views;
    std::vector<shmemx_device_nic> nics;
    std::vector<unsigned char> paths;
    std::vector<std::vector<shmemx_ibgda_chunk>> chunks;
    std::vector<std::vector<shmemx_ibgda_key>> keys;
    std::vector<shmemx_ibgda_qp *> qps;
    std::vector<std::unique_ptr<queue>> queues;

  private:
    using u64 = shmem::u64;
    using u32 = shmem::u32;
    struct arch {
        static u32 big(u32 v)
        {
            return __builtin_bswap32(v);
        }
    };

    u64 copy(int pe) const
    {
        return reinterpret_cast<std::uintptr_t>(job_.memory) + scene::stride * static_cast<std::size_t>(pe);
    }
    void open(int pe, int to, unsigned k, shmemx_ibgda_qp &q, u64 first)
    {
        queues.push_back(std::make_unique<queue>());
        queue &mine = *queues.back();
        mine.qp = &q;
        mine.owner = pe;
        mine.wq = static_cast<unsigned char *>(std::aligned_alloc(64, depth_ * 64));
        mine.cq = static_cast<unsigned char *>(std::aligned_alloc(64, depth_ * 64));
        mine.answers = static_cast<unsigned char *>(std::aligned_alloc(64, (depth_ + 1) * 64));
        std::memset(mine.wq, 0xab, depth_ * 64);
        std::memset(mine.cq, 0xff, depth_ * 64);
        mine.slots.assign(2 * depth_, 0);
        mine.next = first;
        mine.seen = first;
        q.wq = reinterpret_cast<std::uintptr_t>(mine.wq);
        q.record = reinterpret_cast<std::uintptr_t>(&mine.record[SHMEMX_MLX5_RECORD_SEND]);
        q.uar = reinterpret_cast<std::uintptr_t>(&mine.uar);
        q.cq = reinterpret_cast<std::uintptr_t>(mine.cq);
        q.answers = reinterpret_cast<std::uintptr_t>(mine.answers);
        q.slots = reinterpret_cast<std::uintptr_t>(mine.slots.data());
        q.qpn = static_cast<u32>(queues.size() + 0x40) << 8;
        q.mask = depth_ - 1;
        for (q.log_cq = 0; 1u << q.log_cq < depth_;)
            ++q.log_cq;
        q.answers_key = arch::big(answers_key);
        q.pe = to;
        q.number = k;
        q.first_end = chunk_end;
        q.first_address = copy(to);
        q.first_key = arch::big(remote_key);
        q.first_local = arch::big(local_key);
        q.ready = q.done = q.reserved = q.rung = first;
    }

    /* ---- the NIC ---- */

    void run()
    {
        while (!stop_) {
            for (auto &q : queues)
                look(*q);
            std::this_thread::yield();
        }
    }
    void look(queue &q)
    {
        if (q.stalled)
            return;
        const u64 bell = __atomic_load_n(&q.uar, __ATOMIC_ACQUIRE);
        if (bell == 0)
            return;
        CHECK(arch::big(static_cast<u32>(bell >> 32)) == q.qp->qpn, "doorbell of queue pair 0x%x", q.qp->qpn);
        u32 index = arch::big(static_cast<u32>(bell)) >> 8 & 0xffff;
        if (q.error) // it takes the index from the record then
            index = arch::big(__atomic_load_n(&q.record[SHMEMX_MLX5_RECORD_SEND], __ATOMIC_ACQUIRE));
        const u32 ahead = (index - static_cast<u32>(q.next)) & 0xffff;
        if (ahead == 0 || ahead > depth_)
            return;
        ++q.doorbells;
        for (const u64 end = q.next + ahead; q.next < end;)
            step(q);
    }
    u32 word(const queue &q, u64 segment, unsigned i) const
    {
        const auto *p = reinterpret_cast<const u32 *>(q.wq + (segment % (depth_ * 4)) * 16) + i;
        return arch::big(__atomic_load_n(p, __ATOMIC_ACQUIRE));
    }
    u64 two(const queue &q, u64 segment, unsigned i) const
    {
        return static_cast<u64>(word(q, segment, i)) << 32 | word(q, segment, i + 1);
    }
    static void put_byte(void *to, unsigned char v)
    {
        __atomic_store_n(static_cast<unsigned char *>(to), v, __ATOMIC_RELEASE);
    }
    /* The last byte first: there is no order inside a request. */
    void move(u64 to, u64 from, u64 n) const
    {
        for (u64 i = n; i-- > 0;) {
            put_byte(reinterpret_cast<void *>(to + i),
                     __atomic_load_n(reinterpret_cast<unsigned char *>(from + i), __ATOMIC_ACQUIRE));
            if (pauses && i % 128 == 120)
                std::this_thread::yield();
        }
    }
    bool remote_ok(const queue &q, u64 address, u32 key, u64 n) const
    {
        const u64 offset = address - copy(q.qp->pe);
        return key == remote_key
                   ? offset + n <= chunk_end
                   : key == remote_key + 1 && offset >= chunk_end && offset + n <= scene::stride;
    }
    bool local_ok(const queue &q, u64 address, u32 key, u64 n) const
    {
        const u64 offset = address - copy(q.owner), answer = address - q.qp->answers;
        return key == answers_key ? answer + n <= (depth_ + 1) * 64
               : key == local_key
                   ? offset + n <= chunk_end
                   : key == local_key + 1 && offset >= chunk_end && offset + n <= scene::stride;
    }
    void step(queue &q)
    {
        const u64 at = q.next * 4;
        const u32 first = word(q, at, 0), opcode = first & 0xff, ds = word(q, at, 1) & 0x3f;
        CHECK((first >> 8 & 0xffff) == (q.next & 0xffff), "block %llu says that it is %u: it is not written",
              q.next, first >> 8 & 0xffff);
        CHECK(word(q, at, 1) >> 8 == q.qp->qpn >> 8 && ds != 0, "block %llu: qpn_ds 0x%x", q.next,
              word(q, at, 1));
        const u64 block = q.next;
        q.next += ds == 0 ? 1 : (ds + 3) / 4;
        ++q.executed;
        const u32 syndrome = q.error ? 0 : execute(q, at, opcode, first >> 24, ds);
        if (q.error) {
            entry(q, block, opcode, SHMEMX_MLX5_SYNDROME_FLUSHED, SHMEMX_MLX5_VENDOR_FLUSHED);
        } else if (syndrome != 0) {
            q.error = 1;
            entry(q, block, opcode, syndrome, 0x88);
        } else if (word(q, at, 2) & SHMEMX_MLX5_CE_ALWAYS) {
            entry(q, block, opcode, 0, 0);
        }
        q.seen = q.next;
    }
    u32 execute(queue &q, u64 at, u32 opcode, u32 opmod, u32 ds)
    {
        const u64 remote = two(q, at + 1, 0), local = two(q, at + ds - 1, 2);
        const u32 rkey = word(q, at + 1, 2), bytes = word(q, at + ds - 1, 0), lkey = word(q, at + ds - 1, 1);
        if (opcode == SHMEMX_MLX5_NOP)
            return 0;
        if (q.dead)
            return SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED;
        if (opcode == SHMEMX_MLX5_RDMA_WRITE && word(q, at + 2, 0) & SHMEMX_MLX5_INLINE) {
            const u32 n = word(q, at + 2, 0) & ~SHMEMX_MLX5_INLINE;
            CHECK(ds == 2 + (n + 4 + 15) / 16, "%u bytes inline in %u segments", n, ds);
            if (!remote_ok(q, remote, rkey, n))
                return SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS;
            for (u32 i = 0; i < n; ++i)
                put_byte(reinterpret_cast<void *>(remote + i),
                         static_cast<unsigned char>(word(q, at + 2 + (i + 4) / 16, (i + 4) % 16 / 4) >>
                                                    (24 - 8 * (i % 4))));
            return 0;
        }
        CHECK(bytes != 0 && bytes <= most, "WQE of %u bytes", bytes);
        if (!local_ok(q, local, lkey, bytes))
            return SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION;
        if (!remote_ok(q, remote, rkey, bytes))
            return SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS;
        if (opcode == SHMEMX_MLX5_RDMA_WRITE || opcode == SHMEMX_MLX5_RDMA_WRITE_IMM ||
            opcode == SHMEMX_MLX5_RDMA_READ) {
            CHECK(ds == 3, "opcode %u with %u segments", opcode, ds);
            if (opcode == SHMEMX_MLX5_RDMA_READ)
                move(local, remote, bytes);
            else
                move(remote, local, bytes);
            if (opcode == SHMEMX_MLX5_RDMA_WRITE_IMM)
                immediates.fetch_add(word(q, at, 3));
            return 0;
        }
        return atomic(q, at, opcode, opmod, ds, remote, local, bytes);
    }
    /* By hand, as the manual describes them: bits of a field, compared and swapped under masks, or added. */
    u32 atomic(queue &q, u64 at, u32 opcode, u32 opmod, u32 ds, u64 remote, u64 local, u32 bytes)
    {
        const bool wide = opmod != SHMEMX_MLX5_OPMOD_4;
        if (remote % bytes != 0 || bytes != (wide ? 8u : 4u))
            return SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST;
        const u64 ones = ~0ull;
        u64 a = two(q, at + 2, 0), b = two(q, at + 2, 2), mask = ones, compare_mask = ones;
        CHECK((opmod != 0) == (opcode >= SHMEMX_MLX5_ATOMIC_MASKED_CS), "opcode %u, opmod %u", opcode, opmod);
        if (opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS && wide)
            mask = two(q, at + 3, 0), compare_mask = two(q, at + 3, 2);
        if (opcode == SHMEMX_MLX5_ATOMIC_FA)
            b = 0;
        if (!wide) {
            mask = word(q, at + 2, 2), compare_mask = word(q, at + 2, 3);
            b = word(q, at + 2, 1), a = word(q, at + 2, 0);
        }
        CHECK(ds == (opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS && wide ? 5u : 4u), "atomic with %u segments",
              ds);
        const bool adds = opcode == SHMEMX_MLX5_ATOMIC_FA || opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA;
        u64 old, now;
        auto *p8 = reinterpret_cast<u64 *>(remote);
        auto *p4 = reinterpret_cast<u32 *>(remote);
        old = wide ? __atomic_load_n(p8, __ATOMIC_ACQUIRE) : __atomic_load_n(p4, __ATOMIC_ACQUIRE);
        if (adds) {
            now = 0;
            u64 carry = 0;
            for (unsigned i = 0; i < bytes * 8; ++i) {
                const u64 sum = (old >> i & 1) + (a >> i & 1) + carry;
                now |= (sum & 1) << i;
                carry = b >> i & 1 ? 0 : sum >> 1;
            }
        } else {
            now = ((old ^ b) & compare_mask) == 0 ? (old & ~mask) | (a & mask) : old;
        }
        if (wide) {
            __atomic_store_n(p8, now, __ATOMIC_RELEASE); // the NIC's thread is the only one that stores there
            __atomic_store_n(reinterpret_cast<u64 *>(local), old, __ATOMIC_RELEASE);
        } else {
            __atomic_store_n(p4, static_cast<u32>(now), __ATOMIC_RELEASE);
            __atomic_store_n(reinterpret_cast<u32 *>(local), arch::big(static_cast<u32>(old)),
                             __ATOMIC_RELEASE);
        }
        return 0;
    }
    void entry(queue &q, u64 block, u32 opcode, u32 syndrome, u32 vendor)
    {
        auto *e = reinterpret_cast<u32 *>(q.cq + (q.entries % depth_) * 64);
        const u32 owner = static_cast<u32>(q.entries / depth_ & 1);
        const u32 code = syndrome != 0 ? SHMEMX_MLX5_CQE_REQUEST_ERROR : SHMEMX_MLX5_CQE_REQUEST;
        __atomic_store_n(e + 13, syndrome << 24 | vendor << 16, __ATOMIC_RELAXED);
        __atomic_store_n(e + 14, arch::big(opcode << 24 | q.qp->qpn >> 8), __ATOMIC_RELAXED);
        __atomic_store_n(e + 15, arch::big(static_cast<u32>(block & 0xffff) << 16 | code << 4 | owner),
                         __ATOMIC_RELEASE);
        ++q.entries;
    }

    scene &job_;
    unsigned depth_;
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

#endif
