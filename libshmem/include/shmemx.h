/* libshmem's extensions, and the untyped core that other languages bind to.
 *
 * Every call of the core returns 0 or a negative SHMEMX_ERR_* (unless it says otherwise), takes a context or a team
 * where the standard has both forms, and does exactly what the standard's typed calls do: those are made from it.
 * After an error shmemx_last_error() has the text with the values. Sizes are in bytes where the name is n or
 * nbytes, in elements where it is nelems; `type` is an enum shmemx_type.
 */
#ifndef SHMEMX_H
#define SHMEMX_H

#include "shmem.h"
#include "shmemx_errors.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ------------------------------------------------------------------------------------------ */

/* Codes and texts are in errors.def. Text of a code; "unknown error" for any other number. */
SHMEMX_API const char *shmemx_strerror(int code);
/* "PE", "TIMEOUT" and so on: the part behind SHMEMX_ERR_; "UNKNOWN" for any other number. */
SHMEMX_API const char *shmemx_error_name(int code);
/* Row `index` of the table (0, 1, ..); SHMEMX_ERR_ARGUMENT past its end. */
SHMEMX_API int shmemx_error_info(int index, int *value, const char **name, const char **python_base);
/* What the calling thread's last failure was, with the values; "" if there was none. Valid until its next one. */
SHMEMX_API const char *shmemx_last_error(void);
/* 1 (default): failures are also written to standard error. 0: they are only returned. */
SHMEMX_API void shmemx_log_errors(int on);

/* For languages whose signal handlers run later than the signal: `pending` is asked now and then by calls that wait;
 * when it returns non-zero they end with SHMEMX_ERR_INTERRUPTED. NULL (default): nobody is asked. After an
 * interrupted collective the PEs are no longer in step; finalize or exit. */
SHMEMX_API void shmemx_set_interrupt(int (*pending)(void));

/* ---- setup --------------------------------------------------------------------------------------------- */

enum { SHMEMX_UNIQUEID_BYTES = 128 };
typedef struct {
    unsigned char bytes[128];
} shmemx_uniqueid_t;

/* Makes an id that brings processes together over TCP. Call it in one process, hand the bytes to all (by MPI, a
 * file, any means), then each calls shmemx_init_uid. The process that made it must take part. */
SHMEMX_API int shmemx_get_uniqueid(shmemx_uniqueid_t *id);
/* As shmem_init, with rank and size given. */
SHMEMX_API int shmemx_init_uid(int rank, int size, const shmemx_uniqueid_t *id);
/* As shmem_init and shmem_finalize, returning their error. */
SHMEMX_API int shmemx_init(void);
SHMEMX_API int shmemx_finalize(void);
/* Local: forget the job without waiting for anybody, for a process that ends after an error. */
SHMEMX_API void shmemx_abandon(void);
/* Text for people: lines about version, job, bootstraps tried, heap, transports and variables.
 * Works before init too. Returns the length that the whole text needs, without the final 0. */
SHMEMX_API size_t shmemx_info(char *text, size_t size);
/* The machine-readable part of it: the name of the bootstrap in use, "" before init. */
SHMEMX_API const char *shmemx_bootstrap_name(void);

/* ---- memory -------------------------------------------------------------------------------------------- */

/* Two heaps side by side. GPU memory is for kernels and for the calls of this library; the CPU must not touch it. The
 * GPU heap opens with the first allocation from it: the device is the current context's, else number "PE on this
 * node" modulo devices; it grows and shrinks by chunks, SHMEM_DEVICE_SYMMETRIC_SIZE is its limit. */
