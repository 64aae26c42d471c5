/* Reads /proc of our ancestors; what cannot be read counts as no sign. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr */
#endif
#include "bootstrap_kin.h"

#include "base.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_GENERATIONS = 64 };

/* The parent's process id and the name of `pid`; 0 when it is gone. */
static pid_t parent_of(pid_t pid, char name[64])
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    int parent = 0;
    name[0] = 0;
    if (fgets(line, sizeof line, f)) {
        char *open = strchr(line, '('), *close = strrchr(line, ')'); /* the name may hold anything */
        if (open && close && close > open && sscanf(close + 1, " %*c %d", &parent) == 1)
            snprintf(name, 64, "%.*s", (int)(close - open - 1), open + 1);
    }
    fclose(f);
    return parent;
}

/* Whether `pid` was started with the values that we have of all names. */
static bool same_values(pid_t pid, const char *const *names)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    int wanted = 0, found = 0;
    for (const char *const *name = names; *name; name++)
        wanted++;
    char *entry = NULL;
    size_t room = 0;
    while (getdelim(&entry, &room, 0, f) > 0)
        for (const char *const *name = names; *name; name++) {
            size_t n = strlen(*name);
            const char *ours = getenv(*name);
            if (ours && strncmp(entry, *name, n) == 0 && entry[n] == '=' && strcmp(entry + n + 1, ours) == 0)
                found++;
        }
    free(entry);
    fclose(f);
    return found == wanted;
}

static bool has_mapped(pid_t pid, const char *const *libraries, const char *own, char *which, size_t n)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    while (!found && getline(&line, &room, f) > 0) {
        const char *file = strchr(line, '/');
        if (file == NULL)
            continue;
        line[strcspn(line, "\n")] = 0;
        for (const char *const *library = libraries; *library && !found; library++)
            found = strstr(file, *library) != NULL;
        found |= own && strcmp(file, own) == 0;
        if (found)
            snprintf(which, n, "%s", strrchr(file, '/') + 1);
    }
    free(line);
    fclose(f);
    return found;
}

/* The file this code was loaded from, NULL if it is the program itself (which every wrapper may be too). */
static const char *own_file(char path[PATH_MAX])
{
    char program[PATH_MAX];
    Dl_info info;
    if (dladdr((void *)shmemi_bootstrap_inherited, &info) == 0 || realpath(info.dli_fname, path) == NULL)
        return NULL;
    if (realpath("/proc/self/exe", program) && strcmp(program, path) == 0)
        return NULL;
    return path;
}

static bool is_launcher(const char *name)
{
    static const char *const launchers[] = {"hydra_", "mpiexec", "mpirun",    "prte",
                                            "prun",   "orted",   "slurmstepd"};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        if (strncmp(name, launchers[i], strlen(launchers[i])) == 0)
            return true;
    return false;
}

bool shmemi_bootstrap_inherited(const char *const *names, const char *const *libraries, bool own_library,
                                char *why, size_t n)
{
    char path[PATH_MAX], name[64], which[128];
    const char *own = own_library ? own_file(path) : NULL;
    pid_t pid = getppid();
    for (int i = 0; i < MAX_GENERATIONS && pid > 1; i++) {
        pid_t next = parent_of(pid, name);
        if (is_launcher(name) || !same_values(pid, names))
            return false;
        if (has_mapped(pid, libraries, own, which, sizeof which)) {
            snprintf(why, n, "the variables are those of our ancestor, process %d (%.40s, has %.60s)",
                     (int)pid, name, which);
            return true;
        }
        pid = next;
    }
    return false;
}
