#define _GNU_SOURCE
#include "numa.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *shmemi_numa_root = "";

/* ---- sets ------------------------------------------------------------------------------------------------------------- */

int shmemi_numa_next(const struct shmemi_numa_set *set, int node)
{
    while (node < SHMEMI_NUMA_NODES && !shmemi_numa_has(set, node))
        node++;
    return node < SHMEMI_NUMA_NODES ? node : -1;
}

void shmemi_numa_text(const struct shmemi_numa_set *set, char *text, size_t n)
{
    size_t at = 0;
    text[0] = 0;
    for (int i = shmemi_numa_next(set, 0); i >= 0 && at < n;) {
        int last = i;
        while (shmemi_numa_has(set, last + 1))
            last++;
        int wrote = last > i ? snprintf(text + at, n - at, "%s%d-%d", at ? "," : "", i, last)
                             : snprintf(text + at, n - at, "%s%d", at ? "," : "", i);
        at += wrote > 0 ? (size_t)wrote : 0;
        i = shmemi_numa_next(set, last + 1);
    }
}

/* Reads "0-3,6"; false where it is anything else, or empty. */
static bool parse(const char *text, struct shmemi_numa_set *set)
{
    memset(set, 0, sizeof *set);
    for (;;) {
        char *end;
        long first = strtol(text, &end, 10), last = first;
        if (end == text)
            return false;
        if (*end == '-') {
            text = end + 1;
            last = strtol(text, &end, 10);
            if (end == text)
                return false;
        }
        if (first < 0 || last < first || last >= SHMEMI_NUMA_NODES)
            return false;
        for (long i = first; i <= last; ++i)
            shmemi_numa_add(set, (int)i);
        if (*end != ',')
            return *end == 0 || *end == '\n';
        text = end + 1;
    }
}

/* ---- what the machine has -------------------------------------------------------------------------------------------------- */

static FILE *file(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", shmemi_numa_root, name);
    return fopen(path, "re");
}

static bool read_set(const char *name, struct shmemi_numa_set *set)
{
    char line[4096] = "";
    FILE *f = file(name);
    if (!f)
        return false;
    bool ok = fgets(line, sizeof line, f) && parse(line, set);
    fclose(f);
    return ok;
}

/* What a cpuset leaves to this process. */
static bool read_allowed(struct shmemi_numa_set *set)
{
    static const char key[] = "Mems_allowed_list:";
    char line[4096];
    bool ok = false;
    FILE *f = file("/proc/self/status");
    while (f && !ok && fgets(line, sizeof line, f))
        if (strncmp(line, key, sizeof key - 1) == 0)
            ok = parse(line + sizeof key - 1, set);
    if (f)
        fclose(f);
    return ok;
}

int shmemi_numa_usable(struct shmemi_numa_set *set)
{
    struct shmemi_numa_set allowed;
    int n = 0;
    if (!read_set("/sys/devices/system/node/has_memory", set)) { /* a kernel without NUMA */
        memset(set, 0, sizeof *set);
        shmemi_numa_add(set, 0);
        return 1;
    }
    if (read_allowed(&allowed))
        for (size_t i = 0; i < sizeof set->bits / sizeof *set->bits; ++i)
            set->bits[i] &= allowed.bits[i];
    for (int i = shmemi_numa_next(set, 0); i >= 0; i = shmemi_numa_next(set, i + 1))
        n++;
    return n;
}

int shmemi_numa_nearest(void)
{
    struct shmemi_numa_set usable, online;
    unsigned cpu, here = 0;
    shmemi_numa_usable(&usable);
    if (getcpu(&cpu, &here) != 0)
        here = 0;
    if (shmemi_numa_has(&usable, (int)here) || !read_set("/sys/devices/system/node/online", &online))
        return shmemi_numa_has(&usable, (int)here) ? (int)here : shmemi_numa_next(&usable, 0);
    /* a node of processors alone: its line has the distance to every online node, in their order */
    char name[80];
    snprintf(name, sizeof name, "/sys/devices/system/node/node%u/distance", here);
    FILE *f = file(name);
    int best = shmemi_numa_next(&usable, 0), least = 0, far;
    for (int i = shmemi_numa_next(&online, 0); f && i >= 0 && fscanf(f, "%d", &far) == 1;
         i = shmemi_numa_next(&online, i + 1))
        if (shmemi_numa_has(&usable, i) && (least == 0 || far < least)) {
            best = i;
            least = far;
        }
    if (f)
        fclose(f);
    return best;
}

bool shmemi_numa_memory(int node, size_t *total, size_t *available)
{
    char line[256];
    int at = -1;
    unsigned long n, pages = 0, usable = 0, files = 0, free_pages = 0;
    FILE *f = file("/proc/zoneinfo");
    while (f && fgets(line, sizeof line, f)) {
        (void)sscanf(line, "Node %d, zone", &at);
        if (at != node)
            continue;
        /* per node, in its first zone; then per zone: free before high */
        if (sscanf(line, " nr_inactive_file %lu", &n) == 1 || sscanf(line, " nr_active_file %lu", &n) == 1)
            files += n;
        else if (sscanf(line, " pages free %lu", &n) == 1)
            free_pages = n;
        else if (sscanf(line, " high %lu", &n) == 1)
            usable += free_pages > n ? free_pages - n : 0;
        else if (sscanf(line, " managed %lu", &n) == 1)
            pages += n;
    }
    if (f)
        fclose(f);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *total = pages * page;
    *available = (usable + files / 2) * page;
    return pages != 0;
}

/* ---- where pages go -------------------------------------------------------------------------------------------------------- */

int shmemi_numa_place(const char *call, void *addr, size_t n, enum shmemi_numa_policy policy,
                      const struct shmemi_numa_set *nodes)
{
    /* Not MPOL_DEFAULT: a range that has none joins its neighbours in this process's mapping, and the kernel then takes
     * the policies of the whole file from there on away, other processes' too. */
    static const int modes[] = {[SHMEMI_NUMA_TOUCH] = MPOL_LOCAL,
                                [SHMEMI_NUMA_PREFER] = MPOL_PREFERRED,
                                [SHMEMI_NUMA_BIND] = MPOL_BIND,
                                [SHMEMI_NUMA_INTERLEAVE] = MPOL_INTERLEAVE};
    const bool any = policy == SHMEMI_NUMA_TOUCH;
    /* the kernel looks at one bit less than it is told */
    if (syscall(SYS_mbind, addr, n, modes[policy], any ? NULL : nodes->bits,
                any ? 0ul : SHMEMI_NUMA_NODES + 1ul, 0u) == 0)
        return SHMEMX_SUCCESS;
    int err = errno;
    struct shmemi_numa_set usable;
    bool refused = err == EPERM || err == ENOSYS;
    if (refused && (any || shmemi_numa_usable(&usable) == 1))
        return SHMEMX_SUCCESS;
    char text[256] = "any";
    if (!any)
        shmemi_numa_text(nodes, text, sizeof text);
    return shmemi_fail(refused ? SHMEMX_ERR_UNSUPPORTED : SHMEMX_ERR_SYSTEM, call,
                       "mbind of %zu bytes to NUMA node %s: %s%s", n, text, strerror(err),
                       refused ? "; a container may need the capability SYS_NICE for it" : "");
}
