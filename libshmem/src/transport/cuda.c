/* Transport cuda: GPU memory of the processes of one host. The peers' GPU heaps are mapped into this process's device
 * address space, so a put or a get is one copy by the driver, which finds the way: NVLink, PCIe, or within one GPU.
 * Either side may be host memory. All copies go through the library's own stream, in order; so fence has nothing to do
 * and quiet waits for the stream. */
#include <string.h>

#include "transport.h"

#include "base/gpu.h"
#include "gpu/gpu_kernels.h"
#include "shmem.h"
#include "shmemx.h"

static const struct shmemi_job *job;

static int cuda_probe(char *why, size_t n)
{
    return shmemi_gpu_probe(why, n);
}

static int cuda_open(const struct shmemi_job *j)
{
    job = j;
    return SHMEMX_SUCCESS;
}

static int cuda_connect(int pe, int segment, const void *card, size_t n)
{
    (void)card, (void)n;
    return segment == SHMEMI_SEGMENT_DEVICE && job->segments[segment].base && job->on_host[pe];
}

static void cuda_close(void)
{
    job = NULL;
}

/* NULL = the host heap of a PE of another node, the GPU heap of one of another host. */
static void *cuda_map(int pe, int segment, uint64_t offset)
{
    int number = segment != SHMEMI_SEGMENT_DEVICE ? job->local_of[pe] : job->on_host[pe] ? pe : -1;
    return number < 0 ? NULL : shmemi_copy_at(&job->segments[segment], number) + offset;
}

static int copy(const char *call, void *dest, const void *source, size_t n, int pe)
{
    if (SHMEMI_UNLIKELY(!dest || !source))
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                           "between GPU memory and the host heap of PE %d, which is on another node", pe);
    return shmemi_gpu_copy(call, dest, source, n, shmemi_gpu_stream());
}

static int finish(const char *call, unsigned how)
{
    return shmemi_nbi(how) ? SHMEMX_SUCCESS : shmemi_gpu_sync_in_time(call, shmemi_gpu_stream());
}

/* A word of the host's, as shmem_p and the proxy have it: the stream takes the value along, so nobody waits for a copy. */
static bool is_word(int segment, uint64_t offset, const void *source, size_t n)
{
    return (n == 4 || n == 8) && offset % n == 0 && segment == SHMEMI_SEGMENT_DEVICE &&
           !shmemi_gpu_owns(source);
}

static int cuda_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how)
{
    const char *call = "put to GPU memory";
    if (is_word(segment, offset, source, n)) {
        uint64_t value = 0;
        memcpy(&value, source, n); /* the low bytes come first */
        return shmemi_gpu_store(call, cuda_map(pe, segment, offset), value, n, shmemi_gpu_stream());
    }
    int rc = copy(call, cuda_map(pe, segment, offset), source, n, pe);
    return rc ? rc : finish(call, how);
}

static int cuda_get(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how)
{
    int rc = copy("get from GPU memory", dest, cuda_map(pe, segment, offset), n, pe);
    return rc ? rc : finish("get from GPU memory", how);
}

/* Between GPU memory by a kernel, element by element at the speed of the link's lines; what the host's memory has a part
 * in the driver does as rows of a matrix. */
static int cuda_strided(void *dest, size_t dstep, const void *source, size_t sstep, size_t size, size_t n)
{
    const char *call = "strided copy of GPU memory";
    enum { THREADS = 256, MOST_BLOCKS = 128 };
    int rc;
    if (shmemi_gpu_owns(dest) && shmemi_gpu_owns(source)) {
        uint64_t to = dstep, from = sstep, bytes = size, count = n;
        size_t blocks = n / THREADS + 1;
        void *arguments[] = {&dest, &source, &to, &from, &bytes, &count};
        rc = shmemi_gpu_kernel(call, SHMEMI_K_STRIDED, blocks < MOST_BLOCKS ? (unsigned)blocks : MOST_BLOCKS,
                               THREADS, arguments, shmemi_gpu_stream());
    } else {
        rc = shmemi_gpu_copy_rows(call, dest, dstep, source, sstep, size, n, shmemi_gpu_stream());
    }
    return rc ? rc : finish(call, SHMEMI_BLOCKING);
}

/* Where a kernel finds it: this PE's own address of the element. */
static void *own(int segment, uint64_t offset)
{
    return job->segments[segment].base + offset;
}

static int need_gpu_heap(const char *call, int segment)
{
    return segment == SHMEMI_SEGMENT_DEVICE ? SHMEMX_SUCCESS
                                            : shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                                                          "data in GPU memory and its signal in the host "
                                                          "heap, or the reverse: the two must be in one "
                                                          "heap");
}

/* A store by the stream, which goes on beside a kernel that fills the GPU; what reads the word too by a kernel of one
 * thread: the CPU cannot touch GPU memory, and kernels are atomic to each other. */
static int cuda_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how)
{
    const char *call = "atomic in GPU memory";
    (void)how; /* the old value comes back through a word that the next call uses again */
    int rc = need_gpu_heap(call, segment);
    if (rc)
        return rc;
    return a->op == SHMEMX_AMO_SET
               ? shmemi_gpu_store(call, cuda_map(pe, segment, offset), a->value, a->size, shmemi_gpu_stream())
               : shmemi_gpu_atomic(call, a, own(segment, offset), pe);
}

static int cuda_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n,
                           int sig_segment, uint64_t sig_offset, uint64_t signal, int sig_op, unsigned how)
{
    const char *call = "put_signal to GPU memory";
    int rc = need_gpu_heap(call, sig_segment);
    if (rc == 0 && n)
        rc = copy(call, cuda_map(pe, segment, offset), source, n, pe);
    if (rc)
        return rc;
    if (sig_op == SHMEM_SIGNAL_SET) {
        rc = shmemi_gpu_store(call, cuda_map(pe, sig_segment, sig_offset), signal, sizeof signal,
                              shmemi_gpu_stream());
    } else {
        void *sig = own(sig_segment, sig_offset);
        void *arguments[] = {&sig, &signal, &sig_op, &pe};
        rc = shmemi_gpu_kernel(call, SHMEMI_K_SIGNAL, 1, 1, arguments, shmemi_gpu_stream());
    }
    return rc || n == 0 ? rc : finish(call, how); /* a signal alone has no source to wait for */
}

static int cuda_fence(int pe, unsigned context)
{
    (void)pe,
        (void)context; /* one stream: it runs its copies in order, each complete before the next begins */
    return SHMEMX_SUCCESS;
}

static int cuda_quiet(int pe, unsigned context)
{
    (void)pe, (void)context; /* one stream */
    return shmemi_gpu_sync_in_time("shmem_quiet", shmemi_gpu_stream());
}

/* Host memory is pinned, so that kernels reach it and copies need not wait for the driver's own pinned pages. */
static int cuda_buffer_register(void *addr, size_t n)
{
    return shmemi_gpu_host_register("shmemx_buffer_register", addr, n);
}

static void cuda_buffer_unregister(void *addr)
{
    shmemi_gpu_host_unregister(addr);
}

const struct shmemi_transport shmemi_transport_cuda = {
    .name = "cuda",
    .probe = cuda_probe,
    .open = cuda_open,
    .connect = cuda_connect,
    .close = cuda_close,
    .map = cuda_map,
    .put = cuda_put,
    .get = cuda_get,
    .strided = cuda_strided,
    .amo = cuda_amo,
    .put_signal = cuda_put_signal,
    .fence = cuda_fence,
    .quiet = cuda_quiet,
    .buffer_register = cuda_buffer_register,
    .buffer_unregister = cuda_buffer_unregister,
};
