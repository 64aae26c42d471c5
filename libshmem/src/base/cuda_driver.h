/* The part of the CUDA driver's ABI that libshmem uses, after its public documentation: types, numbers, functions. So
 * building needs no CUDA toolkit. tests/c/fake_cuda.c has the same functions. */
#ifndef SHMEMI_CUDA_DRIVER_H
#define SHMEMI_CUDA_DRIVER_H

#include "gpu.h"

typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef unsigned long long CUdeviceptr;
typedef struct shmemi_gpu_handle CUipcMemHandle; /* passed by value */
typedef struct {
    int type, id;
} CUmemLocation;
typedef struct {
    int type, handle_types;
    CUmemLocation location;
    void *win32;
    struct {
        unsigned char compression, rdma;
        unsigned short usage;
        unsigned char reserved[4];
    } flags;
} CUmemAllocationProp;
typedef struct {
    CUmemLocation location;
    int flags;
} CUmemAccessDesc;

typedef struct { /* CUDA_MEMCPY2D */
    struct {
        size_t x, y;
        int type;
        const void *host;
        CUdeviceptr device;
        void *array;
        size_t pitch;
    } source, dest;
    size_t width, height;
} CUmemcpy2D;

enum {
    MEMORY_PINNED = 1,
    HANDLE_FD = 1,
    LOCATION_DEVICE = 1,
    ACCESS_READ_WRITE = 3,
    GRANULARITY_RECOMMENDED = 1,
    STREAM_NON_BLOCKING = 1,
    /* The driver takes the highest priority that there is: what kernels wait for is not to stand behind their program's own
     * work in a queue of the GPU's, where a stream of the usual priority may be put. */
    STREAM_FIRST = -1000,
    POINTER_MEMORY_TYPE = 2, /* CU_POINTER_ATTRIBUTE_MEMORY_TYPE */
    MEMORY_TYPE_DEVICE = 2,
    MEMORY_TYPE_UNIFIED = 4,
    LINK_ATOMICS = 3,            /* CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED */
    FUNCTION_DYNAMIC_SHARED = 8, /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
    ATTRIBUTE_PROCESSORS = 16,   /* CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT */
    ATTRIBUTE_MAJOR = 75,        /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR */
    ATTRIBUTE_SHARED = 97,       /* CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
    EVENT_DISABLE_TIMING = 2,
    HOST_PORTABLE_MAPPED = 1 | 2, /* CU_MEMHOSTALLOC_ and CU_MEMHOSTREGISTER_ alike */
    IPC_LAZY_PEER_ACCESS = 1,
    POINTER_DEVICE = 9, /* CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL */
    MEMORY_TYPE_HOST = 1,
    NOT_READY = 600,           /* CUDA_ERROR_NOT_READY */
    ALREADY_REGISTERED = 712,  /* CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED */
    ATTRIBUTE_VMM = 102,       /* CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED */
    ATTRIBUTE_RDMA = 110,      /* ..GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED */
    ATTRIBUTE_STREAM_64 = 122, /* ..CAN_USE_64_BIT_STREAM_MEM_OPS */
    ATTRIBUTE_POSIX_FD = 103,  /* ..HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED */
};

