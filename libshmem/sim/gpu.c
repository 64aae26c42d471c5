/* GPU memory: moved by CUDA's copies. libcuda is used when the process has it already: without it no address is a GPU's.
 * A stream of its own, which waits for no kernel: kernels run while they wait for this NIC.
 *
 * A copy takes 6 us (H100), most of it waiting; so copies are begun in order, and waited for together (sim_gpu_settle),
 * before anything says that they have happened: an entry, an answer, a store to host memory behind them. Elements of 4 and
 * 8 bytes are written by stream memory operations, 128 of them with one call; each comes with a barrier behind what is
 * before it in the stream. */
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
    X(cuStreamCreateWithPriority, (stream * s, unsigned flags, int priority))                                \
    X(cuStreamSynchronize, (stream s))                                                                       \
    X(cuMemAllocHost_v2, (void **p, size_t n))                                                               \
    X(cuMemcpyHtoDAsync_v2, (device_pointer to, const void *from, size_t n, stream s))                       \
    X(cuMemcpyDtoHAsync_v2, (void *to, device_pointer from, size_t n, stream s))
/* Missing in old drivers; then copies do. */
struct operation { /* CUstreamBatchMemOpParams, as a write */
    int what;
    device_pointer address;
    uint64_t value;
    unsigned flags;
    device_pointer alias;
    uint64_t unused;
};
_Static_assert(sizeof(struct operation) == 48, "CUstreamBatchMemOpParams");
enum { WRITE_32 = 2, WRITE_64 = 5, OPERATIONS = 128, LOADS = 128, STAGE = 4 << 20 };
bool sim_gpu_unsettled;

static struct {
    bool usable, ready;
    context context;
    stream stream;
    unsigned char *pinned; /* STAGE bytes, then the word `flag` */
    result (*cuStreamBatchMemOp_v2)(stream s, unsigned n, struct operation *o, unsigned flags);
    result (*cuThreadExchangeStreamCaptureMode)(int *mode);
    /* what has been begun since the last settling */
    struct operation operations[OPERATIONS + 1]; /* not even begun */
    unsigned operation_count, load_count;
    struct {
        void *to;
        const unsigned char *from;
        size_t n;
    } loads[LOADS];
    bool copies;
    size_t used; /* of the stage */
    uint32_t turn;
#define X(name, parameters) result(*name) parameters;
    CALLS(X)
#undef X
} gpu;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER; /* of the first use; after that nothing changes */

/* FIRST: of the priorities that there are the driver takes the highest, so that a program's streams of the usual one, whose
 * kernels wait for this NIC, are not in front of it in a queue of the GPU's. */
enum { MEMORY_TYPE = 2, TYPE_DEVICE = 2, IS_MANAGED = 8, NON_BLOCKING = 1, FIRST = -1000, RELAXED = 2 };

static bool find(void)
{
    pthread_mutex_lock(&guard);
    void *lib = gpu.usable ? NULL : dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    bool all = lib != NULL;
#define X(name, parameters) all &= (*(void **)&gpu.name = dlsym(lib, #name)) != NULL;
    if (lib) {
        CALLS(X)
    }
#undef X
    if (lib) {
        *(void **)&gpu.cuStreamBatchMemOp_v2 = dlsym(lib, "cuStreamBatchMemOp_v2");
        *(void **)&gpu.cuThreadExchangeStreamCaptureMode = dlsym(lib, "cuThreadExchangeStreamCaptureMode");
    }
    bool usable = gpu.usable |= all;
    pthread_mutex_unlock(&guard);
    return usable;
}

/* From a thread of the program, before kernels run that wait: the context is the one current there. */
bool sim_gpu_owns(uint64_t address)
{
    unsigned type = 0, managed = 0;
    if (!find() || gpu.cuPointerGetAttribute(&type, MEMORY_TYPE, address) != 0 || type != TYPE_DEVICE)
        return false;
    if (gpu.cuPointerGetAttribute(&managed, IS_MANAGED, address) == 0 && managed)
        return false;
    pthread_mutex_lock(&guard);
    if (!gpu.ready) {
        gpu.ready = gpu.cuCtxGetCurrent(&gpu.context) == 0 && gpu.context &&
                    gpu.cuStreamCreateWithPriority(&gpu.stream, NON_BLOCKING, FIRST) == 0 &&
                    gpu.cuMemAllocHost_v2((void **)&gpu.pinned, STAGE + 64) == 0;
        if (gpu.ready)
            memset(gpu.pinned + STAGE, 0, 64);
        if (!gpu.ready)
            fprintf(stderr, "libshmem_sim: no CUDA context is current where GPU memory is registered\n");
    }
    pthread_mutex_unlock(&guard);
    return true;
}

