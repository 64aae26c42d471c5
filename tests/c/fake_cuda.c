/* A libcuda.so.1 without a GPU, for tests of the GPU heap's host side: "device memory" is shared memory of this machine,
 * so that descriptors of VMM chunks and IPC handles work between processes. Copies are done at once; streams and events
 * are numbers; a launch calls what the test has given to fake_cuda_on_launch. Without that, the kernels by which transports do
 * atomics and signals are executed by the processor, and all others fail. Stricter than it need be: what the real driver refuses is refused here, so
 * that a call out of turn is seen. It has the functions of DRIVER in base/cuda_driver.h; the library's message names one
 * that is missing here. The environment says what device it is:
 *
 *   FAKE_CUDA_LACKS    vmm | fd: an attribute that the device does not have; "vmm@1" where RANK is 1. unified: it sees
 *                      pinned memory at other addresses than the CPU; words: streams store none; rdma: no dmabuf, no NIC's
 *                      register mapped
 *   FAKE_CUDA_BYTES    its memory in bytes, 16 GiB by default
 *   FAKE_CUDA_FAIL     name of a function that returns an error; "cuMemMap@1" where RANK is 1 */
#include "fake_cuda.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cuda_driver.h"

enum { PAGE = 4096, LARGE_PAGE = 2 << 20, MOST = 4096 };
enum kind { FREE, RESERVED, MAPPED, ALLOCATED, OPENED, PINNED };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct range {
    enum kind kind;
    char *start;
    size_t bytes;
    int fd; /* of ALLOCATED */
} ranges[MOST];

static struct range *find(const void *p, unsigned kinds)
{
    for (int i = 0; i < MOST; ++i)
        if ((1u << ranges[i].kind & kinds) && (uintptr_t)p - (uintptr_t)ranges[i].start < ranges[i].bytes)
            return &ranges[i];
    return NULL;
}
enum { DEVICE = 1 << MAPPED | 1 << ALLOCATED | 1 << OPENED };

static CUresult add(enum kind kind, char *start, size_t bytes, int fd)
{
    for (int i = 0; i < MOST; ++i)
        if (ranges[i].kind == FREE) {
            ranges[i] = (struct range){kind, start, bytes, fd};
            return OK;
        }
    return OUT_OF_MEMORY;
}

/* Takes out the range that starts there. */
static struct range take(enum kind kind, CUdeviceptr p)
{
    struct range *r = find((void *)(uintptr_t)p, 1u << kind), found = {.kind = FREE};
    if (r && (uintptr_t)r->start == p) {
        found = *r;
        *r = (struct range){.kind = FREE};
    }
    return found;
}

