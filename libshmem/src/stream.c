/* Stream-ordered calls (shmemx_stream.h): copies by the driver, everything else by the kernels of gpu/kernels.cu.
 *
 * Collectives up to a message of packets are one kernel of one block; larger ones one kernel of many blocks that meets the
 * other members first and last; from COPY_ENGINE_BYTES on, a barrier kernel, copies straight into the members' dest by
 * the copy engine, and a barrier kernel. Reductions of any size are one kernel.
 */
#include "shmemx_stream.h"

#include "base/gpu.h"
#include "coll.h"
#include "gpu/gpu_state.h"
#include "heap.h"

/* ---- checks ---------------------------------------------------------------------------------------------------------- */

static int ready(const char *call)
{
    SHMEMI_REQUIRE_INIT(call);
    if (SHMEMI_UNLIKELY(!shmemi_gpu_state_is_open()))
        return shmemi_fail(
            SHMEMX_ERR_UNSUPPORTED, call,
            "there is no GPU heap yet: allocate with shmemx_malloc(size, SHMEMX_MEM_DEVICE) first");
    return shmemi_gpu_mailbox(call);
}

static int locate(const char *call, const char *what, const void *addr, size_t n, struct shmemi_place *p)
{
    int rc = shmemi_locate(call, what, addr, n, p);
    if (rc == 0 && p->segment != SHMEMI_SEGMENT_DEVICE)
        rc = shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%s %p is in the host heap; streams work on the GPU heap",
                         what, addr);
    return rc;
}

static int check_pe(const char *call, int pe)
{
    return (unsigned)pe < (unsigned)shmemi_world.npes ? SHMEMX_SUCCESS
                                                      : shmemi_bad_pe(call, pe, shmemi_world.npes);
}

/* ---- one-sided -------------------------------------------------------------------------------------------------------- */

int shmemx_put_on_stream(void *dest, const void *source, size_t nbytes, int pe, void *stream)
{
    const char *call = "shmemx_put_on_stream";
    struct shmemi_place p;
    int rc = ready(call);
    if (rc || (rc = check_pe(call, pe)) != 0 || nbytes == 0 ||
        (rc = locate(call, "dest", dest, nbytes, &p)) != 0)
        return rc;
    return shmemi_gpu_copy(call, shmemi_map_gpu(pe, p), source, nbytes, stream);
}

int shmemx_get_on_stream(void *dest, const void *source, size_t nbytes, int pe, void *stream)
{
    const char *call = "shmemx_get_on_stream";
    struct shmemi_place p;
    int rc = ready(call);
    if (rc || (rc = check_pe(call, pe)) != 0 || nbytes == 0 ||
        (rc = locate(call, "source", source, nbytes, &p)) != 0)
        return rc;
    return shmemi_gpu_copy(call, dest, shmemi_map_gpu(pe, p), nbytes, stream);
}

int shmemx_put_signal_on_stream(void *dest, const void *source, size_t nbytes, uint64_t *sig_addr,
                                uint64_t signal, int sig_op, int pe, void *stream)
{
    const char *call = "shmemx_put_signal_on_stream";
    struct shmemi_place p;
    int rc = ready(call);
    if (rc || (rc = check_pe(call, pe)) != 0 || (rc = locate(call, "sig_addr", sig_addr, 8, &p)) != 0)
        return rc;
    if ((uintptr_t)sig_addr % 8)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "sig_addr %p is not aligned to 8 bytes",
                           (void *)sig_addr);
    if (sig_op != SHMEM_SIGNAL_SET && sig_op != SHMEM_SIGNAL_ADD)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "sig_op is %d, neither SHMEM_SIGNAL_SET nor SHMEM_SIGNAL_ADD", sig_op);
    if ((rc = shmemx_put_on_stream(dest, source, nbytes, pe, stream)) != 0)
        return rc;
    void *arguments[] = {&sig_addr, &signal, &sig_op, &pe};
    return shmemi_gpu_kernel(call, SHMEMI_K_SIGNAL, 1, 1, arguments, stream);
}

