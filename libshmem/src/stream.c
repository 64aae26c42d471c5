/* One-sided stream-ordered calls (shmemx_stream.h): copies, and words that are set, by the driver, all else by the kernels
 * of gpu/. Collectives: stream_coll.c. */
#include "stream.h"

/* ---- checks ---------------------------------------------------------------------------------------------------------- */

int shmemi_stream_ready(const char *call)
{
    SHMEMI_REQUIRE_INIT(call);
    if (SHMEMI_UNLIKELY(!shmemi_gpu_state_is_open()))
        return shmemi_fail(
            SHMEMX_ERR_UNSUPPORTED, call,
            "there is no GPU heap yet: allocate with shmemx_malloc(size, SHMEMX_MEM_DEVICE) first");
    return shmemi_gpu_mailbox(call);
}

int shmemi_stream_locate(const char *call, const char *what, const void *addr, size_t n,
                         struct shmemi_place *p)
{
    int rc = shmemi_locate(call, what, addr, n, p);
    if (rc == 0 && p->segment != SHMEMI_SEGMENT_DEVICE)
        rc = shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%s %p is in the host heap; streams work on the GPU heap",
                         what, addr);
    return rc;
}

int shmemi_stream_reaches(const char *call, const int *pes, int n)
{
    for (int i = 0; i < n; ++i)
        if (!shmemi_node.on_host[pes[i]])
            return shmemi_fail(
                SHMEMX_ERR_UNSUPPORTED, call,
                "PE %d is on another host: streams work on GPU memory that is mapped; its own is "
                "reached by %s",
                pes[i],
                shmemi_route_is(pes[i], SHMEMI_SEGMENT_DEVICE)
                    ? "kernels and by shmem_put, shmem_get and the like"
                    : "kernels alone");
    return SHMEMX_SUCCESS;
}

static int check_pe(const char *call, int pe)
{
    return (unsigned)pe < (unsigned)shmemi_world.npes ? shmemi_stream_reaches(call, &pe, 1)
                                                      : shmemi_bad_pe(call, pe, shmemi_world.npes);
}

/* ---- one-sided -------------------------------------------------------------------------------------------------------- */

int shmemx_put_on_stream(void *dest, const void *source, size_t nbytes, int pe, void *stream)
{
    const char *call = "shmemx_put_on_stream";
    struct shmemi_place p;
    int rc = shmemi_stream_ready(call);
    if (rc || (rc = check_pe(call, pe)) != 0 || nbytes == 0 ||
        (rc = shmemi_stream_locate(call, "dest", dest, nbytes, &p)) != 0)
        return rc;
    return shmemi_gpu_copy(call, shmemi_map_gpu(pe, p), source, nbytes, stream);
}

int shmemx_get_on_stream(void *dest, const void *source, size_t nbytes, int pe, void *stream)
{
    const char *call = "shmemx_get_on_stream";
    struct shmemi_place p;
    int rc = shmemi_stream_ready(call);
    if (rc || (rc = check_pe(call, pe)) != 0 || nbytes == 0 ||
        (rc = shmemi_stream_locate(call, "source", source, nbytes, &p)) != 0)
        return rc;
    return shmemi_gpu_copy(call, dest, shmemi_map_gpu(pe, p), nbytes, stream);
}

int shmemx_put_signal_on_stream(void *dest, const void *source, size_t nbytes, uint64_t *sig_addr,
                                uint64_t signal, int sig_op, int pe, void *stream)
{
    const char *call = "shmemx_put_signal_on_stream";
    struct shmemi_place p;
    int rc = shmemi_stream_ready(call);
    if (rc || (rc = check_pe(call, pe)) != 0 ||
        (rc = shmemi_stream_locate(call, "sig_addr", sig_addr, 8, &p)) != 0)
        return rc;
    if ((uintptr_t)sig_addr % 8)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "sig_addr %p is not aligned to 8 bytes",
                           (void *)sig_addr);
    if (sig_op != SHMEM_SIGNAL_SET && sig_op != SHMEM_SIGNAL_ADD)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "sig_op is %d, neither SHMEM_SIGNAL_SET nor SHMEM_SIGNAL_ADD", sig_op);
    if ((rc = shmemx_put_on_stream(dest, source, nbytes, pe, stream)) != 0)
        return rc;
    if (sig_op == SHMEM_SIGNAL_SET && shmemi_gpu_stores(call)) /* gets past kernels that fill the GPU */
        return shmemi_gpu_store(call, shmemi_map_gpu(pe, p), signal, sizeof signal, stream);
    void *arguments[] = {&sig_addr, &signal, &sig_op, &pe};
    return shmemi_gpu_kernel(call, SHMEMI_K_SIGNAL, 1, 1, arguments, stream);
}

int shmemx_signal_wait_on_stream(uint64_t *sig_addr, int cmp, uint64_t value, void *stream)
{
    const char *call = "shmemx_signal_wait_on_stream";
    struct shmemi_place p;
    int rc = shmemi_stream_ready(call);
    if (rc || (rc = shmemi_stream_locate(call, "sig_addr", sig_addr, 8, &p)) != 0)
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
    int rc = shmemi_stream_ready("shmemx_quiet_on_stream");
    return rc ? rc : shmemi_gpu_join("shmemx_quiet_on_stream", stream, shmemi_gpu_stream());
}
