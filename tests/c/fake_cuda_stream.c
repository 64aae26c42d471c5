/* The fake driver's copies, streams, modules and launches (fake_cuda.c). */
#include "fake_cuda.h"

#include <stdatomic.h>

#include "base/cuda_driver.h"
#include "device/state.h"
#include "transport/amo_cpu.h"

enum { PLAIN_SHARED = 48 << 10 };
static struct shmemx_device_state symbol;

/* For tests: what stands for all kernels, called by each launch with the kernel's name. */
typedef void kernel_fn(const char *name, unsigned blocks, unsigned threads, unsigned shared,
                       void **arguments);
static kernel_fn *kernel;
API void fake_cuda_on_launch(kernel_fn *f)
{
    kernel = f;
}

/* ---- copies, streams, modules ------------------------------------------------------------------------------------ */

/* An aligned word goes whole, and what was copied before is seen with it. */
static void move(void *to, const void *from, size_t n)
{
    if (n == 8 && ((uintptr_t)to | (uintptr_t)from) % 8 == 0)
        __atomic_store_n((uint64_t *)to, __atomic_load_n((uint64_t *)from, __ATOMIC_ACQUIRE),
                         __ATOMIC_RELEASE);
    else
        memmove(to, from, n);
}
API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t n, void *stream)
{
    (void)stream;
    MAY_FAIL;
    move((void *)(uintptr_t)to, (void *)(uintptr_t)from, n);
    return fake_cuda_current ? OK : INVALID_CONTEXT;
}
API CUresult cuMemcpy2DAsync_v2(const CUmemcpy2D *r, void *stream)
{
    (void)stream;
    for (size_t i = 0; i < r->height; ++i)
        memcpy((char *)(uintptr_t)r->dest.device + i * r->dest.pitch,
               (char *)(uintptr_t)r->source.device + i * r->source.pitch, r->width);
    return fake_cuda_current ? OK : INVALID_CONTEXT;
}
API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char byte, size_t n, void *stream)
{
    (void)stream;
    MAY_FAIL;
    memset((void *)(uintptr_t)to, byte, n);
    return fake_cuda_current ? OK : INVALID_CONTEXT;
}
#define WRITE_VALUE(NAME, T)                                                                                 \
    API CUresult NAME(void *stream, CUdeviceptr at, T value, unsigned flags)                                 \
    {                                                                                                        \
        (void)stream;                                                                                        \
        MAY_FAIL;                                                                                            \
        if (at % sizeof value || flags || says("FAKE_CUDA_LACKS", "words"))                                  \
            return INVALID_VALUE;                                                                            \
        __atomic_store_n((T *)(uintptr_t)at, value, __ATOMIC_RELEASE);                                       \
        return fake_cuda_current ? OK : INVALID_CONTEXT;                                                     \
    }
WRITE_VALUE(cuStreamWriteValue32_v2, uint32_t)
WRITE_VALUE(cuStreamWriteValue64_v2, uint64_t)
API CUresult cuStreamCreateWithPriority(void **stream, unsigned flags, int priority)
{
    (void)flags, (void)priority;
    *stream = &symbol;
    return fake_cuda_current ? OK : INVALID_CONTEXT;
}
API CUresult cuStreamDestroy_v2(void *stream)
{
    return stream ? OK : INVALID_VALUE;
}
/* A test's: no stream gets done with its work. */
API atomic_bool fake_cuda_stuck;
API CUresult cuStreamQuery(void *stream)
{
    return !stream ? INVALID_VALUE : fake_cuda_stuck ? NOT_READY : OK;
}
API CUresult cuStreamSynchronize(void *stream)
{
    (void)stream;
    return fake_cuda_current ? OK : INVALID_CONTEXT;
}
API CUresult cuEventCreate(void **event, unsigned flags)
{
    (void)flags;
    *event = &symbol;
    return OK;
}
API CUresult cuEventRecord(void *event, void *stream)
{
    (void)stream;
    return event ? OK : INVALID_VALUE;
}
API CUresult cuEventDestroy_v2(void *event)
{
    return event ? OK : INVALID_VALUE;
}
API CUresult cuStreamWaitEvent(void *stream, void *event, unsigned flags)
{
    (void)stream, (void)flags;
    return event ? OK : INVALID_VALUE;
}
API CUresult cuModuleLoadData(void **module, const void *text)
{
    *module = &symbol;
    return text ? OK : INVALID_VALUE;
}
API CUresult cuModuleUnload(void *module)
{
    return module ? OK : INVALID_VALUE;
}
/* A function is its name, which is a constant of the library's. */
API CUresult cuModuleGetFunction(void **function, void *module, const char *name)
{
    memcpy(function, &name, sizeof name);
    return module && name ? OK : INVALID_VALUE;
}
API CUresult cuFuncSetAttribute(void *function, int attribute, int value)
{
    (void)attribute, (void)value;
    return function ? OK : INVALID_VALUE;
}
API CUresult cuModuleGetGlobal_v2(CUdeviceptr *at, size_t *bytes, void *module, const char *name)
{
    *at = (uintptr_t)module;
    *bytes = sizeof symbol;
    return name ? OK : INVALID_VALUE;
}
/* Where that PE's copy of an address of this one's is. */
static void *copy_of(void *mine, int pe)
{
    uint64_t copy = symbol.heap + (uint64_t)pe * symbol.stride;
    if (symbol.bases)
        memcpy(&copy, (char *)(uintptr_t)symbol.bases + (size_t)pe * sizeof copy, sizeof copy);
    return (char *)mine + (copy - symbol.copy);
}

/* gpu/kernels.cu: the arguments of shmem_k_atomic and shmem_k_signal. */
static bool run_words(const char *name, void **a)
{
    struct shmemi_amo amo = {.size = 8};
    bool atomic = strcmp(name, "shmem_k_atomic") == 0;
    if (atomic) {
        amo = (struct shmemi_amo){*(int *)a[0], (size_t)*(int *)a[1], *(uint64_t *)a[3], *(uint64_t *)a[4],
                                  *(void **)a[6]};
    } else if (strcmp(name, "shmem_k_signal") == 0) {
        amo.op = *(int *)a[2] == SHMEM_SIGNAL_SET ? SHMEMX_AMO_SET : SHMEMX_AMO_ADD;
        amo.value = *(uint64_t *)a[1];
    } else {
        return false;
    }
    shmemi_amo_cpu(copy_of(*(void **)a[atomic ? 2 : 0], *(int *)a[atomic ? 5 : 3]), &amo);
    return true;
}

API CUresult cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned shared, void *stream, void **arguments, void **extra)
{
    (void)stream, (void)extra;
    MAY_FAIL;
    if (!fake_cuda_current)
        return INVALID_CONTEXT;
    if (!f || gx < 1 || gy != 1 || gz != 1 || bx < 1 || bx > 1024 || by != 1 || bz != 1 ||
        shared > PLAIN_SHARED)
        return INVALID_VALUE;
    if (!kernel)
        return run_words(f, arguments) ? OK : NOT_SUPPORTED;
    kernel(f, gx, bx, shared, arguments);
    return OK;
}
