/* Routes over networks: PEs in step hand around what their transports must know of each other. A network's transport is
 * one that has the slot `address`. Where all PEs share one node nothing here does anything. */
#include <stdlib.h>
#include <string.h>

#include "base/wait.h"
#include "world.h"

enum { CARD_ROOM = 64 << 10, KEY_ROOM = 1024, MAX_NETWORKS = 8 };

/* A network that is in use somewhere in the job; the same list, in the same order, on all PEs. */
static struct network {
    struct shmemi_transport *t;
    bool here;           /* open on this PE */
    bool holds_gpu;      /* GPU memory is registered with it */
    char *cards;         /* [npes] of `stride` bytes */
    int32_t *card_bytes; /* [npes], 0 = not open there */
    size_t stride;
} networks[MAX_NETWORKS];
static int count;

static int allgather(const void *mine, void *all, size_t n)
{
    return shmemi_world.boot.allgather(&shmemi_world.boot, mine, all, n);
}

static int no_memory(const char *call, size_t bytes)
{
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", bytes);
}

/* Everybody's `mine`: [npes], the caller frees it. A negative one is an error of that PE: then all get an error, and the
 * PE that has it returns its own. */
static int tell(const char *call, const char *what, int32_t mine, int32_t **all)
{
    int npes = shmemi_world.job.npes;
    *all = malloc(sizeof **all * (size_t)npes);
    if (!*all)
        return no_memory(call, sizeof **all * (size_t)npes);
    int rc = allgather(&mine, *all, sizeof mine);
    if (rc == 0 && mine < 0)
        rc = mine;
    for (int pe = 0; pe < npes && rc == 0; ++pe)
        if ((*all)[pe] < 0)
            rc = shmemi_fail((*all)[pe], call, "PE %d failed to %s; its own message says why", pe, what);
    if (rc)
        free(*all);
    return rc;
}

static int largest(const int32_t *all)
{
    int32_t most = 0;
    for (int pe = 0; pe < shmemi_world.job.npes; ++pe)
        most = all[pe] > most ? all[pe] : most;
    return most;
}

/* Everybody's bytes, of which this PE has `n` in `mine`, a buffer of at least `stride` bytes. */
static int gather(const char *call, const void *mine, size_t stride, char **all)
{
    *all = malloc(stride * (size_t)shmemi_world.job.npes);
    if (!*all)
        return no_memory(call, stride * (size_t)shmemi_world.job.npes);
    int rc = allgather(mine, *all, stride);
    if (rc)
        free(*all);
    return rc;
}

/* ---- waits ------------------------------------------------------------------------------------------------------------ */

static bool progress(void)
{
    bool moved = false;
    for (int i = 0; i < count; ++i)
        moved |= networks[i].here && networks[i].t->progress();
    return moved;
}

static int lost(char *why, size_t n)
{
    for (int i = 0; i < count; ++i) {
        int pe = networks[i].here && networks[i].t->lost ? networks[i].t->lost(why, n) : -1;
        if (pe >= 0)
            return pe;
    }
    return -1;
}

/* ---- opening ---------------------------------------------------------------------------------------------------------- */

/* Opens the transport here and writes its card. Bytes of the card, or an error after which it is closed. */
static int open_here(const char *call, struct shmemi_transport *t, char *card)
{
    int rc = t->open(&shmemi_world.job);
    if (rc)
        return rc;
    rc = t->address(card, CARD_ROOM);
    if (rc == 0)
        rc = shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "transport %s gave no address", t->name);
    if (rc < 0)
        t->close();
    return rc;
}

static struct network *find(const struct shmemi_transport *t)
{
    for (int i = 0; i < count; ++i)
        if (networks[i].t == t)
            return &networks[i];
    return NULL;
}

/* All PEs: opens it where `need` is, learns the cards. *made is NULL when nobody needs it. For GPU memory alone it may fail to
 * open: a job that its host memory's network serves goes on without. */
static int open_network(const char *call, struct shmemi_transport *t, bool need, int segment,
                        struct network **made)
{
    int32_t *needs, *bytes;
    *made = NULL;
    int rc = tell(call, "open a transport", need, &needs);
    if (rc)
        return rc;
    bool anybody = largest(needs) > 0;
    free(needs);
    if (!anybody)
        return SHMEMX_SUCCESS;
    char *card = calloc(1, CARD_ROOM);
    int mine = !card ? no_memory(call, CARD_ROOM) : need ? open_here(call, t, card) : 0;
    if (mine < 0 && card && segment == SHMEMI_SEGMENT_DEVICE) {
        shmemi_debug("transport %s: does not open, so it serves no GPU memory here", t->name);
        mine = 0;
    }
    if ((rc = tell(call, "open a transport between nodes", mine, &bytes)) != 0) {
        if (mine > 0)
            t->close();
        free(card);
        return rc;
    }
    if (largest(bytes) == 0) { /* it opened nowhere */
        free(card);
        free(bytes);
        return SHMEMX_SUCCESS;
    }
    struct network *net = &networks[count++];
    *net = (struct network){.t = t, .here = mine > 0, .card_bytes = bytes, .stride = (size_t)largest(bytes)};
    if (net->here)
        shmemi_world.open[shmemi_world.nopen++] = t;
    rc = gather(call, card, net->stride, &net->cards);
    free(card);
    *made = net;
    return rc;
}

