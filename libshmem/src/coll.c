/* Collectives over teams: sync, barrier, broadcast, collect, fcollect, alltoall, alltoalls. Reductions are in reduce.c.
 *
 * Small payloads travel inside the notes of team.h: one line from each member to each reader, one epoch. Larger ones
 * go straight between the user's buffers between two epochs without payload: the first says "my buffers are ready",
 * the second "I am done with yours". The limits below are where the second form wins; a note holds at most
 * SHMEMI_NOTE_ROOM bytes.
 */
#include <string.h>

#include "base/gpu.h"
#include "checks.h"
#include "gpu/gpu_state.h"

int shmemi_coll_enter(const char *call, shmem_team_t team, struct shmemi_coll *c)
{
    int rc = SHMEMX_SUCCESS;
    c->call = call;
    c->root = 0;
    c->shown = false;
    c->t = shmemi_team_get(call, team, &rc);
    return rc;
}

/* Where both buffers are GPU memory the call has gone another way (shmemi_both_gpu). */
static int host_only(const struct shmemi_coll *c, const char *what, const void *addr,
                     const struct shmemi_place *p)
{
    if (SHMEMI_LIKELY(p->segment == SHMEMI_SEGMENT_HOST))
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, c->call,
                       "%s %p is in the GPU heap: dest and source must be in the same heap", what, addr);
}

bool shmemi_both_gpu(const void *dest, const void *source)
{
    return SHMEMI_UNLIKELY(shmemi_world.gpu_route != NULL) && shmemi_kind(dest) == SHMEMX_MEM_DEVICE &&
           shmemi_kind(source) == SHMEMX_MEM_DEVICE;
}

int shmemi_gpu_finish(const char *call, int rc)
{
    if (rc == 0)
        rc = shmemi_gpu_sync(call, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_mailbox(call);
}

int shmemi_coll_buffers(struct shmemi_coll *c, const void *dest, size_t dest_bytes, const void *source,
                        size_t source_bytes)
{
    int rc = SHMEMX_SUCCESS;
    if (dest_bytes && ((rc = shmemi_locate(c->call, "dest", dest, dest_bytes, &c->dest)) != 0 ||
                       (rc = host_only(c, "dest", dest, &c->dest)) != 0))
        return rc;
    if (source_bytes && (rc = shmemi_locate(c->call, "source", source, source_bytes, &c->source)) == 0)
        rc = host_only(c, "source", source, &c->source);
    if (SHMEMI_UNLIKELY(shmemi_world.debug) && rc == 0 && !c->shown) {
        c->shown = true;
        rc = shmemi_check_members(c, dest_bytes, source_bytes > 0);
    }
    return rc;
}

bool shmemi_overlap(const void *a, size_t na, const void *b, size_t nb)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return na && nb && x < y + nb && y < x + na;
}

static int refuse_overlap(const struct shmemi_coll *c, const void *dest, size_t nd, const void *source,
                          size_t ns)
{
    if (SHMEMI_LIKELY(!shmemi_overlap(dest, nd, source, ns)))
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, c->call, "dest [%p, +%zu) and source [%p, +%zu) overlap", dest,
                       nd, source, ns);
}

/* n blocks of `bytes`; SIZE_MAX, which fits no heap, when that overflows. */
static size_t times(size_t n, size_t bytes)
{
    size_t all;
    return __builtin_mul_overflow(n, bytes, &all) ? SIZE_MAX : all;
}

/* ---- sync and barrier ----------------------------------------------------------------------------------------------- */

int shmemi_sync(const char *call, shmem_team_t team)
{
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    if (SHMEMI_UNLIKELY(shmemi_world.debug) && rc == 0 && (rc = shmemi_check_members(&c, 0, false)) != 0)
        return shmemi_refuse(call, c.t, rc);
    return rc ? rc : shmemi_meet(call, c.t, shmemi_tag(SHMEMI_SYNC, 0, 0));
}

int shmemi_barrier(const char *call, shmem_team_t team)
{
    SHMEMI_REQUIRE_INIT(call);
    int rc = shmemx_quiet(SHMEM_CTX_DEFAULT);
    rc = rc ? rc : shmemi_ctx_quiet_team(SHMEM_TEAM_INVALID);
    return rc ? rc : shmemi_sync(call, team);
}

int shmemx_barrier(shmem_team_t team)
{
    return shmemi_barrier("shmem_barrier", team);
}

int shmemx_sync(shmem_team_t team)
{
    return shmemi_sync("shmem_sync", team);
}

/* ---- over several nodes ------------------------------------------------------------------------------------------------ */

