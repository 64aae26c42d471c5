/* Checks of debug mode. They hang on two numbers of shmemi_world that calls compare with anyway: with quick_bytes = 0 no
 * address passes the quick check of shmemi_locate, with suspect = UINTPTR_MAX every local buffer is looked at. */
#define _GNU_SOURCE
#include "checks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static bool at_exit_set;
static pid_t watched;

/* A PE that ends in the middle of a job. The job's other PEs are told by the node's watcher. */
static void at_exit(void)
{
    if (shmemi_world.debug && shmemi_world.npes && getpid() == watched)
        shmemi_warn(
            "exit: this PE ends without shmem_finalize: one call of it is missing for each shmem_init");
}

int shmemi_checks_open(const char *call)
{
    struct shmemi_world *w = &shmemi_world;
    int rc = SHMEMX_SUCCESS, mine = shmemi_env.DEBUG, any = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_SYNC, 0, 0), &mine, sizeof mine)) != 0)
        return rc;
    for (int j = 0; j < world->n; ++j) {
        int theirs;
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        any |= theirs;
    }
    w->debug = any;
    w->quick_bytes = any ? 0 : w->segments[SHMEMI_SEGMENT_HOST].bytes;
    w->suspect = any ? UINTPTR_MAX : 0;
    watched = getpid();
    if (any && !at_exit_set)
        at_exit_set = atexit(at_exit) == 0;
    return SHMEMX_SUCCESS;
}

void shmemi_checks_close(void)
{
    shmemi_world.debug = false;
    shmemi_world.quick_bytes = 0;
    shmemi_world.suspect = 0;
}

static int misaligned(const char *call, const char *what, const void *addr, size_t align)
{
    return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%s: %p is not aligned to %zu bytes, as its type is", what,
                       addr, align);
}

int shmemi_check_symmetric(const char *call, const char *what, const void *addr, size_t n, size_t align,
                           const struct shmemi_place *p)
{
    char why[200];
    if ((uintptr_t)addr % align)
        return misaligned(call, what, addr, align);
    if (p->segment == SHMEMI_SEGMENT_HOST && p->offset >= shmemi_world.internal_bytes &&
        !shmemi_heap_holds(p->offset, n, why, sizeof why))
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%s: %zu bytes at %p are in no block in use: %s", what,
                           n, addr, why);
    return SHMEMX_SUCCESS;
}

/* Is the byte mapped? The kernel reads it for us; where it may not, we do not know, and say yes. */
static bool mapped(const char *byte)
{
    char c;
    struct iovec to = {&c, 1}, from = {(void *)(uintptr_t)byte, 1};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 || errno != EFAULT;
}

int shmemi_check_local(const char *call, const char *what, const void *addr, size_t n, size_t align)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    const char *a = addr;
    if (!addr)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is NULL", what);
    if (!shmemi_world.debug)
        return SHMEMX_SUCCESS;
    if ((uintptr_t)addr % align)
        return misaligned(call, what, addr, align);
    if (n > UINTPTR_MAX - (uintptr_t)addr)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%s: %zu bytes at %p are no range of memory", what, n,
                           addr);
    struct shmemi_place p = {SHMEMI_SEGMENT_HOST, (uint64_t)(a - s->base)};
    if (p.offset < s->bytes)
        return shmemi_check_symmetric(call, what, addr, n, align, &p);
    if (shmemi_world.gpu_route && shmemi_is_gpu(addr))
        return SHMEMX_SUCCESS;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at<n; at = n - at> page ? at + page : at < n - 1 ? n - 1 : n)
        if (!mapped(a + at))
            return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%s: %zu bytes at %p: there is no memory at +%zu",
                               what, n, addr, at);
    return SHMEMX_SUCCESS;
}

/* ---- collectives ------------------------------------------------------------------------------------------------------ */

/* What members of a collective show each other. */
struct shown {
    char call[48];
    struct shmemi_place dest, source; /* segment -1 = no bytes, or none of this call */
    uint64_t dest_bytes;
    int64_t root;
};

/* One routine under two names. */
static const char *plain(const char *call)
{
    return strcmp(call, "shmem_team_sync") == 0 ? "shmem_sync" : call;
}

static bool same_call(const struct shmemi_coll *c, int member, const struct shown *theirs)
{
    if (strncmp(plain(c->call), theirs->call, sizeof theirs->call - 1) == 0)
        return true;
    shmemi_fail(SHMEMX_ERR_MISMATCH, c->call, "PE %d is in %s, this PE in %s", c->t->pes[member],
                theirs->call, c->call);
    return false;
}

static bool same_object(const struct shmemi_coll *c, int member, const char *what,
                        const struct shmemi_place *mine, const struct shmemi_place *theirs)
{
    if (mine->segment < 0 || theirs->segment < 0 ||
        (mine->segment == theirs->segment && mine->offset == theirs->offset))
        return true;
    shmemi_fail(SHMEMX_ERR_MISMATCH, c->call,
                "%s is another object on PE %d: offset %llu of its %s memory, here %llu of %s memory", what,
                c->t->pes[member], (unsigned long long)theirs->offset, theirs->segment ? "GPU" : "host",
                (unsigned long long)mine->offset, mine->segment ? "GPU" : "host");
    return false;
}

static bool same_number(const struct shmemi_coll *c, int member, const char *what, uint64_t mine,
                        uint64_t theirs)
{
    if (mine != theirs)
        shmemi_fail(SHMEMX_ERR_MISMATCH, c->call, "%s is %llu on PE %d, %llu here", what,
                    (unsigned long long)theirs, c->t->pes[member], (unsigned long long)mine);
    return mine == theirs;
}

int shmemi_check_members(struct shmemi_coll *c, size_t dest_bytes, bool source)
{
    struct shown mine = {.dest = {-1, 0}, .source = {-1, 0}, .dest_bytes = dest_bytes, .root = c->root},
                 theirs;
    snprintf(mine.call, sizeof mine.call, "%s", plain(c->call));
    if (dest_bytes)
        mine.dest = c->dest;
    if (source)
        mine.source = c->source;
    int rc = shmemi_show(c->call, c->t, shmemi_tag(SHMEMI_ARGUMENTS, 0, 0), &mine, sizeof mine);
    for (int j = 0; j < c->t->n && rc == 0; ++j) {
        memcpy(&theirs, shmemi_note_of(c->t, j, c->t->epoch)->data, sizeof theirs);
        if (!same_call(c, j, &theirs) || !same_object(c, j, "dest", &mine.dest, &theirs.dest) ||
            !same_object(c, j, "source", &mine.source, &theirs.source) ||
            !same_number(c, j, "the number of bytes of dest", mine.dest_bytes, theirs.dest_bytes) ||
            !same_number(c, j, "root", (uint64_t)mine.root, (uint64_t)theirs.root))
            rc = SHMEMX_ERR_MISMATCH;
    }
    c->t->told = rc != 0; /* this epoch was the refusal */
    return rc;
}
