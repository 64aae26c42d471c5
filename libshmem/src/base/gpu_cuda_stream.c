/* The GPU layer over the CUDA driver API: streams, what they do in order, kernels. */
#include <pthread.h>
#include <sched.h>

#include "cuda_driver.h"
#include "gpu.h"
#include "wait.h"

/* ---- streams ------------------------------------------------------------------------------------------------------- */

int shmemi_gpu_stream_create(const char *call, shmemi_stream_t *stream)
{
    CUstream made = NULL;
    ENTER(call);
    CHECKED(call, "cuStreamCreateWithPriority",
            shmemi_cuda.stream_create(&made, STREAM_NON_BLOCKING, STREAM_FIRST));
    *stream = made;
    return SHMEMX_SUCCESS;
}

void shmemi_gpu_stream_destroy(shmemi_stream_t stream)
{
    if (stream && shmemi_gpu_is_open() && shmemi_cuda_enter("libshmem") == 0)
        shmemi_cuda.stream_destroy(stream);
}

void shmemi_gpu_outside_captures(void)
{
    enum { RELAXED = 2 }; /* CU_STREAM_CAPTURE_MODE_RELAXED */
    CUresult (*exchange)(int *);
    int mode = RELAXED;
    *(void **)&exchange = shmemi_gpu_driver("cuThreadExchangeStreamCaptureMode");
    if (exchange)
        exchange(&mode);
}

/* What old drivers lack. */
static struct {
    CUresult (*four)(CUstream, CUdeviceptr, unsigned, unsigned);
    CUresult (*eight)(CUstream, CUdeviceptr, unsigned long long, unsigned);
} write_value;
static pthread_once_t write_value_once = PTHREAD_ONCE_INIT;

static void find_write_value(void)
{
    int able = 0;
    if (shmemi_cuda.device_attribute(&able, ATTRIBUTE_STREAM_64, shmemi_gpu_device()) == 0 && able) {
        *(void **)&write_value.four = shmemi_gpu_driver("cuStreamWriteValue32_v2");
        *(void **)&write_value.eight = shmemi_gpu_driver("cuStreamWriteValue64_v2");
    }
}

/* With the context entered. */
static bool stores(void)
{
    pthread_once(&write_value_once, find_write_value);
    return write_value.four && write_value.eight;
}

bool shmemi_gpu_stores(const char *call)
{
    return shmemi_cuda_enter(call) == 0 && stores();
}

int shmemi_gpu_store(const char *call, void *dest, uint64_t value, size_t bytes, shmemi_stream_t stream)
{
    ENTER(call);
    if (!stores()) {
        /* a kernel that runs might see this before an earlier copy */
        CHECKED(call, "cuStreamSynchronize", shmemi_cuda.stream_sync(stream));
        return shmemi_gpu_copy(call, dest, &value, bytes,
                               stream); /* little-endian; staged before it returns */
    }
    if (bytes == sizeof(uint32_t))
        CHECKED(call, "cuStreamWriteValue32", write_value.four(stream, address(dest), (unsigned)value, 0));
    else
        CHECKED(call, "cuStreamWriteValue64", write_value.eight(stream, address(dest), value, 0));
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_copy(const char *call, void *dest, const void *source, size_t n, shmemi_stream_t stream)
{
    ENTER(call);
    CHECKED(call, "cuMemcpyAsync", shmemi_cuda.copy(address(dest), address(source), n, stream));
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_copy_rows(const char *call, void *dest, size_t dpitch, const void *source, size_t spitch,
                         size_t width, size_t rows, shmemi_stream_t stream)
{
    const CUmemcpy2D rectangle = {
        .source = {.type = MEMORY_TYPE_UNIFIED, .device = address(source), .pitch = spitch},
        .dest = {.type = MEMORY_TYPE_UNIFIED, .device = address(dest), .pitch = dpitch},
        .width = width,
        .height = rows,
    };
    ENTER(call);
    CHECKED(call, "cuMemcpy2DAsync", shmemi_cuda.copy_rows(&rectangle, stream));
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_fill(const char *call, void *dest, int byte, size_t n, shmemi_stream_t stream)
{
    ENTER(call);
    CHECKED(call, "cuMemsetD8Async", shmemi_cuda.fill(address(dest), (unsigned char)byte, n, stream));
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_sync(const char *call, shmemi_stream_t stream)
{
    ENTER(call);
    CHECKED(call, "cuStreamSynchronize", shmemi_cuda.stream_sync(stream));
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_sync_in_time(const char *call, shmemi_stream_t stream)
{
    if (!shmemi_wait_in_background || shmemi_env.TIMEOUT <= 0)
        return shmemi_gpu_sync(call, stream);
    CUresult code;
    const double until = shmemi_now() + shmemi_env.TIMEOUT;
    ENTER(call);
    for (unsigned looks = 1; (code = shmemi_cuda.stream_query(stream)) == NOT_READY; ++looks) {
        shmemi_pause();
        if (looks % 64 != 0)
            continue;
        if (shmemi_now() > until)
            return shmemi_fail(SHMEMX_ERR_TIMEOUT, call,
                               "the GPU did not do in %g s (SHMEM_TIMEOUT) what it was asked to: a kernel "
                               "that waits for it may stand in its way (docs/gpu-nic.md)",
                               shmemi_env.TIMEOUT);
        sched_yield();
    }
    CHECKED(call, "cuStreamQuery", code);
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_join(const char *call, shmemi_stream_t stream, shmemi_stream_t other)
{
    void *event;
    ENTER(call);
    CHECKED(call, "cuEventCreate", shmemi_cuda.event_create(&event, EVENT_DISABLE_TIMING));
    CUresult code = shmemi_cuda.event_record(event, other);
    if (code == 0)
        code = shmemi_cuda.stream_wait_event(stream, event, 0);
    shmemi_cuda.event_destroy(event); /* freed when the wait is over */
    return code ? shmemi_cuda_failed(call, "cuStreamWaitEvent", code) : SHMEMX_SUCCESS;
}

/* ---- kernels --------------------------------------------------------------------------------------------------------- */

int shmemi_gpu_load(const char *call, const char *ptx, void **module)
{
    ENTER(call);
    CHECKED(call, "loading libshmem's kernels", shmemi_cuda.module_load(module, ptx));
    return SHMEMX_SUCCESS;
}

void shmemi_gpu_unload(void *module)
{
    if (module && shmemi_gpu_is_open() && shmemi_cuda_enter("libshmem") == 0) {
        shmemi_cuda.context_sync();
        shmemi_cuda.module_unload(module);
    }
}

int shmemi_gpu_function(const char *call, void *module, const char *name, void **function)
{
    CHECKED(call, name, shmemi_cuda.module_function(function, module, name));
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_global(const char *call, void *module, const char *name, char **at, size_t *bytes)
{
    CUdeviceptr p;
    CHECKED(call, name, shmemi_cuda.module_global(&p, bytes, module, name));
    *at = (char *)(uintptr_t)p;
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_allow_shared(const char *call, void *function, unsigned bytes)
{
    CHECKED(call, "cuFuncSetAttribute",
            shmemi_cuda.function_attribute(function, FUNCTION_DYNAMIC_SHARED, (int)bytes));
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_launch(const char *call, void *function, unsigned blocks, unsigned threads,
                      unsigned shared_bytes, void **arguments, shmemi_stream_t stream)
{
    ENTER(call);
    CHECKED(call, "cuLaunchKernel",
            shmemi_cuda.launch(function, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, arguments, NULL));
    return SHMEMX_SUCCESS;
}
