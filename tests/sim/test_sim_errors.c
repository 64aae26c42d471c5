/* The software NIC's rules: errors, with their exact codes, and what follows them; limits; faults on demand. */
#include "scene.h"

static void bad_keys(void)
{
    static const struct {
        const char *what;
        unsigned opcode, syndrome, vendor;
        unsigned at, n;              /* of the remote side */
        bool lkey, rkey, pd, access; /* what is wrong */
    } cases[] = {
        {"local key", SHMEMX_MLX5_RDMA_WRITE, 0x04, 0x51, 0, 8, true, false, false, false},
        {"local key of a read", SHMEMX_MLX5_RDMA_READ, 0x04, 0x51, 0, 8, true, false, false, false},
        {"remote key", SHMEMX_MLX5_RDMA_WRITE, 0x13, 0x88, 0, 8, false, true, false, false},
        {"remote key of a read", SHMEMX_MLX5_RDMA_READ, 0x13, 0x88, 0, 8, false, true, false, false},
        {"range", SHMEMX_MLX5_RDMA_WRITE, 0x13, 0x88, MEMORY - 4, 8, false, false, false, false},
        {"range of a read", SHMEMX_MLX5_RDMA_READ, 0x13, 0x88, MEMORY - 4, 8, false, false, false, false},
        {"range far away", SHMEMX_MLX5_RDMA_WRITE, 0x13, 0x88, 0x70000000, 8, false, false, false, false},
        {"domain", SHMEMX_MLX5_RDMA_WRITE, 0x13, 0x88, 0, 8, false, false, true, false},
        {"access", SHMEMX_MLX5_RDMA_WRITE, 0x13, 0x88, 0, 8, false, false, false, true},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; ++i) {
        begin((struct options){0});
        uint32_t rkey = b.key;
        if (cases[i].pd)
            rkey = sim_key_create(b.nic, PD + 1, (uint64_t)(uintptr_t)b.memory, MEMORY, ALL_ACCESS, false);
        if (cases[i].access)
            rkey = sim_key_create(b.nic, PD, (uint64_t)(uintptr_t)b.memory, MEMORY, IBV_ACCESS_REMOTE_READ,
                                  false);
        struct wqe w = wqe(&a, cases[i].opcode, 0, 0); /* an error always has an entry */
        add_remote(&w, b.memory + cases[i].at, cases[i].rkey ? rkey ^ 0x100 : rkey);
        add_data(&w, a.memory, cases[i].n, cases[i].lkey ? a.key + 1 : a.key);
        uint16_t before = post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED));
        w.raw[2] = (unsigned char)a.head;
        uint16_t index = post(&a, w);
        run();
        SUCCESS(&a, before);
        struct seen s = next(&a);
        CHECK(s.opcode == 13 && s.syndrome == cases[i].syndrome && s.vendor == cases[i].vendor &&
                  s.counter == index,
              "%s: opcode %d, syndrome 0x%x, vendor 0x%x", cases[i].what, s.opcode, s.syndrome, s.vendor);
        CHECK(a.qp->state == SIM_ERR, "%s: state %s", cases[i].what, sim_state_name(a.qp->state));
        finish();
    }
}

static void given_back_keys(void)
{
    begin((struct options){0});
    uint16_t index = post(&a, write_wqe(&a, &b, 0, 0, 8, SIGNALLED));
    run();
    SUCCESS(&a, index);
    sim_key_destroy(b.nic, b.key);
    index = post(&a, write_wqe(&a, &b, 0, 0, 8, SIGNALLED));
    run();
    ERROR(&a, index, 0x13, 0x88);
    CHECK(!sim_key_destroy(b.nic, b.key), "a key was given back twice");
    finish();
}

