/* Random streams of WQEs, doorbells and faults against the software NIC's engine, which is driven step by step here, so
 * that a seed gives the same run again.
 *
 *   sim_fuzz [--seconds N] [--seed S] [--rounds N] [--traces FOLDER]
 *
 * With --traces each round leaves the traces of its NICs in the folder, and there are no faults and no garbage: nic_replay
 * must find the same entries.
 *
 * Each round opens two NICs, some queue pairs of small depths, and posts: valid requests of all opcodes, broken ones of many
 * kinds, doorbells in all orders, repeated, stale, late, with faults on. What must hold: every signalled WQE ends with one
 * entry, in order, with its own number, or is flushed after the one that failed; nothing runs before it is announced,
 * nothing after one that failed; memory is what a plain model says, and nothing else is touched; nothing hangs. */
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "fuzz_check.h"

/* ---- a round -------------------------------------------------------------------------------------------------- */

static struct sim_cq *cq_open(struct sim_nic *nic, struct completions *c, unsigned log_size)
{
    size_t n = (size_t)SHMEMX_MLX5_CQE << log_size;
    memset(c->record, 0, sizeof c->record);
    c->taken = 0;
    c->buffer = aligned_alloc(SHMEMX_MLX5_CQE, n);
    memset(c->buffer, 0xff, n);
    return c->cq = sim_cq_create(
               nic, &(struct sim_cq){.log_size = log_size, .buffer = c->buffer, .record = c->record});
}

/* Numbers of blocks begin anywhere, also short of where they wrap. */
static void begin_at(struct lane *l, uint16_t index)
{
    l->qp->producer = l->qp->fetched = l->next = l->told = l->rung = l->flush = index;
    record_set(&l->record[SHMEMX_MLX5_RECORD_SEND], index);
}

static bool connect_lane(struct lane *l)
{
    for (int state = SIM_INIT; state <= SIM_RTS; state++)
        if (!sim_qp_step(near_nic, l->qp, (enum sim_state)state) ||
            !sim_qp_step(far_nic, l->peer, (enum sim_state)state))
            return false;
    begin_at(l, (uint16_t)(one_in(2) ? 0 - chance(100) : chance(0x10000)));
    return true;
}

static void lane_open(struct lane *l, struct sim_uar *uar)
{
    struct sim_nic *far = far_nic;
    *l = (struct lane){.depth = 4u << chance(5), .cq = &queue};
    l->ring = aligned_alloc(SHMEMX_MLX5_BLOCK, (size_t)l->depth * SHMEMX_MLX5_BLOCK);
    memset(l->ring, 0, (size_t)l->depth * SHMEMX_MLX5_BLOCK);
    l->receives = aligned_alloc(64, RECEIVES * 16);
    l->landing = calloc(RECEIVES, RECEIVE);
    l->list = calloc(MOST_POSTED, sizeof *l->list);
    l->landing_key = sim_key_create(far, PD, (uint64_t)(uintptr_t)l->landing, RECEIVES * RECEIVE,
                                    IBV_ACCESS_LOCAL_WRITE, false);
    const uint32_t all = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                         IBV_ACCESS_REMOTE_ATOMIC | (one_in(3) ? IBV_ACCESS_RELAXED_ORDERING : 0);
    bool there = area_open(&l->source, near_nic, PD, 0) &&
                 area_open(&l->answers, near_nic, PD, IBV_ACCESS_LOCAL_WRITE) &&
                 area_open(&l->far, far, PD, all);
    uint8_t log_reads = (uint8_t)chance(5);
    struct sim_qp like = {.pd = PD,
                          .send_cq = queue.cq,
                          .receive_cq = queue.cq,
                          .uar = uar,
                          .sq = l->ring,
                          .sq_blocks = l->depth,
                          .record = l->record,
                          .ack_timeout = 14,
                          .retries = 7,
                          .rnr_retries = 7,
                          .rnr_timer = 1,
                          .log_reads = log_reads,
                          .log_served = log_reads,
                          .log_message = 30,
                          .mtu = PRM_MTU_4096,
                          .remote_read = true,
                          .remote_write = true,
                          .remote_atomic = true};
    struct sim_qp peer = like;
    peer.send_cq = peer.receive_cq = cq_open(far, &l->peer_cq, 8);
    peer.uar = NULL;
    peer.sq = NULL;
    peer.sq_blocks = 0;
    peer.rq = l->receives;
    peer.rq_count = RECEIVES;
    peer.rq_stride = 16;
    peer.record = l->peer_record;
    l->qp = sim_qp_create(near_nic, &like);
    l->peer = sim_qp_create(far, &peer);
    if (!there || !l->qp || !l->peer)
        wrong(l, "no memory");
    l->qp->remote_qpn = l->peer->number;
    l->qp->remote_lid = far->lid;
    l->peer->remote_qpn = l->qp->number;
    l->peer->remote_lid = near_nic->lid;
    if (!connect_lane(l))
        wrong(l, "RESET, INIT, RTR, RTS is refused");
}

