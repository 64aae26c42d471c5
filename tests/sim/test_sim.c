/* The software NIC's rules: queues, opcodes, completions, order, limits. Rule numbers are those of docs/software-nic.md. */
#include "scene.h"

static uint64_t seed = 1;
static uint64_t rnd(void) /* splitmix64 */
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* M1, M8: 4 blocks, over the wrap of 16-bit indices; the CQ's owner bit changes with each turn. */
static void wraps(void)
{
    begin((struct options){.blocks = 4, .log_cq = 1});
    for (unsigned i = 0; i < 33000; ++i) {
        /* two blocks each: inline data of 40 bytes passes the ring's end at odd indices */
        unsigned char data[40];
        memset(data, (int)i, sizeof data);
        struct wqe w = wqe(&a, SHMEMX_MLX5_RDMA_WRITE, 0, SIGNALLED);
        add_remote(&w, b.memory + i % 64 * 64, b.key);
        add_inline(&w, data, sizeof data);
        if (i == 0) { /* begin at an odd one */
            post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, 0));
            w.raw[2] = (unsigned char)a.head;
        }
        uint16_t index = post(&a, w);
        struct seen s;
        for (int n = 0; (s = next(&a)).opcode == -1 && n < 200000; ++n)
            (void)(sim_step(a.nic) | sim_step(b.nic));
        if (!CHECK(s.opcode == 0 && s.counter == index, "%u: opcode %d, counter %u not %u", i, s.opcode,
                   s.counter, index) ||
            !CHECK(memcmp(b.memory + i % 64 * 64, data, sizeof data) == 0, "%u: not what was written", i))
            break;
    }
    CHECK(a.head < 30000 && a.qp->fetched == a.head, "indices have not wrapped: %u", a.head);
    CHECK(a.nic->violations == 0, "%s", a.nic->violation);
    finish();
}

/* M2: what must stand in a control segment. */
static void control_segments(void)
{
    for (int i = 0; i < 8; ++i) {
        begin((struct options){0});
        struct wqe w = write_wqe(&a, &b, 0, 0, 64, 0);
        switch (i) {
        case 0: /* another index */
            w.raw[2] ^= 1;
            break;
        case 1: /* another queue pair */
            w.raw[6] ^= 1;
            break;
        case 2: /* no segments but the first */
            w.bytes = 16;
            break;
        case 3: /* no such opcode */
            w.raw[3] = 0x33;
            break;
        case 4: /* an atomic with the segments of a write */
            w.raw[3] = SHMEMX_MLX5_ATOMIC_FA;
            break;
        case 5: /* inline data that is longer than the element */
            sim_put_be32(w.raw + 32, 0x80000000u | 200);
            break;
        case 6: /* a read into inline data */
            w.raw[3] = SHMEMX_MLX5_RDMA_READ;
            sim_put_be32(w.raw + 32, 0x80000000u | 8);
            break;
        case 7: /* a masked atomic of no size */
            w.raw[3] = SHMEMX_MLX5_ATOMIC_MASKED_FA;
            add_data(&w, a.memory, 8, a.key);
            break;
        }
        uint16_t index = post(&a, w);
        run();
        CHECK(a.nic->violations == 1, "case %d: %d violations", i, (int)a.nic->violations);
        ERROR(&a, index, 0x02, 0x68);
        CHECK(a.qp->state == SIM_ERR, "case %d: state %s", i, sim_state_name(a.qp->state));
        CHECK(b.memory[0] == 1 && b.memory[1] == 8, "case %d: it has written", i);
        finish();
    }
}

/* M3: doorbells that come late, twice, or for several WQEs at once; the form of BlueFlame. */
static void doorbells(void)
{
    begin((struct options){0});
    struct wqe n = wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED);
    put(&a, &n);
    n = wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED);
    put(&a, &n);
    set_record(&a, 2);
    run();
    NOTHING(&a); /* the record alone starts nothing */
    ring_as(&a, 1 << 8, a.qp->number << 8);
    run();
    SUCCESS(&a, 0);
    NOTHING(&a); /* one was announced */
    ring_as(&a, 2 << 8, a.qp->number << 8);
    run();
    SUCCESS(&a, 1);
    ring_as(&a, 1 << 8, a.qp->number << 8); /* stale */
    run();
    ring_as(&a, 2 << 8, a.qp->number << 8); /* again */
    run();
    NOTHING(&a);
    CHECK(a.qp->producer == 2 && a.nic->violations == 0, "producer index %u", a.qp->producer);
    struct wqe w = write_wqe(&a, &b, 64, 128, 32, SIGNALLED);
    uint16_t index = put(&a, &w);
    set_record(&a, a.head);
    ring_as(&a, sim_be32(w.raw), sim_be32(w.raw + 4)); /* the beginning of the last WQE */
    run();
    SUCCESS(&a, index);
    ring_as(&a, 9 << 8, (a.qp->number ^ 5) << 8); /* of nobody here */
    run();
    CHECK(a.nic->violations == 1, "a doorbell for a queue pair that does not exist");
    finish();
}

