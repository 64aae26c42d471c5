/* The software NIC with GPU memory: writes, reads and atomics move it by CUDA's copies, also while a kernel runs that waits
 * for what they bring. Needs a GPU. With "time" as argument it says what a write of 8 bytes takes. */
#include <dlfcn.h>

#include "scene.h"

typedef int result;
typedef uint64_t device_pointer;
#define CALLS(X)                                                                                             \
    X(cuInit, (unsigned flags))                                                                              \
    X(cuDevicePrimaryCtxRetain, (void **context, int device))                                                \
    X(cuCtxSetCurrent, (void *context))                                                                      \
    X(cuMemAlloc_v2, (device_pointer * p, size_t n))                                                         \
    X(cuMemFree_v2, (device_pointer p))                                                                      \
    X(cuMemcpyHtoD_v2, (device_pointer to, const void *from, size_t n))                                      \
    X(cuMemcpyDtoH_v2, (void *to, device_pointer from, size_t n))                                            \
    X(cuMemHostAlloc, (void **p, size_t n, unsigned flags))                                                  \
    X(cuModuleLoadData, (void **module, const void *image))                                                  \
    X(cuModuleGetFunction, (void **function, void *module, const char *name))                                \
    X(cuStreamCreate, (void **stream, unsigned flags))                                                       \
    X(cuStreamSynchronize, (void *stream))                                                                   \
    X(cuLaunchKernel, (void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,             \
                       unsigned bz, unsigned shared, void *stream, void **parameters, void **extra))
#define X(name, parameters) static result(*name) parameters;
CALLS(X)
#undef X

/* Waits for *a to be *b, then answers in *c. */
static const char waiter[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                             ".visible .entry waiter(.param .u64 a, .param .u64 b, .param .u64 c) {\n"
                             " .reg .u64 %a, %b, %c, %v, %w; .reg .pred %p;\n"
                             " ld.param.u64 %a, [a]; ld.param.u64 %b, [b]; ld.param.u64 %c, [c];\n"
                             "again: ld.volatile.global.u64 %v, [%a]; ld.volatile.global.u64 %w, [%b];\n"
                             " setp.ne.u64 %p, %v, %w; @%p bra again;\n"
                             " st.volatile.global.u64 [%c], %v; ret; }\n";

static device_pointer gpu;
static uint32_t near_key, far_key; /* of the GPU's memory, at either NIC */

static bool open_gpu(void)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW), *context;
    if (!lib)
        return false;
#define X(name, parameters) *(void **)&name = dlsym(lib, #name);
    CALLS(X)
#undef X
    return cuInit(0) == 0 && cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuCtxSetCurrent(context) == 0 &&
           cuMemAlloc_v2(&gpu, MEMORY) == 0;
}

static struct wqe gpu_wqe(unsigned opcode, unsigned gpu_at, unsigned host_at, unsigned n)
{
    struct wqe w = wqe(&a, opcode, 0, SIGNALLED);
    add_remote(&w, (void *)(uintptr_t)(gpu + gpu_at), far_key);
    add_data(&w, a.memory + host_at, n, a.key);
    return w;
}