static void bad_atomics(void)
{
    for (int i = 0; i < 4; ++i) {
        begin((struct options){0});
        b.qp->remote_atomic = i != 2;
        unsigned at = i == 0 ? 4 : i == 1 ? 2 : 0, bytes = i == 1 ? 4 : 8;
        struct wqe w =
            wqe(&a, bytes == 4 ? SHMEMX_MLX5_ATOMIC_MASKED_FA : SHMEMX_MLX5_ATOMIC_FA, bytes == 4 ? 8 : 0, 0);
        add_remote(&w, b.memory + at, b.key);
        add_words(&w, bytes, bytes == 4 ? 4 : 2, (uint64_t[]){1, 0, 0, 0});
        add_data(&w, a.memory, i == 3 ? 4 : bytes, a.key);
        uint16_t index = post(&a, w);
        run();
        if (i < 2)
            ERROR(&a, index, 0x12, 0x8a); /* misaligned */
        else if (i == 2)
            ERROR(&a, index, 0x12, 0); /* not enabled */
        else
            ERROR(&a, index, 0x01, 0x68); /* its data segment has another size */
        finish();
    }
}

/* M9: the record says what is flushed, signalled or not, and whenever it rises. M11: doorbells do nothing any more. */
static void flushes(void)
{
    begin((struct options){.blocks = 16, .log_cq = 4});
    struct wqe w = write_wqe(&a, &b, 0, 64, 8, 0);
    put(&a, &w);
    w = write_wqe(&a, &b, 0, 0, 8, 0);
    sim_put_be32(w.raw + 24, 0xdead00);
    uint16_t cause = put(&a, &w);
    for (int i = 0; i < 3; ++i) { /* one of them of two blocks */
        w = wqe(&a, SHMEMX_MLX5_RDMA_WRITE, 0, i == 1 ? SIGNALLED : 0);
        add_remote(&w, b.memory + 128, b.key);
        add_inline(&w, a.memory, i == 0 ? 60 : 8);
        put(&a, &w);
    }
    ring(&a);
    set_record(&a, (uint16_t)(cause + 3)); /* the record knows of one less than the register */
    memset(b.memory + 128, 0, 8);
    run();
    ERROR(&a, cause, 0x13, 0x88);
    ERROR(&a, cause + 1, 0x05, 0xf9);
    NOTHING(&a);
    set_record(&a, (uint16_t)(cause + 5));
    run();
    ERROR(&a, cause + 3, 0x05, 0xf9);
    ERROR(&a, cause + 4, 0x05, 0xf9);
    NOTHING(&a);
    w = write_wqe(&a, &b, 0, 128, 8, SIGNALLED);
    put(&a, &w);
    ring_as(&a, (uint32_t)a.head << 8, a.qp->number << 8); /* without record */
    run();
    NOTHING(&a);
    set_record(&a, a.head);
    run();
    ERROR(&a, cause + 5, 0x05, 0xf9);
    CHECK(b.memory[129] == 0 && memcmp(b.memory + 64, a.memory, 8) == 0,
          "what stands before the cause has landed, alone");
    finish();
    /* by command, with a message on its way and receives posted */
    begin((struct options){0});
    post_receive(&a, 0, 8);
    post_receive(&a, 8, 8);
    uint16_t index = post(&a, write_wqe(&a, &b, 0, 0, 8, 0));
    (void)sim_step(a.nic);
    sim_qp_step(a.nic, a.qp, SIM_ERR);
    run();
    ERROR(&a, index, 0x05, 0xf9);
    for (uint16_t i = 0; i < 2; ++i) {
        struct seen s = next_received(&a);
        CHECK(s.opcode == 14 && s.syndrome == 0x05 && s.vendor == 0xf9 && s.counter == i,
              "receive %u: %d 0x%x", i, s.opcode, s.syndrome);
    }
    finish();
}

/* The record's other word: an error's own entry comes, the rest is silence, and no success. */
static void wrong_word(void)
{
    begin((struct options){0});
    struct wqe w = write_wqe(&a, &b, 0, 0, 8, 0);
    sim_put_be32(w.raw + 24, 0xdead00);
    put(&a, &w);
    w = write_wqe(&a, &b, 0, 0, 8, SIGNALLED);
    put(&a, &w);
    atomic_store(&a.record[0], __builtin_bswap32(a.head));
    ring_as(&a, (uint32_t)a.head << 8, a.qp->number << 8);
    run();
    ERROR(&a, 0, 0x13, 0x88);
    NOTHING(&a);
    finish();
}

