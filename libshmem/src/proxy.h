/* The proxy: a thread that executes what this PE's kernels have put into the command rings (device/proxy_state.h), by the
 * transports' slots of the route that goes to the PE. It knows nothing of NICs. Layer: above the routes, below
 * gpu/gpu_state.c. */
#ifndef SHMEMI_PROXY_H
#define SHMEMI_PROXY_H

#include "device/proxy_state.h"
#include "device/state.h"
#include "world.h"

/* Memory of a kernel's device and pinned memory of the host: a GPU's, or, for kernels on CPU threads, the process's own. */
struct shmemi_kernel_memory {
    int segment; /* whose copies the kernels' commands are about: SHMEMI_SEGMENT_* */
    int (*pinned)(const char *call, size_t bytes, void **p); /* zeroed, 64-byte aligned */
    void (*unpin)(void *p);
    int (*write)(const char *call, void *to, const void *from,
                 size_t bytes); /* to device memory; done on return */
};

/* Bytes of device memory that it needs; the settings are read. */
size_t shmemi_proxy_bytes(void);
/* Makes the rings, with `device` as their part in device memory (64-byte aligned), starts the thread. `failed`: a pinned word
 * that becomes 1 with the first error; *ways: the proxy's part of it. After an error nothing is left. */
int shmemi_proxy_open(const char *call, const struct shmemi_kernel_memory *m, char *device, uint32_t *failed,
                      struct shmemx_device_ways *ways);
/* Waits until all that kernels have posted is done with; they run no more. */
void shmemi_proxy_drain(void);
/* Drains, ends the thread, frees all. */
void shmemi_proxy_close(void);
/* The first error since it was last asked: its code with the transport's own words in `text`; 0 = none. Then kernels may try
 * again. */
int shmemi_proxy_error(char *text, size_t n);

#endif
