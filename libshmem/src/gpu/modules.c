/* The library's kernels: which module has them, loaded when the first of it is launched. The texts are gpu/ptx/, which
 * the build turns into shmemi_ptx (CMakeLists.txt). */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/gpu.h"
#include "gpu/gpu_state.h"

struct ptx {
    const char *name, *text;
};
extern const struct ptx shmemi_ptx[]; /* ends with a NULL name */

/* The modules that are no type's, and the kernels in them. */
enum file { KERNELS, MOE_LL, MOE_LL_FAR, MOE_NORMAL, MOE_NORMAL_FAR, FILES };
static const char *const files[FILES] = {
    [KERNELS] = "kernels",
    [MOE_LL] = "moe_ll",
    [MOE_LL_FAR] = "moe_ll_far",
    [MOE_NORMAL] = "moe_normal",
    [MOE_NORMAL_FAR] = "moe_normal_far",
};
static const struct {
    enum file file;
    const char *name;
} named[SHMEMI_K_REDUCE_PACKETS] = {
    [SHMEMI_K_ATOMIC] = {KERNELS, "shmem_k_atomic"},
    [SHMEMI_K_SIGNAL] = {KERNELS, "shmem_k_signal"},
    [SHMEMI_K_SIGNAL_WAIT] = {KERNELS, "shmem_k_signal_wait"},
    [SHMEMI_K_BARRIER] = {KERNELS, "shmem_k_barrier"},
    [SHMEMI_K_BROADCAST_PACKETS] = {KERNELS, "shmem_k_broadcast_packets"},
    [SHMEMI_K_EXCHANGE_PACKETS] = {KERNELS, "shmem_k_exchange_packets"},
    [SHMEMI_K_EXCHANGE] = {KERNELS, "shmem_k_exchange"},
    [SHMEMI_K_FETCH] = {KERNELS, "shmem_k_fetch"},
    [SHMEMI_K_COLLECT] = {KERNELS, "shmem_k_collect"},
    [SHMEMI_K_ALLTOALLS] = {KERNELS, "shmem_k_alltoalls"},
    [SHMEMI_K_STRIDED] = {KERNELS, "shmem_k_strided"},
    [SHMEMI_K_MOE_GATHER] = {MOE_NORMAL, "shmem_k_moe_gather"},
    [SHMEMI_K_MOE_SUM] = {MOE_NORMAL, "shmem_k_moe_sum"},
    [SHMEMI_K_MOE_LL_DISPATCH] = {MOE_LL, "shmem_k_moe_ll_dispatch"},
    [SHMEMI_K_MOE_LL_DISPATCH_FAR] = {MOE_LL_FAR, "shmem_k_moe_ll_dispatch"},
    [SHMEMI_K_MOE_LL_COMBINE] = {MOE_LL, "shmem_k_moe_ll_combine"},
    [SHMEMI_K_MOE_LL_COMBINE_FAR] = {MOE_LL_FAR, "shmem_k_moe_ll_combine"},
    [SHMEMI_K_MOE_LAYOUT] = {MOE_NORMAL, "shmem_k_moe_layout"},
    [SHMEMI_K_MOE_DISPATCH] = {MOE_NORMAL, "shmem_k_moe_dispatch"},
    [SHMEMI_K_MOE_DISPATCH_FAR] = {MOE_NORMAL_FAR, "shmem_k_moe_dispatch_far"},
    [SHMEMI_K_MOE_COMBINE] = {MOE_NORMAL, "shmem_k_moe_combine"},
    [SHMEMI_K_MOE_COMBINE_FAR] = {MOE_NORMAL_FAR, "shmem_k_moe_combine_far"},
};
static const char *const types[SHMEMX_TYPE_COUNT] = {
    [SHMEMX_INT8] = "int8",         [SHMEMX_INT16] = "int16",     [SHMEMX_INT32] = "int32",
    [SHMEMX_INT64] = "int64",       [SHMEMX_UINT8] = "uint8",     [SHMEMX_UINT16] = "uint16",
    [SHMEMX_UINT32] = "uint32",     [SHMEMX_UINT64] = "uint64",   [SHMEMX_FLOAT16] = "float16",
    [SHMEMX_BFLOAT16] = "bfloat16", [SHMEMX_FLOAT32] = "float32", [SHMEMX_FLOAT64] = "float64",
};

/* Behind the files a type's reductions each, those by the copy engine, the quantized collectives of three types, and scans. */
enum { QUANT = FILES + 2 * SHMEMX_TYPE_COUNT, SCAN = QUANT + 3, MODULES = SCAN + SHMEMX_TYPE_COUNT };
static struct {
    pthread_mutex_t lock;
    void *module[MODULES], *kernel[SHMEMI_K_COUNT];
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

static int no_such_type(const char *call)
{
    return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "not on a GPU for this type");
}

