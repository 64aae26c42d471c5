/* Libraries that are opened when first wanted and may be missing. */
#include "base.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

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