/* Address space at a multiple of the large page. */
static char *room(size_t bytes)
{
    char *p = mmap(NULL, bytes + LARGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    char *at = (char *)(((uintptr_t)p + LARGE_PAGE - 1) & ~(uintptr_t)(LARGE_PAGE - 1));
    if (at > p)
        munmap(p, (size_t)(at - p));
    munmap(at + bytes, (size_t)(p + LARGE_PAGE - at));
    return at;
}

static char *map_file(int fd, size_t bytes)
{
    char *p = room(bytes);
    if (p &&
        mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(p, bytes);
        p = NULL;
    }
    return p;
}

static int memory(size_t bytes)
{
    int fd = memfd_create("fake device", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* For tests: how many ranges of memory this process has. */
API int fake_cuda_ranges(void)
{
    int n = 0;
    for (int i = 0; i < MOST; ++i)
        n += ranges[i].kind != FREE;
    return n;
}

/* ---- device ------------------------------------------------------------------------------------------------ */

API CUresult cuInit(unsigned flags)
{
    return flags ? INVALID_VALUE : OK;
}
API CUresult cuDriverGetVersion(int *version)
{
    *version = 13000;
    return OK;
}
API CUresult cuGetErrorString(CUresult code, const char **text)
{
    *text = code == OUT_OF_MEMORY ? "out of memory" : "an error of the fake driver";
    return OK;
}
API CUresult cuDeviceGetCount(int *n)
{
    *n = 1;
    return OK;
}
API CUresult cuDeviceGet(int *device, int i)
{
    *device = i;
    return i == 0 ? OK : INVALID_VALUE;
}
API CUresult cuDeviceGetName(char *name, int n, int device)
{
    snprintf(name, (size_t)n, "fake GPU");
    return device == 0 ? OK : INVALID_VALUE;
}
API CUresult cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    const char *value = getenv("FAKE_CUDA_BYTES");
    *bytes = value ? strtoull(value, NULL, 0) : (size_t)16 << 30;
    return device == 0 ? OK : INVALID_VALUE;
}
API CUresult cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = attribute == 102   ? !says("FAKE_CUDA_LACKS", "vmm")
             : attribute == 103 ? !says("FAKE_CUDA_LACKS", "fd")
             : attribute == 122 ? !says("FAKE_CUDA_LACKS", "words")
                                : 1;
    return device == 0 ? OK : INVALID_VALUE;
}
/* Which device this process has: FAKE_CUDA_DEVICE; its list of devices is that one alone. */
API CUresult cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    const char *value = getenv("FAKE_CUDA_DEVICE");
    memset(uuid, 0, 16);
    memcpy(uuid, value ? value : "0", 1);
    return device == 0 ? OK : INVALID_VALUE;
}
API CUresult cuDeviceGetP2PAttribute(int *value, int attribute, int from, int to)
{
    *value = 0;
    return attribute == 3 && from == 0 && to == 0 ? OK : INVALID_VALUE;
}
API CUresult cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = &lock;
    return device == 0 ? OK : INVALID_VALUE;
}
API CUresult cuDevicePrimaryCtxRelease_v2(int device)
{
    return device == 0 ? OK : INVALID_VALUE;
}
_Thread_local void *fake_cuda_current;
API CUresult cuCtxGetCurrent(void **context)
{
    *context = fake_cuda_current;
    return OK;
}
API CUresult cuCtxSetCurrent(void *context)
{
    fake_cuda_current = context;
    return OK;
}
API CUresult cuCtxGetDevice(int *device)
{
    *device = 0;
    return fake_cuda_current ? OK : INVALID_CONTEXT;
}
API CUresult cuCtxSynchronize(void)
{
    return fake_cuda_current ? OK : INVALID_CONTEXT;
}

/* ---- virtual memory ------------------------------------------------------------------------------------------ */

