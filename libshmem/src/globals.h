/* Global and static variables of the program: the data pages of its executable and of the libraries that it links, moved at
 * init onto shared memory, in the library's own part of the host segment. From then on they are host memory like any
 * other to routes and transports. */
#ifndef SHMEMI_GLOBALS_H
#define SHMEMI_GLOBALS_H

#include "world.h"

/* Collective, by the bootstrap alone. Finds the pages and agrees on what all PEs have in common; *bytes of the segment are
 * needed for them, the same on all PEs. A warning names what only some PEs have. */
int shmemi_globals_find(const char *call, struct shmemi_bootstrap *boot, size_t *bytes);
/* Local. The variables move to `offset` of this PE's copy of the host segment, with their values, and keep their
 * addresses. Signals wait meanwhile; a store by another thread at that moment may be lost. */
int shmemi_globals_open(const char *call, uint64_t offset);
/* Local. They move back to private memory, with their values. The segment is still mapped. */
void shmemi_globals_close(void);
/* Are the n bytes at addr in one object's variables? Then where. */
bool shmemi_globals_inside(const void *addr, size_t n, struct shmemi_place *p);
/* The address of a place in this PE's segment by which the program knows it; NULL = not one of its variables. */
void *shmemi_globals_address(uint64_t offset);
/* For messages and shmemx_info: how many bytes of how many objects, or why none; 160 bytes are enough. */
const char *shmemi_globals_text(char *text, size_t n);

#endif