/* A thread of the NIC's: what it calls is no part of a capture that the program makes meanwhile, and does not end it. */
static bool current(void)
{
    static _Thread_local bool set;
    int mode = RELAXED;
    if (!set && gpu.ready) {
        set = gpu.cuCtxSetCurrent(gpu.context) == 0;
        if (gpu.cuThreadExchangeStreamCaptureMode)
            (void)gpu.cuThreadExchangeStreamCaptureMode(&mode);
    }
    return set;
}

static bool is_device(uint64_t address)
{
    unsigned type = 0;
    return gpu.cuPointerGetAttribute(&type, MEMORY_TYPE, address) == 0 && type == TYPE_DEVICE;
}

static unsigned char *stage(size_t n)
{
    if (gpu.used + n > STAGE)
        sim_gpu_settle();
    unsigned char *p = gpu.pinned + gpu.used;
    gpu.used += (n + 63) / 64 * 64;
    return p;
}

static bool copy_in(uint64_t address, const void *from, size_t n)
{
    unsigned char *p = stage(n);
    memcpy(p, from, n);
    gpu.copies = sim_gpu_unsettled = true;
    return gpu.cuMemcpyHtoDAsync_v2(address, p, n, gpu.stream) == 0;
}

/* Begins the operations, in front of what comes next. */
static void begin_operations(void)
{
    unsigned n = gpu.operation_count;
    gpu.operation_count = 0;
    if (n == 0 || gpu.cuStreamBatchMemOp_v2(gpu.stream, n, gpu.operations, 0) == 0)
        return;
    gpu.cuStreamBatchMemOp_v2 = NULL; /* this device has none */
    for (unsigned i = 0; i < n; ++i)
        (void)copy_in(gpu.operations[i].address, &gpu.operations[i].value,
                      gpu.operations[i].what == WRITE_32 ? 4 : 8);
}

static void add_operation(uint64_t address, uint64_t value, size_t n)
{
    gpu.operations[gpu.operation_count++] =
        (struct operation){.what = n == 4 ? WRITE_32 : WRITE_64, .address = address, .value = value};
}

void sim_gpu_settle(void)
{
    if (!sim_gpu_unsettled)
        return;
    _Atomic uint32_t *flag = (_Atomic uint32_t *)(gpu.pinned + STAGE);
    if (!gpu.copies &&
        gpu.operation_count) { /* a word of ours behind them is seen sooner than the stream's end */
        add_operation((device_pointer)(uintptr_t)flag, ++gpu.turn, 4);
        begin_operations();
        uint64_t until = sim_now() + 100000000;
        while (!gpu.copies && atomic_load_explicit(flag, memory_order_acquire) != gpu.turn &&
               sim_now() < until)
            ;
        gpu.copies |= atomic_load_explicit(flag, memory_order_acquire) != gpu.turn;
    }
    begin_operations();
    if (gpu.copies && gpu.cuStreamSynchronize(gpu.stream) != 0)
        fprintf(stderr, "libshmem_sim: copies to or from the GPU have failed\n");
    for (unsigned i = 0; i < gpu.load_count; ++i)
        memcpy(gpu.loads[i].to, gpu.loads[i].from, gpu.loads[i].n);
    gpu.load_count = 0;
    gpu.used = 0;
    gpu.copies = sim_gpu_unsettled = false;
}

bool sim_gpu_load_later(void *to, uint64_t address, size_t n)
{
    if (!current() || n > SIM_PAYLOAD)
        return false;
    begin_operations();
    if (gpu.load_count == LOADS)
        sim_gpu_settle();
    unsigned char *p = stage(n);
    if (gpu.cuMemcpyDtoHAsync_v2(p, address, n, gpu.stream) != 0)
        return false;
    gpu.loads[gpu.load_count].to = to;
    gpu.loads[gpu.load_count].from = p;
    gpu.loads[gpu.load_count++].n = n;
    gpu.copies = sim_gpu_unsettled = true;
    return true;
}

bool sim_gpu_load(void *to, uint64_t address, size_t n)
{
    bool begun = sim_gpu_load_later(to, address, n);
    sim_gpu_settle();
    return begun;
}

bool sim_gpu_store(uint64_t address, const void *from, size_t n)
{
    if (!current() || n > SIM_PAYLOAD)
        return false;
    if ((n != 4 && n != 8) || address % n || !gpu.cuStreamBatchMemOp_v2) {
        begin_operations();
        return copy_in(address, from, n);
    }
    uint64_t value = 0;
    if (!is_device(address)) /* an operation there would be the end of the context */
        return false;
    if (gpu.operation_count == OPERATIONS)
        begin_operations();
    memcpy(&value, from, n);
    add_operation(address, value, n);
    sim_gpu_unsettled = true;
    return true;
}