/* To a member's copy of a place: stored, or on its way until quiet. `source` stays as it is until then. */
static int deliver(const struct shmemi_coll *c, int member, struct shmemi_place p, const void *source,
                   size_t n)
{
    const struct shmemi_team *t = c->t;
    int pe = t->pes[member];
    if (SHMEMI_UNLIKELY(t->node[member] != t->home))
        return shmemi_world.route[pe]->put(pe, p.segment, p.offset, source, n, SHMEMI_NBI);
    memcpy(shmemi_map(pe, p), source, n);
    return SHMEMX_SUCCESS;
}

/* Everything delivered is there, and all members have come so far. */
static int settle(const struct shmemi_coll *c, uint64_t tag)
{
    int rc = c->t->nnodes > 1 ? shmemx_quiet(SHMEM_CTX_DEFAULT) : SHMEMX_SUCCESS;
    return rc ? rc : shmemi_meet(c->call, c->t, tag);
}

/* On every node but the root's its stand-in fetches the root's source, then the others there copy from that one. */
static int carry(const struct shmemi_coll *c, int root, size_t nbytes)
{
    const struct shmemi_team *t = c->t;
    bool far = t->node[root] != t->home;
    int pe = t->pes[root], from = far ? shmemi_stand_in(t, root) : root, rc = SHMEMX_SUCCESS;
    struct shmemi_place d = c->dest, s = c->source;
    char *dest = shmemi_map(shmemi_world.me, d);
    if (from == t->me && far)
        rc = shmemi_world.route[pe]->get(pe, s.segment, s.offset, dest, nbytes, SHMEMI_BLOCKING);
    rc = rc ? rc : shmemi_meet(c->call, c->t, t->tag);
    if (rc == 0 && far && from != t->me)
        memcpy(dest, shmemi_map(t->pes[from], d), nbytes);
    return rc;
}

/* ---- broadcast -------------------------------------------------------------------------------------------------------- */

int shmemi_broadcast(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes,
                     int root)
{
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    if (rc)
        return rc;
    struct shmemi_team *t = c.t;
    c.root = root;
    if (root < 0 || root >= t->n)
        rc = shmemi_fail(SHMEMX_ERR_PE, call, "root %d is out of range, 0 to %d", root, t->n - 1);
    else if ((rc = shmemi_coll_buffers(&c, dest, nbytes, source, nbytes)) == 0 && dest != source)
        rc = refuse_overlap(&c, dest, nbytes, source, nbytes);
    if (rc)
        return shmemi_refuse(call, t, rc);
    bool is_root = t->me == root;
    uint64_t tag = shmemi_tag(SHMEMI_BROADCAST, (unsigned)root, nbytes);
    if (nbytes <= SHMEMI_NOTE_ROOM) {
        if ((rc = shmemi_begin(call, t, tag)) != 0)
            return rc;
        if (is_root)
            memcpy(shmemi_my_note(t), source, nbytes);
        if ((rc = shmemi_post(t, is_root ? nbytes : 0)) != 0)
            return rc;
        if (!is_root && (rc = shmemi_await(call, t, root)) == 0)
            memcpy(dest, shmemi_note_of(t, root, t->epoch)->data, nbytes);
        else if (is_root && dest != source && nbytes)
            memcpy(dest, source, nbytes);
        return rc;
    }
    if ((rc = shmemi_meet(call, t, tag)) != 0)
        return rc;
    if (is_root && dest != source)
        memcpy(dest, source, nbytes);
    if (t->nnodes > 1 && (rc = carry(&c, root, nbytes)) != 0)
        return rc;
    if (!is_root && t->node[root] == t->home)
        memcpy(dest, shmemi_map(t->pes[root], c.source), nbytes);
    /* the root's source, and a stand-in's dest, stay until all have read them */
    return shmemi_meet(call, t, tag);
}

int shmemx_broadcast(shmem_team_t team, void *dest, const void *source, size_t nbytes, int root)
{
    const char *call = "shmem_broadcast";
    if (shmemi_both_gpu(dest, source))
        return shmemi_gpu_finish(
            call, shmemx_broadcast_on_stream(team, dest, source, nbytes, root, shmemi_gpu_stream()));
    return shmemi_broadcast(call, team, dest, source, nbytes, root);
}

/* ---- fcollect and collect ------------------------------------------------------------------------------------------- */

/* Puts this PE's block at `at` in every member's dest; on another node in its stand-in's alone. This node's members first,
 * from the next one on, so that not everybody writes to the same one at once. */