/* X(member, exported name, parameters) */
#define DRIVER(X)                                                                                            \
    X(init, cuInit, (unsigned))                                                                              \
    X(driver_version, cuDriverGetVersion, (int *))                                                           \
    X(error_string, cuGetErrorString, (CUresult, const char **))                                             \
    X(device_count, cuDeviceGetCount, (int *))                                                               \
    X(device_get, cuDeviceGet, (CUdevice *, int))                                                            \
    X(device_name, cuDeviceGetName, (char *, int, CUdevice))                                                 \
    X(device_memory, cuDeviceTotalMem_v2, (size_t *, CUdevice))                                              \
    X(device_attribute, cuDeviceGetAttribute, (int *, int, CUdevice))                                        \
    X(device_uuid, cuDeviceGetUuid_v2, (unsigned char *, CUdevice))                                          \
    X(device_link, cuDeviceGetP2PAttribute, (int *, int, CUdevice, CUdevice))                                \
    X(primary_retain, cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                     \
    X(primary_release, cuDevicePrimaryCtxRelease_v2, (CUdevice))                                             \
    X(context_current, cuCtxGetCurrent, (CUcontext *))                                                       \
    X(context_set, cuCtxSetCurrent, (CUcontext))                                                             \
    X(context_device, cuCtxGetDevice, (CUdevice *))                                                          \
    X(context_sync, cuCtxSynchronize, (void))                                                                \
    X(reserve, cuMemAddressReserve, (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long))        \
    X(unreserve, cuMemAddressFree, (CUdeviceptr, size_t))                                                    \
    X(granularity, cuMemGetAllocationGranularity, (size_t *, const CUmemAllocationProp *, int))              \
    X(create, cuMemCreate, (unsigned long long *, size_t, const CUmemAllocationProp *, unsigned long long))  \
    X(release, cuMemRelease, (unsigned long long))                                                           \
    X(export_handle, cuMemExportToShareableHandle, (void *, unsigned long long, int, unsigned long long))    \
    X(import_handle, cuMemImportFromShareableHandle, (unsigned long long *, void *, int))                    \
    X(map, cuMemMap, (CUdeviceptr, size_t, size_t, unsigned long long, unsigned long long))                  \
    X(unmap, cuMemUnmap, (CUdeviceptr, size_t))                                                              \
    X(set_access, cuMemSetAccess, (CUdeviceptr, size_t, const CUmemAccessDesc *, size_t))                    \
    X(alloc, cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                         \
    X(free, cuMemFree_v2, (CUdeviceptr))                                                                     \
    X(ipc_handle, cuIpcGetMemHandle, (CUipcMemHandle *, CUdeviceptr))                                        \
    X(ipc_open, cuIpcOpenMemHandle_v2, (CUdeviceptr *, CUipcMemHandle, unsigned))                            \
    X(ipc_close, cuIpcCloseMemHandle, (CUdeviceptr))                                                         \
    X(pointer_attribute, cuPointerGetAttribute, (void *, int, CUdeviceptr))                                  \
    X(copy, cuMemcpyAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                                     \
    X(copy_rows, cuMemcpy2DAsync_v2, (const CUmemcpy2D *, CUstream))                                         \
    X(fill, cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream))                                 \
    X(stream_create, cuStreamCreateWithPriority, (CUstream *, unsigned, int))                                \
    X(stream_destroy, cuStreamDestroy_v2, (CUstream))                                                        \
    X(stream_sync, cuStreamSynchronize, (CUstream))                                                          \
    X(stream_query, cuStreamQuery, (CUstream))                                                               \
    X(event_create, cuEventCreate, (void **, unsigned))                                                      \
    X(event_record, cuEventRecord, (void *, CUstream))                                                       \
    X(event_destroy, cuEventDestroy_v2, (void *))                                                            \
    X(stream_wait_event, cuStreamWaitEvent, (CUstream, void *, unsigned))                                    \
    X(module_load, cuModuleLoadData, (void **, const void *))                                                \
    X(module_unload, cuModuleUnload, (void *))                                                               \
    X(module_function, cuModuleGetFunction, (void **, void *, const char *))                                 \
    X(module_global, cuModuleGetGlobal_v2, (CUdeviceptr *, size_t *, void *, const char *))                  \
    X(function_attribute, cuFuncSetAttribute, (void *, int, int))                                            \
    X(launch, cuLaunchKernel,                                                                                \
      (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **,      \
       void **))                                                                                             \
    X(host_alloc, cuMemHostAlloc, (void **, size_t, unsigned))                                               \
    X(host_free, cuMemFreeHost, (void *))                                                                    \
    X(host_register, cuMemHostRegister_v2, (void *, size_t, unsigned))                                       \
    X(host_unregister, cuMemHostUnregister, (void *))                                                        \
    X(host_device_pointer, cuMemHostGetDevicePointer_v2, (CUdeviceptr *, void *, unsigned))

/* Loaded when the driver is first asked for (gpu_cuda.c). */
struct shmemi_cuda {
#define X(member, name, parameters) CUresult(*member) parameters;
    DRIVER(X)
#undef X
};
extern struct shmemi_cuda shmemi_cuda;

SHMEMI_COLD int shmemi_cuda_failed(const char *call, const char *what, CUresult code);
#define CHECKED(call, what, expression)                                                                      \
    do {                                                                                                     \
        CUresult code_ = (expression);                                                                       \
        if (SHMEMI_UNLIKELY(code_ != 0))                                                                     \
            return shmemi_cuda_failed(call, what, code_);                                                    \
    } while (0)
/* A thread without a context gets the device's primary one; a thread that has one keeps it: memory and streams of a
 * device are reachable from any of its contexts in this process only when that is the primary one, which is what every
 * framework uses. */
int shmemi_cuda_enter(const char *call);
#define ENTER(call)                                                                                          \
    do {                                                                                                     \
        int rc_ = shmemi_cuda_enter(call);                                                                   \
        if (SHMEMI_UNLIKELY(rc_ != 0))                                                                       \
            return rc_;                                                                                      \
    } while (0)

static inline CUdeviceptr address(const void *p)
{
    return (CUdeviceptr)(uintptr_t)p;
}

#endif