int shmemx_signal_wait_on_stream(uint64_t *sig_addr, int cmp, uint64_t value, void *stream)
{
    const char *call = "shmemx_signal_wait_on_stream";
    struct shmemi_place p;
    int rc = ready(call);
    if (rc || (rc = locate(call, "sig_addr", sig_addr, 8, &p)) != 0)
        return rc;
    if (cmp < SHMEM_CMP_EQ || cmp > SHMEM_CMP_LE)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "comparison %d, SHMEM_CMP_EQ = %d to SHMEM_CMP_LE = %d exist", cmp, SHMEM_CMP_EQ,
                           SHMEM_CMP_LE);
    void *arguments[] = {&sig_addr, &cmp, &value};
    return shmemi_gpu_kernel(call, SHMEMI_K_SIGNAL_WAIT, 1, 1, arguments, stream);
}

int shmemx_quiet_on_stream(void *stream)
{
    int rc = ready("shmemx_quiet_on_stream");
    return rc ? rc : shmemi_gpu_join("shmemx_quiet_on_stream", stream, shmemi_gpu_stream());
}

/* ---- collectives ---------------------------------------------------------------------------------------------------------- */

/* The copy engine moves 390 GB/s over NVLink, kernels 350, but two barriers more cost some 10 us: even at 16 MiB. */
static const size_t COPY_ENGINE_BYTES = 16u << 20;
enum { THREADS = 512, MOST_BLOCKS = 64 };

/* A block for every 16 KiB, 32 bytes a thread. */
static unsigned blocks_for(size_t bytes)
{
    size_t blocks = bytes / (32 * THREADS) + 1;
    return blocks < MOST_BLOCKS ? (unsigned)blocks : MOST_BLOCKS;
}

struct group {
    struct shmemi_team *t;
    unsigned slot; /* the team's number in kernels */
};

static int enter(const char *call, shmem_team_t team, struct group *g)
{
    int rc = ready(call);
    *g = (struct group){0};
    if (rc || !(g->t = shmemi_team_get(call, team, &rc)))
        return rc;
    g->slot = (unsigned)shmemi_team_slot(g->t);
    return SHMEMX_SUCCESS;
}

int shmemx_team_device(shmem_team_t team)
{
    struct group g;
    int rc = enter("shmemx_team_device", team, &g);
    return rc ? rc : (int)g.slot;
}

static int barrier(const char *call, const struct group *g, void *stream)
{
    unsigned slot = g->slot;
    void *arguments[] = {&slot};
    return shmemi_gpu_kernel(call, SHMEMI_K_BARRIER, 1, 32, arguments, stream);
}

int shmemx_barrier_on_stream(shmem_team_t team, void *stream)
{
    const char *call = "shmemx_barrier_on_stream";
    struct group g;
    int rc = enter(call, team, &g);
    return rc ? rc : barrier(call, &g, stream);
}

static int copy_to(const char *call, const struct group *g, int member, struct shmemi_place dest, size_t at,
                   const void *source, size_t n, void *stream)
{
    dest.offset += at;
    void *to = shmemi_map_gpu(g->t->pes[member], dest);
    return to == source ? SHMEMX_SUCCESS : shmemi_gpu_copy(call, to, source, n, stream);
}

int shmemx_broadcast_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes, int root,
                               void *stream)
{
    const char *call = "shmemx_broadcast_on_stream";
    struct group g;
    struct shmemi_place d, s;
    int rc = enter(call, team, &g);
    if (rc || nbytes == 0)
        return rc;
    if (root < 0 || root >= g.t->n)
        return shmemi_fail(SHMEMX_ERR_PE, call, "root %d is out of range, 0 to %d", root, g.t->n - 1);
    if ((rc = locate(call, "dest", dest, nbytes, &d)) != 0 ||
        (rc = locate(call, "source", source, nbytes, &s)) != 0)
        return rc;
    if (nbytes <= shmemi_gpu_packet_bytes((int)g.slot)) {
        uint64_t n = nbytes;
        void *arguments[] = {&g.slot, &dest, &source, &n, &root};
        return shmemi_gpu_kernel(call, SHMEMI_K_BROADCAST, 1, THREADS, arguments, stream);
    }
    if (nbytes < COPY_ENGINE_BYTES) {
        uint64_t n = nbytes;
        void *arguments[] = {&g.slot, &dest, &source, &n, &root};
        return shmemi_gpu_kernel(call, SHMEMI_K_FETCH, blocks_for(nbytes), THREADS, arguments, stream);
    }
    if ((rc = barrier(call, &g, stream)) != 0)
        return rc;
    if (g.t->me != root)
        rc = shmemi_gpu_copy(call, dest, shmemi_map_gpu(g.t->pes[root], s), nbytes, stream);
    else if (dest != source)
        rc = shmemi_gpu_copy(call, dest, source, nbytes, stream);
    return rc ? rc : barrier(call, &g, stream);
}

