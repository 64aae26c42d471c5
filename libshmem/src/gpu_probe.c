/* The CPU's part of measurements between a kernel and a CPU (shmemx_stream.h). */
#include "base/base.h"
#include "shmemx.h"

int shmemx_gpu_echo(const uint64_t *in, uint64_t *out, uint64_t first, uint64_t n, uint64_t timeout_ns)
{
    for (uint64_t i = first; i - first < n; ++i) {
        /* Not shmemi_wait_step: what is measured is how soon a CPU that only looks sees the GPU's store. */
        double since = 0;
        for (unsigned turn = 1; __atomic_load_n(in, __ATOMIC_ACQUIRE) != i; ++turn) {
            if (turn % 4096)
                continue;
            double now = shmemi_now();
            if (since == 0)
                since = now;
            if (now - since > (double)timeout_ns * 1e-9)
                return shmemi_fail(SHMEMX_ERR_TIMEOUT, "shmemx_gpu_echo", "*in is %llu, %llu has not come",
                                   (unsigned long long)__atomic_load_n(in, __ATOMIC_RELAXED),
                                   (unsigned long long)i);
        }
        __atomic_store_n(out, i, __ATOMIC_RELEASE); /* observer: the kernel that waits for it */
    }
    return SHMEMX_SUCCESS;
}

void shmemx_gpu_add(uint64_t *word, uint64_t n)
{
    while (n--)
        (void)__atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
}