/* Several queue pairs share a register: its last write hides others', whose records say it. */
static void shared_register(void)
{
    begin((struct options){0});
    struct sim_qp like = *a.qp;
    static _Atomic uint32_t record[2];
    static unsigned char ring2[512] __attribute__((aligned(64)));
    like.sq = ring2;
    like.record = record;
    like.user_index = 1;
    struct sim_qp *second = sim_qp_create(a.nic, &like);
    second->remote_lid = b.nic->lid;
    sim_qp_step(a.nic, second, SIM_INIT);
    sim_qp_step(a.nic, second, SIM_RTR);
    sim_qp_step(a.nic, second, SIM_RTS);
    struct wqe n = wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED), m = n;
    sim_put_be32(m.raw + 4, second->number << 8 | 1);
    memcpy(ring2, m.raw, 64);
    atomic_store(&record[1], __builtin_bswap32(1));
    post(&a, n); /* over the other's doorbell */
    run();
    SUCCESS(&a, 0);
    SUCCESS(&a, 0);
    NOTHING(&a);
    finish();
}

/* M5, M6, M7: each opcode moves what it says. */
static void opcodes(void)
{
    begin((struct options){.blocks = 16});
    uint16_t i = post(&a, write_wqe(&a, &b, 100, 1000, 300, SIGNALLED));
    run();
    SUCCESS(&a, i);
    CHECK(memcmp(b.memory + 1000, a.memory + 100, 300) == 0, "write");
    struct wqe w = write_wqe(&a, &b, 10, 2000, 7, SIGNALLED); /* two entries */
    add_data(&w, a.memory + 500, 20001, a.key);
    i = post(&a, w);
    run();
    SUCCESS(&a, i);
    CHECK(memcmp(b.memory + 2000, a.memory + 10, 7) == 0 &&
              memcmp(b.memory + 2007, a.memory + 500, 20001) == 0,
          "write of two entries");
    w = wqe(&a, SHMEMX_MLX5_RDMA_WRITE, 0, SIGNALLED); /* inline, two pieces, one of several blocks */
    add_remote(&w, b.memory + 30000, b.key);
    add_inline(&w, a.memory + 5, 3);
    add_inline(&w, a.memory + 900, 200);
    i = post(&a, w);
    run();
    SUCCESS(&a, i);
    CHECK(memcmp(b.memory + 30000, a.memory + 5, 3) == 0 &&
              memcmp(b.memory + 30003, a.memory + 900, 200) == 0,
          "inline");
    i = post(&a, read_wqe(&a, &b, 40000, 3, 20000, SIGNALLED));
    run();
    SUCCESS(&a, i);
    CHECK(memcmp(a.memory + 40000, b.memory + 3, 20000) == 0, "read");
    i = post(&a, write_wqe(&a, &b, 0, 0, 0, SIGNALLED)); /* of nothing */
    run();
    SUCCESS(&a, i);
    post_receive(&b, 50000, 4);
    w = write_wqe(&a, &b, 0, 60000, 100, 0);
    w.raw[3] = SHMEMX_MLX5_RDMA_WRITE_IMM;
    post(&a, w);
    run();
    NOTHING(&a); /* unsignalled */
    struct seen s = next_received(&b);
    CHECK(s.opcode == 1 && s.imm == 0x11223344 && s.bytes == 100 && s.counter == 0,
          "write with immediate: %d %x %u", s.opcode, s.imm, s.bytes);
    CHECK(memcmp(b.memory + 60000, a.memory, 100) == 0, "write with immediate");
    post_receive(&b, 50000, 5000);
    w = wqe(&a, SHMEMX_MLX5_SEND_IMM, 0, SIGNALLED);
    add_data(&w, a.memory + 1, 4999, a.key);
    i = post(&a, w);
    run();
    SUCCESS(&a, i);
    s = next_received(&b);
    CHECK(s.opcode == 3 && s.bytes == 4999 && s.imm == 0x11223344 && s.counter == 1, "send: %d %u", s.opcode,
          s.bytes);
    CHECK(memcmp(b.memory + 50000, a.memory + 1, 4999) == 0, "send");
    w = wqe(&a, SHMEMX_MLX5_DUMP, 0, SIGNALLED);
    add_data(&w, a.memory, 30000, a.key);
    i = post(&a, w);
    run();
    SUCCESS(&a, i);
    /* WAIT: for the next entry of this CQ, which another queue pair may make; here it must not come by itself */
    w = wqe(&a, SHMEMX_MLX5_WAIT, 0, SIGNALLED);
    sim_put_be32(w.raw + 24, a.rcq->produced + 1);
    sim_put_be32(w.raw + 28, a.rcq->number);
    w.bytes += 16;
    i = post(&a, w);
    run();
    NOTHING(&a);
    post_receive(&a, 100, 64);
    w = wqe(&b, SHMEMX_MLX5_SEND, 0, 0);
    add_inline(&w, "hello", 5);
    post(&b, w);
    run();
    SUCCESS(&a, i);
    CHECK(memcmp(a.memory + 100, "hello", 5) == 0, "send to the waiting one");
    CHECK(a.nic->violations + b.nic->violations == 0, "%s %s", a.nic->violation, b.nic->violation);
    finish();
}