enum shmemx_mem { SHMEMX_MEM_HOST = 0, SHMEMX_MEM_DEVICE };
/* As shmem_malloc and shmem_calloc, from the heap `kind`. shmem_free takes blocks of both. */
SHMEMX_API void *shmemx_malloc(size_t size, int kind);
SHMEMX_API void *shmemx_calloc(size_t count, size_t size, int kind);
/* As shmem_align (alignment 0: as shmem_malloc) from either heap, with an error code. */
SHMEMX_API int shmemx_allocate(void **ptr, size_t size, size_t alignment, int zeroed, int kind);
SHMEMX_API int shmemx_free(void *ptr);
/* Bytes of this PE's heap in all, in use, and the largest block that it could give now. Local. */
SHMEMX_API int shmemx_heap_info(int kind, size_t *total, size_t *used, size_t *largest);
/* Number of the GPU that holds this PE's GPU heap, -1 before there is one. Local. */
SHMEMX_API int shmemx_device(void);
/* SHMEMX_MEM_HOST or _DEVICE for a symmetric address, ADDRESS error for any other. Local. */
SHMEMX_API int shmemx_mem_kind(const void *addr);

/* Memory spaces: parts of the host heap that lie on a NUMA node. What comes from one is symmetric memory as any other, for every
 * call; shmem_free and shmem_realloc take it, and it stays in its space. Handles are checked at each use; 64 at a time. */
typedef struct shmemi_space_handle *shmemx_space_t;
#ifndef SHMEM_CDEF
#define SHMEMX_SPACE_INVALID ((shmemx_space_t)0)
#endif
/* Beside the numbers of nodes: the one nearest to the processor that runs the caller (a PE that is bound to processors stays
 * there); all that this process may use, page by page in turn. */
enum { SHMEMX_NUMA_NEAREST = -1, SHMEMX_NUMA_INTERLEAVE = -2 };
/* Takes nbytes, rounded up to 2 MiB, of every PE's heap: this PE's copy lies on numa_node, which need not be the same on all
 * PEs; nbytes must. Collective over the world. On return the pages of all copies are there (nothing is committed later), on
 * the node and nowhere else. They start at a multiple of 2 MiB, so that huge pages fit where the system gives them to shared memory.
 *
 * Errors, and no space is made on any PE. ARGUMENT: no such node, or not for this process; 0 bytes. NO_MEMORY: the heap has no
 * such range free, or the node has less left than the PEs of this machine ask of it. UNSUPPORTED: the kernel refuses to place memory (a
 * container's filter), and there is more than one node; with one node all is well without. MISMATCH: PEs ask for different sizes. LIMIT.
 * Between nodes that only a network joins a space takes a part of the heap that is not registered yet: make spaces early. */
SHMEMX_API int shmemx_space_create(int numa_node, size_t nbytes, shmemx_space_t *space);
/* Gives the range back to the heap. Collective. ARGUMENT while blocks of it are in use. Finalize destroys all. */
SHMEMX_API int shmemx_space_destroy(shmemx_space_t space);
/* As shmemx_allocate and shmem_malloc, from a space. Collective over the world; NO_MEMORY and NULL when it is full. */
SHMEMX_API int shmemx_space_allocate(shmemx_space_t space, void **ptr, size_t size, size_t alignment,
                                     int zeroed);
SHMEMX_API void *shmemx_space_malloc(shmemx_space_t space, size_t size);
/* The node of this PE's copy (a number, or SHMEMX_NUMA_INTERLEAVE), bytes in all, in use, and the largest block that it could give
 * now; any may be NULL. shmemx_heap_info counts all of a space as in use. Local. */
SHMEMX_API int shmemx_space_info(shmemx_space_t space, int *numa_node, size_t *total, size_t *used,
                                 size_t *largest);
/* Row `index` (0, 1, ..) of the NUMA nodes that have memory for this process: number, bytes in all, and what it could give without
 * taking from programs (0, 0 where the kernel does not say); ARGUMENT, unlogged, past the end. Local; before init too. */
SHMEMX_API int shmemx_numa_info(int index, int *numa_node, size_t *total, size_t *available);
/* The number that SHMEMX_NUMA_NEAREST stands for now. Local; before init too. */
SHMEMX_API int shmemx_numa_nearest(void);

/* Memory of the program, [addr, addr + nbytes), as local source or target. It need not be registered for host calls;
 * registered, host memory is pinned and GPUs reach it at the same address: kernels may read and write it, and
 * stream-ordered puts and gets run without holding up the caller, in captured graphs too. GPU memory of the GPU heap's
 * device is accepted and needs nothing yet. Without a GPU heap the range is remembered until there is one. Local, any
 * thread. The memory stays the caller's: it must not be freed, moved or unmapped before buffer_unregister; finalize
 * unregisters all. Pages are pinned whole: two buffers must not share one, register the memory around both.
 *
 * ARGUMENT: NULL, 0 bytes, an overlap with a registered range or with a symmetric heap (which needs no registration), a
 * page that is pinned in part, memory of another GPU. SYSTEM: the driver's error. Nothing is registered then. */
