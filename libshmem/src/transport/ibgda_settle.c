/* Queue pairs of kernels: what the host does in a kernel's place. It takes the completion entries that no kernel has
 * waited for (device/ibgda.h does the same), and begins queue pairs anew after an error. */
#include <arpa/inet.h>
#include <endian.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wait.h"
#include "device/mlx5.h"
#include "ibgda_state.h"

/* In `queues`. */
static size_t entry_at(size_t i, uint64_t number)
{
    return i * shmemi_ibgda_queue_bytes() + shmemi_ibgda_cq_at() +
           (size_t)(number & (shmemi_ibgda.depth - 1)) * SHMEMX_MLX5_CQE;
}

/* Has the NIC written entry `number`? `tail`: its last word. */
static bool written(uint32_t tail, uint64_t number)
{
    return tail >> 28 != SHMEMX_MLX5_CQE_INVALID &&
           (tail >> 24 & 1) == (number >> shmemi_ibgda.log_depth & 1);
}

/* ---- completion ---------------------------------------------------------------------------------------- */

/* An entry that is an error, which no kernel has seen: nobody else says it. */
static void tell(const char *call, const struct shmemx_ibgda_qp *q, size_t i)
{
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    uint32_t entry[SHMEMX_MLX5_CQE / sizeof(uint32_t)];
    uint64_t address = 0;
    char text[400];
    if (shmemi_ibgda_read(call, &g->queues, entry_at(i, q->entries), entry, sizeof entry) != 0)
        return;
    uint32_t syndromes = ntohl(entry[13]), opcode = ntohl(entry[14]) >> 24, block = ntohl(entry[15]) >> 16;
    size_t wqe = i * shmemi_ibgda_queue_bytes() + (size_t)(block & q->mask) * SHMEMX_MLX5_BLOCK;
    if (opcode != SHMEMX_MLX5_NOP &&
        shmemi_ibgda_read(call, &g->queues, wqe + 2 * sizeof address, &address, sizeof address) != 0)
        return;
    struct shmemx_device_error e = {
        .pe = q->pe,
        .address = be64toh(address),
        .value =
            SHMEMX_IBGDA_ERROR_VALUE(syndromes & 0xff, syndromes >> 8 & 0xff, opcode, entry[15] >> 28, block),
        .expected = q->qpn >> 8,
    };
    (void)shmemi_ibgda_explain(&e, text, sizeof text);
    shmemi_warn("%s: a kernel's request, which nobody has waited for: %s", call, text);
}

/* 1 = took one, 0 = there is none yet, negative = it is an error, or nobody knows. */
static int take_entry(const char *call, struct shmemx_ibgda_qp *q, size_t i)
{
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    size_t last = entry_at(i, q->entries) + SHMEMX_MLX5_CQE - sizeof(uint32_t);
    uint32_t tail = 0, blocks = 0;
    if (g->queues_on_gpu) {
        if (shmemi_ibgda_read(call, &g->queues, last, &tail, sizeof tail) != 0)
            return SHMEMX_ERR_SYSTEM;
    } else {
        /* acquire; observers: this thread, and the NIC, which wrote it last */
        tail = __atomic_load_n((const uint32_t *)(g->queues.base + last), __ATOMIC_ACQUIRE);
    }
    if (!written(tail, q->entries))
        return 0;
    if (tail >> 28 != SHMEMX_MLX5_CQE_REQUEST) {
        tell(call, q, i);
        return SHMEMX_ERR_SYSTEM;
    }
    uint64_t block = q->done + (((ntohl(tail) >> 16) - (uint32_t)q->done) & 0xffff);
    if (shmemi_ibgda_read(call, &g->counts,
                          shmemi_ibgda_slots_at(i) + (size_t)(block & q->mask) * sizeof blocks, &blocks,
                          sizeof blocks) != 0)
        return SHMEMX_ERR_SYSTEM;
    q->done = block + blocks;
    q->entries++;
    return 1;
}

