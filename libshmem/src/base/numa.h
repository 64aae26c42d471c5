/* The machine's nodes of memory, and where pages go. The kernel's calls are used directly (mbind, getcpu): three numbers of a
 * stable interface, where libnuma would be a library to find that writes to standard error by itself. */
#ifndef SHMEMI_NUMA_H
#define SHMEMI_NUMA_H

#include "base.h"

enum { SHMEMI_NUMA_NODES = 1024, SHMEMI_NUMA_WORD = 8 * sizeof(unsigned long) };
struct shmemi_numa_set {
    unsigned long bits[SHMEMI_NUMA_NODES / SHMEMI_NUMA_WORD];
};
static inline bool shmemi_numa_has(const struct shmemi_numa_set *set, int node)
{
    return node >= 0 && node < SHMEMI_NUMA_NODES &&
           set->bits[node / SHMEMI_NUMA_WORD] >> (node % SHMEMI_NUMA_WORD) & 1;
}
static inline void shmemi_numa_add(struct shmemi_numa_set *set, int node)
{
    set->bits[node / SHMEMI_NUMA_WORD] |= 1ul << (node % SHMEMI_NUMA_WORD);
}
/* The first node of the set from `node` on, -1 = none. */
int shmemi_numa_next(const struct shmemi_numa_set *set, int node);
/* "0-3,6": as the kernel writes them. */
void shmemi_numa_text(const struct shmemi_numa_set *set, char *text, size_t n);

/* Those that have memory which this process may use; {0} on a kernel that tells of none. Returns how many. */
int shmemi_numa_usable(struct shmemi_numa_set *set);
/* Of those, the nearest to the processor that runs the caller. */
int shmemi_numa_nearest(void);
/* Bytes of a node in all, and those that it could give without taking from programs: free above what the kernel keeps back, and half
 * of the file cache. false = the kernel does not say. */
bool shmemi_numa_memory(int node, size_t *total, size_t *available);

enum shmemi_numa_policy { SHMEMI_NUMA_TOUCH, SHMEMI_NUMA_PREFER, SHMEMI_NUMA_BIND, SHMEMI_NUMA_INTERLEAVE };
/* How the pages of [addr, addr + n), whole pages of shared memory, are chosen: those that come from now on, in every process that
 * maps them, whoever touches them first. Where the kernel or a container's filter refuses the call and the machine has
 * one node, all is on that node anyway: success. TOUCH, the kernel's own way, takes no
 * nodes: it undoes the others. */
int shmemi_numa_place(const char *call, void *addr, size_t n, enum shmemi_numa_policy policy,
                      const struct shmemi_numa_set *nodes);

/* Stands before /proc and /sys in the names of files: "". A test has a machine of its own. */
extern const char *shmemi_numa_root;

#endif