static void lane_close(struct lane *l)
{
    sim_qp_destroy(near_nic, l->qp);
    if (far_nic)
        sim_qp_destroy(far_nic, l->peer);
    for (struct area *a = &l->source; a <= &l->far; a++)
        area_close(a);
    free(l->ring);
    free(l->receives);
    free(l->landing);
    free(l->list);
    free(l->peer_cq.buffer);
}

static bool done_with(const struct lane *l)
{
    if (l->qp->stalled)
        return true;
    if (l->failed)
        return (int16_t)(l->flush - l->next) >= 0;
    return l->qp->state == SIM_RTS && l->qp->fetched == l->next && l->qp->first == l->qp->last;
}

/* Announces what is left, and goes on until nothing is under way. */
static void finish(void)
{
    uint64_t began = clock_ns;
    for (unsigned i = 0; i < lane_count; i++)
        ring(&lanes[i]);
    for (bool all = false; !all;) {
        all = true;
        for (unsigned i = 0; i < 16; i++) {
            step(near_nic);
            if (far_nic)
                step(far_nic);
        }
        take_entries(~0u);
        for (unsigned i = 0; i < lane_count; i++) {
            struct lane *l = &lanes[i];
            while (l->receives_posted != (uint16_t)l->receives_needed &&
                   l->receives_needed - l->received < RECEIVES)
                lane_receive(l);
            if (far_nic)
                take_received(l);
            if (!done_with(l)) {
                all = false;
                if (clock_ns - began > 3000000000u)
                    wrong(l, "hangs: state %s, next %04x, producer %04x, fetched %04x, flushed %04x",
                          sim_state_name(l->qp->state), l->next, l->qp->producer, l->qp->fetched, l->flush);
                if (near_nic->faults.drop_doorbell) /* as who waits in vain would: rings again */
                    ring(l);
            }
        }
    }
    take_entries(~0u);
}

static void any_may_end_with(uint8_t syndrome)
{
    for (unsigned i = 0; i < lane_count; i++)
        lanes[i].may_die = syndrome;
}

static void faults(void)
{
    struct sim_faults *f = &near_nic->faults;
    switch (chance(6)) {
    case 0:
        scene = "nak";
        f->nak = 1 + chance(40);
        f->nak_syndrome = one_in(2) ? 0 : SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS;
        any_may_end_with(f->nak_syndrome ? SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS
                                         : SHMEMX_MLX5_SYNDROME_REMOTE_OPERATION);
        break;
    case 1:
        scene = "drop_doorbell";
        f->drop_doorbell = 1 + chance(6);
        break;
    case 2:
        scene = "delay_doorbell";
        f->delay_doorbell_us = 1 + chance(100);
        break;
    case 3:
        scene = "slow_cqe";
        f->slow_cqe_us = 1 + chance(60);
        break;
    case 4:
        scene = "stall";
        f->stall = 1 + chance(40);
        break;
    default:
        scene = "deaf";
        far_nic->faults.deaf = 1 + chance(30);
        f->retry_ms = 1;
        any_may_end_with(SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED);
    }
    if (one_in(2))
        f->reorder = 1 + chance(1000);
}

/* The far NIC is gone, as with its process. What it has done by then nobody knows. */
static void lose_the_peer(void)
{
    sim_close(far_nic);
    far_nic = NULL;
    near_nic->faults.retry_ms = 1;
    any_may_end_with(SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED);
}

static struct sim_nic *open_nic(const char *name)
{
    char file[4096];
    snprintf(file, sizeof file, "%s/%llu.%s", traces ? traces : "", (unsigned long long)seed, name);
    if (traces)
        setenv("SHMEM_SIM_TRACE", file, 1);
    return sim_open(false);
}