/* fcollect: every member gets `source`; alltoall: member j its block. */
static int exchange(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes,
                    bool all, void *stream)
{
    struct group g;
    struct shmemi_place d, s;
    int rc = enter(call, team, &g);
    if (rc || nbytes == 0)
        return rc;
    size_t n = (size_t)g.t->n, everything;
    if (__builtin_mul_overflow(n, nbytes, &everything))
        everything = SIZE_MAX; /* fails the address check */
    size_t brought = all ? everything : nbytes;
    if ((rc = locate(call, "dest", dest, everything, &d)) != 0 ||
        (rc = locate(call, "source", source, brought, &s)) != 0)
        return rc;
    if (shmemi_overlap(dest, everything, source, brought))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "dest [%p, +%zu) and source [%p, +%zu) overlap", dest,
                           everything, source, brought);
    if (nbytes <= shmemi_gpu_packet_bytes((int)g.slot)) {
        uint64_t bytes = nbytes;
        void *arguments[] = {&g.slot, &dest, &source, &bytes};
        return shmemi_gpu_kernel(call, all ? SHMEMI_K_ALLTOALL : SHMEMI_K_FCOLLECT, 1, THREADS, arguments,
                                 stream);
    }
    if (everything < COPY_ENGINE_BYTES) {
        uint64_t bytes = nbytes;
        int to_each = all;
        void *arguments[] = {&g.slot, &to_each, &dest, &source, &bytes};
        return shmemi_gpu_kernel(call, SHMEMI_K_EXCHANGE, blocks_for(everything), THREADS, arguments, stream);
    }
    rc = barrier(call, &g, stream);
    for (size_t k = 1; k <= n && rc == 0;
         ++k) { /* the next member first, so that not all write to one at once */
        size_t j = ((size_t)g.t->me + k) % n;
        rc = copy_to(call, &g, (int)j, d, (size_t)g.t->me * nbytes,
                     (const char *)source + (all ? j * nbytes : 0), nbytes, stream);
    }
    return rc ? rc : barrier(call, &g, stream);
}

int shmemx_fcollect_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes, void *stream)
{
    return exchange("shmemx_fcollect_on_stream", team, dest, source, nbytes, false, stream);
}

int shmemx_alltoall_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes, void *stream)
{
    return exchange("shmemx_alltoall_on_stream", team, dest, source, nbytes, true, stream);
}

int shmemx_reduce_on_stream(shmem_team_t team, int op, int type, void *dest, const void *source,
                            size_t nelems, void *stream)
{
    const char *call = "shmemx_reduce_on_stream";
    struct group g;
    struct shmemi_place d, s;
    int rc = enter(call, team, &g);
    if (rc)
        return rc;
    size_t size = shmemi_reduce_size(call, op, type), bytes;
    if (size == 0)
        return SHMEMX_ERR_ARGUMENT;
    if (__builtin_mul_overflow(nelems, size, &bytes))
        bytes = SIZE_MAX;
    if (nelems == 0)
        return SHMEMX_SUCCESS;
    if ((rc = locate(call, "dest", dest, bytes, &d)) != 0 ||
        (rc = locate(call, "source", source, bytes, &s)) != 0)
        return rc;
    if (((uintptr_t)dest | (uintptr_t)source) % size)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "dest %p or source %p is not aligned to %zu bytes", dest,
                           source, size);
    if (dest != source && shmemi_overlap(dest, bytes, source, bytes))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "dest [%p, +%zu) and source [%p, +%zu) overlap in part",
                           dest, bytes, source, bytes);
    uint64_t n = nelems;
    void *arguments[] = {&g.slot, &op, &dest, &source, &n};
    return shmemi_gpu_kernel(call, SHMEMI_K_REDUCE + type, blocks_for(bytes / (size_t)g.t->n), THREADS / 2,
                             arguments, stream);
}