static void moves(void)
{
    static unsigned char there[MEMORY];
    CHECK(sim_gpu_owns(gpu) && sim_gpu_owns(gpu + MEMORY - 1), "the GPU's memory is not known as such");
    CHECK(!sim_gpu_owns((uint64_t)(uintptr_t)a.memory), "the host's memory is taken for the GPU's");
    for (unsigned n = 1; n < 40000; n = n * 3 + 1) {
        uint16_t i = post(&a, gpu_wqe(SHMEMX_MLX5_RDMA_WRITE, 24, 5, n));
        run();
        SUCCESS(&a, i);
        cuMemcpyDtoH_v2(there, gpu, sizeof there);
        CHECK(memcmp(there + 24, a.memory + 5, n) == 0, "write of %u bytes", n);
        memset(a.memory + MEMORY / 2, 0, n < MEMORY / 2 ? n : MEMORY / 2);
        n = n < MEMORY / 2 ? n : MEMORY / 2;
        i = post(&a, gpu_wqe(SHMEMX_MLX5_RDMA_READ, 24, MEMORY / 2, n));
        run();
        SUCCESS(&a, i);
        CHECK(memcmp(a.memory + MEMORY / 2, a.memory + 5, n) == 0, "read of %u bytes", n);
    }
    /* the local side */
    struct wqe w = wqe(&a, SHMEMX_MLX5_RDMA_WRITE, 0, SIGNALLED);
    add_remote(&w, b.memory + 100, b.key);
    add_data(&w, (void *)(uintptr_t)(gpu + 30), 9000, near_key);
    uint16_t i = post(&a, w);
    run();
    SUCCESS(&a, i);
    cuMemcpyDtoH_v2(there, gpu, sizeof there);
    CHECK(memcmp(b.memory + 100, there + 30, 9000) == 0, "write from the GPU");
    uint64_t word = 40, got;
    cuMemcpyHtoD_v2(gpu + 64, &word, 8);
    w = wqe(&a, SHMEMX_MLX5_ATOMIC_FA, 0, SIGNALLED);
    add_remote(&w, (void *)(uintptr_t)(gpu + 64), far_key);
    add_words(&w, 8, 2, (uint64_t[]){2, 0});
    add_data(&w, a.memory + 128, 8, a.key);
    i = post(&a, w);
    run();
    SUCCESS(&a, i);
    cuMemcpyDtoH_v2(&word, gpu + 64, 8);
    memcpy(&got, a.memory + 128, 8);
    CHECK(word == 42 && got == 40, "fetch and add: %llu, was %llu", (unsigned long long)word,
          (unsigned long long)got);
}

/* A kernel waits for each of the writes; nothing here may wait for it. */
static void while_a_kernel_waits(bool say)
{
    void *module, *function, *stream;
    volatile uint64_t *host; /* what is waited for, what was seen */
    enum { ROUNDS = 200 };
    if (!CHECK(cuModuleLoadData(&module, waiter) == 0 &&
                   cuModuleGetFunction(&function, module, "waiter") == 0 && cuStreamCreate(&stream, 1) == 0 &&
                   cuMemHostAlloc((void **)&host, 4096, 2) == 0,
               "the kernel"))
        return;
    uint64_t zero = 0, took = 0, all = 0;
    cuMemcpyHtoD_v2(gpu, &zero, 8);
    for (uint64_t n = 1; n <= ROUNDS; ++n) {
        host[0] = n * 1000003;
        host[1] = 0;
        device_pointer where = gpu, wanted = (device_pointer)(uintptr_t)&host[0],
                       seen = (device_pointer)(uintptr_t)&host[1];
        void *parameters[] = {&where, &wanted, &seen};
        CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL) == 0, "launch");
        usleep(50);
        memcpy(a.memory, (const void *)&(uint64_t){host[0]}, 8);
        uint64_t start = sim_now();
        uint32_t before = a.cq->produced;
        uint16_t i = post(&a, gpu_wqe(SHMEMX_MLX5_RDMA_WRITE, 0, 0, 8));
        while (a.cq->produced == before && sim_now() - start < 5000000000u)
            (void)(sim_step(a.nic) | sim_step(b.nic));
        took += sim_now() - start;
        while (host[1] == 0 && sim_now() - start < 5000000000u)
            ;
        all += sim_now() - start;
        SUCCESS(&a, i);
        if (!CHECK(host[1] == n * 1000003, "the kernel has not seen it"))
            break;
        cuStreamSynchronize(stream);
    }
    if (say)
        check_say(
            "write of 8 bytes to the GPU, kernel running: entry after %.2f us, seen by it after %.2f us",
            (double)took / ROUNDS / 1e3, (double)all / ROUNDS / 1e3);
}

/* Memory that was freed under its key is an error. */
static void freed(void)
{
    cuMemFree_v2(gpu);
    uint16_t i = post(&a, gpu_wqe(SHMEMX_MLX5_RDMA_WRITE, 0, 0, 8));
    run();
    ERROR(&a, i, 0x13, 0x88);
}

int main(int argc, char **argv)
{
    if (!open_gpu()) {
        check_say("no GPU");
        return 1;
    }
    begin((struct options){.blocks = 16});
    near_key = sim_key_create(a.nic, PD, gpu, MEMORY, ALL_ACCESS, sim_gpu_owns(gpu));
    far_key = sim_key_create(b.nic, PD, gpu, MEMORY, ALL_ACCESS, sim_gpu_owns(gpu));
    moves();
    while_a_kernel_waits(argc > 1 && strcmp(argv[1], "time") == 0);
    freed();
    finish();
    return check_done();
}