static void open_round(unsigned lanes_wanted)
{
    near_nic = open_nic("near");
    far_nic = one_in(4) ? near_nic : open_nic("far"); /* a queue pair may lead to its own NIC */
    if (!near_nic || !far_nic)
        wrong(NULL, "sim_open: %s", strerror(errno));
    near_nic->random = far_nic->random = seed;
    (void)cq_open(near_nic, &queue, 10); /* more than all queues hold: it does not overrun */
    struct sim_uar *uar = sim_uar_create(near_nic, false);
    lane_count = lanes_wanted;
    for (unsigned i = 0; i < lane_count; i++)
        lane_open(&lanes[i], one_in(3) ? uar : sim_uar_create(near_nic, false));
    clock_ns +=
        100000000; /* traces are ordered by the wall clock: what follows comes after both NICs were opened */
}

static void close_round(void)
{
    for (unsigned i = 0; i < lane_count; i++)
        lane_close(&lanes[i]);
    if (far_nic && far_nic != near_nic)
        sim_close(far_nic);
    sim_close(near_nic);
    free(queue.buffer);
}

/* A failed queue pair works again after RESET, INIT, RTR, RTS. */
static void start_again(struct lane *l)
{
    if (!sim_qp_step(near_nic, l->qp, SIM_RESET) || !sim_qp_step(far_nic, l->peer, SIM_RESET))
        wrong(l, "RESET is refused");
    unsigned char e[SHMEMX_MLX5_CQE];
    while (next_entry(&l->peer_cq, e)) {
    }
    l->count = l->checked = l->applied = 0;
    l->failed = l->broken = false;
    l->receives_posted = 0;
    l->receives_needed = l->received = 0;
    memset(l->record, 0, sizeof l->record);
    memset(l->peer_record, 0, sizeof l->peer_record);
    if (!connect_lane(l))
        wrong(l, "RESET, INIT, RTR, RTS is refused");
}

static void stream(unsigned broken_one_in, unsigned length)
{
    for (unsigned n = 0; n < length; n++) {
        struct lane *l = &lanes[chance(lane_count)];
        for (uint64_t batch = 1 + chance(5); batch && post(l, broken_one_in); batch--) {
        }
        if (!one_in(3))
            ring(l);
        if (l->receives_posted != (uint16_t)l->receives_needed &&
            l->receives_needed - l->received < RECEIVES && one_in(2))
            lane_receive(l);
        steps(6);
        if (one_in(2))
            take_entries((unsigned)chance(8));
        for (unsigned i = 0; i < lane_count && far_nic; i++)
            take_received(&lanes[i]);
    }
}

static void round_of_streams(void)
{
    unsigned kind = (unsigned)chance(traces ? 5 : 8);
    bool lost = false;
    open_round(1 + (unsigned)chance(LANES));
    scene = kind < 3 ? "valid" : "broken";
    if (kind >= 6)
        faults();
    stream(kind < 3 ? 0 : 12, 10 + (unsigned)chance(60));
    if (kind == 5 && far_nic != near_nic) {
        scene = "peer gone";
        lose_the_peer();
        lost = true;
        stream(0, 10);
    }
    finish();
    bool deaf = far_nic && far_nic->faults.deaf;
    for (unsigned i = 0; i < lane_count; i++)
        check_memory(&lanes[i], !lost && !lanes[i].qp->stalled);
    if (!lost && !deaf && one_in(2)) {
        near_nic->faults = (struct sim_faults){0};
        any_may_end_with(0);
        scene = "again";
        for (unsigned i = 0; i < lane_count; i++)
            if (lanes[i].failed)
                start_again(&lanes[i]);
        bool stalled = false;
        for (unsigned i = 0; i < lane_count; i++)
            stalled |= lanes[i].qp->stalled;
        if (!stalled) {
            stream(0, 10);
            finish();
            for (unsigned i = 0; i < lane_count; i++)
                check_memory(&lanes[i], true);
        }
    }
    close_round();
}

