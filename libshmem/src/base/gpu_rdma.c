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
};

static const char *text_of(CUresult code)
{
    const char *text = NULL;
    shmemi_cuda.error_string(code, &text);
    return text ? text : "unknown";
}

int shmemi_gpu_alloc(const char *call, size_t bytes, char **p)
{
    CUdeviceptr at = 0;
    ENTER(call);
    CUresult code = shmemi_cuda.alloc(&at, bytes);
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
    if (p && shmemi_gpu_is_open() && shmemi_cuda_enter("libshmem") == 0)
        shmemi_cuda.free(address(p));
}

int shmemi_gpu_dmabuf(const char *p, size_t bytes, int *fd, char *why, size_t n)
{
    CUresult (*range)(void *, CUdeviceptr, size_t, int, unsigned long long);
    *(void **)&range = shmemi_gpu_driver("cuMemGetHandleForAddressRange");
    if (!range) {
        snprintf(why, n, "the driver has no cuMemGetHandleForAddressRange (11.7 has)");
        return 0;
    }
    CUresult code = range(fd, address(p), bytes, RANGE_DMABUF, 0);
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
    CUdeviceptr page = 0;
    if (!shmemi_gpu_is_open() || shmemi_cuda_enter("libshmem")) {
        snprintf(why, n, "no GPU is open");
        return 0;
    }
    CUresult io = shmemi_cuda.host_register(page_of(p), REGISTER_PAGE, HOST_PORTABLE_MAPPED | REGISTER_IO);
    /* memory that stands in for a register, as a software NIC's */
    CUresult plain = io && io != ALREADY_REGISTERED
                         ? shmemi_cuda.host_register(page_of(p), REGISTER_PAGE, HOST_PORTABLE_MAPPED)
                         : 0;
    if (plain && plain != ALREADY_REGISTERED) {
        snprintf(why, n, "cuMemHostRegister: CUDA error %d, %s, as I/O memory; %d, %s, as plain memory", io,
                 text_of(io), plain, text_of(plain));
        return 0;
    }
    CUresult code = shmemi_cuda.host_device_pointer(&page, page_of(p), 0);
    if (code) {
        snprintf(why, n, "cuMemHostGetDevicePointer: CUDA error %d, %s", code, text_of(code));
        return 0;
    }
    *seen = page + (uintptr_t)p % REGISTER_PAGE;
    return 1;
}

void shmemi_gpu_unmap_register(void *p)
{
    if (shmemi_gpu_is_open() && shmemi_cuda_enter("libshmem") == 0)
        shmemi_cuda.host_unregister(page_of(p));
}
