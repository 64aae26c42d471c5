/* What libshmem needs of a GPU, and nothing else: memory that processes can share at chosen addresses, copies and
 * kernels in the order of streams. gpu_cuda.c implements it over the CUDA driver, opened when first needed; a port to another GPU
 * is one such file beside device/arch_*.h.
 *
 * Errors: 0 or a negative SHMEMX_ERR_*, logged where detected with the driver's own text. All calls make the device's
 * context current for a thread that has none.
 */
#ifndef SHMEMI_GPU_H
#define SHMEMI_GPU_H

#include "base.h"

typedef void *shmemi_stream_t;   /* the driver's handle; NULL = its default stream */
typedef uint64_t shmemi_chunk_t; /* physical memory of one device */

/* 1 = there is a usable GPU; 0 = none, why says what is missing. Local, cheap after the first time. */
int shmemi_gpu_probe(char *why, size_t n);
/* Chooses the device: the current context's, else number local_rank modulo devices; opens it. Again = no-op. */
int shmemi_gpu_open(const char *call, int local_rank);
void shmemi_gpu_close(void);
bool shmemi_gpu_is_open(void);
/* "device 0, NVIDIA H100 80GB, driver 13.0" */
const char *shmemi_gpu_name(void);
int shmemi_gpu_device(void);
/* Which device it is, on any process's list of devices. */
enum { SHMEMI_GPU_UUID_BYTES = 16 };
void shmemi_gpu_uuid(unsigned char uuid[SHMEMI_GPU_UUID_BYTES]);
/* How this process's device reaches that one: the same, or by NVLink; by something else; or not on this process's list
 * (CUDA_VISIBLE_DEVICES), so nobody can say. */
enum { SHMEMI_GPU_LINKED, SHMEMI_GPU_UNLINKED, SHMEMI_GPU_UNSEEN };
int shmemi_gpu_link(const unsigned char uuid[SHMEMI_GPU_UUID_BYTES]);
/* Dynamic shared memory that a block may have for copies by the SM's copy engine; 0 = there is none (before 9.0). */
unsigned shmemi_gpu_bulk_bytes(void);
/* Multiprocessors of the device. */
unsigned shmemi_gpu_processors(void);
size_t shmemi_gpu_total_bytes(void);

/* Memory that processes share, first way: virtual, chunk by chunk at chosen addresses. NULL where this device offers it,
 * else what it lacks. */
const char *shmemi_gpu_lacks_chunks(void);
/* Address space without memory, aligned to the granularity. */
int shmemi_gpu_reserve(const char *call, size_t bytes, char **base);
void shmemi_gpu_unreserve(char *base, size_t bytes);
/* Chunks have multiples of this many bytes. */
size_t shmemi_gpu_granularity(void);
/* New memory and a descriptor (close-on-exec, the caller's) by which other processes get at it. */
int shmemi_gpu_chunk_create(const char *call, size_t bytes, shmemi_chunk_t *chunk, int *fd);
int shmemi_gpu_chunk_import(const char *call, int fd, int pe, shmemi_chunk_t *chunk);
/* Readable and writable by this process's device from then on. */
int shmemi_gpu_chunk_map(const char *call, char *at, size_t bytes, shmemi_chunk_t chunk);
/* Waits for the device first: nothing may still use the range. */
void shmemi_gpu_chunk_unmap(char *at, size_t bytes, shmemi_chunk_t chunk);
/* One that was not mapped. */
void shmemi_gpu_chunk_release(shmemi_chunk_t chunk);

/* Second way, for devices without the first: one allocation where the driver puts it, and a handle by which other
 * processes, never this one, open it. */
struct shmemi_gpu_handle {
    char bytes[64];
};
int shmemi_gpu_shared_alloc(const char *call, size_t bytes, char **base, struct shmemi_gpu_handle *handle);
/* Nothing may still use it, nor have it open in another process. */
void shmemi_gpu_shared_free(char *base);
int shmemi_gpu_shared_open(const char *call, const struct shmemi_gpu_handle *handle, int pe, char **base);
/* Waits for the device first. */
void shmemi_gpu_shared_close(char *base);