/* RNR: the receiver has nothing posted; sent again, with all behind it, in order; or given up. */
static void receiver_not_ready(void)
{
    begin((struct options){.rnr_retries = 7, .blocks = 16, .log_cq = 4});
    for (int i = 0; i < 3; ++i) {
        struct wqe w = wqe(&a, SHMEMX_MLX5_SEND, 0, i == 2 ? SIGNALLED : 0);
        add_inline(&w, &"abc"[i], 1);
        put(&a, &w);
        w = read_wqe(&a, &b, 600 + 8 * (unsigned)i, 64, 8, 0);
        put(&a, &w);
    }
    ring(&a);
    run_for(0.002);
    NOTHING(&a);
    for (unsigned i = 0; i < 3; ++i)
        post_receive(&b, 100 + i, 1);
    run_to_entry(&a);
    SUCCESS(&a, 4);
    CHECK(memcmp(b.memory + 100, "abc", 3) == 0, "sends after RNR: %.3s", (const char *)b.memory + 100);
    CHECK(a.qp->reads == 0 && memcmp(a.memory + 616, b.memory + 64, 8) == 0, "reads behind them");
    finish();
    begin((struct options){.rnr_retries = 2});
    struct wqe w = wqe(&a, SHMEMX_MLX5_SEND, 0, 0);
    add_inline(&w, "x", 1);
    uint16_t index = post(&a, w);
    run_to_entry(&a);
    ERROR(&a, index, 0x16, 0x87);
    finish();
    /* a message that is longer than its receive: both ends say so */
    begin((struct options){0});
    post_receive(&b, 0, 4);
    w = wqe(&a, SHMEMX_MLX5_SEND, 0, 0);
    add_inline(&w, "longer", 6);
    index = post(&a, w);
    run();
    ERROR(&a, index, 0x12, 0);
    struct seen s = next_received(&b);
    CHECK(s.opcode == 14 && s.syndrome == 0x01, "receive too short: %d 0x%x", s.opcode, s.syndrome);
    finish();
}

static void peer_is_silent(void)
{
    begin((struct options){.ack_timeout = 8}); /* 1 ms, and once again */
    uint16_t index = post(&a, write_wqe(&a, &b, 0, 0, 8, 0));
    struct wqe w = write_wqe(&a, &b, 0, 0, 8, 0);
    put(&a, &w);
    ring(&a);
    for (int i = 0; i < 100 && a.qp->state == SIM_RTS; ++i) {
        (void)sim_step(a.nic); /* b does nothing */
        usleep(100);
    }
    ERROR(&a, index, 0x15, 0x81);
    (void)sim_step(a.nic);
    ERROR(&a, index + 1, 0x05, 0xf9);
    finish();
    /* there is none; or it has gone */
    for (int gone = 0; gone < 2; ++gone) {
        begin((struct options){.ack_timeout = 8});
        if (gone)
            close_end(&b);
        else
            a.qp->remote_lid ^= 1; /* of no NIC, hopefully */
        index = post(&a, write_wqe(&a, &a, 0, 0, 8, 0));
        for (int i = 0; i < 200 && a.qp->state == SIM_RTS; ++i) {
            (void)sim_step(a.nic);
            usleep(100);
        }
        ERROR(&a, index, 0x15, 0x81);
        close_end(&a);
        if (!gone)
            close_end(&b);
    }
    /* sequence numbers that do not match: it does not listen */
    begin((struct options){.ack_timeout = 8});
    b.qp->expected = 5;
    index = post(&a, write_wqe(&a, &b, 0, 0, 8, 0));
    run_to_entry(&a);
    ERROR(&a, index, 0x15, 0x81);
    finish();
}