SHMEMX_API int shmemx_buffer_register(void *addr, size_t nbytes);
/* addr: where a registered range starts, else ADDRESS. Nothing may use it through the GPU any more: streams and kernels
 * that do have ended. */
SHMEMX_API int shmemx_buffer_unregister(void *addr);

/* 1: after the last finalize the addresses of this node's heaps (shmem_ptr) stay readable and writable, as private
 * zero pages, for a language whose objects may outlive the job. 0 (default): they are unmapped. */
SHMEMX_API void shmemx_keep_mapping(int on);

/* ---- the untyped core of RMA ------------------------------------------------------------------------- */

SHMEMX_API int shmemx_put(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe);
SHMEMX_API int shmemx_get(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe);
SHMEMX_API int shmemx_put_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe);
SHMEMX_API int shmemx_get_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe);
/* Strides in elements of elem_size bytes (1, 2, 4, 8, 16 or any other). */
SHMEMX_API int shmemx_iput(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                           size_t elem_size, size_t nelems, int pe);
SHMEMX_API int shmemx_iget(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                           size_t elem_size, size_t nelems, int pe);
/* nblocks blocks of bsize elements; strides from block to block, in elements, >= bsize. */
SHMEMX_API int shmemx_ibput(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                            size_t elem_size, size_t bsize, size_t nblocks, int pe);
SHMEMX_API int shmemx_ibget(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                            size_t elem_size, size_t bsize, size_t nblocks, int pe);
SHMEMX_API int shmemx_put_signal(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes,
                                 uint64_t *sig_addr, uint64_t signal, int sig_op, int pe);
SHMEMX_API int shmemx_put_signal_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes,
                                     uint64_t *sig_addr, uint64_t signal, int sig_op, int pe);
SHMEMX_API int shmemx_fence(shmem_ctx_t ctx);
SHMEMX_API int shmemx_quiet(shmem_ctx_t ctx);
/* quiet for `n` PEs (numbers of the context's team) and no others. */
SHMEMX_API int shmemx_quiet_pes(shmem_ctx_t ctx, const int *pes, size_t n);

/* ---- atomics ------------------------------------------------------------------------------------------- */

enum shmemx_amo {
    SHMEMX_AMO_FETCH = 0, /* value ignored */
    SHMEMX_AMO_SET,
    SHMEMX_AMO_SWAP,
    SHMEMX_AMO_COMPARE_SWAP,
    SHMEMX_AMO_ADD, /* inc is add of 1 */
    SHMEMX_AMO_AND,
    SHMEMX_AMO_OR,
    SHMEMX_AMO_XOR,
    SHMEMX_AMO_COUNT
};
/* size is 4 or 8 bytes; dest is symmetric and aligned to it. value and cond carry the operand's bits, zero-extended.
 * fetched (may be NULL: then the old value is not wanted) gets `size` bytes. */
SHMEMX_API int shmemx_atomic(shmem_ctx_t ctx, int op, size_t size, void *dest, uint64_t value, uint64_t cond,
                             int pe, void *fetched);
/* The same; *fetched is valid after quiet. */
SHMEMX_API int shmemx_atomic_nbi(shmem_ctx_t ctx, int op, size_t size, void *dest, uint64_t value,
                                 uint64_t cond, int pe, void *fetched);

/* ---- point-to-point synchronization -------------------------------------------------------------------- */

enum shmemx_which { SHMEMX_ALL = 0, SHMEMX_ANY, SHMEMX_SOME };
/* The _all, _any, _some and _vector forms in one. type: an integer type of 2, 4 or 8 bytes. values points to one value
 * (vector = 0) or nelems of them. *result: all: 1 or (test) 0; any: index or SIZE_MAX; some: how many, their
 * indices in `indices` (nelems of them, NULL unless SOME). */