API CUresult cuMemAddressReserve(CUdeviceptr *p, size_t bytes, size_t align, CUdeviceptr wish,
                                 unsigned long long flags)
{
    (void)align, (void)wish, (void)flags;
    MAY_FAIL;
    pthread_mutex_lock(&lock);
    char *at = room(bytes);
    CUresult code = at ? add(RESERVED, at, bytes, -1) : OUT_OF_MEMORY;
    pthread_mutex_unlock(&lock);
    *p = (uintptr_t)at;
    return code;
}
API CUresult cuMemAddressFree(CUdeviceptr p, size_t bytes)
{
    pthread_mutex_lock(&lock);
    struct range r = take(RESERVED, p);
    if (r.kind != FREE)
        munmap(r.start, r.bytes);
    pthread_mutex_unlock(&lock);
    return r.kind != FREE && r.bytes == bytes ? OK : INVALID_VALUE;
}
API CUresult cuMemGetAllocationGranularity(size_t *bytes, const void *properties, int which)
{
    (void)properties, (void)which;
    *bytes = LARGE_PAGE;
    return says("FAKE_CUDA_LACKS", "vmm") ? NOT_SUPPORTED : OK;
}
/* A handle is a descriptor plus one. */
API CUresult cuMemCreate(unsigned long long *handle, size_t bytes, const void *properties,
                         unsigned long long flags)
{
    (void)properties, (void)flags;
    MAY_FAIL;
    size_t total;
    cuDeviceTotalMem_v2(&total, 0);
    int fd = bytes % LARGE_PAGE == 0 && bytes <= total ? memory(bytes) : -1;
    *handle = (unsigned long long)(fd + 1);
    return fd >= 0 ? OK : OUT_OF_MEMORY;
}
API CUresult cuMemRelease(unsigned long long handle)
{
    return close((int)handle - 1) == 0 ? OK : INVALID_VALUE;
}
API CUresult cuMemExportToShareableHandle(void *fd, unsigned long long handle, int type,
                                          unsigned long long flags)
{
    (void)type, (void)flags;
    MAY_FAIL;
    int copy = dup((int)handle - 1);
    memcpy(fd, &copy, sizeof copy);
    return copy >= 0 ? OK : INVALID_VALUE;
}
/* A descriptor that stands for the range: nobody can map it, as with a GPU that has memory of its own. */
API CUresult cuMemGetHandleForAddressRange(void *fd, CUdeviceptr p, size_t bytes, int type,
                                           unsigned long long flags)
{
    MAY_FAIL;
    pthread_mutex_lock(&lock);
    const struct range *r = find((void *)(uintptr_t)p, DEVICE);
    bool whole = r && p % PAGE == 0 && bytes % PAGE == 0 && bytes != 0;
    pthread_mutex_unlock(&lock);
    if (type != 1 || flags || !whole)
        return INVALID_VALUE;
    if (says("FAKE_CUDA_LACKS", "rdma"))
        return NOT_SUPPORTED;
    int made = memory(0);
    memcpy(fd, &made, sizeof made);
    return made >= 0 ? OK : INVALID_VALUE;
}
API CUresult cuMemImportFromShareableHandle(unsigned long long *handle, void *fd, int type)
{
    (void)type;
    MAY_FAIL;
    int copy = fcntl((int)(uintptr_t)fd, F_DUPFD_CLOEXEC, 0);
    *handle = (unsigned long long)(copy + 1);
    return copy >= 0 ? OK : INVALID_VALUE;
}
API CUresult cuMemMap(CUdeviceptr p, size_t bytes, size_t offset, unsigned long long handle,
                      unsigned long long flags)
{
    (void)flags;
    MAY_FAIL;
    char *at = (char *)(uintptr_t)p;
    CUresult code = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    struct range *r = find(at, 1u << RESERVED);
    if (r && at + bytes <= r->start + r->bytes && !find(at, DEVICE) && offset == 0)
        code = mmap(at, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, (int)handle - 1, 0) ==
                       MAP_FAILED
                   ? OUT_OF_MEMORY
                   : add(MAPPED, at, bytes, -1);
    pthread_mutex_unlock(&lock);
    return code;
}
API CUresult cuMemSetAccess(CUdeviceptr p, size_t bytes, const void *access, size_t n)
{
    (void)access, (void)n;
    MAY_FAIL;
    return mprotect((void *)(uintptr_t)p, bytes, PROT_READ | PROT_WRITE) == 0 ? OK : INVALID_VALUE;
}
API CUresult cuMemUnmap(CUdeviceptr p, size_t bytes)
{
    pthread_mutex_lock(&lock);
    struct range r = take(MAPPED, p);
    if (r.kind != FREE)
        (void)mmap(r.start, r.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                   0);
    pthread_mutex_unlock(&lock);
    return r.kind != FREE && r.bytes == bytes ? OK : INVALID_VALUE;
}

/* ---- allocations and IPC --------------------------------------------------------------------------------------- */

struct named {
    int pid, fd; /* whose descriptor it is, opened through /proc by those who may */
    size_t bytes;
};

API CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t bytes)
{
    MAY_FAIL;
    size_t total;
    cuDeviceTotalMem_v2(&total, 0);
    int fd = bytes <= total ? memory(bytes) : -1;
    char *at = fd >= 0 ? map_file(fd, bytes) : NULL;
    if (!at) {
        if (fd >= 0)
            close(fd);
        return OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&lock);
    CUresult code = add(ALLOCATED, at, bytes, fd);
    pthread_mutex_unlock(&lock);
    *p = (uintptr_t)at;
    return code;
}
static CUresult give_back(enum kind kind, CUdeviceptr p)
{
    pthread_mutex_lock(&lock);
    struct range r = take(kind, p);
    pthread_mutex_unlock(&lock);
    if (r.kind == FREE)
        return INVALID_VALUE;
    munmap(r.start, r.bytes);
    if (r.fd >= 0)
        close(r.fd);
    return OK;
}
API CUresult cuMemFree_v2(CUdeviceptr p)
{
    return give_back(ALLOCATED, p);
}
API CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr p)
{
    MAY_FAIL;
    pthread_mutex_lock(&lock);
    struct range *r = find((void *)(uintptr_t)p, 1u << ALLOCATED);
    struct named named = {getpid(), r ? r->fd : -1, r ? r->bytes : 0};
    pthread_mutex_unlock(&lock);
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &named, sizeof named);
    return r ? OK : INVALID_VALUE;
}
API CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *p, CUipcMemHandle handle, unsigned flags)
{
    struct named named;
    char path[64];
    MAY_FAIL;
    memcpy(&named, &handle, sizeof named);
    if (named.pid == getpid() || flags != 1)
        return INVALID_CONTEXT;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", named.pid, named.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char *at = fd >= 0 ? map_file(fd, named.bytes) : NULL;
    if (fd >= 0)
        close(fd);
    if (!at)
        return MAP_FAILED_;
    pthread_mutex_lock(&lock);
    CUresult code = add(OPENED, at, named.bytes, -1);
    pthread_mutex_unlock(&lock);
    *p = (uintptr_t)at;
    return code;
}
API CUresult cuIpcCloseMemHandle(CUdeviceptr p)
{
    return give_back(OPENED, p);
}

/* ---- host memory ---------------------------------------------------------------------------------------------- */

API CUresult cuPointerGetAttribute(void *value, int attribute, CUdeviceptr p)
{
    pthread_mutex_lock(&lock);
    struct range *r = find((void *)(uintptr_t)p, DEVICE | 1u << PINNED);
    int answer = attribute == 9 ? 0 : r && r->kind == PINNED ? 1 : 2;
    pthread_mutex_unlock(&lock);
    memcpy(value, &answer, sizeof answer);
    return r ? OK : INVALID_VALUE;
}
API CUresult cuMemHostAlloc(void **p, size_t bytes, unsigned flags)
{
    (void)flags;
    MAY_FAIL;
    *p = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    return *p ? OK : OUT_OF_MEMORY;
}
API CUresult cuMemFreeHost(void *p)
{
    free(p);
    return OK;
}
API CUresult cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags)
{
    MAY_FAIL;
    enum { PORTABLE_MAPPED = 3, IO_MEMORY = 4 };
    if (!fake_cuda_current || (flags & ~(unsigned)IO_MEMORY) != PORTABLE_MAPPED)
        return INVALID_CONTEXT;
    if (flags & IO_MEMORY && says("FAKE_CUDA_LACKS", "rdma"))
        return INVALID_VALUE;
    uintptr_t from = (uintptr_t)p & ~(uintptr_t)(PAGE - 1),
              to = ((uintptr_t)p + bytes + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    CUresult code = OK;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; ++i) {
        uintptr_t a = (uintptr_t)ranges[i].start, b = a + ranges[i].bytes;
        if (ranges[i].kind == PINNED && from < ((b + PAGE - 1) & ~(uintptr_t)(PAGE - 1)) &&
            (a & ~(uintptr_t)(PAGE - 1)) < to)
            code = ALREADY_REGISTERED;
    }
    code = code ? code : add(PINNED, p, bytes, -1);
    pthread_mutex_unlock(&lock);
    return code;
}
API CUresult cuMemHostUnregister(void *p)
{
    pthread_mutex_lock(&lock);
    struct range r = take(PINNED, (uintptr_t)p);
    pthread_mutex_unlock(&lock);
    return r.kind == PINNED ? OK : NOT_REGISTERED;
}
API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *at, void *p, unsigned flags)
{
    (void)flags;
    /* a device that sees host memory elsewhere */
    *at = (uintptr_t)p + (says("FAKE_CUDA_LACKS", "unified") ? PAGE : 0);
    return OK;
}
