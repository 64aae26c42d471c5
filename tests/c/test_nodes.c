/* Jobs of several nodes on one machine: SHMEM_NODE_ID and SHMEM_TRANSPORTS, right and wrong.
 *
 * pes: 1 2 4 */
#include <stdio.h>

#include "pes.h"

/* Each job finds its PEs anew: the way of torchrun's variables can be gone twice. */
static int start(const char *id, const char *transports)
{
    setenv("SHMEM_NODE_ID", id, 1);
    setenv("SHMEM_TRANSPORTS", transports, 1);
    int rc = shmemx_init();
    if (rc == 0) {
        me = shmem_my_pe();
        npes = shmem_n_pes();
    }
    return rc;
}

/* A ring of puts, gets and atomics, and a sum: whoever is on whatever node. */
static void use(const char *what)
{
    long *word = shmem_calloc(4, sizeof *word);
    int right = (me + 1) % npes, left = (me + npes - 1) % npes;
    shmem_long_p(word, me + 1, right);
    shmem_long_atomic_add(word + 1, 10 + me, right);
    shmem_barrier_all();
    CHECK(word[0] == left + 1 && word[1] == 10 + left, "%s: %ld, %ld", what, word[0], word[1]);
    CHECK(shmem_long_g(word, right) == me + 1, "%s: get", what);
    CHECK(shmem_long_sum_reduce(SHMEM_TEAM_WORLD, word + 3, word, 1) == 0, "%s: %s", what,
          shmemx_last_error());
    CHECK(word[3] == (long)npes * (npes + 1) / 2, "%s: sum %ld", what, word[3]);
    shmem_free(word);
}

static void runs(const char *id, const char *transports, int (*node)(int pe))
{
    char text[16384], want[64];
    int rc = start(id, transports);
    CHECK(rc == 0, "%s, %s: %s", id, transports, shmemx_last_error());
    if (rc)
        return;
    int size = 0;
    long *word = shmem_malloc(sizeof *word);
    for (int pe = 0; pe < npes; pe++) {
        bool here = node(pe) == node(me);
        size += here;
        CHECK((shmem_ptr(word, pe) != NULL) == here, "%s: a pointer to PE %d", id, pe);
        CHECK((shmem_team_translate_pe(SHMEM_TEAM_WORLD, pe, SHMEM_TEAM_SHARED) >= 0) == here,
              "%s: PE %d in the shared team", id, pe);
    }
    shmem_free(word);
    CHECK(shmem_team_n_pes(SHMEM_TEAM_SHARED) == size, "%s: %d PEs share memory, not %d", id,
          shmem_team_n_pes(SHMEM_TEAM_SHARED), size);
    shmemx_info(text, sizeof text);
    snprintf(want, sizeof want, "node: %d PEs, node ", size);
    CHECK(strstr(text, want) != NULL, "%s: info says no \"%s\"", id, want);
    CHECK((strstr(text, ": wire\n") != NULL) == (size < npes), "%s: routes in info", id);
    use(id);
    shmem_finalize();
}

static void refused(const char *id, const char *transports, const char *says)
{
    int rc = start(id, transports);
    CHECK(rc == SHMEMX_ERR_ARGUMENT && strstr(shmemx_last_error(), says), "%s, %s: gave %d, %s", id,
          transports, rc, shmemx_last_error());
}

static int all(int pe)
{
    (void)pe;
    return 0;
}
static int each(int pe)
{
    return pe;
}
static int halves(int pe)
{
    return pe / 2;
}
static int in_turn(int pe)
{
    return pe % 2;
}

int main(void)
{
    const char *rank = getenv("RANK");
    char name[32];
    shmemx_log_errors(0);
    refused("/0", "auto", "whole number");
    refused("%x", "auto", "whole number");
    refused("/", "auto", "whole number");
    refused("12345678901234567890123456789012345678901234567890", "auto", "50 characters");
    refused("", "shm,carrier-pigeon", "carrier-pigeon");
    refused("", "shm,shm", "twice");
    refused("", ",", "names \"\"");
    shmemx_log_errors(1);
    runs("", "auto", all);
    runs("/2", "shm,wire", halves);
    runs("%2", "wire,shm", in_turn);
    runs("/1", "shm,cuda,wire", each);
    runs("alone", "wire", each); /* without shm every PE is a node */
    snprintf(name, sizeof name, "rack-%d", (rank ? atoi(rank) : 0) / 2);
    runs(name, "shm,wire", halves);
    shmemx_log_errors(0);
    int rc = start("/1", "shm");
    CHECK(rc == (npes == 1 ? 0 : SHMEMX_ERR_UNSUPPORTED), "no way between %d nodes gave %d", npes, rc);
    CHECK(rc == 0 || strstr(shmemx_last_error(), "no transport reaches the host memory of PE"), "%s",
          shmemx_last_error());
    if (rc == 0)
        shmem_finalize();
    return check_done();
}