/* As the transport's connect: 1 = it reaches the PE, 0 = not. */
static int reach(const struct network *net, int pe, int segment)
{
    size_t n = (size_t)net->card_bytes[pe];
    return n ? net->t->connect(pe, segment, net->cards + (size_t)pe * net->stride, n) : 0;
}

int shmemi_network_connect(const char *call, struct shmemi_transport *t, bool there, int segment,
                           const struct shmemi_transport **route, int *without)
{
    if (shmemi_node.nodes == 1)
        return SHMEMX_SUCCESS;
    struct network *net = find(t);
    int rc = net ? 0 : open_network(call, t, there && *without > 0, segment, &net);
    if (rc || !net)
        return rc;
    bool owns = net->here && t->owns_atomics && t->owns_atomics(), serves_some = false;
    for (int pe = 0; net->here && pe < shmemi_world.job.npes && rc >= 0; ++pe)
        if (!route[pe] && (rc = reach(net, pe, segment)) > 0) {
            route[pe] = t;
            serves_some = true;
            --*without;
        }
    /* of GPU memory only where it is wanted, since few networks can */
    if (owns && (serves_some || segment == SHMEMI_SEGMENT_HOST))
        shmemi_world.atomics[segment] = t;
    for (int pe = 0; shmemi_world.atomics[segment] == t && pe < shmemi_world.job.npes && rc >= 0; ++pe)
        if (route[pe] != t && (rc = reach(net, pe, segment)) == 0)
            rc = shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "all atomics are %s's, which does not reach PE %d",
                             t->name, pe);
    int32_t *all;
    if ((rc = tell(call, "connect to its peers", rc < 0 ? rc : 0, &all)) != 0)
        return rc;
    free(all);
    if (net->here)
        shmemi_wait_networks(progress, lost);
    return SHMEMX_SUCCESS;
}

/* ---- memory ----------------------------------------------------------------------------------------------------------- */

static bool serves(const struct shmemi_transport *t, const struct shmemi_transport *const *route)
{
    for (int pe = 0; pe < shmemi_world.job.npes; ++pe)
        if (route[pe] == t)
            return true;
    return false;
}

/* What is registered after an error stays so until close: the range is not given out, and the next one starts behind. */
static int expose(const char *call, struct network *net, int segment, uint64_t offset, size_t n)
{
    char key[KEY_ROOM] = {0};
    int32_t *bytes;
    /* GPU memory: only where it is wanted, since few networks can; a route goes both ways */
    bool wanted = segment == SHMEMI_SEGMENT_HOST || serves(net->t, shmemi_world.gpu_route);
    int mine =
        wanted && net->here && net->t->expose ? net->t->expose(segment, offset, n, key, sizeof key) : 0;
    int rc = tell(call, "register memory for its peers", mine, &bytes);
    size_t stride = rc ? 0 : (size_t)largest(bytes);
    /* the same on all PEs, which shrink the heap together; after an error somebody may have it */
    net->holds_gpu |= segment == SHMEMI_SEGMENT_DEVICE && (rc != 0 || stride > 0);
    if (rc)
        return rc;
    char *keys = NULL;
    rc = stride ? gather(call, key, stride, &keys) : 0;
    const struct shmemi_transport *const *route =
        segment == SHMEMI_SEGMENT_HOST ? shmemi_world.route : shmemi_world.gpu_route;
    for (int pe = 0; pe < shmemi_world.job.npes && rc == 0; ++pe)
        if (net->here && (route[pe] == net->t || shmemi_world.atomics[segment] == net->t) && net->t->learn &&
            bytes[pe])
            rc = net->t->learn(pe, segment, offset, n, keys + (size_t)pe * stride, (size_t)bytes[pe]);
    if (stride)
        free(keys);
    free(bytes);
    int32_t *all;
    if ((rc = tell(call, "learn its peers' keys", rc, &all)) == 0)
        free(all);
    return rc;
}

bool shmemi_route_keeps_gpu(void)
{
    for (int i = 0; i < count; ++i)
        if (networks[i].holds_gpu)
            return true;
    return false;
}

bool shmemi_route_serves_gpu(void)
{
    for (int i = 0; i < count; ++i)
        if (serves(networks[i].t, shmemi_world.gpu_route))
            return true;
    return false;
}

bool shmemi_route_has_networks(void)
{
    return count > 0;
}

int shmemi_route_expose(const char *call, int segment, uint64_t offset, size_t n)
{
    int rc = SHMEMX_SUCCESS;
    for (int i = 0; i < count && rc == 0; ++i)
        rc = expose(call, &networks[i], segment, offset, n);
    return rc;
}

/* The transports themselves are among shmemi_world.open and are closed with them. */
void shmemi_network_close(void)
{
    shmemi_wait_networks(NULL, NULL);
    memset(shmemi_world.atomics, 0, sizeof shmemi_world.atomics);
    for (int i = 0; i < count; ++i) {
        free(networks[i].cards);
        free(networks[i].card_bytes);
    }
    count = 0;
}
