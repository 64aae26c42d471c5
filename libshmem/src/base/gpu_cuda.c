/* The GPU layer over the CUDA driver API. libcuda.so.1 is opened when first asked for. */
#define _GNU_SOURCE
#include "gpu.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_driver.h"

struct shmemi_cuda shmemi_cuda;
#define cu shmemi_cuda

struct pinned {
    void *memory;
    struct pinned *next;
};
static struct {
    pthread_mutex_t lock;
    bool tried, usable, open;
    char why[160], name[160];
    CUdevice device;
    CUcontext context;
    CUstream stream, side;
    size_t granularity, total;
    const char *lacks; /* for chunks */
    bool rdma;         /* NICs may be given them */
    void *lib;
    unsigned bulk_bytes;
    int processors;
    struct pinned *pinned; /* host memory of this job */
} gpu = {.lock = PTHREAD_MUTEX_INITIALIZER};

int shmemi_cuda_failed(const char *call, const char *what, CUresult code)
{
    const char *text = NULL;
    if (cu.error_string)
        cu.error_string(code, &text);
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: CUDA error %d, %s", what, code, text ? text : "unknown");
}
/* ---- opening --------------------------------------------------------------------------------------------------- */

static bool load(void)
{
    const char *const names[] = {"libcuda.so.1", NULL}, *why;
    void *lib = shmemi_dl_open(names, &why);
    if (!lib) {
        snprintf(gpu.why, sizeof gpu.why, "%s", why);
        return false;
    }
#define X(member, name, parameters)                                                                          \
    *(void **)&cu.member = dlsym(lib, #name);                                                                \
    if (!cu.member) {                                                                                        \
        snprintf(gpu.why, sizeof gpu.why, "libcuda.so.1 has no %s: the driver is too old", #name);           \
        return false;                                                                                        \
    }
    DRIVER(X)
#undef X
    gpu.lib = lib;
    int devices = 0;
    CUresult code = cu.init(0);
    if (code == 0)
        code = cu.device_count(&devices);
    if (code == 0 && devices > 0)
        return true;
    const char *text = "no device";
    if (code)
        cu.error_string(code, &text);
    snprintf(gpu.why, sizeof gpu.why, "libcuda.so.1 is there, but: %s", text);
    return false;
}

int shmemi_gpu_probe(char *why, size_t n)
{
    pthread_mutex_lock(&gpu.lock);
    if (!gpu.tried) {
        gpu.tried = true;
        gpu.usable = load();
    }
    pthread_mutex_unlock(&gpu.lock);
    if (why)
        snprintf(why, n, "%s", gpu.usable ? "libcuda.so.1" : gpu.why);
    return gpu.usable;
}

static CUmemAllocationProp properties(void)
{
    return (CUmemAllocationProp){.type = MEMORY_PINNED,
                                 .handle_types = HANDLE_FD,
                                 .location = {LOCATION_DEVICE, gpu.device},
                                 .flags = {.rdma = gpu.rdma}};
}

/* 227 KiB on an H100, 99 on an RTX 50: 1 KiB is for the kernels' static variables, and 200 KiB is all that was measured. */
static unsigned bulk_room(int shared)
{
    const int most = 200 << 10, kernels = 1 << 10;
    return (unsigned)(shared - kernels > most ? most : shared - kernels);
}

static int open_device(const char *call, int local_rank)
{
    int devices, vmm = 0, fd = 0, version = 0, major = 0, shared = 0;
    char name[64] = "";
    CUcontext current = NULL;
    CHECKED(call, "cuCtxGetCurrent", cu.context_current(&current));
    CHECKED(call, "cuDeviceGetCount", cu.device_count(&devices));
    if (current)
        CHECKED(call, "cuCtxGetDevice", cu.context_device(&gpu.device));
    else
        CHECKED(call, "cuDeviceGet", cu.device_get(&gpu.device, local_rank % devices));
    CHECKED(call, "cuDeviceGetAttribute", cu.device_attribute(&vmm, ATTRIBUTE_VMM, gpu.device));
    CHECKED(call, "cuDeviceGetAttribute", cu.device_attribute(&fd, ATTRIBUTE_POSIX_FD, gpu.device));
    CHECKED(call, "cuDeviceGetAttribute", cu.device_attribute(&major, ATTRIBUTE_MAJOR, gpu.device));
    CHECKED(call, "cuDeviceGetAttribute", cu.device_attribute(&shared, ATTRIBUTE_SHARED, gpu.device));
    CHECKED(call, "cuDeviceGetAttribute",
            cu.device_attribute(&gpu.processors, ATTRIBUTE_PROCESSORS, gpu.device));
    int rdma = 0;
    gpu.rdma = cu.device_attribute(&rdma, ATTRIBUTE_RDMA, gpu.device) == 0 && rdma != 0;
    gpu.bulk_bytes = major >= 9 ? bulk_room(shared) : 0;
    gpu.lacks = !vmm ? "virtual memory management" : !fd ? "POSIX descriptors for its memory" : NULL;
    CHECKED(call, "cuDevicePrimaryCtxRetain", cu.primary_retain(&gpu.context, gpu.device));
    if (!current)
        CHECKED(call, "cuCtxSetCurrent", cu.context_set(gpu.context));
    CHECKED(call, "cuStreamCreateWithPriority",
            cu.stream_create(&gpu.stream, STREAM_NON_BLOCKING, STREAM_FIRST));
    CUmemAllocationProp p = properties();
    gpu.granularity = 2u << 20; /* the driver's large page */
    if (!gpu.lacks)
        CHECKED(call, "cuMemGetAllocationGranularity",
                cu.granularity(&gpu.granularity, &p, GRANULARITY_RECOMMENDED));
    CHECKED(call, "cuDeviceTotalMem", cu.device_memory(&gpu.total, gpu.device));
    cu.device_name(name, sizeof name, gpu.device);
    cu.driver_version(&version);
    snprintf(gpu.name, sizeof gpu.name, "device %d, %s, driver %d.%d", gpu.device, name, version / 1000,
             version % 1000 / 10);
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_open(const char *call, int local_rank)
{
    char why[160];
    if (!shmemi_gpu_probe(why, sizeof why))
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "no GPU: %s", why);
    int rc = SHMEMX_SUCCESS;
    pthread_mutex_lock(&gpu.lock);
    if (!gpu.open && (rc = open_device(call, local_rank)) == 0)
        gpu.open = true;
    pthread_mutex_unlock(&gpu.lock);
    return rc;
}

void shmemi_gpu_close(void)
{
    pthread_mutex_lock(&gpu.lock);
    if (gpu.open) {
        cu.stream_destroy(gpu.stream);
        if (gpu.side)
            cu.stream_destroy(gpu.side);
        gpu.side = NULL;
        while (gpu.pinned) { /* of objects that outlive the job: the context may, too */
            struct pinned *item = gpu.pinned;
            gpu.pinned = item->next;
            cu.host_free(item->memory);
            free(item);
        }
        cu.primary_release(gpu.device);
        gpu.open = false;
    }
    pthread_mutex_unlock(&gpu.lock);
}

bool shmemi_gpu_is_open(void)
{
    return gpu.open;
}

const char *shmemi_gpu_name(void)
{
    return gpu.open ? gpu.name : "";
}

void shmemi_gpu_uuid(unsigned char uuid[SHMEMI_GPU_UUID_BYTES])
{
    memset(uuid, 0, SHMEMI_GPU_UUID_BYTES);
    cu.device_uuid(uuid, gpu.device);
}

int shmemi_gpu_link(const unsigned char uuid[SHMEMI_GPU_UUID_BYTES])
{
    int devices = 0, atomics = 0;
    cu.device_count(&devices);
    for (int i = 0; i < devices; ++i) {
        CUdevice other;
        unsigned char have[SHMEMI_GPU_UUID_BYTES];
        if (cu.device_get(&other, i) != 0 || cu.device_uuid(have, other) != 0 ||
            memcmp(have, uuid, sizeof have) != 0)
            continue;
        /* atomics on a peer's memory exist over NVLink, not over PCIe */
        if (other == gpu.device ||
            (cu.device_link(&atomics, LINK_ATOMICS, gpu.device, other) == 0 && atomics))
            return SHMEMI_GPU_LINKED;
        return SHMEMI_GPU_UNLINKED;
    }
    return SHMEMI_GPU_UNSEEN;
}

unsigned shmemi_gpu_bulk_bytes(void)
{
    return gpu.bulk_bytes;
}

unsigned shmemi_gpu_processors(void)
{
    return (unsigned)gpu.processors;
}

int shmemi_gpu_device(void)
{
    return gpu.open ? gpu.device : -1;
}

size_t shmemi_gpu_total_bytes(void)
{
    return gpu.total;
}

int shmemi_cuda_enter(const char *call)
{
    CUcontext current = NULL;
    if (SHMEMI_UNLIKELY(!cu.context_current))
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no GPU is open");
    CHECKED(call, "cuCtxGetCurrent", cu.context_current(&current));
    if (SHMEMI_UNLIKELY(!current))
        CHECKED(call, "cuCtxSetCurrent", cu.context_set(gpu.context));
    return SHMEMX_SUCCESS;
}

void *shmemi_gpu_driver(const char *name)
{
    return gpu.open && shmemi_cuda_enter("libshmem") == 0 ? dlsym(gpu.lib, name) : NULL;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

size_t shmemi_gpu_granularity(void)
{
    return gpu.granularity;
}

const char *shmemi_gpu_lacks_chunks(void)
{
    return gpu.lacks;
}

int shmemi_gpu_reserve(const char *call, size_t bytes, char **base)
{
    CUdeviceptr p = 0;
    ENTER(call);
    CHECKED(call, "cuMemAddressReserve", cu.reserve(&p, bytes, gpu.granularity, 0, 0));
    *base = (char *)(uintptr_t)p;
    return SHMEMX_SUCCESS;
}

void shmemi_gpu_unreserve(char *base, size_t bytes)
{
    cu.unreserve(address(base), bytes);
}

static SHMEMI_COLD int no_memory(const char *call, size_t bytes, CUresult code)
{
    const char *text = "unknown";
    cu.error_string(code, &text);
    return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "%zu bytes of memory on %s: CUDA error %d, %s", bytes,
                       gpu.name, code, text);
}

int shmemi_gpu_chunk_create(const char *call, size_t bytes, shmemi_chunk_t *chunk, int *fd)
{
    CUmemAllocationProp p = properties();
    unsigned long long handle;
    ENTER(call);
    CUresult code = cu.create(&handle, bytes, &p, 0);
    if (code != 0)
        return no_memory(call, bytes, code);
    code = cu.export_handle(fd, handle, HANDLE_FD, 0);
    if (code != 0) {
        cu.release(handle);
        return shmemi_cuda_failed(call, "cuMemExportToShareableHandle", code);
    }
    fcntl(*fd, F_SETFD, FD_CLOEXEC);
    *chunk = handle;
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_chunk_import(const char *call, int fd, int pe, shmemi_chunk_t *chunk)
{
    unsigned long long handle;
    char what[64];
    ENTER(call);
    snprintf(what, sizeof what, "importing the GPU memory of PE %d", pe);
    CHECKED(call, what, cu.import_handle(&handle, (void *)(uintptr_t)fd, HANDLE_FD));
    *chunk = handle;
    return SHMEMX_SUCCESS;
}

int shmemi_gpu_chunk_map(const char *call, char *at, size_t bytes, shmemi_chunk_t chunk)
{
    CUmemAccessDesc access = {{LOCATION_DEVICE, gpu.device}, ACCESS_READ_WRITE};
    ENTER(call);
    CHECKED(call, "cuMemMap", cu.map(address(at), bytes, 0, chunk, 0));
    CUresult code = cu.set_access(address(at), bytes, &access, 1);
    if (code == 0)
        return SHMEMX_SUCCESS;
    cu.unmap(address(at), bytes);
    return shmemi_cuda_failed(call, "cuMemSetAccess (can this device reach the peer's?)", code);
}

void shmemi_gpu_chunk_unmap(char *at, size_t bytes, shmemi_chunk_t chunk)
{
    if (shmemi_cuda_enter("libshmem") != 0)
        return;
    cu.context_sync();
    cu.unmap(address(at), bytes);
    cu.release(chunk);
}

void shmemi_gpu_chunk_release(shmemi_chunk_t chunk)
{
    if (shmemi_cuda_enter("libshmem") == 0)
        cu.release(chunk);
}

int shmemi_gpu_shared_alloc(const char *call, size_t bytes, char **base, struct shmemi_gpu_handle *handle)
{
    CUdeviceptr p;
    ENTER(call);
    CUresult code = cu.alloc(&p, bytes);
    if (code != 0)
        return no_memory(call, bytes, code);
    code = cu.ipc_handle(handle, p);
    if (code != 0) {
        cu.free(p);
        return shmemi_cuda_failed(call, "cuIpcGetMemHandle", code);
    }
    *base = (char *)(uintptr_t)p;
    return SHMEMX_SUCCESS;
}

void shmemi_gpu_shared_free(char *base)
{
    if (base && shmemi_cuda_enter("libshmem") == 0)
        cu.free(address(base));
}

int shmemi_gpu_shared_open(const char *call, const struct shmemi_gpu_handle *handle, int pe, char **base)
{
    CUdeviceptr p;
    char what[96];
    ENTER(call);
    snprintf(what, sizeof what, "opening the GPU memory of PE %d (can this device reach that PE's?)", pe);
    CHECKED(call, what, cu.ipc_open(&p, *handle, IPC_LAZY_PEER_ACCESS));
    *base = (char *)(uintptr_t)p;
    return SHMEMX_SUCCESS;
}

void shmemi_gpu_shared_close(char *base)
{
    if (base && shmemi_cuda_enter("libshmem") == 0) {
        cu.context_sync();
        cu.ipc_close(address(base));
    }
}

int shmemi_gpu_host_alloc(const char *call, size_t bytes, void **p)
{
    ENTER(call);
    struct pinned *item = malloc(sizeof *item);
    if (!item)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "%zu bytes of private memory", sizeof *item);
    CUresult code = cu.host_alloc(p, bytes, HOST_PORTABLE_MAPPED);
    if (code != 0) {
        free(item);
        return shmemi_cuda_failed(call, "cuMemHostAlloc", code);
    }
    pthread_mutex_lock(&gpu.lock);
    *item = (struct pinned){*p, gpu.pinned};
    gpu.pinned = item;
    pthread_mutex_unlock(&gpu.lock);
    return SHMEMX_SUCCESS;
}

void shmemi_gpu_host_free(void *p)
{
    if (!p || shmemi_cuda_enter("libshmem") != 0)
        return;
    pthread_mutex_lock(&gpu.lock);
    for (struct pinned **link = &gpu.pinned; *link; link = &(*link)->next)
        if ((*link)->memory == p) {
            struct pinned *item = *link;
            *link = item->next;
            cu.host_free(p);
            free(item);
            break;
        }
    pthread_mutex_unlock(&gpu.lock);
}

/* What the driver knows of an address; 0 = nothing, it is host memory as any other. */
static int type_of(const void *p)
{
    int type = 0;
    return cu.pointer_attribute(&type, POINTER_MEMORY_TYPE, address(p)) == 0 ? type : 0;
}

int shmemi_gpu_host_register(const char *call, void *p, size_t bytes)
{
    int device = -1;
    CUdeviceptr seen = 0;
    ENTER(call);
    int type = type_of(p);
    if (type == MEMORY_TYPE_DEVICE) {
        CHECKED(call, "cuPointerGetAttribute", cu.pointer_attribute(&device, POINTER_DEVICE, address(p)));
        return device == gpu.device
                   ? 0
                   : shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                                 "%p is memory of device %d; this PE's GPU heap is on device %d", p, device,
                                 gpu.device);
    }
    if (type == MEMORY_TYPE_HOST && type_of((char *)p + bytes - 1) == MEMORY_TYPE_HOST)
        return 0; /* cudaMallocHost, or the program has pinned it */
    CUresult code = cu.host_register(p, bytes, HOST_PORTABLE_MAPPED);
    if (code == ALREADY_REGISTERED)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "a page of the %zu bytes at %p is pinned already, by the program or for another "
                           "buffer on the same page: register the whole that both are part of",
                           bytes, p);
    CHECKED(call, "cuMemHostRegister", code);
    code = cu.host_device_pointer(&seen, p, 0);
    if (code == 0 && seen == address(p))
        return 1;
    cu.host_unregister(p);
    return code ? shmemi_cuda_failed(call, "cuMemHostGetDevicePointer", code)
                : shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                              "%s sees host memory at other addresses than the CPU (%p at 0x%llx)", gpu.name,
                              p, seen);
}

void shmemi_gpu_host_unregister(void *p)
{
    if (shmemi_cuda_enter("libshmem") == 0)
        cu.host_unregister(p);
}

bool shmemi_gpu_owns(const void *p)
{
    return gpu.open && type_of(p) == MEMORY_TYPE_DEVICE;
}

/* ---- streams ------------------------------------------------------------------------------------------------------- */

shmemi_stream_t shmemi_gpu_stream(void)
{
    return gpu.stream;
}

int shmemi_gpu_side_stream(const char *call, shmemi_stream_t *stream)
{
    ENTER(call);
    pthread_mutex_lock(&gpu.lock);
    CUresult code = gpu.side ? 0 : cu.stream_create(&gpu.side, STREAM_NON_BLOCKING, 0);
    pthread_mutex_unlock(&gpu.lock);
    CHECKED(call, "cuStreamCreateWithPriority", code);
    *stream = gpu.side;
    return SHMEMX_SUCCESS;
}