/* M13: what atomics compute, by a description of its own: bit after bit. */
static uint64_t by_bits(unsigned opcode, unsigned bits, uint64_t old, const uint64_t o[4])
{
    uint64_t all = bits == 32 ? 0xffffffffu : ~0ull, result = 0, carry = 0;
    switch (opcode) {
    case SHMEMX_MLX5_ATOMIC_CS:
        return old == o[1] ? o[0] : old;
    case SHMEMX_MLX5_ATOMIC_FA:
        return (old + o[0]) & all;
    case SHMEMX_MLX5_ATOMIC_MASKED_CS:
        for (unsigned i = 0; i < bits; ++i)
            if ((o[3] >> i & 1) && (old >> i & 1) != (o[1] >> i & 1))
                return old;
        for (unsigned i = 0; i < bits; ++i)
            result |= ((o[2] >> i & 1) ? o[0] >> i & 1 : old >> i & 1) << i;
        return result;
    default:
        for (unsigned i = 0; i < bits; ++i) {
            uint64_t sum = (old >> i & 1) + (o[0] >> i & 1) + carry;
            result |= (sum & 1) << i;
            carry = (o[1] >> i & 1) ? 0 : sum >> 1;
        }
        return result;
    }
}

static void atomics(bool global)
{
    static const struct {
        unsigned opcode, opmod, bytes, words;
    } kinds[] = {{SHMEMX_MLX5_ATOMIC_CS, 0, 8, 2},        {SHMEMX_MLX5_ATOMIC_FA, 0, 8, 2},
                 {SHMEMX_MLX5_ATOMIC_MASKED_CS, 8, 4, 4}, {SHMEMX_MLX5_ATOMIC_MASKED_CS, 9, 8, 4},
                 {SHMEMX_MLX5_ATOMIC_MASKED_FA, 8, 4, 4}, {SHMEMX_MLX5_ATOMIC_MASKED_FA, 9, 8, 2}};
    begin((struct options){0});
    b.nic->global_atomics = global;
    for (unsigned n = 0; n < 300; ++n) {
        unsigned k = n % 6, bytes = kinds[k].bytes;
        uint64_t all = bytes == 4 ? 0xffffffffu : ~0ull, old = rnd() & all, operand[4], got = 0, now = 0;
        for (int i = 0; i < 4; ++i)
            operand[i] = (rnd() % 4 == 0 ? old : rnd() % 4 == 0 ? ~0ull : rnd() % 4 == 0 ? 0 : rnd()) & all;
        if (kinds[k].opcode == SHMEMX_MLX5_ATOMIC_FA)
            operand[1] = 0;
        if (kinds[k].opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA)
            operand[2] = operand[3] = 0;
        unsigned at = 8 * (n % 50) + (bytes == 4 ? n % 2 * 4 : 0);
        memset(b.memory + at / 8 * 8, 0x5a, 8);
        memcpy(b.memory + at, &old, bytes);
        struct wqe w = wqe(&a, kinds[k].opcode, kinds[k].opmod, SIGNALLED);
        add_remote(&w, b.memory + at, b.key);
        add_words(&w, bytes, kinds[k].words, operand);
        add_data(&w, a.memory + 512, bytes, a.key);
        uint16_t index = post(&a, w);
        run();
        SUCCESS(&a, index);
        memcpy(&got, a.memory + 512, bytes);
        got = bytes == 4 ? __builtin_bswap32((uint32_t)got) : got; /* 4 bytes come big-endian */
        memcpy(&now, b.memory + at, bytes);
        uint64_t want = by_bits(kinds[k].opcode, bytes * 8, old, operand);
        if (!CHECK(got == old && now == want,
                   "opcode 0x%x of %u bytes: old %llx, came %llx; became %llx, not %llx", kinds[k].opcode,
                   bytes, (unsigned long long)old, (unsigned long long)got, (unsigned long long)now,
                   (unsigned long long)want))
            break;
        CHECK(bytes == 8 || b.memory[at ^ 4] == 0x5a, "the neighbour has changed");
    }
    finish();
}