static int spread(const struct shmemi_coll *c, size_t at, const void *source, size_t nbytes)
{
    const struct shmemi_team *t = c->t;
    const struct shmemi_team_node *home = &t->nodes[t->home];
    struct shmemi_place p = c->dest;
    int rc = SHMEMX_SUCCESS, mine = t->rank[t->me];
    p.offset += at;
    for (int k = 1; k <= home->n; ++k)
        memcpy(shmemi_map(t->pes[home->members[(mine + k) % home->n]], p), source, nbytes);
    for (int k = 1; k < t->nnodes && rc == 0; ++k) {
        const struct shmemi_team_node *node = &t->nodes[(t->home + k) % t->nnodes];
        rc = deliver(c, node->members[mine % node->n], p, source, nbytes);
    }
    return rc;
}

/* After the members have spread their blocks and settled: takes the block of a member on another node, `at` bytes into dest,
 * from its stand-in here. */
static void pick_up(const struct shmemi_coll *c, int member, size_t at, size_t nbytes)
{
    const struct shmemi_team *t = c->t;
    struct shmemi_place p = c->dest;
    p.offset += at;
    int from = t->node[member] == t->home ? t->me : shmemi_stand_in(t, member);
    if (from != t->me)
        memcpy(shmemi_map(shmemi_world.me, p), shmemi_map(t->pes[from], p), nbytes);
}

int shmemi_fcollect(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes)
{
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    if (rc)
        return rc;
    struct shmemi_team *t = c.t;
    size_t all = times((size_t)t->n, nbytes);
    if ((rc = shmemi_coll_buffers(&c, dest, all, source, nbytes)) != 0 ||
        (rc = refuse_overlap(&c, dest, all, source, nbytes)) != 0)
        return shmemi_refuse(call, t, rc);
    uint64_t tag = shmemi_tag(SHMEMI_FCOLLECT, 0, nbytes);
    if (nbytes <= SHMEMI_NOTE_ROOM) {
        if ((rc = shmemi_show(call, t, tag, source, nbytes)) != 0)
            return rc;
        for (int j = 0; j < t->n; ++j)
            memcpy((char *)dest + (size_t)j * nbytes, shmemi_note_of(t, j, t->epoch)->data, nbytes);
        return SHMEMX_SUCCESS;
    }
    if ((rc = shmemi_meet(call, t, tag)) != 0)
        return rc;
    if ((rc = spread(&c, (size_t)t->me * nbytes, source, nbytes)) != 0 || (rc = settle(&c, tag)) != 0 ||
        t->nnodes == 1)
        return rc;
    for (int j = 0; j < t->n; ++j)
        pick_up(&c, j, (size_t)j * nbytes, nbytes);
    return shmemi_meet(call, t, tag); /* a stand-in's dest stays until all have read it */
}

int shmemx_fcollect(shmem_team_t team, void *dest, const void *source, size_t nbytes)
{
    const char *call = "shmem_fcollect";
    if (shmemi_both_gpu(dest, source))
        return shmemi_gpu_finish(call,
                                 shmemx_fcollect_on_stream(team, dest, source, nbytes, shmemi_gpu_stream()));
    return shmemi_fcollect(call, team, dest, source, nbytes);
}

/* Bytes that a member brings to the collect of that epoch. */
static uint64_t brought(const struct shmemi_team *t, int member, uint64_t epoch)
{
    uint64_t n;
    memcpy(&n, shmemi_note_of(t, member, epoch)->data, sizeof n);
    return n;
}