/* M16 */
static void limits(void)
{
    begin((struct options){0}); /* a message of over 1 GiB */
    struct wqe w = write_wqe(&a, &b, 0, 0, (1u << 30) + 1, 0);
    uint16_t index = post(&a, w);
    run();
    ERROR(&a, index, 0x01, 0x68);
    finish();
    begin((struct options){0}); /* more blocks than the queue has */
    for (int i = 0; i < 9; ++i) {
        w = wqe(&a, SHMEMX_MLX5_NOP, 0, 0);
        put(&a, &w);
    }
    ring(&a);
    run();
    CHECK(a.nic->violations == 1 && a.qp->state == SIM_ERR, "an overrun send queue: %s",
          sim_state_name(a.qp->state));
    finish();
    begin((struct options){.log_cq = 1}); /* more entries than the CQ has, none consumed */
    for (int i = 0; i < 3; ++i) {
        w = wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED);
        put(&a, &w);
    }
    ring(&a);
    run();
    CHECK(a.nic->violations == 1 && a.cq->overrun && a.qp->state == SIM_ERR, "an overrun CQ");
    SUCCESS(&a, 0);
    SUCCESS(&a, 1);
    finish();
    begin((struct options){.log_cq = 1, .ignore_overrun = true}); /* asked for */
    for (int i = 0; i < 3; ++i) {
        w = wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED);
        put(&a, &w);
    }
    ring(&a);
    run();
    CHECK(a.nic->violations == 0 && a.qp->state == SIM_RTS && a.cq->produced == 3,
          "a CQ that may be overrun");
    finish();
    /* more reads under way than the peer serves */
    begin((struct options){.log_reads = 3, .log_served = 1});
    for (int i = 0; i < 5; ++i) {
        w = read_wqe(&a, &b, 0, 0, 8, 0);
        put(&a, &w);
    }
    ring(&a);
    run();
    ERROR(&a, 2, 0x12, 0);
    finish();
}

/* M18 */
static void faults(void)
{
    struct sim_faults f;
    CHECK(sim_faults_read(&f, "nak=3,nak_syndrome=0x13,slow_cqe_us=100") == 0 && f.nak == 3 &&
              f.nak_syndrome == 0x13 && f.slow_cqe_us == 100,
          "reading faults");
    CHECK(sim_faults_read(&f, "") == 0 && sim_faults_read(&f, "nak") == 1 &&
              sim_faults_read(&f, "nak=2,no=1") == 7 && sim_faults_read(&f, "stall=x") == 1,
          "reading wrong faults");
    begin((struct options){0});
    a.nic->faults.nak = 2;
    for (int i = 0; i < 3; ++i) {
        struct wqe w = write_wqe(&a, &b, 0, 0, 8, SIGNALLED);
        put(&a, &w);
    }
    ring(&a);
    run();
    SUCCESS(&a, 0);
    ERROR(&a, 1, 0x14, 0);
    ERROR(&a, 2, 0x05, 0xf9);
    finish();

    begin((struct options){0});
    a.nic->keys_made = 0;
    a.nic->faults.no_key = 2;
    uint32_t keys[3];
    for (int i = 0; i < 3; ++i)
        keys[i] = sim_key_create(a.nic, PD, 4096, 4096, ALL_ACCESS, false);
    CHECK(keys[0] && !keys[1] && !keys[2], "keys 0x%x, 0x%x, 0x%x", keys[0], keys[1], keys[2]);
    finish();

    begin((struct options){0});
    a.nic->faults.drop_doorbell = 1;
    post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED));
    run();
    NOTHING(&a);
    post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED)); /* the next one says both */
    run();
    SUCCESS(&a, 0);
    SUCCESS(&a, 1);
    finish();

    begin((struct options){0});
    a.nic->faults.delay_doorbell_us = 20000;
    post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED));
    (void)(sim_step(a.nic) | sim_step(a.nic));
    NOTHING(&a);
    run_to_entry(&a);
    SUCCESS(&a, 0);
    a.nic->faults.delay_doorbell_us = 0;
    a.nic->faults.slow_cqe_us = 20000;
    post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED));
    (void)(sim_step(a.nic) | sim_step(a.nic));
    NOTHING(&a);
    run_to_entry(&a);
    SUCCESS(&a, 1);
    finish();

    begin((struct options){0});
    a.nic->faults.late_us = 20000;
    a.nic->random = 1; /* or all eight begin alike once in 128 runs */
    unsigned late = 0;
    for (unsigned i = 0; i < 8;
         ++i) { /* each when the one before is done: some begin late, and read the source late */
        a.memory[0] = (unsigned char)i;
        post(&a, write_wqe(&a, &b, 0, i, 1, SIGNALLED));
        (void)(sim_step(a.nic) | sim_step(a.nic));
        a.memory[0] = 99;
        run_to_entry(&a);
        SUCCESS(&a, i);
        CHECK(b.memory[i] == i || b.memory[i] == 99, "write %u brought %u", i, b.memory[i]);
        late += b.memory[i] == 99;
    }
    CHECK(late > 0 && late < 8, "%u of 8 began late", late);
    finish();

    begin((struct options){0});
    a.nic->faults.stall = 2;
    for (int i = 0; i < 2; ++i)
        post(&a, wqe(&a, SHMEMX_MLX5_NOP, 0, SIGNALLED));
    run_for(0.002);
    CHECK(a.cq->produced == 1 && a.qp->stalled, "a stalled queue pair: %u entries", a.cq->produced);
    finish();

    begin((struct options){0});
    b.nic->faults.deaf = 2;
    a.nic->faults.retry_ms = 3;
    uint16_t index = post(&a, write_wqe(&a, &b, 0, 0, 8, SIGNALLED));
    run();
    SUCCESS(&a, index);
    index = post(&a, write_wqe(&a, &b, 0, 0, 8, SIGNALLED));
    run_to_entry(&a);
    ERROR(&a, index, 0x15, 0x81);
    finish();

    begin((struct options){.blocks = 64, .log_cq = 6});
    a.nic->faults.reorder = 5;
    for (unsigned i = 0; i < 50; ++i) {
        memcpy(a.memory + 8 * i, &(uint64_t){i}, 8);
        struct wqe w = write_wqe(&a, &b, 8 * i, 0, 8, SIGNALLED);
        put(&a, &w);
    }
    ring(&a);
    for (unsigned i = 0; i < 50; ++i) {
        run_to_entry(&a);
        SUCCESS(&a, i);
    }
    CHECK(b.memory[0] == 49, "the last write is not the last: %u", b.memory[0]);
    finish();
}

