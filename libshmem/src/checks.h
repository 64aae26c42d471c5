/* Debug mode (SHMEM_DEBUG=1): the checks that cost time. It is on for all PEs or none, and when it is off calls come here
 * only with what they refuse anyway. */
#ifndef SHMEMI_CHECKS_H
#define SHMEMI_CHECKS_H

#include "coll.h"

/* Collective, the world's notes are mapped: on where any PE asks for it. */
int shmemi_checks_open(const char *call);
void shmemi_checks_close(void);
/* [addr, addr + n) is symmetric memory at p: is it in one block in use, and aligned? */
int shmemi_check_symmetric(const char *call, const char *what, const void *addr, size_t n, size_t align,
                           const struct shmemi_place *p);
/* heap.c: the block in use that [offset, offset + n) of the host segment lies in. false = none, then `why` says what is
 * there. */
bool shmemi_heap_holds(uint64_t offset, size_t n, char *why, size_t room);
/* One epoch of a collective in which the members show their call, root and buffers, to compare (`source`: it has bytes); for
 * callers whose next step after an error is shmemi_refuse. */
int shmemi_check_members(struct shmemi_coll *c, size_t dest_bytes, bool source);

#endif