/* Against a processor of the host: a thread adds to the word that the NIC adds to. */
static _Atomic bool stop_adding;
static void *add_by_processor(void *word)
{
    uint64_t n = 0;
    for (; !atomic_load(&stop_adding) || n < 1000; ++n)
        __atomic_fetch_add((uint64_t *)word, 1, __ATOMIC_RELAXED);
    return (void *)(uintptr_t)n;
}

static void atomics_of_both(void)
{
    pthread_t thread;
    void *added;
    uint64_t word, done = 0;
    begin((struct options){.blocks = 16, .log_cq = 4});
    memset(b.memory, 0, 8);
    if (!CHECK(pthread_create(&thread, NULL, add_by_processor, b.memory) == 0, "a thread"))
        return;
    for (unsigned n = 0; n < 2000; ++n) {
        struct wqe w = wqe(&a, SHMEMX_MLX5_ATOMIC_FA, 0, SIGNALLED);
        add_remote(&w, b.memory, b.key);
        add_words(&w, 8, 2, (uint64_t[]){1ull << 40, 0});
        add_data(&w, a.memory, 8, a.key);
        post(&a, w);
        while (n + 1 - done > 10 || (n == 1999 && done < 2000)) {
            (void)(sim_step(a.nic) | sim_step(b.nic));
            while (next(&a).opcode == 0)
                done++;
        }
    }
    atomic_store(&stop_adding, true);
    pthread_join(thread, &added);
    memcpy(&word, b.memory, 8);
    CHECK(word >> 40 == 2000 && (word & ((1ull << 40) - 1)) == (uint64_t)(uintptr_t)added,
          "added %llu and %llu, there are %llx", 2000ull, (unsigned long long)(uintptr_t)added,
          (unsigned long long)word);
    finish();
}

/* M8: a collapsed CQ: each entry in place 0. */
static void collapsed(void)
{
    begin((struct options){.collapsed = true, .ignore_overrun = true});
    for (unsigned n = 0; n < 40; ++n) {
        uint16_t index = post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED));
        run();
        unsigned counter = (unsigned)(a.cqes[60] << 8 | a.cqes[61]);
        CHECK(a.cqes[63] >> 4 == 0 && counter == index, "entry %u: opcode %d, counter %u", n, a.cqes[63] >> 4,
              counter);
        CHECK(a.cqes[64 + 63] == 0xff, "place 1 was written");
    }
    finish();
}

/* M14: one queue pair's writes and atomics land in order; a read's answer may come after later writes have begun,
 * but not where they are fenced. */