/* M14, M18: in which order one NIC serves several queue pairs, which all have work. turn[i] = the i-th that was served. */
enum { LANES = 4, TURNS = 8 };
static void serve(const char *setting, unsigned turn[TURNS * LANES])
{
    static struct end lane[LANES];
    struct options o = {.log_cq = 4};
    setenv("SHMEM_SIM_FAULTS", setting, 1);
    begin(o);
    unsetenv("SHMEM_SIM_FAULTS");
    for (unsigned i = 0; i < LANES; ++i) {
        lane[i] = a;
        lane[i].sq = aligned_alloc(64, a.blocks * 64);
        lane[i].uar = sim_uar_create(a.nic, false);
        struct sim_qp q = *a.qp;
        q.uar = lane[i].uar;
        q.sq = lane[i].sq;
        q.record = lane[i].record;
        lane[i].qp = sim_qp_create(a.nic, &q);
        connect_end(&lane[i], &b, &o);
    }
    for (unsigned n = 0; n < TURNS; ++n) {
        unsigned entries[LANES] = {0}, served = 0, all = 2 * LANES;
        for (unsigned i = 0; i < LANES; ++i) {
            post(&lane[i], wqe(&lane[i], SHMEMX_MLX5_NOP, 0, SIGNALLED));
            post(&lane[i], wqe(&lane[i], SHMEMX_MLX5_NOP, 0, SIGNALLED));
        }
        for (int steps = 0; all && steps < 10000; ++steps) {
            (void)sim_step(a.nic);
            const unsigned char *cqe = a.cqes + (a.consumed & 15) * 64;
            for (struct seen s; all && (s = next(&a)).opcode == 0;
                 --all, cqe = a.cqes + (a.consumed & 15) * 64) {
                unsigned i = 0;
                while (i + 1 < LANES && lane[i].qp->number != (sim_be32(cqe + 56) & 0xffffff))
                    ++i;
                CHECK(s.counter == 2 * n + entries[i], "%s: queue pair %u, block %u after %u of this turn",
                      setting, i, s.counter, entries[i]);
                if (entries[i]++ == 0)
                    turn[n * LANES + served++] = i;
            }
        }
        CHECK(served == LANES && all == 0, "%s: %u queue pairs had a turn, %u entries are missing", setting,
              served, all);
    }
    finish();
    for (unsigned i = 0; i < LANES; ++i)
        free(lane[i].sq);
}

