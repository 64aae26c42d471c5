#define _GNU_SOURCE
#include "verbs_lib.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

static struct shmemi_verbs_lib lib;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool usable;
static char reason[400];

/* libshmem_sim.so beside the file that this code is in. */
static const char *beside_us(char path[PATH_MAX])
{
    Dl_info us;
    const char *slash = dladdr((void *)&lib, &us) ? strrchr(us.dli_fname, '/') : NULL;
    snprintf(path, PATH_MAX, "%.*slibshmem_sim.so", slash ? (int)(slash + 1 - us.dli_fname) : 0,
             slash ? us.dli_fname : "");
    return path;
}

const char *shmemi_verbs_file(const char *usual)
{
    static _Thread_local char path[PATH_MAX];
    const char *wanted = shmemi_env.IBVERBS_LIB;
    return !wanted || !*wanted ? usual : strcmp(wanted, "sim") == 0 ? beside_us(path) : wanted;
}

static void load(void)
{
    const char *const names[] = {shmemi_verbs_file("libibverbs.so.1"), NULL}, *why;
    void *handle = shmemi_dl_open(names, &why);
    if (!handle) {
        snprintf(reason, sizeof reason, "%s (%s)", why,
                 *shmemi_env.IBVERBS_LIB ? "SHMEM_IBVERBS_LIB"
                                         : "Debian: apt install libibverbs1 ibverbs-providers");
        return;
    }
#define X(type, name, parameters)                                                                            \
    *(void **)&lib.name = dlsym(handle, "ibv_" #name);                                                       \
    if (!lib.name) {                                                                                         \
        snprintf(reason, sizeof reason, "%.300s has no ibv_%s: it is too old", names[0], #name);             \
        return;                                                                                              \
    }
    SHMEMI_VERBS_CALLS(X)
#undef X
    *(void **)&lib.query_gid_entry = dlsym(handle, "_ibv_query_gid_ex");
    *(void **)&lib.reg_dmabuf_mr = dlsym(handle, "ibv_reg_dmabuf_mr");
    usable = true;
}

const struct shmemi_verbs_lib *shmemi_verbs_lib(char *why, size_t n)
{
    pthread_once(&once, load);
    if (usable)
        return &lib;
    snprintf(why, n, "%s", reason);
    return NULL;
}
