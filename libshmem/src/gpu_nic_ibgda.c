/* Path ibgda of kernels: PEs in step open it, hand around what each must know of the others, and register the heap's
 * chunks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_nic.h"
#include "team.h"
#include "transport/ibgda.h"

enum { KEY_BYTES = 64 };

static struct {
    int segment;
    uint64_t covered; /* bytes of the segment that are registered */
} path;
static char lacks[400]; /* why it was not opened, "" = it was */

static int allgather(const void *mine, void *all, size_t n)
{
    return shmemi_world.boot.allgather(&shmemi_world.boot, mine, all, n);
}

/* Everybody's result: 0 if all are well, else the first PE's that is not; *who is that PE. */
static int agree(int mine, int *who)
{
    int npes = shmemi_world.npes, *all = malloc(sizeof *all * (size_t)npes);
    int rc = all ? allgather(&mine, all, sizeof mine) : SHMEMX_ERR_SYSTEM;
    *who = shmemi_world.me;
    for (int pe = 0; rc == 0 && pe < npes; ++pe)
        if (all[pe] < 0) {
            rc = all[pe];
            *who = pe;
        }
    free(all);
    return rc;
}

/* Cards of all, and a connection to each PE, this one too: atomics on PEs that are mapped go that way as well. The cards' size is
 * by the number of queue pairs, which each PE's environment says: so first whether all have a card, of one size. */
static int connect_all(const char *call)
{
    int npes = shmemi_world.npes, who;
    size_t bytes = shmemi_ibgda_card_bytes(npes);
    long mine = shmemi_env.IBGDA_QPS, *qps = malloc(sizeof *qps * (size_t)npes);
    char *card = malloc(bytes), *cards = malloc(bytes * (size_t)npes);
    int rc = qps && card && cards ? shmemi_ibgda_card(card, bytes)
                                  : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", npes);
    if ((rc = agree(rc < 0 ? rc : 0, &who)) == 0)
        rc = allgather(&mine, qps, sizeof mine);
    for (int pe = 0; pe < npes && rc == 0; ++pe)
        if (qps[pe] != qps[0]) /* all PEs say the same */
            rc = shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                             "SHMEM_IBGDA_QPS is %ld on PE 0 and %ld on PE %d: all PEs need the same number",
                             qps[0], qps[pe], pe);
    if (rc == 0)
        rc = allgather(card, cards, bytes);
    for (int pe = 0; pe < npes && rc == 0; ++pe)
        rc = shmemi_ibgda_connect(call, pe, cards + (size_t)pe * bytes, bytes);
    free(qps);
    free(card);
    free(cards);
    return rc;
}

/* The part of the heap that is not registered yet, if there is one; the same on all PEs. */
static int cover(const char *call)
{
    int npes = shmemi_world.npes, rc, who;
    const struct shmemi_segment *s = &shmemi_world.segments[path.segment];
    uint64_t from = path.covered;
    size_t n = s->bytes - (size_t)from;
    struct {
        int bytes;
        char key[KEY_BYTES];
    } mine = {0}, *all;
    if (n == 0)
        return SHMEMX_SUCCESS;
    all = malloc(sizeof *all * (size_t)npes);
    mine.bytes = all ? shmemi_ibgda_expose(from, n, mine.key, sizeof mine.key)
                     : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", npes);
    path.covered = s->bytes;
    rc = agree(mine.bytes < 0 ? mine.bytes : 0, &who);
    if (rc == 0) {
        rc = allgather(&mine, all, sizeof mine);
        for (int pe = 0; pe < npes && rc == 0; ++pe)
            rc = shmemi_ibgda_learn(pe, from, n, all[pe].key, (size_t)all[pe].bytes);
        rc = agree(rc, &who);
    }
    free(all);
    if (rc && who != shmemi_world.me)
        return shmemi_fail(
            rc, call, "PE %d cannot register its memory for kernels' queue pairs; its own message says why",
            who);
    return rc;
}