static void order(void)
{
    for (int fenced = 0; fenced < 2; ++fenced) {
        begin((struct options){0});
        run();
        struct wqe r = read_wqe(&a, &b, 0, 0, 64, 0);
        put(&a, &r);
        post(&a, write_wqe(&a, &b, 8192, 128, 64, SIGNALLED | (fenced ? SHMEMX_MLX5_FENCE_SMALL : 0)));
        memset(b.memory + 128, 0, 64);
        (void)sim_step(a.nic);
        for (int i = 0; i < 3; ++i) { /* b alone: it has what a has sent so far */
            usleep(100);
            (void)sim_step(b.nic);
        }
        bool landed = memcmp(b.memory + 128, a.memory + 8192, 64) == 0;
        CHECK(landed == !fenced, "fenced %d: the write has%s landed before the read's answer", fenced,
              landed ? "" : " not");
        run();
        SUCCESS(&a, 1);
        CHECK(memcmp(a.memory, b.memory, 64) == 0, "the read");
        finish();
    }
    /* thousands of writes and adds to two words: whoever sees the add sees the writes before it */
    begin((struct options){.blocks = 64, .log_cq = 6});
    uint64_t done = 0;
    memset(b.memory, 0, 16);
    for (unsigned n = 1; n < 1000; ++n) {
        memcpy(a.memory + n % 64 * 8, &(uint64_t){n}, 8);
        struct wqe w = write_wqe(&a, &b, n % 64 * 8, 0, 8, 0);
        put(&a, &w);
        w = wqe(&a, SHMEMX_MLX5_ATOMIC_FA, 0, SIGNALLED);
        add_remote(&w, b.memory + 8, b.key);
        add_words(&w, 8, 2, (uint64_t[]){1, 0});
        add_data(&w, a.memory + 4096, 8, a.key);
        post(&a, w);
        while (n - done > 20) {
            (void)(sim_step(a.nic) | sim_step(b.nic));
            uint64_t word[2];
            memcpy(word, b.memory, 16);
            CHECK(word[0] == word[1] || word[0] == word[1] + 1, "written %llu, added %llu",
                  (unsigned long long)word[0], (unsigned long long)word[1]);
            while (next(&a).opcode == 0)
                done++;
        }
    }
    finish();
}

/* M16: so many reads and atomics under way, no more. */
static void reads_under_way(void)
{
    begin((struct options){.log_reads = 1, .log_served = 1, .blocks = 16});
    for (unsigned i = 0; i < 6; ++i) {
        struct wqe r = read_wqe(&a, &b, 1000 * i, 1000 * i, 900, i == 5 ? SIGNALLED : 0);
        put(&a, &r);
    }
    ring(&a);
    (void)sim_step(a.nic);
    CHECK(a.qp->reads == 2, "%u reads are under way", a.qp->reads);
    run();
    SUCCESS(&a, 5);
    CHECK(memcmp(a.memory, b.memory, 900) == 0 && memcmp(a.memory + 5000, b.memory + 5000, 900) == 0,
          "reads");
    finish();
}

/* Unreliable datagrams: 40 bytes of a header that says who; lost where no receive waits, or with another key. */
static void datagrams(void)
{
    begin((struct options){.ud = true});
    for (int i = 0; i < 3; ++i) {
        if (i)
            post_receive(&b, 1024, 200);
        struct shmemx_mlx5_av av = {.qkey = __builtin_bswap32(i == 1 ? 78 : 77),
                                    .qpn = __builtin_bswap32(b.qp->number | 1u << 31),
                                    .lid = {(unsigned char)(b.nic->lid >> 8), (unsigned char)b.nic->lid}};
        struct wqe w = wqe(&a, SHMEMX_MLX5_SEND, 0, SIGNALLED);
        memcpy(w.raw + 16, &av, sizeof av);
        w.bytes = 64;
        add_inline(&w, "datagram", 8);
        uint16_t index = post(&a, w);
        run();
        SUCCESS(&a, index);
        struct seen s = next_received(&b);
        CHECK(s.opcode == (i == 2 ? 2 : -1) && (i != 2 || s.bytes == 48), "datagram %d: opcode %d, %u bytes",
              i, s.opcode, s.bytes);
    }
    CHECK(memcmp(b.memory + 1024 + 40, "datagram", 8) == 0, "datagram");
    finish();
}

