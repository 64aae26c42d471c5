/* One NIC of software: what an mlx5 NIC does with queues in memory, done by a thread of the process that opened it.
 *
 * Why: GPUs that post to a NIC themselves can be tested without one, byte for byte; and errors, which real NICs show
 * rarely, come on demand. The rules that it keeps are in docs/software-nic.md, and a test for each in
 * tests/sim.
 *
 * Read in this order: device/mlx5.h (the format), engine.h (what there is), this file (a pass), requester.c (from the
 * doorbell to the CQE), responder.c (what happens at the peer), fabric.c (how packets get there); then the faces,
 * verbs.c, queues.c, post.c and devx.c, which are what programs see of it.
 *
 * Settings, all of the environment:
 *   SHMEM_SIM_LINK=ib|roce        the link; ib unless set
 *   SHMEM_SIM_ATOMICS=global|nic  whether its atomics on host memory are atomic against the host's processors; global, as with
 *                                 atomics over PCIe, unless set. Most NICs are like nic. On GPU memory it is always nic
 *   SHMEM_SIM_SPIN_US=N           how long the thread looks for more, hot, after its last piece of work
 *   SHMEM_SIM_FAULTS=name=N,...   faults on demand: SIM_FAULTS in engine.h
 *   SHMEM_SIM_LACKS=name,...      what it has not of what kernels' queues need: SIM_LACKS in engine.h
 *   SHMEM_SIM_TRACE=FILE          a trace: trace.h
 *
 * What it is not: it does not show the order of a GPU's stores over PCIe, write combining, when a GPU sees what a NIC
 * wrote, NICs' atomics against a processor's or a GPU's, firmware's limits. */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* After its last piece of work the thread looks for more, hot, for so long; where it would take the processor from the
 * processes that it works for, it gives way between two looks, and does so for less long. */
static const uint64_t SPIN_NS = 20000000, SPIN_CROWDED_NS = 50000;
enum { MANY_CPUS = 8 };
/* Then it sleeps between two looks: first so long, then longer and longer. A register that a program writes without
 * telling wakes nobody, so while there is one, naps are short. */
static const uint64_t NAP_NS = 50000, LONG_NAP_NS = 500000, SLEEP_NS = 50000000, DOZE_AFTER_NS = 20000000;

/* weak: tests that drive a NIC step by step bring a clock of theirs */
__attribute__((weak)) uint64_t sim_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void sim_lock(struct sim_nic *nic)
{
    atomic_fetch_add_explicit(&nic->wanted, 1,
                              memory_order_relaxed); /* a hint to the NIC's thread, no more */
    pthread_mutex_lock(&nic->lock);
    atomic_fetch_sub_explicit(&nic->wanted, 1, memory_order_relaxed);
}

void sim_unlock(struct sim_nic *nic)
{
    pthread_mutex_unlock(&nic->lock);
}

void sim_violation(struct sim_nic *nic, uint32_t number, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(nic->violation, sizeof nic->violation, fmt, args);
    va_end(args);
    if (atomic_fetch_add_explicit(&nic->violations, 1, memory_order_relaxed) < 20)
        fprintf(stderr, "libshmem_sim: %s\n", nic->violation);
    sim_trace_text(nic, SIM_TRACE_VIOLATION, number, "%s", nic->violation);
}

bool sim_step(struct sim_nic *nic)
{
    nic->now = sim_now();
    bool moved = sim_fabric_step(nic);
    if (sim_gpu_unsettled || nic->held)
        sim_publish(nic);
    moved |= sim_doorbells(nic);
    for (struct sim_qp *qp = nic->qps; qp; qp = qp->next)
        if (!nic->faults.reorder || sim_random(nic) % 4 == 0)
            moved |= sim_send(nic, qp);
        else
            moved |=
                qp->producer != qp->fetched || qp->first != qp->last; /* not its turn: no reason to sleep */
    if (sim_gpu_unsettled || nic->held)
        sim_publish(nic);
    return moved;
}

/* ---- the thread ---------------------------------------------------------------------------------------- */

/* What a sleep must not miss. */
static void look_ahead(struct sim_nic *nic, bool *now, bool *naps_only)
{
    *now = *naps_only = false;
    for (struct sim_uar *u = nic->uars; u; u = u->next) {
        *naps_only |= u->users && !u->announced;
        *now |= __atomic_load_n((uint64_t *)(u->page + SHMEMX_MLX5_UAR_SEND), __ATOMIC_ACQUIRE) != 0;
    }
    for (struct sim_qp *qp = nic->qps; qp; qp = qp->next)
        *naps_only |= qp->first != qp->last || qp->doorbell_at || (qp->state == SIM_ERR && !nic->stop);
}

static void rest(struct sim_nic *nic, uint64_t idle)
{
    bool now, naps_only;
    atomic_exchange(&nic->asleep,
                    1); /* seq_cst: pairs with sim_wake's: it sees this, or the register is seen here */
    pthread_mutex_lock(&nic->lock);
    look_ahead(nic, &now, &naps_only);
    if (nic->trace)
        fflush(nic->trace);
    pthread_mutex_unlock(&nic->lock);
    if (!now && !atomic_load_explicit(&nic->stop, memory_order_relaxed))
        sim_fabric_sleep(nic, !naps_only ? SLEEP_NS : idle < DOZE_AFTER_NS ? NAP_NS : LONG_NAP_NS);
    atomic_store(&nic->asleep, 0);
}

