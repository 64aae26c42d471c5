/* The library's kernels: which module has them, loaded when the first of it is launched. The texts are gpu/ptx/, which
 * the build turns into shmemi_ptx (CMakeLists.txt). */
#include <pthread.h>
#include <string.h>

#include "base/gpu.h"
#include "gpu/gpu_state.h"

struct ptx {
    const char *name, *text;
};
extern const struct ptx shmemi_ptx[]; /* ends with a NULL name */

/* Module 0 has the kernels of these names, module 1 + type the two of a type's reductions. */
static const char *const names[SHMEMI_K_REDUCE_PACKETS] = {
    [SHMEMI_K_ATOMIC] = "shmem_k_atomic",
    [SHMEMI_K_SIGNAL] = "shmem_k_signal",
    [SHMEMI_K_SIGNAL_WAIT] = "shmem_k_signal_wait",
    [SHMEMI_K_BARRIER] = "shmem_k_barrier",
    [SHMEMI_K_BROADCAST_PACKETS] = "shmem_k_broadcast_packets",
    [SHMEMI_K_EXCHANGE_PACKETS] = "shmem_k_exchange_packets",
    [SHMEMI_K_EXCHANGE] = "shmem_k_exchange",
    [SHMEMI_K_FETCH] = "shmem_k_fetch",
    [SHMEMI_K_COLLECT] = "shmem_k_collect",
    [SHMEMI_K_ALLTOALLS] = "shmem_k_alltoalls",
    [SHMEMI_K_STRIDED] = "shmem_k_strided",
};
static const char *const reductions[SHMEMX_TYPE_COUNT] = {
    [SHMEMX_INT8] = "reduce_int8",       [SHMEMX_INT16] = "reduce_int16",
    [SHMEMX_INT32] = "reduce_int32",     [SHMEMX_INT64] = "reduce_int64",
    [SHMEMX_UINT8] = "reduce_uint8",     [SHMEMX_UINT16] = "reduce_uint16",
    [SHMEMX_UINT32] = "reduce_uint32",   [SHMEMX_UINT64] = "reduce_uint64",
    [SHMEMX_FLOAT16] = "reduce_float16", [SHMEMX_BFLOAT16] = "reduce_bfloat16",
    [SHMEMX_FLOAT32] = "reduce_float32", [SHMEMX_FLOAT64] = "reduce_float64",
};

static struct {
    pthread_mutex_t lock;
    void *module[1 + SHMEMX_TYPE_COUNT], *kernel[SHMEMI_K_COUNT];
} loaded = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *text_of(const char *name)
{
    for (const struct ptx *p = shmemi_ptx; p->name; ++p)
        if (strcmp(p->name, name) == 0)
            return p->text;
    return NULL;
}

static int load_module(const char *call, const char *name, void **module)
{
    const struct shmemx_device_state *state = shmemi_gpu_state();
    char *symbol;
    size_t bytes;
    int rc = shmemi_gpu_load(call, text_of(name), module);
    if (rc == 0)
        rc = shmemi_gpu_global(call, *module, "shmem_device_state", &symbol, &bytes);
    if (rc == 0 && bytes != sizeof *state)
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "module %s expects a state of %zu bytes, not %zu", name,
                         bytes, sizeof *state);
    if (rc == 0)
        rc = shmemi_gpu_copy(call, symbol, state, sizeof *state, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(call, shmemi_gpu_stream());
}

static int load_kernel(const char *call, int kernel)
{
    const char *name = "kernels", *function = kernel < SHMEMI_K_REDUCE_PACKETS ? names[kernel] : NULL;
    int module = 0;
    if (kernel >= SHMEMI_K_REDUCE_PACKETS) {
        int type = (kernel - SHMEMI_K_REDUCE_PACKETS) % SHMEMX_TYPE_COUNT;
        name = reductions[type];
        module = 1 + type;
        function = kernel < SHMEMI_K_REDUCE ? "shmem_k_reduce_packets" : "shmem_k_reduce";
    }
    if (!name)
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "not on a GPU for this type");
    pthread_mutex_lock(&loaded.lock);
    int rc = loaded.module[module] ? 0 : load_module(call, name, &loaded.module[module]);
    void *found = NULL;
    if (rc == 0)
        rc = shmemi_gpu_function(call, loaded.module[module], function, &found);
    if (rc == 0) /* release: pairs with the acquire of other threads, which then use the module */
        __atomic_store_n(&loaded.kernel[kernel], found, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&loaded.lock);
    return rc;
}

int shmemi_gpu_kernel(const char *call, int kernel, unsigned blocks, unsigned threads, void **arguments,
                      void *stream)
{
    /* acquire: pairs with load_kernel */
    void *function = __atomic_load_n(&loaded.kernel[kernel], __ATOMIC_ACQUIRE);
    if (SHMEMI_UNLIKELY(!function)) {
        int rc = load_kernel(call, kernel);
        if (rc)
            return rc;
        function = loaded.kernel[kernel];
    }
    return shmemi_gpu_launch(call, function, blocks, threads, 0, arguments, stream);
}

void shmemi_gpu_unload_kernels(void)
{
    for (size_t m = 0; m < sizeof loaded.module / sizeof *loaded.module; ++m)
        shmemi_gpu_unload(loaded.module[m]);
    memset(loaded.module, 0, sizeof loaded.module);
    memset(loaded.kernel, 0, sizeof loaded.kernel);
}
