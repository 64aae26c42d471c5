/* What networks need of a GPU, over the CUDA driver: its memory as a dmabuf, NICs' registers in its address space.
 * Functions that old drivers lack are looked up when they are first needed. */
#include <stdio.h>
#include <string.h>

#include "cuda_driver.h"
#include "gpu.h"

enum {
    REGISTER_IO = 4, /* CU_MEMHOSTREGISTER_IOMEMORY */
    RANGE_DMABUF = 1,
    REGISTER_PAGE = 4096,
    NOT_INITIALIZED = 3,
};

static const char *text_of(CUresult code)
{
    const char *text = NULL;
    CUresult (*error_string)(CUresult, const char **);
    *(void **)&error_string = shmemi_gpu_driver("cuGetErrorString");
    if (error_string)
        error_string(code, &text);
    return text ? text : "unknown";
}

int shmemi_gpu_alloc(const char *call, size_t bytes, char **p)
{
    CUresult (*alloc)(CUdeviceptr *, size_t);
    CUdeviceptr at = 0;
    *(void **)&alloc = shmemi_gpu_driver("cuMemAlloc_v2");
    CUresult code = alloc ? alloc(&at, bytes) : NOT_INITIALIZED;
    if (code)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "%zu bytes of GPU memory: CUDA error %d, %s", bytes,
                           code, text_of(code));
    *p = (char *)(uintptr_t)at;
    int rc = shmemi_gpu_fill(call, *p, 0, bytes, shmemi_gpu_stream());
    if (rc == 0)
        rc = shmemi_gpu_sync(call, shmemi_gpu_stream());
    if (rc)
        shmemi_gpu_free(*p);
    return rc;
}

void shmemi_gpu_free(char *p)
{
    CUresult (*release)(CUdeviceptr);
    *(void **)&release = p ? shmemi_gpu_driver("cuMemFree_v2") : NULL;
    if (release)
        release((CUdeviceptr)(uintptr_t)p);
}

int shmemi_gpu_dmabuf(const char *p, size_t bytes, int *fd, char *why, size_t n)
{
    CUresult (*range)(void *, CUdeviceptr, size_t, int, unsigned long long);
    *(void **)&range = shmemi_gpu_driver("cuMemGetHandleForAddressRange");
    if (!range) {
        snprintf(why, n, "the driver has no cuMemGetHandleForAddressRange (11.7 has)");
        return 0;
    }
    CUresult code = range(fd, (CUdeviceptr)(uintptr_t)p, bytes, RANGE_DMABUF, 0);
    if (code == 0)
        return 1;
    snprintf(why, n,
             "cuMemGetHandleForAddressRange: CUDA error %d, %s (dmabuf needs the open kernel modules)", code,
             text_of(code));
    return 0;
}

static void *page_of(void *p)
{
    return (char *)p - (uintptr_t)p % REGISTER_PAGE;
}

int shmemi_gpu_map_register(void *p, uint64_t *seen, char *why, size_t n)
{
    CUresult (*reg)(void *, size_t, unsigned), (*where)(CUdeviceptr *, void *, unsigned);
    CUdeviceptr page = 0;
    *(void **)&reg = shmemi_gpu_driver("cuMemHostRegister_v2");
    *(void **)&where = shmemi_gpu_driver("cuMemHostGetDevicePointer_v2");
    if (!reg || !where) {
        snprintf(why, n, "no GPU is open");
        return 0;
    }
    CUresult io = reg(page_of(p), REGISTER_PAGE, HOST_PORTABLE_MAPPED | REGISTER_IO);
    /* memory that stands in for a register, as a software NIC's */
    CUresult plain =
        io && io != ALREADY_REGISTERED ? reg(page_of(p), REGISTER_PAGE, HOST_PORTABLE_MAPPED) : 0;
    if (plain && plain != ALREADY_REGISTERED) {
        snprintf(why, n, "cuMemHostRegister: CUDA error %d, %s, as I/O memory; %d, %s, as plain memory", io,
                 text_of(io), plain, text_of(plain));
        return 0;
    }
    CUresult code = where(&page, page_of(p), 0);
    if (code) {
        snprintf(why, n, "cuMemHostGetDevicePointer: CUDA error %d, %s", code, text_of(code));
        return 0;
    }
    *seen = page + (uintptr_t)p % REGISTER_PAGE;
    return 1;
}

void shmemi_gpu_unmap_register(void *p)
{
    CUresult (*unregister)(void *);
    *(void **)&unregister = shmemi_gpu_driver("cuMemHostUnregister");
    if (unregister)
        unregister(page_of(p));
}