static void *run(void *arg)
{
    struct sim_nic *nic = arg;
    uint64_t last = sim_now();
    prctl(PR_SET_NAME, "shmem_sim");
    prctl(PR_SET_TIMERSLACK, 1000);
    while (!atomic_load_explicit(&nic->stop, memory_order_relaxed)) {
        while (atomic_load_explicit(&nic->wanted, memory_order_relaxed))
            sched_yield();
        pthread_mutex_lock(&nic->lock);
        bool moved = sim_step(nic);
        uint64_t now = nic->now;
        pthread_mutex_unlock(&nic->lock);
        if (moved)
            last = now;
        else if (now - last > nic->spin_ns)
            rest(nic, now - last);
        else if (nic->crowded)
            sched_yield();
    }
    return NULL;
}

void sim_wake(struct sim_nic *nic)
{
    uint64_t one = 1;
    /* seq_cst: pairs with rest's exchange */
    if (atomic_fetch_add(&nic->asleep, 0) && atomic_exchange(&nic->asleep, 0))
        (void)!write(nic->bell, &one, sizeof one);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static bool settings(struct sim_nic *nic)
{
    const char *faults = getenv("SHMEM_SIM_FAULTS"), *link = getenv("SHMEM_SIM_LINK"),
               *spin = getenv("SHMEM_SIM_SPIN_US"), *trace = getenv("SHMEM_SIM_TRACE"),
               *atomics = getenv("SHMEM_SIM_ATOMICS"), *lacks = getenv("SHMEM_SIM_LACKS");
    cpu_set_t cpus;
    nic->crowded = sched_getaffinity(0, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) < MANY_CPUS;
    nic->spin_ns = nic->crowded ? SPIN_CROWDED_NS : SPIN_NS;
    if (spin && *spin)
        nic->spin_ns = strtoull(spin, NULL, 10) * 1000;
    errno = EINVAL; /* of what is refused below; a file says more */
    nic->roce = link && strcmp(link, "roce") == 0;
    if (link && *link && !nic->roce && strcmp(link, "ib") != 0) {
        fprintf(stderr, "libshmem_sim: SHMEM_SIM_LINK=%s; ib and roce are possible\n", link);
        return false;
    }
    nic->global_atomics = !atomics || strcmp(atomics, "nic") != 0;
    if (atomics && *atomics && nic->global_atomics && strcmp(atomics, "global") != 0) {
        fprintf(stderr, "libshmem_sim: SHMEM_SIM_ATOMICS=%s; global and nic are possible\n", atomics);
        return false;
    }
    int wrong = faults ? sim_faults_read(&nic->faults, faults) : 0;
    if (wrong) {
        fprintf(stderr, "libshmem_sim: SHMEM_SIM_FAULTS: not understood from \"%s\" on\n",
                faults + wrong - 1);
        return false;
    }
    wrong = lacks ? sim_lacks_read(&nic->lacks, lacks) : 0;
    if (wrong) {
#define X(name, text) " " #name
        fprintf(stderr,
                "libshmem_sim: SHMEM_SIM_LACKS: not known from \"%s\" on; possible are" SIM_LACKS(X) "\n",
                lacks + wrong - 1);
#undef X
        return false;
    }
    static const unsigned char prefix[2][16] = {{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x02, 0x53, 0x48, 0x4d, 0, 0},
                                                {[10] = 0xff, [11] = 0xff, [12] = 10, [13] = 83}};
    memcpy(nic->gid, prefix[nic->roce], sizeof nic->gid);
    nic->gid[14] = (unsigned char)(nic->lid >> 8);
    nic->gid[15] = (unsigned char)nic->lid;
    return !trace || !*trace || sim_trace_open(nic, trace);
}

struct sim_nic *sim_open(bool thread)
{
    struct sim_nic *nic = calloc(1, sizeof *nic);
    if (!nic || !(nic->keys = calloc(SIM_KEYS, sizeof *nic->keys))) {
        free(nic);
        return NULL;
    }
    nic->listener = nic->bell = -1;
    pthread_mutex_init(&nic->lock, NULL);
    if (getrandom(&nic->random, sizeof nic->random, 0) != sizeof nic->random)
        nic->random = sim_now() ^ (uint64_t)getpid();
    /* numbers of an earlier NIC of this name mean nothing to this one */
    nic->next_number = (uint32_t)sim_random(nic) & 0x7fffff;
    nic->next_key = (uint32_t)sim_random(nic);
    nic->next_pd = nic->next_uar = 1;
    int err = 0;
    if (!sim_fabric_open(nic) || !settings(nic))
        err = errno ? errno : EINVAL;
    if (!err && nic->faults.reorder)
        nic->random = nic->faults.reorder;
    if (!err && thread) {
        err = pthread_create(&nic->thread, NULL, run, nic);
        nic->running = !err;
    }
    if (err) {
        sim_close(nic);
        errno = err;
        return NULL;
    }
    return nic;
}

void sim_close(struct sim_nic *nic)
{
    atomic_store(&nic->stop, true);
    if (nic->running) {
        atomic_store(&nic->asleep, 1); /* so that it is woken, whatever it is at */
        sim_wake(nic);
        pthread_join(nic->thread, NULL);
    }
    while (nic->qps)
        sim_qp_destroy(nic, nic->qps);
    while (nic->cqs)
        sim_cq_destroy(nic, nic->cqs);
    while (nic->uars)
        sim_uar_destroy(nic, nic->uars);
    sim_fabric_close(nic);
    sim_trace_close(nic);
    pthread_mutex_destroy(&nic->lock);
    free(nic->keys);
    free(nic);
}