/* False: the deadline is over. */
static bool drain(const char *call, size_t i, struct shmemi_wait *w)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    struct shmemx_ibgda_qp q;
    size_t at = i * sizeof q;
    if (shmemi_ibgda_read(call, &g->counts, at, &q, sizeof q) != 0)
        return true;
    uint64_t before = q.entries;
    bool in_time = true;
    if (w)
        w->pe = q.pe;
    /* blocks that nobody has published are of a kernel that was cut off */
    while (q.failed == SHMEMX_IBGDA_WORKS && q.done < q.ready) {
        int rc = take_entry(call, &q, i);
        if (rc < 0 || (rc == 0 && (!w || q.late))) /* late: a kernel has waited as long as anybody will */
            break;
        if (rc == 0 && (rc = shmemi_wait_step(w)) != 0) {
            in_time = rc != SHMEMX_ERR_TIMEOUT;
            *w = (struct shmemi_wait)SHMEMI_WAIT_FOR(call, -1, NULL); /* others still get their answers */
            break;
        }
    }
    if (q.entries == before)
        return in_time;
    (void)shmemi_ibgda_write(call, &g->counts, at + offsetof(struct shmemx_ibgda_qp, done), &q.done,
                             sizeof q.done);
    (void)shmemi_ibgda_write(call, &g->counts, at + offsetof(struct shmemx_ibgda_qp, entries), &q.entries,
                             sizeof q.entries);
    return in_time;
}

bool shmemi_ibgda_settle(const char *call, int pe, struct shmemi_wait *w)
{
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    bool in_time = true;
    for (size_t i = (size_t)pe * g->qps; g->connected[pe] && i < ((size_t)pe + 1) * g->qps; ++i)
        in_time = drain(call, i, in_time ? w : NULL) && in_time;
    return in_time;
}

void shmemi_ibgda_drain(void)
{
    static const char call[] = "waiting for what kernels have posted";
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, -1, NULL), *left = &w;
    if (!g->job || !g->counts.base)
        return;
    for (int pe = 0; pe < g->job->npes; ++pe)
        if (!shmemi_ibgda_settle(call, pe, left))
            left = NULL;
}

/* ---- anew ---------------------------------------------------------------------------------------------- */

/* The completion queue goes on where it is, since the NIC does not forget how many entries it has written: *entries becomes
 * that number. The queue pair is in reset, so there will be no more. They are at most as many as blocks. */
static int skip_entries(const char *call, size_t i, unsigned long long *entries)
{
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    size_t bytes = (size_t)g->depth * SHMEMX_MLX5_CQE;
    uint32_t tail;
    char *all = malloc(bytes);
    int rc = all ? shmemi_ibgda_read(call, &g->queues, entry_at(i, 0), all, bytes)
                 : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", bytes);
    for (unsigned n = 0; rc == 0 && n < g->depth; ++n, ++*entries) {
        memcpy(&tail, all + (size_t)((*entries & (g->depth - 1)) + 1) * SHMEMX_MLX5_CQE - sizeof tail,
               sizeof tail);
        if (!written(tail, *entries))
            break;
    }
    free(all);
    return rc;
}

/* If a step of it fails kernels find it failed: what they see of it is written first and last. */
static int renew(const char *call, size_t i, int pe)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    struct shmemx_ibgda_qp q;
    static const uint32_t record[2];
    size_t slots = (size_t)g->depth * 2 * sizeof(uint32_t);
    char *zeros = calloc(1, slots);
    int rc = zeros ? shmemi_ibgda_read(call, &g->counts, i * sizeof q, &q, sizeof q)
                   : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", slots);
    q.failed = SHMEMX_IBGDA_LEFT;
    if (rc == 0)
        rc = shmemi_ibgda_write(call, &g->counts, i * sizeof q, &q, sizeof q);
    if (rc == 0)
        rc = shmemi_ibgda_reset(call, i, pe);
    if (rc == 0)
        rc = skip_entries(call, i, &q.entries);
    if (rc == 0)
        rc = shmemi_ibgda_write(call, &g->queues, i * shmemi_ibgda_queue_bytes() + shmemi_ibgda_records_at(),
                                record, sizeof record);
    if (rc == 0)
        rc = shmemi_ibgda_write(call, &g->counts, shmemi_ibgda_slots_at(i), zeros, slots);
    if (rc == 0)
        rc = shmemi_ibgda_join(call, i, pe);
    /* the NIC counts a queue pair's blocks from 0 after a reset */
    q.ready = q.done = q.reserved = q.rung = q.look = q.late = 0;
    q.failed = SHMEMX_IBGDA_WORKS;
    if (rc == 0)
        rc = shmemi_ibgda_write(call, &g->counts, i * sizeof q, &q, sizeof q);
    free(zeros);
    return rc;
}

int shmemi_ibgda_renew(const char *call, int pe, uint32_t psn)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    int rc = SHMEMX_SUCCESS;
    if (!g->connected[pe])
        return rc;
    g->cards[pe].psn = psn;
    for (size_t i = (size_t)pe * g->qps; i < ((size_t)pe + 1) * g->qps && rc == 0; ++i)
        rc = renew(call, i, pe);
    return rc;
}
