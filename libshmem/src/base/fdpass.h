/* Handing descriptors to the other processes of a node: an abstract Unix socket, so that no name is left behind,
 * open to processes of the same user only. */
#ifndef SHMEMI_FDPASS_H
#define SHMEMI_FDPASS_H

#include "base.h"

/* A listening socket (returned, >= 0) under a random name, written to `name`. Negative error otherwise. */
int shmemi_fdpass_listen(const char *call, char *name, size_t n);
/* Gives `count` descriptors to `clients` processes. Blocks until all have come, at most SHMEM_TIMEOUT or 120 s. */
int shmemi_fdpass_serve(const char *call, int listener, const int *fds, int count, int clients);
/* Gets them; `pe` owns the socket `name` (for messages). The descriptors are the caller's, close-on-exec. */
int shmemi_fdpass_fetch(const char *call, const char *name, int pe, int *fds, int count);

#endif