SHMEMX_API int shmemx_wait_until(int type, int which, void *ivars, size_t nelems, size_t *indices,
                                 const int *status, int cmp, const void *values, int vector, size_t *result);
SHMEMX_API int shmemx_test(int type, int which, void *ivars, size_t nelems, size_t *indices,
                           const int *status, int cmp, const void *values, int vector, size_t *result);
SHMEMX_API int shmemx_signal_fetch(const uint64_t *sig_addr, uint64_t *value);
SHMEMX_API int shmemx_signal_wait_until(uint64_t *sig_addr, int cmp, uint64_t cmp_value, uint64_t *value);
SHMEMX_API int shmemx_set_lock(long *lock);
SHMEMX_API int shmemx_clear_lock(long *lock);
/* *busy: 0 = got it, 1 = somebody has it. */
SHMEMX_API int shmemx_test_lock(long *lock, int *busy);

/* ---- teams, contexts ------------------------------------------------------------------------------------ */

/* Handle values for languages without the macros. */
enum { SHMEMX_TEAM_INVALID = 0, SHMEMX_TEAM_WORLD = 1, SHMEMX_TEAM_SHARED = 2 };
enum { SHMEMX_CTX_INVALID = 0, SHMEMX_CTX_DEFAULT = 1 };
SHMEMX_API int shmemx_team_destroy(shmem_team_t team);
SHMEMX_API int shmemx_ctx_destroy(shmem_ctx_t ctx);

/* ---- collectives ------------------------------------------------------------------------------------------ */

SHMEMX_API int shmemx_sync(shmem_team_t team);
/* quiet of all contexts, then sync. */
SHMEMX_API int shmemx_barrier(shmem_team_t team);
SHMEMX_API int shmemx_broadcast(shmem_team_t team, void *dest, const void *source, size_t nbytes, int root);
/* Bytes may differ between members; dest_nbytes is the room at dest, SIZE_MAX = not known. A member whose dest is too
 * small gets ARGUMENT and nothing is written there; the others get theirs. */
SHMEMX_API int shmemx_collect(shmem_team_t team, void *dest, size_t dest_nbytes, const void *source,
                              size_t nbytes);
SHMEMX_API int shmemx_fcollect(shmem_team_t team, void *dest, const void *source, size_t nbytes);
SHMEMX_API int shmemx_alltoall(shmem_team_t team, void *dest, const void *source, size_t nbytes);
SHMEMX_API int shmemx_alltoalls(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,
                                ptrdiff_t sst, size_t elem_size, size_t nelems);

enum shmemx_reduce_op {
    SHMEMX_REDUCE_AND = 0,
    SHMEMX_REDUCE_OR,
    SHMEMX_REDUCE_XOR,
    SHMEMX_REDUCE_MAX,
    SHMEMX_REDUCE_MIN,
    SHMEMX_REDUCE_SUM,
    SHMEMX_REDUCE_PROD,
    SHMEMX_REDUCE_OP_COUNT
};
/* The result is the same, to the bit, on every member: operands are taken in the order of their numbers. Bitwise ops
 * take integers; max and min everything but complex; NaN operands give a NaN. float16 and bfloat16 are added in
 * float32. dest == source is allowed, any other overlap is not. */
SHMEMX_API int shmemx_reduce(shmem_team_t team, int op, int type, void *dest, const void *source,
                             size_t nelems);
/* Prefix sums over the members up to this one (exclusive = 0), or over those before it (1; 0 on the first); as sums above. */
SHMEMX_API int shmemx_scan(shmem_team_t team, int exclusive, int type, void *dest, const void *source,
                           size_t nelems);

#ifdef __cplusplus
}
#endif

#ifndef SHMEM_CDEF
#include "shmemx_names.h"
#endif
#include "shmemx_int8.h"
#include "shmemx_moe.h"
#include "shmemx_moe_gpu.h"
#include "shmemx_moe_ll.h"
#include "shmemx_nonblocking.h"
#include "shmemx_quant.h"
#include "shmemx_quant_stream.h"
#include "shmemx_stream.h"

#endif
