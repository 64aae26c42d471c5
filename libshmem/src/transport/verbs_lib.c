#include "verbs_lib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "base/base.h"

static struct shmemi_verbs_lib lib;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool usable;
static char reason[200];

static void load(void)
{
    const char *const names[] = {"libibverbs.so.1", NULL}, *why;
    void *handle = shmemi_dl_open(names, &why);
    if (!handle) {
        snprintf(reason, sizeof reason, "%s (Debian: apt install libibverbs1 ibverbs-providers)", why);
        return;
    }
#define X(type, name, parameters)                                                                            \
    *(void **)&lib.name = dlsym(handle, "ibv_" #name);                                                       \
    if (!lib.name) {                                                                                         \
        snprintf(reason, sizeof reason, "libibverbs.so.1 has no ibv_%s: it is too old", #name);              \
        return;                                                                                              \
    }
    SHMEMI_VERBS_CALLS(X)
#undef X
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
