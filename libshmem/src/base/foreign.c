/* Another OpenSHMEM library in the process: a program that was linked with two has calls of both, which know nothing of each
 * other's heap and would crash. */
#define _GNU_SOURCE
#include "base.h"

#include <dlfcn.h>
#include <string.h>

/* The object that holds an address; NULL = unknown. */
static void *object_of(void *addr, const char **file)
{
    Dl_info info;
    if (!addr || !dladdr(addr, &info))
        return NULL;
    if (file)
        *file = info.dli_fname;
    return info.dli_fbase;
}

/* `init` is its shmem_init, `profiled` its pshmem_init if it has one. */
static const char *judge(void *init, void *profiled)
{
    const char *file = NULL;
    void *object = object_of(init, &file), *ours = object_of((void *)&shmemi_env, NULL);
    if (!object || object == ours)
        return NULL;
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
    /* a tool that stands before ours has shmem_init alone and calls pshmem_init; a library has both */
    bool library = object_of(profiled, NULL) == object || strncmp(name, "libsma", 6) == 0 ||
                   strncmp(name, "liboshm", 7) == 0;
    return library ? file : NULL;
}

const char *shmemi_foreign_library(void)
{
    /* what the loader finds first, and what it finds after this library; only objects that the program itself links */
    const char *file = judge(dlsym(RTLD_DEFAULT, "shmem_init"), dlsym(RTLD_DEFAULT, "pshmem_init"));
    return file ? file : judge(dlsym(RTLD_NEXT, "shmem_init"), dlsym(RTLD_NEXT, "pshmem_init"));
}
