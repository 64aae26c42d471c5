/* The CPU's part of measurements between a kernel and a CPU (shmemx_stream.h). */
#include "base/base.h"
#include "shmemx.h"

/* Until *in is `wanted`. Not shmemi_wait_step: what is measured is how soon a CPU that only looks sees the GPU's store.
 * acquire; observers: the kernel that has stored *in, and the caller. */
static int seen(const char *call, const uint64_t *in, uint64_t wanted, uint64_t timeout_ns)
{
    double since = 0;
    for (unsigned turn = 1; __atomic_load_n(in, __ATOMIC_ACQUIRE) != wanted; ++turn) {
        if (turn % 4096)
            continue;
        double now = shmemi_now();
        if (since == 0)
            since = now;
        if (now - since > (double)timeout_ns * 1e-9)
            return shmemi_fail(SHMEMX_ERR_TIMEOUT, call, "*in is %llu, %llu has not come",
                               (unsigned long long)__atomic_load_n(in, __ATOMIC_RELAXED),
                               (unsigned long long)wanted);
    }
    return SHMEMX_SUCCESS;
}

int shmemx_gpu_echo(const uint64_t *in, uint64_t *out, uint64_t first, uint64_t n, uint64_t timeout_ns)
{
    for (uint64_t i = first; i - first < n; ++i) {
        int rc = seen("shmemx_gpu_echo", in, i, timeout_ns);
        if (rc != 0)
            return rc;
        __atomic_store_n(out, i, __ATOMIC_RELEASE); /* observer: the kernel that waits for it */
    }
    return SHMEMX_SUCCESS;
}

int shmemx_gpu_messages(const uint64_t *in, uint64_t *out, uint64_t n, unsigned words, uint64_t *old,
                        uint64_t timeout_ns)
{
    enum { LINE = 16 }; /* words: 128 bytes */
    for (uint64_t i = 1; i <= n; ++i) {
        int rc = seen("shmemx_gpu_messages", in, i, timeout_ns);
        if (rc != 0)
            return rc;
        for (unsigned w = 1; w <= words; ++w)
            *old += __atomic_load_n(in + LINE * w, __ATOMIC_RELAXED) != i;
        for (unsigned w = 1; w <= words; ++w)
            __atomic_store_n(out + LINE * w, i, __ATOMIC_RELAXED);
        /* observers: this thread, whose words are there, and the kernel that acquires *out */
        __atomic_store_n(out, i, __ATOMIC_RELEASE);
    }
    return SHMEMX_SUCCESS;
}

void shmemx_gpu_add(uint64_t *word, uint64_t n)
{
    while (n--)
        (void)__atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
}