/* Is it memory that the CPU must not touch? false for host memory and before open. */
bool shmemi_gpu_owns(const void *p);
/* Any of host and device memory on either side, in the order of the stream. */
int shmemi_gpu_copy(const char *call, void *dest, const void *source, size_t n, shmemi_stream_t stream);
/* `rows` rows of `width` bytes, dpitch and spitch bytes apart. */
int shmemi_gpu_copy_rows(const char *call, void *dest, size_t dpitch, const void *source, size_t spitch,
                         size_t width, size_t rows, shmemi_stream_t stream);
int shmemi_gpu_fill(const char *call, void *dest, int byte, size_t n, shmemi_stream_t stream);
/* The 4 or 8 low bytes of `value` to GPU memory, aligned, of this device or mapped from another: whoever sees them sees
 * all that the stream did before. The value is the call's; no kernel, so one that fills the GPU and waits for it gets it. */
int shmemi_gpu_store(const char *call, void *dest, uint64_t value, size_t bytes, shmemi_stream_t stream);
/* Is it the stream's own store? Without it the call above waits for the stream, which a capture does not allow. */
bool shmemi_gpu_stores(const char *call);
int shmemi_gpu_sync(const char *call, shmemi_stream_t stream);
/* The same; but a thread of the library's own (the proxy's) gives up at SHMEM_TIMEOUT, with TIMEOUT: what it waits for may
 * need room that the kernel which waits for this thread does not leave. */
int shmemi_gpu_sync_in_time(const char *call, shmemi_stream_t stream);
/* What comes later in `stream` waits for what `other` holds now. */
int shmemi_gpu_join(const char *call, shmemi_stream_t stream, shmemi_stream_t other);
/* The library's own stream, not synchronized with the default one. */
shmemi_stream_t shmemi_gpu_stream(void);
/* A second one, for what a call does beside its stream: joined to it before, and it to this after. Only there, so that a
 * capture of the caller's stream leaves nothing behind in the library's. */
int shmemi_gpu_side_stream(const char *call, shmemi_stream_t *stream);
/* One of a caller's own, like the library's; it outlives nothing that was issued to it. */
int shmemi_gpu_stream_create(const char *call, shmemi_stream_t *stream);
void shmemi_gpu_stream_destroy(shmemi_stream_t stream);
/* A thread of the library's own calls this once: what it waits for is no part of a capture that another thread makes. */
void shmemi_gpu_outside_captures(void);
/* Kernels of the library: PTX text in, function out; arguments as cuLaunchKernel takes them. */
int shmemi_gpu_load(const char *call, const char *ptx, void **module);
void shmemi_gpu_unload(void *module);
int shmemi_gpu_function(const char *call, void *module, const char *name, void **function);
int shmemi_gpu_global(const char *call, void *module, const char *name, char **address, size_t *bytes);
/* More than 48 KiB of dynamic shared memory need this first. */
int shmemi_gpu_allow_shared(const char *call, void *function, unsigned bytes);
int shmemi_gpu_launch(const char *call, void *function, unsigned blocks, unsigned threads,
                      unsigned shared_bytes, void **arguments, shmemi_stream_t stream);

/* Pinned host memory that the device can read and write at the same address; shmemi_gpu_close frees what is left. */
int shmemi_gpu_host_alloc(const char *call, size_t bytes, void **p);
void shmemi_gpu_host_free(void *p);
/* The same for memory that exists: 1 = pinned now, 0 = needs nothing (pinned already, or this device's memory). */
int shmemi_gpu_host_register(const char *call, void *p, size_t bytes);
void shmemi_gpu_host_unregister(void *p);

/* ---- for NICs (gpu_rdma.c) ---- */
/* The driver's function of that name, the device's context current; NULL: it has none, or no GPU is open. */
void *shmemi_gpu_driver(const char *name);
/* Memory of the device for this process alone, zeroed. */
int shmemi_gpu_alloc(const char *call, size_t bytes, char **p);
void shmemi_gpu_free(char *p);
/* A descriptor (the caller's) by which another device gets at GPU memory; 0 = there is none, `why` says why. */
int shmemi_gpu_dmabuf(const char *p, size_t bytes, int *fd, char *why, size_t n);
/* Maps the page of another device's register, mapped in this process at p, for kernels: *seen is where they find the
 * register. 1; 0 = it cannot be, `why` says why. */
int shmemi_gpu_map_register(void *p, uint64_t *seen, char *why, size_t n);
void shmemi_gpu_unmap_register(void *p);

#endif
