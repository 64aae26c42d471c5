/* Transport shm: the peers' copies are mapped into this process, so every operation is a load or a store and is
 * complete for this thread when its instruction retires; fence and quiet only order what other PEs see. */
#include "transport.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "amo_cpu.h"
#include "shmem.h"
#include "shmemx.h"

static const struct shmemi_job *job;

static int shm_probe(char *why, size_t n)
{
    snprintf(why, n, "always there");
    return 1;
}

static int shm_open(const struct shmemi_job *j)
{
    job = j;
    return SHMEMX_SUCCESS;
}

static int shm_connect(int pe, int segment, const void *card, size_t n)
{
    (void)card, (void)n;
    return segment == SHMEMI_SEGMENT_HOST && job->local_of[pe] >= 0;
}

static void shm_close(void)
{
    job = NULL;
}

static inline char *at(int pe, int segment, uint64_t offset)
{
    const struct shmemi_segment *s = &job->segments[segment];
    return s->node_base + (size_t)job->local_of[pe] * s->stride + offset;
}

static void *shm_map(int pe, int segment, uint64_t offset)
{
    return at(pe, segment, offset);
}

/* An aligned element of 4 or 8 bytes is one relaxed atomic store or load: a PE that waits on it never sees half of it.
 * The rest is memcpy, whose order within the bytes is nobody's business. */
static inline bool aligned(const void *p, size_t n)
{
    return ((uintptr_t)p & (n - 1)) == 0;
}

static inline void store(void *dest, const void *source, size_t n)
{
    if (n == 8 && aligned(dest, 8)) {
        uint64_t v;
        memcpy(&v, source, 8);
        __atomic_store_n((uint64_t *)dest, v, __ATOMIC_RELAXED);
    } else if (n == 4 && aligned(dest, 4)) {
        uint32_t v;
        memcpy(&v, source, 4);
        __atomic_store_n((uint32_t *)dest, v, __ATOMIC_RELAXED);
    } else {
        memcpy(dest, source, n);
    }
}

static inline void load(void *dest, const void *source, size_t n)
{
    if (n == 8 && aligned(source, 8)) {
        uint64_t v = __atomic_load_n((const uint64_t *)source, __ATOMIC_RELAXED);
        memcpy(dest, &v, 8);
    } else if (n == 4 && aligned(source, 4)) {
        uint32_t v = __atomic_load_n((const uint32_t *)source, __ATOMIC_RELAXED);
        memcpy(dest, &v, 4);
    } else {
        memcpy(dest, source, n);
    }
}

static int shm_put(int pe, int segment, uint64_t offset, const void *source, size_t n, bool nbi)
{
    (void)nbi;
    store(at(pe, segment, offset), source, n);
    return SHMEMX_SUCCESS;
}

static int shm_get(int pe, int segment, uint64_t offset, void *dest, size_t n, bool nbi)
{
    (void)nbi;
    load(dest, at(pe, segment, offset), n);
    return SHMEMX_SUCCESS;
}

static int shm_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, bool nbi)
{
    (void)nbi;
    shmemi_amo_cpu(at(pe, segment, offset), a);
    return SHMEMX_SUCCESS;
}

static int shm_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                          uint64_t sig_offset, uint64_t signal, int sig_op, bool nbi)
{
    (void)nbi;
    if (n)
        store(at(pe, segment, offset), source, n);
    _Atomic uint64_t *word = (void *)at(pe, sig_segment, sig_offset);
    /* release: the PE that reads the word (acquire, in signal.c and sync.c) sees the bytes */
    if (sig_op == SHMEM_SIGNAL_SET)
        atomic_store_explicit(word, signal, memory_order_release);
    else
        atomic_fetch_add_explicit(word, signal, memory_order_release);
    return SHMEMX_SUCCESS;
}

static int shm_fence(int pe)
{
    (void)pe;
    /* observers: the target PE, which reads a later put first, must find the earlier one */
    atomic_thread_fence(memory_order_release);
    return SHMEMX_SUCCESS;
}

static int shm_quiet(int pe)
{
    (void)pe;
    /* observers: this PE's next load and any PE whose own quiet comes later: of two PEs that put, quiet and then get
     * each other's word, at least one sees the other's. Needs the store buffer drained, hence the full fence. */
    atomic_thread_fence(memory_order_seq_cst);
    return SHMEMX_SUCCESS;
}

const struct shmemi_transport shmemi_transport_shm = {
    .name = "shm",
    .probe = shm_probe,
    .open = shm_open,
    .connect = shm_connect,
    .close = shm_close,
    .map = shm_map,
    .put = shm_put,
    .get = shm_get,
    .amo = shm_amo,
    .put_signal = shm_put_signal,
    .fence = shm_fence,
    .quiet = shm_quiet,
};