/* M15: memory with relaxed ordering has its bytes by the time of the entry, in whichever order. */
static void relaxed(void)
{
    begin((struct options){0});
    uint32_t key = sim_key_create(b.nic, PD, (uint64_t)(uintptr_t)b.memory, MEMORY,
                                  ALL_ACCESS | IBV_ACCESS_RELAXED_ORDERING, false);
    for (unsigned n = 1; n < 2000; n = n * 2 + 1) {
        struct wqe w = wqe(&a, SHMEMX_MLX5_RDMA_WRITE, 0, SIGNALLED);
        add_remote(&w, b.memory + 3, key);
        add_data(&w, a.memory + n, n, a.key);
        memset(b.memory, 0xee, 4096);
        uint16_t index = post(&a, w);
        run();
        SUCCESS(&a, index);
        CHECK(memcmp(b.memory + 3, a.memory + n, n) == 0 && b.memory[2] == 0xee && b.memory[3 + n] == 0xee,
              "%u bytes in relaxed order", n);
    }
    finish();
}

/* M1: the deepest queue, full. That one index is 2^15 ahead of another is no less than none, for doorbells over the wrap, for
 * a record in the error state, and for receives. */
static void deepest(void)
{
    const unsigned all = 1u << SIM_LOG_MOST_DEPTH;
    struct options o = {.blocks = all, .ignore_overrun = true};
    begin(o);
    for (unsigned turn = 1; turn <= 3; ++turn) {
        for (unsigned i = 1; i <= all; ++i) {
            struct wqe w = wqe(&a, SHMEMX_MLX5_NOP, 0, i == all ? SIGNALLED : 0);
            put(&a, &w);
        }
        ring(&a);
        run();
        SUCCESS(&a, turn * all - 1);
    }
    sim_qp_step(a.nic, a.qp, SIM_ERR);
    uint32_t before = a.cq->produced;
    for (unsigned i = 0; i < all; ++i) {
        struct wqe w = wqe(&a, SHMEMX_MLX5_NOP, 0, 0);
        put(&a, &w);
    }
    set_record(&a, a.head);
    run();
    CHECK(a.cq->produced - before == all, "%u of %u blocks are flushed", a.cq->produced - before, all);
    CHECK(a.nic->violations == 0, "%s", a.nic->violation);
    finish();
    begin((struct options){0});
    post_receive(&b, 0, 8);
    atomic_store(&b.record[0], __builtin_bswap32(all));
    struct wqe w = wqe(&a, SHMEMX_MLX5_SEND, 0, SIGNALLED);
    add_data(&w, a.memory, 8, a.key);
    uint16_t index = post(&a, w);
    run();
    SUCCESS(&a, index);
    finish();
}

/* The machine of states. */
static void states(void)
{
    struct options o = {0};
    open_end(&a, &o);
    static const struct {
        enum sim_state from, to;
        bool works;
    } steps[] = {{SIM_RESET, SIM_RTR, false}, {SIM_RESET, SIM_RTS, false}, {SIM_RESET, SIM_INIT, true},
                 {SIM_INIT, SIM_RTS, false},  {SIM_INIT, SIM_INIT, true},  {SIM_INIT, SIM_RTR, true},
                 {SIM_RTR, SIM_INIT, false},  {SIM_RTR, SIM_RTS, true},    {SIM_RTS, SIM_RTR, false},
                 {SIM_RTS, SIM_ERR, true},    {SIM_ERR, SIM_RTS, false},   {SIM_ERR, SIM_INIT, false},
                 {SIM_ERR, SIM_RESET, true}};
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; ++i) {
        CHECK(a.qp->state == steps[i].from, "step %u: in state %s", i, sim_state_name(a.qp->state));
        CHECK(sim_qp_step(a.nic, a.qp, steps[i].to) == steps[i].works, "%s to %s",
              sim_state_name(steps[i].from), sim_state_name(steps[i].to));
    }
    close_end(&a);
    /* a reset queue pair begins anew, at 0 */
    begin(o);
    post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, 0));
    run();
    sim_qp_step(a.nic, a.qp, SIM_RESET);
    sim_qp_step(b.nic, b.qp, SIM_RESET);
    a.head = 0;
    set_record(&a, 0);
    connect_end(&a, &b, &o);
    connect_end(&b, &a, &o);
    uint16_t index = post(&a, write_wqe(&a, &b, 0, 8, 8, SIGNALLED));
    run();
    SUCCESS(&a, index);
    finish();
}

int main(void)
{
    wraps();
    control_segments();
    doorbells();
    shared_register();
    opcodes();
    atomics(true);
    atomics(false);
    atomics_of_both();
    collapsed();
    order();
    reads_under_way();
    datagrams();
    relaxed();
    deepest();
    states();
    return check_done();
}
