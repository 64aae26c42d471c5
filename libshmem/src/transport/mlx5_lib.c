#include "mlx5_lib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "base/base.h"
#include "verbs_lib.h"

static struct shmemi_mlx5_lib lib;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool usable;
static char reason[200];

static void load(void)
{
    const char *const names[] = {shmemi_verbs_file("libmlx5.so.1"), NULL}, *why;
    void *handle = shmemi_dl_open(names, &why);
    if (!handle) {
        snprintf(reason, sizeof reason, "%s (Debian: apt install ibverbs-providers)", why);
        return;
    }
#define X(type, name, parameters)                                                                            \
    *(void **)&lib.name = dlsym(handle, "mlx5dv_" #name);                                                    \
    if (!lib.name) {                                                                                         \
        snprintf(reason, sizeof reason, "%s has no mlx5dv_%s: it is too old", names[0], #name);              \
        return;                                                                                              \
    }
    SHMEMI_MLX5_CALLS(X)
#undef X
    *(void **)&lib.devx_umem_reg_ex = dlsym(handle, "mlx5dv_devx_umem_reg_ex");
    usable = true;
}

const struct shmemi_mlx5_lib *shmemi_mlx5_lib(char *why, size_t n)
{
    pthread_once(&once, load);
    if (usable)
        return &lib;
    snprintf(why, n, "%s", reason);
    return NULL;
}