/* Why it is not open: `why`, or what the call has failed with here, or the PE that has it not. */
static void note_lack(const char *call, const char *why, bool here, int who)
{
    const char *text = shmemx_last_error(), *named = strstr(text, call);
    if (!*why && here)
        why = named ? named + strlen(call) + strlen(": ") : text;
    if (here)
        snprintf(lacks, sizeof lacks, "%s", why);
    else
        snprintf(lacks, sizeof lacks, "PE %d has it not, and says why", who);
}

const char *shmemi_gpu_nic_ibgda_lacks(void)
{
    return lacks;
}

int shmemi_gpu_nic_ibgda_open(const char *call, int segment, bool only)
{
    char why[400] = "";
    int who, rc = SHMEMX_SUCCESS;
    lacks[0] = 0;
    /* a machine without is usual: not worth an error, unless it was asked for */
    if (!only && !shmemi_ibgda_probe(why, sizeof why))
        rc = SHMEMX_ERR_UNSUPPORTED;
    else
        why[0] = 0;
    path.segment = segment;
    path.covered = 0;
    if (rc == 0)
        rc = shmemi_ibgda_open(call, &shmemi_world.job, segment);
    int mine = rc; /* each says its own cause, if it has one */
    if ((rc = agree(rc, &who)) == 0 && (rc = agree(connect_all(call), &who)) == 0 && (rc = cover(call)) == 0)
        return SHMEMX_SUCCESS;
    bool here = mine || who == shmemi_world.me;
    note_lack(call, why, here, who);
    shmemi_gpu_nic_ibgda_close();
    if (!only) {
        shmemi_debug("kernels go by the proxy, not by ibgda: %s", lacks);
        return SHMEMX_SUCCESS;
    }
    return here ? (mine ? mine : rc)
                : shmemi_fail(rc, call, "SHMEM_GPU_NIC=ibgda: PE %d has it not; its own message says why",
                              who);
}

bool shmemi_gpu_nic_ibgda_stale(void)
{
    return shmemi_ibgda_is_open() && path.covered != shmemi_world.segments[path.segment].bytes;
}

int shmemi_gpu_nic_ibgda_resize(const char *call, struct shmemx_device_nic *view,
                                struct shmemx_device_ways *ways)
{
    uint64_t end = shmemi_world.segments[path.segment].bytes;
    if (path.covered > end)
        path.covered = shmemi_ibgda_forget(end);
    int rc = cover(call);
    return rc ? rc : shmemi_ibgda_view(call, view, ways);
}

int shmemi_gpu_nic_ibgda_recover(const char *call, struct shmemi_team *t)
{
    const uint64_t tag = shmemi_tag(SHMEMI_GPU_NIC_RECOVER, 0, 0);
    int result = SHMEMX_SUCCESS;
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, -1, NULL), *left = &w;
    for (int j = 0; j < t->n; ++j)
        if (!shmemi_ibgda_settle(call, t->pes[j], left))
            left = NULL;
    /* in this epoch: nobody's kernels have anything under way any more that can still arrive */
    uint32_t psn = shmemi_ibgda_draw_psn();
    int rc = shmemi_show(call, t, tag, &psn, sizeof psn);
    if (rc)
        return rc;
    for (int j = 0; j < t->n && result == 0; ++j) {
        memcpy(&psn, shmemi_note_of(t, j, t->epoch)->data, sizeof psn);
        result = shmemi_ibgda_renew(call, t->pes[j], psn);
    }
    /* in this one: both ends of each are there, and may be used */
    int32_t mine = result, theirs;
    if ((rc = shmemi_show(call, t, tag, &mine, sizeof mine)) != 0)
        return rc;
    for (int j = 0; j < t->n && result == 0; ++j) {
        memcpy(&theirs, shmemi_note_of(t, j, t->epoch)->data, sizeof theirs);
        if (theirs)
            result = shmemi_fail(
                theirs, call, "PE %d cannot begin its queue pairs anew; its own message says why", t->pes[j]);
    }
    return result;
}

void shmemi_gpu_nic_ibgda_close(void)
{
    shmemi_ibgda_close();
}
