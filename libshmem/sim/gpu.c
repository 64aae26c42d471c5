/* GPU memory: moved by CUDA's copy engines. libcuda is used when the process has it already: without it no address is a
 * GPU's. A stream of its own, which waits for no kernel: kernels run while they wait for this NIC. */
#define _GNU_SOURCE
#include "engine.h"

#include <dlfcn.h>
#include <string.h>

typedef int result; /* CUresult: 0 = success */
typedef void *context, *stream;
typedef uint64_t device_pointer;

#define CALLS(X)                                                                                             \
    X(cuPointerGetAttribute, (void *data, int attribute, device_pointer p))                                  \
    X(cuCtxGetCurrent, (context * c))                                                                        \
    X(cuCtxSetCurrent, (context c))                                                                          \
    X(cuStreamCreate, (stream * s, unsigned flags))                                                          \
    X(cuStreamSynchronize, (stream s))                                                                       \
    X(cuMemAllocHost_v2, (void **p, size_t n))                                                               \
    X(cuMemcpyHtoDAsync_v2, (device_pointer to, const void *from, size_t n, stream s))                       \
    X(cuMemcpyDtoHAsync_v2, (void *to, device_pointer from, size_t n, stream s))

static struct {
    bool usable, ready;
    context context;
    stream stream;
    unsigned char *pinned; /* SIM_PAYLOAD bytes */
#define X(name, parameters) result(*name) parameters;
    CALLS(X)
#undef X
} gpu;

enum { MEMORY_TYPE = 2, TYPE_DEVICE = 2, IS_MANAGED = 8, NON_BLOCKING = 1 };

static bool find(void)
{
    if (gpu.usable)
        return true;
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!lib)
        return false;
    bool all = true;
#define X(name, parameters) all &= (*(void **)&gpu.name = dlsym(lib, #name)) != NULL;
    CALLS(X)
#undef X
    gpu.usable = all;
    return all;
}

/* From a thread of the program, before kernels run that wait: the context is the one current there. */
bool sim_gpu_owns(uint64_t address)
{
    unsigned type = 0, managed = 0;
    if (!find() || gpu.cuPointerGetAttribute(&type, MEMORY_TYPE, address) != 0 || type != TYPE_DEVICE)
        return false;
    if (gpu.cuPointerGetAttribute(&managed, IS_MANAGED, address) == 0 && managed)
        return false;
    if (!gpu.ready) {
        gpu.ready = gpu.cuCtxGetCurrent(&gpu.context) == 0 && gpu.context &&
                    gpu.cuStreamCreate(&gpu.stream, NON_BLOCKING) == 0 &&
                    gpu.cuMemAllocHost_v2((void **)&gpu.pinned, SIM_PAYLOAD) == 0;
        if (!gpu.ready)
            fprintf(stderr, "libshmem_sim: no CUDA context is current where GPU memory is registered\n");
    }
    return true;
}

static bool current(void)
{
    static _Thread_local bool set;
    if (!set && gpu.ready)
        set = gpu.cuCtxSetCurrent(gpu.context) == 0;
    return set;
}

bool sim_gpu_load(void *to, uint64_t address, size_t n)
{
    if (!current() || n > SIM_PAYLOAD || gpu.cuMemcpyDtoHAsync_v2(gpu.pinned, address, n, gpu.stream) != 0 ||
        gpu.cuStreamSynchronize(gpu.stream) != 0)
        return false;
    memcpy(to, gpu.pinned, n);
    return true;
}

bool sim_gpu_store(uint64_t address, const void *from, size_t n)
{
    if (!current() || n > SIM_PAYLOAD)
        return false;
    memcpy(gpu.pinned, from, n);
    return gpu.cuMemcpyHtoDAsync_v2(address, gpu.pinned, n, gpu.stream) == 0 &&
           gpu.cuStreamSynchronize(gpu.stream) == 0;
}