/* Whatever stands in the ring and is rung: no crash, nothing that hangs, no byte changes but where keys allow. */
static void round_of_garbage(void)
{
    scene = "garbage";
    open_round(1);
    struct lane *l = &lanes[0];
    unsigned char e[SHMEMX_MLX5_CQE];
    for (unsigned n = 0; n < 20; n++) {
        for (unsigned blocks = 1 + (unsigned)chance(l->depth); blocks; blocks--) {
            unsigned char *at = lane_block(l, l->next);
            fill(at, SHMEMX_MLX5_BLOCK);
            if (one_in(2)) { /* good enough to be looked into */
                static const unsigned char opcodes[] = {0, 8, 9, 10, 11, 15, 16, 17, 18, 20, 21, 35};
                sim_put_be32(at, (uint32_t)(one_in(2) ? 0 : 8 + chance(2)) << 24 | (uint32_t)l->next << 8 |
                                     opcodes[chance(sizeof opcodes)]);
                sim_put_be32(at + 4, l->qp->number << 8 | (uint32_t)chance(64));
                if (one_in(2))
                    sim_put_be32(at + 32, (uint32_t)chance(2) << 31 | (uint32_t)chance(300));
            }
            l->next++;
        }
        ring_uar(l, (uint16_t)(one_in(4) ? chance(0x10000) : l->next), NULL);
        if (one_in(2))
            record_set(&l->record[SHMEMX_MLX5_RECORD_SEND],
                       one_in(4) ? (uint32_t)chance(UINT32_MAX) : l->next);
        steps(40);
        while (next_entry(&queue, e))
            flushes_seen++;
        if (l->qp->state == SIM_ERR && one_in(3)) {
            (void)sim_qp_step(near_nic, l->qp, SIM_RESET);
            (void)sim_qp_step(far_nic, l->peer, SIM_RESET);
            (void)connect_lane(l);
        }
    }
    check_memory(l, false);
    l->checked = l->count;
    close_round();
}

/* Nobody takes entries: the queue is overrun, and that is said. */
static void round_of_overrun(void)
{
    scene = "overrun";
    open_round(1);
    struct lane *l = &lanes[0];
    uint64_t before = near_nic->violations;
    l->qp->send_cq->log_size = 1;
    unsigned n = 0;
    for (; n < 4; n++) {
        struct builder b = {.ds = 1};
        sim_put_be32(b.raw, (uint32_t)l->next << 8);
        sim_put_be32(b.raw + 4, l->qp->number << 8 | 1);
        b.raw[11] = SHMEMX_MLX5_CE_ALWAYS;
        lane_store(l, b.raw, 1);
        l->next++;
    }
    record(l);
    ring_uar(l, l->next, NULL);
    for (unsigned i = 0; i < 50; i++)
        step(near_nic);
    if (!l->qp->send_cq->overrun || near_nic->violations == before || l->qp->state != SIM_ERR)
        wrong(l, "4 entries in a queue of 2: no overrun");
    if (l->qp->send_cq->produced != 2)
        wrong(l, "%u entries in a queue of 2", l->qp->send_cq->produced);
    close_round();
}

int main(int argc, char **argv)
{
    double seconds = 0;
    uint64_t rounds = 400;
    seed = (uint64_t)time(NULL);
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seconds"))
            seconds = strtod(argv[i + 1], NULL);
        else if (!strcmp(argv[i], "--seed"))
            seed = strtoull(argv[i + 1], NULL, 0);
        else if (!strcmp(argv[i], "--rounds"))
            rounds = strtoull(argv[i + 1], NULL, 0);
        else if (!strcmp(argv[i], "--traces"))
            traces = argv[i + 1];
        else
            argc = 0;
    }
    if (argc % 2 == 0) {
        fprintf(stderr, "sim_fuzz [--seconds N] [--seed S] [--rounds N] [--traces FOLDER]\n");
        return 2;
    }
    unsetenv("SHMEM_SIM_FAULTS");
    unsetenv("SHMEM_SIM_TRACE");
    uint64_t first = seed;
    time_t began = time(NULL);
    if (!getenv("SIM_FUZZ_LOUD")) { /* each broken rule is said there: that is what they are for */
        int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(quiet, STDERR_FILENO);
    }
    for (; seconds > 0 ? difftime(time(NULL), began) < seconds : rounds_done < rounds;
         rounds_done++, seed++) {
        chance_state = seed * 0x2545f4914f6cdd1dull;
        clock_ns = 1000000;
        uint64_t kind = traces ? 2 : chance(20);
        if (kind == 0)
            round_of_garbage();
        else if (kind == 1)
            round_of_overrun();
        else
            round_of_streams();
    }
    printf("sim_fuzz: seed %llu, %llu rounds, %llu WQEs, %llu failures, %llu flushes\n",
           (unsigned long long)first, (unsigned long long)rounds_done, (unsigned long long)wqes_done,
           (unsigned long long)errors_seen, (unsigned long long)flushes_seen);
    return 0;
}