int shmemi_collect(const char *call, shmem_team_t team, void *dest, size_t dest_nbytes, const void *source,
                   size_t nbytes)
{
    enum { ROOM = SHMEMI_NOTE_ROOM - sizeof(uint64_t) };
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    if (rc)
        return rc;
    struct shmemi_team *t = c.t;
    uint64_t tag = shmemi_tag(SHMEMI_COLLECT, 0, 0);
    if ((rc = shmemi_coll_buffers(&c, NULL, 0, source, nbytes)) != 0)
        return shmemi_refuse(call, t, rc);
    if ((rc = shmemi_begin(call, t, tag)) != 0)
        return rc;
    /* a note: how many bytes I bring, and the bytes themselves if they fit */
    uint64_t mine = nbytes;
    memcpy(shmemi_my_note(t), &mine, sizeof mine);
    if (nbytes && nbytes <= ROOM)
        memcpy(shmemi_my_note(t) + sizeof mine, source, nbytes);
    if ((rc = shmemi_post(t, sizeof mine + (nbytes <= ROOM ? nbytes : 0))) != 0 ||
        (rc = shmemi_await_all(call, t)) != 0)
        return rc;
    uint64_t shown = t->epoch;
    size_t all = 0, at = 0, largest = 0;
    for (int j = 0; j < t->n; ++j) {
        uint64_t n = brought(t, j, shown);
        at = j == t->me ? all : at;
        all = n > SIZE_MAX - all ? SIZE_MAX : all + n;
        largest = n > largest ? n : largest;
    }
    /* every member sees the same sizes; but dest is each one's own, so one may refuse what the others accept: it
     * still takes part, so that nobody waits for it, and only its own result is missing */
    int refused = shmemi_coll_buffers(&c, dest, all, NULL, 0);
    if (!refused && all > dest_nbytes)
        refused = shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "dest has room for %zu bytes, the members bring %zu",
                              dest_nbytes, all);
    if (!refused)
        refused = refuse_overlap(&c, dest, all, source, nbytes);
    char *to = dest;
    for (int j = 0; j < t->n && !refused; ++j) {
        uint64_t n = brought(t, j, shown);
        if (n && n <= ROOM)
            memcpy(to, shmemi_note_of(t, j, shown)->data + sizeof n, n);
        to += n;
    }
    if (largest <= ROOM)
        return refused;
    if (nbytes > ROOM && !refused)
        refused = spread(&c, at, source, nbytes);
    /* a block that this PE could not deliver is missing everywhere: the others must not take the call for a success */
    rc = settle(&c, refused && nbytes > ROOM ? SHMEMI_TAG_REFUSED : tag);
    if (rc || t->nnodes == 1)
        return refused ? refused : rc;
    at = 0;
    for (int j = 0; j < t->n && !refused; ++j) {
        size_t n = brought(t, j, shown); /* notes of this epoch stay until all members are two epochs on */
        if (n > ROOM)
            pick_up(&c, j, at, n);
        at += n;
    }
    rc = shmemi_meet(call, t, tag); /* a stand-in's dest stays until all have read it */
    return refused ? refused : rc;
}

int shmemx_collect(shmem_team_t team, void *dest, size_t dest_nbytes, const void *source, size_t nbytes)
{
    const char *call = "shmem_collect";
    if (shmemi_both_gpu(dest, source))
        return shmemi_gpu_finish(
            call, shmemx_collect_on_stream(team, dest, dest_nbytes, source, nbytes, shmemi_gpu_stream()));
    return shmemi_collect(call, team, dest, dest_nbytes, source, nbytes);
}

/* ---- alltoall ---------------------------------------------------------------------------------------------------------- */

int shmemi_alltoall(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes)
{
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    if (rc)
        return rc;
    struct shmemi_team *t = c.t;
    size_t all = times((size_t)t->n, nbytes);
    if ((rc = shmemi_coll_buffers(&c, dest, all, source, all)) != 0 ||
        (rc = refuse_overlap(&c, dest, all, source, all)) != 0)
        return shmemi_refuse(call, t, rc);
    uint64_t tag = shmemi_tag(SHMEMI_ALLTOALL, 0, nbytes);
    if (all <= SHMEMI_NOTE_ROOM) {
        if ((rc = shmemi_show(call, t, tag, source, all)) != 0)
            return rc;
        for (int j = 0; j < t->n; ++j)
            memcpy((char *)dest + (size_t)j * nbytes,
                   shmemi_note_of(t, j, t->epoch)->data + (size_t)t->me * nbytes, nbytes);
        return SHMEMX_SUCCESS;
    }
    if ((rc = shmemi_meet(call, t, tag)) != 0)
        return rc;
    struct shmemi_place p = c.dest;
    p.offset += (size_t)t->me * nbytes;
    for (int k = 1; k <= t->n && rc == 0; ++k) {
        int j = (t->me + k) % t->n;
        rc = deliver(&c, j, p, (const char *)source + (size_t)j * nbytes, nbytes);
    }
    return rc ? rc : settle(&c, tag);
}

int shmemx_alltoall(shmem_team_t team, void *dest, const void *source, size_t nbytes)
{
    const char *call = "shmem_alltoall";
    if (shmemi_both_gpu(dest, source))
        return shmemi_gpu_finish(call,
                                 shmemx_alltoall_on_stream(team, dest, source, nbytes, shmemi_gpu_stream()));
    return shmemi_alltoall(call, team, dest, source, nbytes);
}