/* The module that has a kernel, its name there, and the module's file. */
static int find_kernel(const char *call, int kernel, char *file, size_t n, const char **function)
{
    /* two of one source: with what sm_90 has, the SM's copy engine and conversions of FP8, and without */
    const char *old = shmemi_gpu_bulk_bytes() == 0 ? "_80" : "";
    if (kernel < SHMEMI_K_REDUCE_PACKETS) {
        int module = (int)named[kernel].file;
        snprintf(file, n, "%s%s", files[module], module == MOE_NORMAL || module == MOE_NORMAL_FAR ? old : "");
        *function = named[kernel].name;
        return module;
    }
    if (kernel >= SHMEMI_K_SCAN_PACKETS) {
        int type = (kernel - SHMEMI_K_SCAN_PACKETS) % SHMEMX_TYPE_COUNT;
        if (!types[type])
            return no_such_type(call);
        snprintf(file, n, "scan_%s", types[type]);
        *function = kernel < SHMEMI_K_SCAN ? "shmem_k_scan_packets" : "shmem_k_scan";
        return SCAN + type;
    }
    if (kernel >= SHMEMI_K_QUANT_COLL) {
        static const char *const names[] = {"shmem_k_quant_coll", "shmem_k_quantize", "shmem_k_dequantize"};
        int type = (kernel - SHMEMI_K_QUANT_COLL) % 3;
        snprintf(file, n, "quant_%s%s", types[SHMEMX_FLOAT16 + type], old);
        *function = names[(kernel - SHMEMI_K_QUANT_COLL) / 3];
        return QUANT + type;
    }
    int type = (kernel - SHMEMI_K_REDUCE_PACKETS) % SHMEMX_TYPE_COUNT;
    bool bulk = kernel >= SHMEMI_K_REDUCE_BULK;
    if (!types[type])
        return no_such_type(call);
    snprintf(file, n, "reduce_%s%s", bulk ? "bulk_" : "", types[type]);
    *function = bulk                       ? "shmem_k_reduce_bulk"
                : kernel < SHMEMI_K_REDUCE ? "shmem_k_reduce_packets"
                                           : "shmem_k_reduce";
    return FILES + type + (bulk ? SHMEMX_TYPE_COUNT : 0);
}

static int load_kernel(const char *call, int kernel)
{
    char module_name[32];
    const char *function = NULL;
    int module = find_kernel(call, kernel, module_name, sizeof module_name, &function);
    if (module < 0)
        return module;
    pthread_mutex_lock(&loaded.lock);
    int rc = loaded.module[module] ? 0 : load_module(call, module_name, &loaded.module[module]);
    void *found = NULL;
    if (rc == 0)
        rc = shmemi_gpu_function(call, loaded.module[module], function, &found);
    bool large = (kernel >= SHMEMI_K_REDUCE_BULK && kernel < SHMEMI_K_QUANT_COLL) ||
                 (kernel >= SHMEMI_K_MOE_LL_DISPATCH && kernel <= SHMEMI_K_MOE_COMBINE_FAR);
    if (rc == 0 && large && shmemi_gpu_bulk_bytes() != 0)
        rc = shmemi_gpu_allow_shared(call, found, shmemi_gpu_bulk_bytes());
    if (rc == 0) /* release: pairs with the acquire of other threads, which then use the module */
        __atomic_store_n(&loaded.kernel[kernel], found, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&loaded.lock);
    return rc;
}

int shmemi_gpu_kernel_shared(const char *call, int kernel, unsigned blocks, unsigned threads,
                             unsigned shared_bytes, void **arguments, void *stream)
{
    /* acquire: pairs with load_kernel */
    void *function = __atomic_load_n(&loaded.kernel[kernel], __ATOMIC_ACQUIRE);
    if (SHMEMI_UNLIKELY(!function)) {
        int rc = load_kernel(call, kernel);
        if (rc)
            return rc;
        function = loaded.kernel[kernel];
    }
    return shmemi_gpu_launch(call, function, blocks, threads, shared_bytes, arguments, stream);
}

int shmemi_gpu_kernel(const char *call, int kernel, unsigned blocks, unsigned threads, void **arguments,
                      void *stream)
{
    return shmemi_gpu_kernel_shared(call, kernel, blocks, threads, 0, arguments, stream);
}

void shmemi_gpu_unload_kernels(void)
{
    for (size_t m = 0; m < MODULES; ++m)
        shmemi_gpu_unload(loaded.module[m]);
    memset(loaded.module, 0, sizeof loaded.module);
    memset(loaded.kernel, 0, sizeof loaded.kernel);
}
