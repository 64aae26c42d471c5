/* Which INT8 kernels this process uses: chosen at the first call, by the machine or by SHMEM_INT8_ISA. */
#include "int8.h"

#include <stdlib.h>
#include <string.h>

static const struct shmemi_int8_kernels *chosen; /* read and written atomically; NULL = not yet chosen */

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
}

static bool has_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

/* Fastest first. A NULL table is a name that this build knows but does not have. */
static const struct isa {
    const char *name;
    const struct shmemi_int8_kernels *kernels;
    bool (*available)(void);
} isas[] = {
#if defined(__x86_64__)
    {"avx512", &shmemi_int8_avx512, has_avx512},
    {"avx2", &shmemi_int8_avx2, has_avx2},
#else
    {"avx512", NULL, NULL},
    {"avx2", NULL, NULL},
#endif
#if defined(__aarch64__)
    {"neon", &shmemi_int8_neon, always},
#else
    {"neon", NULL, NULL},
#endif
    {"portable", &shmemi_int8_portable, always},
};
#define ISAS (sizeof isas / sizeof *isas)

/* NULL where the name is unknown or not available; *known tells which. */
static const struct shmemi_int8_kernels *find(const char *name, bool *known)
{
    bool automatic = strcmp(name, "auto") == 0;
    *known = automatic;
    for (size_t i = 0; i < ISAS; i++) {
        if (automatic || strcmp(name, isas[i].name) == 0) {
            *known = true;
            if (isas[i].kernels && isas[i].available()) {
                return isas[i].kernels;
            }
        }
    }
    return NULL;
}

static SHMEMI_COLD const struct shmemi_int8_kernels *choose(void)
{
    /* The codec works before shmem_init, when the environment has not been read. */
    const char *name = shmemi_env.INT8_ISA ? shmemi_env.INT8_ISA : getenv("SHMEM_INT8_ISA");
    bool known;
    const struct shmemi_int8_kernels *kernels = find(name && *name ? name : "auto", &known);
    bool refused = !kernels;
    if (refused) {
        kernels = find("auto", &known);
        find(name, &known);
    }
    const struct shmemi_int8_kernels *before = NULL;
    if (!__atomic_compare_exchange_n(&chosen, &before, kernels, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        return before; /* another thread was first, and has warned */
    }
    if (refused) {
        shmemi_warn("SHMEM_INT8_ISA=%s is %s; using %s (choices: auto, portable, avx2, avx512, neon)", name,
                    known ? "not available on this machine" : "unknown", kernels->name);
    }
    return kernels;
}

/* Relaxed order is enough: the tables are constants of the program, only the pointer travels. */
const struct shmemi_int8_kernels *shmemi_int8_kernels(void)
{
    const struct shmemi_int8_kernels *kernels = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    return SHMEMI_LIKELY(kernels != NULL) ? kernels : choose();
}

const char *shmemx_int8_isa(void)
{
    return shmemi_int8_kernels()->name;
}

int shmemx_int8_set_isa(const char *isa)
{
    if (!isa) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "the name is NULL");
    }
    bool known;
    const struct shmemi_int8_kernels *kernels = find(isa, &known);
    if (!known) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__,
                           "\"%s\" is unknown; choices: auto, portable, avx2, avx512, neon", isa);
    }
    if (!kernels) {
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, __func__, "\"%s\" is not available on this machine", isa);
    }
    __atomic_store_n(&chosen, kernels, __ATOMIC_RELAXED);
    return SHMEMX_SUCCESS;
}