int shmemi_alltoalls(const char *call, shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,
                     ptrdiff_t sst, size_t elem_size, size_t nelems)
{
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    if (rc)
        return rc;
    struct shmemi_team *t = c.t;
    size_t count = times((size_t)t->n, nelems), nd, ns;
    if ((rc = shmemi_spans(call, dst, sst, elem_size, count, &nd, &ns)) != 0)
        return shmemi_refuse(call, t, rc);
    size_t dstep = (size_t)dst * elem_size, sstep = (size_t)sst * elem_size;
    if (nelems == 0)
        nd = ns = 0;
    if ((rc = shmemi_coll_buffers(&c, dest, nd, source, ns)) != 0 ||
        (rc = refuse_overlap(&c, dest, nd, source, ns)) != 0)
        return shmemi_refuse(call, t, rc);
    uint64_t tag = shmemi_tag(SHMEMI_ALLTOALLS, 0, times(nelems, elem_size));
    if ((rc = shmemi_meet(call, t, tag)) != 0)
        return rc;
    /* k-th element for member j: k + j * nelems of source, k + me * nelems of its dest, both strided */
    for (int k = 1; k <= t->n && nelems; ++k) {
        int j = (t->me + k) % t->n;
        rc = shmemx_iput(SHMEM_CTX_DEFAULT, (char *)dest + (size_t)t->me * nelems * dstep,
                         (const char *)source + (size_t)j * nelems * sstep, dst, sst, elem_size, nelems,
                         t->pes[j]);
        if (rc)
            return rc;
    }
    return settle(&c, tag);
}

int shmemx_alltoalls(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                     size_t elem_size, size_t nelems)
{
    const char *call = "shmem_alltoalls";
    if (shmemi_both_gpu(dest, source))
        return shmemi_gpu_finish(call, shmemx_alltoalls_on_stream(team, dest, source, dst, sst, elem_size,
                                                                  nelems, shmemi_gpu_stream()));
    return shmemi_alltoalls(call, team, dest, source, dst, sst, elem_size, nelems);
}

/* ---- the standard's names ------------------------------------------------------------------------------------------- */

void shmem_sync_all(void)
{
    shmemi_void(shmemi_sync("shmem_sync_all", SHMEM_TEAM_WORLD));
}

void shmem_barrier_all(void)
{
    shmemi_void(shmemi_barrier("shmem_barrier_all", SHMEM_TEAM_WORLD));
}

int shmem_team_sync(shmem_team_t team)
{
    return shmemi_sync("shmem_team_sync", team);
}

int shmem_broadcastmem(shmem_team_t team, void *dest, const void *source, size_t n, int root)
{
    return shmemx_broadcast(team, dest, source, n, root);
}

int shmem_collectmem(shmem_team_t team, void *dest, const void *source, size_t n)
{
    return shmemx_collect(team, dest, SIZE_MAX, source, n);
}

int shmem_fcollectmem(shmem_team_t team, void *dest, const void *source, size_t n)
{
    return shmemx_fcollect(team, dest, source, n);
}

int shmem_alltoallmem(shmem_team_t team, void *dest, const void *source, size_t n)
{
    return shmemx_alltoall(team, dest, source, n);
}

int shmem_alltoallsmem(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                       size_t n)
{
    return shmemx_alltoalls(team, dest, source, dst, sst, 1, n);
}

#define TYPED(NAME, T, CORE)                                                                                 \
    int shmem_##NAME##_broadcast(shmem_team_t team, T *dest, const T *source, size_t n, int root)            \
    {                                                                                                        \
        return shmemx_broadcast(team, dest, source, times(n, sizeof(T)), root);                              \
    }                                                                                                        \
    int shmem_##NAME##_collect(shmem_team_t team, T *dest, const T *source, size_t n)                        \
    {                                                                                                        \
        return shmemx_collect(team, dest, SIZE_MAX, source, times(n, sizeof(T)));                            \
    }                                                                                                        \
    int shmem_##NAME##_fcollect(shmem_team_t team, T *dest, const T *source, size_t n)                       \
    {                                                                                                        \
        return shmemx_fcollect(team, dest, source, times(n, sizeof(T)));                                     \
    }                                                                                                        \
    int shmem_##NAME##_alltoall(shmem_team_t team, T *dest, const T *source, size_t n)                       \
    {                                                                                                        \
        return shmemx_alltoall(team, dest, source, times(n, sizeof(T)));                                     \
    }                                                                                                        \
    int shmem_##NAME##_alltoalls(shmem_team_t team, T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst,  \
                                 size_t n)                                                                   \
    {                                                                                                        \
        return shmemx_alltoalls(team, dest, source, dst, sst, sizeof(T), n);                                 \
    }
SHMEM_TYPES_RMA(TYPED)
