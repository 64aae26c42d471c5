/* Libraries that are opened when first wanted and may be missing. */
#define _GNU_SOURCE /* dladdr */
#include "base.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *shmemi_dl_open(const char *const *names, const char **why)
{
    static _Thread_local char text[512];
    size_t used = 0;
    text[0] = 0;
    for (; *names; names++) {
        /* Local: nobody else's symbols may change because we looked for a library. */
        void *handle = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
        if (handle)
            return handle;
        const char *error = dlerror();
        if (used < sizeof text)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%.200s", used ? "; " : "",
                                     error ? error : *names);
    }
    if (why)
        *why = text[0] ? text : "no name to try";
    return NULL;
}

static bool open_file(const char *path, int flags, bool (*take)(void *handle))
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | flags);
    if (handle && take(handle))
        return true;
    if (handle)
        dlclose(handle);
    return false;
}

static bool open_under(const char *file, const char *const *places, const char *prefix, const char *between,
                       bool own, bool (*take)(void *handle))
{
    char path[PATH_MAX];
    for (; *places; places++) {
        if ((strncmp(*places, "../", 3) == 0) != own)
            continue;
        int n = snprintf(path, sizeof path, "%s%s/%s%s", prefix, between, *places, file);
        if (n > 0 && (size_t)n < sizeof path && access(path, R_OK) == 0 && open_file(path, 0, take))
            return true;
    }
    return false;
}

/* By the variables that a launcher leaves. */
static bool open_by_launcher(const char *file, const char *const *places, bool (*take)(void *handle))
{
    static const char *const prefixes[] = {"PMIX_PREFIX", "OPAL_PREFIX", "PRTE_PREFIX"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        const char *prefix = getenv(prefixes[i]);
        if (prefix && *prefix &&
            (open_under(file, places, prefix, "/lib", false, take) ||
             open_under(file, places, prefix, "/lib64", false, take)))
            return true;
    }
    const char *libraries = getenv("OMPI_LIBDIR_LOC");
    return libraries && *libraries && open_under(file, places, libraries, "", false, take);
}

/* Beside the launcher that PATH finds. */
static bool open_by_path(const char *file, const char *const *places, bool (*take)(void *handle))
{
    static const char *const commands[] = {"mpirun", "prterun", "prte"};
    const char *path = getenv("PATH");
    while (path && *path) {
        int n = (int)strcspn(path, ":");
        for (size_t i = 0; n > 0 && i < sizeof commands / sizeof *commands; i++) {
            char command[PATH_MAX], real[PATH_MAX];
            snprintf(command, sizeof command, "%.*s/%s", n, path, commands[i]);
            if (access(command, X_OK) != 0 || realpath(command, real) == NULL)
                continue;
            for (int up = 0; up < 2; up++) { /* bin/mpirun -> the prefix */
                char *slash = strrchr(real, '/');
                if (slash)
                    *slash = 0;
            }
            if (open_under(file, places, real, "/lib", false, take) ||
                open_under(file, places, real, "/lib64", false, take))
                return true;
        }
        path += n;
        path += *path == ':';
    }
    return false;
}

/* From the folder that this library lies in. */
static bool open_beside_us(const char *file, const char *const *places, bool (*take)(void *handle))
{
    Dl_info info;
    char here[PATH_MAX];
    if (!dladdr((void *)(uintptr_t)&shmemi_dl_search, &info) || !info.dli_fname ||
        !realpath(info.dli_fname, here))
        return false;
    *strrchr(here, '/') = 0;
    return open_under(file, places, here, "", true, take);
}

bool shmemi_dl_search(const char *file, const char *const *places, bool (*take)(void *handle))
{
    return open_file(file, RTLD_NOLOAD, take) || open_by_launcher(file, places, take) ||
           open_beside_us(file, places, take) || open_file(file, 0, take) || open_by_path(file, places, take);
}