static void turns_at_random(void)
{
    unsigned plain[TURNS * LANES] = {0}, five[TURNS * LANES] = {0}, again[TURNS * LANES] = {0},
                           six[TURNS * LANES] = {0};
    serve("", plain);
    serve("reorder=5", five);
    serve("reorder=5", again);
    serve("reorder=6", six);
    for (unsigned n = 1; n < TURNS; ++n)
        CHECK(memcmp(plain, plain + n * LANES, sizeof *plain * LANES) == 0,
              "without a fault turn %u is another one", n);
    CHECK(memcmp(plain, five, sizeof plain) != 0 && memcmp(plain, six, sizeof plain) != 0,
          "queue pairs are served as without the fault");
    CHECK(memcmp(five, six, sizeof five) != 0, "two seeds make the same order");
    CHECK(memcmp(five, again, sizeof five) == 0, "the same seed makes another order");
}

/* M19: what the trace holds of one write. */
static void trace(void)
{
    char path[] = "/tmp/sim-trace-XXXXXX", name[64];
    int fd = mkstemp(path);
    snprintf(name, sizeof name, "%s.%d", path, (int)getpid());
    setenv("SHMEM_SIM_TRACE", path, 1);
    struct options o = {0};
    open_end(&a, &o);
    unsetenv("SHMEM_SIM_TRACE");
    open_end(&b, &o);
    connect_end(&a, &b, &o);
    connect_end(&b, &a, &o);
    post(&a, write_wqe(&a, &b, 0, 0, 8, SIGNALLED));
    run();
    uint32_t number = a.qp->number;
    finish();
    FILE *file = fopen(name, "rb");
    struct sim_trace_header h;
    struct sim_trace_record r;
    unsigned seen[16] = {0};
    uint64_t before = 0;
    CHECK(file && fread(&h, sizeof h, 1, file) == 1 && memcmp(h.magic, SIM_TRACE_MAGIC, 8) == 0 &&
              h.version == 1,
          "the trace's header");
    while (file && fread(&r, sizeof r, 1, file) == 1) {
        unsigned char body[2048];
        CHECK(r.bytes <= sizeof body && fread(body, (r.bytes + 7u) / 8 * 8, 1, file) == 1,
              "a record of %u bytes", r.bytes);
        CHECK(r.time_ns >= before && r.kind && r.kind < 16, "record of kind %u", r.kind);
        before = r.time_ns;
        seen[r.kind % 16]++;
        if (r.kind == SIM_TRACE_WQE)
            CHECK(r.number == number && r.bytes == 4 + 48 && body[4 + 3] == SHMEMX_MLX5_RDMA_WRITE,
                  "the WQE");
    }
    CHECK(seen[SIM_TRACE_WQE] == 1 && seen[SIM_TRACE_CQE] == 1 && seen[SIM_TRACE_DOORBELL] == 1 &&
              seen[SIM_TRACE_KEY] == 1 && seen[SIM_TRACE_QP] >= 5 && seen[SIM_TRACE_VIOLATION] == 0,
          "records: %u WQEs, %u CQEs, %u doorbells", seen[SIM_TRACE_WQE], seen[SIM_TRACE_CQE],
          seen[SIM_TRACE_DOORBELL]);
    if (file)
        fclose(file);
    unlink(name);
    unlink(path);
    close(fd);
}

int main(void)
{
    bad_keys();
    given_back_keys();
    bad_atomics();
    flushes();
    wrong_word();
    receiver_not_ready();
    peer_is_silent();
    limits();
    faults();
    turns_at_random();
    trace();
    return check_done();
}
