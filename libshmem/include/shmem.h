/* libshmem: OpenSHMEM 1.6 for C11 and C++17.
 *
 * How to read this header: first the contract of each family, for humans, with the untyped calls; the typed
 * calls are made from the tables of shmem_types.h at the end of the file, one list a family, then the names that
 * serve every type (shmem_put: _Generic in C11, overloads in C++) and the deprecated ones. Extensions
 * (calls that return an error code, unique ids, INT8, MoE) are in shmemx.h. A tool defines any shmem_ function
 * itself and calls the library's as pshmem_ (pshmem.h).
 *
 * Words used throughout
 *   PE         a process of the job, numbered 0 .. shmem_n_pes()-1.
 *   symmetric  an address inside this PE's symmetric heap (shmem_malloc), or of a global or static variable of the
 *              program and the libraries it links. Passed with a PE number it names the same object there.
 *   complete   a put is complete when its bytes are in the target PE's memory and visible there.
 *
 * Errors. A call that returns int returns 0, or a negative SHMEMX_ERR_* (shmemx.h). A call that returns void or
 * a value logs what was wrong with the values ("libshmem: PE 1: shmem_put: PE 7 is out of range, 0 to 3") and has
 * no effect; a value is then 0. A blocking void call that meets a dead PE or the deadline SHMEM_TIMEOUT logs who
 * is missing and ends the job as shmem_global_exit(1) does.
 */
#ifndef SHMEM_H
#define SHMEM_H

#include <stddef.h>
#include <stdint.h>

#include "shmem_types.h"
#include "shmemx_version.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- constants -------------------------------------------------------------------------------------- */

enum { SHMEM_MAJOR_VERSION = 1, SHMEM_MINOR_VERSION = 6, SHMEM_MAX_NAME_LEN = 256 };

enum { SHMEM_THREAD_SINGLE, SHMEM_THREAD_FUNNELED, SHMEM_THREAD_SERIALIZED, SHMEM_THREAD_MULTIPLE };

enum { SHMEM_CMP_EQ = 1, SHMEM_CMP_NE, SHMEM_CMP_GT, SHMEM_CMP_GE, SHMEM_CMP_LT, SHMEM_CMP_LE };

enum { SHMEM_SIGNAL_SET = 1, SHMEM_SIGNAL_ADD };

/* Options of contexts (or-ed) and hints of shmem_malloc_with_hints (or-ed). */
enum { SHMEM_CTX_SERIALIZED = 1, SHMEM_CTX_PRIVATE = 2, SHMEM_CTX_NOSTORE = 4 };
enum { SHMEM_MALLOC_ATOMICS_REMOTE = 1, SHMEM_MALLOC_SIGNAL_REMOTE = 2 };

enum { SHMEM_TEAM_NUM_CONTEXTS = 1 };
typedef struct {
    int num_contexts;
} shmem_team_config_t;

/* What a session will do (or-ed), and which fields of its configuration count (or-ed). */
enum { SHMEM_CTX_SESSION_BATCH = 1, SHMEM_CTX_SESSION_SAME_AMO = 2 };
enum { SHMEM_CTX_SESSION_TOTAL_OPS = 1 };
typedef struct {
    size_t total_ops; /* calls expected at most between start and stop */
} shmem_ctx_session_config_t;

/* Work arrays of the deprecated collectives over active sets: longs in pSync, each SHMEM_SYNC_VALUE before the first
 * call; elements in pWrk at least. */
enum {
    SHMEM_SYNC_VALUE = 0,
    SHMEM_SYNC_SIZE = 8,
    SHMEM_BARRIER_SYNC_SIZE = SHMEM_SYNC_SIZE,
    SHMEM_BCAST_SYNC_SIZE = SHMEM_SYNC_SIZE,
    SHMEM_COLLECT_SYNC_SIZE = SHMEM_SYNC_SIZE,
    SHMEM_ALLTOALL_SYNC_SIZE = SHMEM_SYNC_SIZE,
    SHMEM_ALLTOALLS_SYNC_SIZE = SHMEM_SYNC_SIZE,
    SHMEM_REDUCE_SYNC_SIZE = SHMEM_SYNC_SIZE,
    SHMEM_REDUCE_MIN_WRKDATA_SIZE = 1
};

/* Handles are small integers in pointer's clothes: comparable, never dereferenced, checked at each use. */
typedef struct shmemi_team_handle *shmem_team_t;
typedef struct shmemi_ctx_handle *shmem_ctx_t;

#ifndef SHMEM_CDEF
#define SHMEM_VENDOR_STRING "libshmem"
#define SHMEM_TEAM_INVALID ((shmem_team_t)0)
#define SHMEM_TEAM_WORLD ((shmem_team_t)1)
#define SHMEM_TEAM_SHARED ((shmem_team_t)2)
#define SHMEM_CTX_DEFAULT ((shmem_ctx_t)1)
#define SHMEM_CTX_INVALID ((shmem_ctx_t)0)
#endif

/* ---- setup and query -------------------------------------------------------------------------------- */

/* Collective. Finds the other PEs (docs: "Starting a job"), maps the symmetric heaps. A second call while
 * initialized is counted and needs its own shmem_finalize. May be called again after the last finalize. */
SHMEMX_API void shmem_init(void);
/* As shmem_init; *provided is always SHMEM_THREAD_MULTIPLE. Returns 0 or a negative error. */
SHMEMX_API int shmem_init_thread(int requested, int *provided);
SHMEMX_API void shmem_query_thread(int *provided);
/* *initialized is 1 between init and the last finalize. */
SHMEMX_API void shmem_query_initialized(int *initialized);
/* Collective: a barrier with quiet; the last one ends the job, and every symmetric address is invalid. */
SHMEMX_API void shmem_finalize(void);
/* Ends every PE of the job with `status`; any PE may call it, it does not return. */
SHMEMX_API void shmem_global_exit(int status) __attribute__((noreturn));
SHMEMX_API int shmem_my_pe(void);
SHMEMX_API int shmem_n_pes(void);
SHMEMX_API int shmem_pe_accessible(int pe);
/* 1 when puts and gets to that address of that PE work. */
SHMEMX_API int shmem_addr_accessible(const void *addr, int pe);
/* A pointer to load and store PE's copy directly, or NULL (other node, not symmetric, no such PE). */
SHMEMX_API void *shmem_ptr(const void *dest, int pe);
SHMEMX_API void shmem_info_get_version(int *major, int *minor);
/* `name` holds at least SHMEM_MAX_NAME_LEN bytes. */
SHMEMX_API void shmem_info_get_name(char *name);

/* ---- memory: all collective over the world, same arguments everywhere; sizes in bytes ---------------- */

/* Returns an address of this PE's heap (16-byte aligned, 64 from 64 bytes on), the same offset on all PEs; NULL
 * for 0 bytes or when the heap is full (the message names SHMEM_SYMMETRIC_SIZE). Ends with a barrier. Contents
 * are undefined; calloc's are zero on return everywhere. */
SHMEMX_API void *shmem_malloc(size_t size);
SHMEMX_API void *shmem_calloc(size_t count, size_t size);
/* `alignment` is a power of two, at least sizeof(void *). */
SHMEMX_API void *shmem_align(size_t alignment, size_t size);
/* Keeps min(old, new) bytes of each PE's contents; NULL and the old block untouched on failure. */
SHMEMX_API void *shmem_realloc(void *ptr, size_t size);
SHMEMX_API void *shmem_malloc_with_hints(size_t size, long hints);
/* Starts with a barrier. NULL is allowed; a pointer that malloc did not return is named and ignored. */
SHMEMX_API void shmem_free(void *ptr);

/* ---- teams ------------------------------------------------------------------------------------------ */

/* Number of this PE in the team, -1 if it is not a member or the team is invalid; number of members, or -1. */
SHMEMX_API int shmem_team_my_pe(shmem_team_t team);
SHMEMX_API int shmem_team_n_pes(shmem_team_t team);
SHMEMX_API int shmem_team_get_config(shmem_team_t team, long config_mask, shmem_team_config_t *config);
/* The number in dest_team of src_team's member src_pe, or -1. */
SHMEMX_API int shmem_team_translate_pe(shmem_team_t src_team, int src_pe, shmem_team_t dest_team);
/* Collective over the parent. PEs start, start + stride, .. (size of them, numbers of the parent); stride may be
 * negative or, with size 1, zero. Non-members get SHMEM_TEAM_INVALID and 0. config may be NULL with mask 0. */
SHMEMX_API int shmem_team_split_strided(shmem_team_t parent, int start, int stride, int size,
                                        const shmem_team_config_t *config, long config_mask,
                                        shmem_team_t *new_team);
/* Collective over the parent. Rows of xrange PEs: the x team is this PE's row, the y team its column. */
SHMEMX_API int shmem_team_split_2d(shmem_team_t parent, int xrange, const shmem_team_config_t *xaxis_config,
                                   long xaxis_mask, shmem_team_t *xaxis_team,
                                   const shmem_team_config_t *yaxis_config, long yaxis_mask,
                                   shmem_team_t *yaxis_team);
/* Collective over the team; its contexts are destroyed with it. World and shared cannot be destroyed. */
SHMEMX_API void shmem_team_destroy(shmem_team_t team);
SHMEMX_API void *shmem_team_ptr(shmem_team_t team, const void *dest, int pe);

/* ---- contexts: PE numbers of a context are those of its team ------------------------------------------ */

SHMEMX_API int shmem_ctx_create(long options, shmem_ctx_t *ctx);
SHMEMX_API int shmem_team_create_ctx(shmem_team_t team, long options, shmem_ctx_t *ctx);
SHMEMX_API int shmem_ctx_get_team(shmem_ctx_t ctx, shmem_team_t *team);
/* Completes the context's operations, then destroys it. The default context cannot be destroyed. */
SHMEMX_API void shmem_ctx_destroy(shmem_ctx_t ctx);

/* A session announces what the calls on a context will be until it stops; a second start adds options to it. Both are
 * hints: nothing completes or is ordered by them, and today this library sends the same messages with and without.
 * config may be NULL with mask 0. */
SHMEMX_API void shmem_ctx_session_start(shmem_ctx_t ctx, long options,
                                        const shmem_ctx_session_config_t *config, long config_mask);
/* Nothing where no session runs. */
SHMEMX_API void shmem_ctx_session_stop(shmem_ctx_t ctx);

/* ---- RMA: n in bytes for mem forms, else in elements; strides in elements, >= 1 ----------------------- */

/* The typed forms beside these: p, g (one element by value), iput, iget (strides from element to element), ibput, ibget
 * (nblocks blocks of bsize elements, strides from the start of a block to that of the next, >= bsize). */

/* put: source may be reused on return; complete after quiet (or a barrier). get: complete on return.
 * nbi: complete, in both senses, after quiet. dest (put) or source (get) is symmetric, the other side is any
 * local memory. Source and dest must not overlap. */
SHMEMX_API void shmem_putmem(void *dest, const void *source, size_t n, int pe);
SHMEMX_API void shmem_getmem(void *dest, const void *source, size_t n, int pe);
SHMEMX_API void shmem_putmem_nbi(void *dest, const void *source, size_t n, int pe);
SHMEMX_API void shmem_getmem_nbi(void *dest, const void *source, size_t n, int pe);
SHMEMX_API void shmem_ctx_putmem(shmem_ctx_t ctx, void *dest, const void *source, size_t n, int pe);
SHMEMX_API void shmem_ctx_getmem(shmem_ctx_t ctx, void *dest, const void *source, size_t n, int pe);
SHMEMX_API void shmem_ctx_putmem_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t n, int pe);
SHMEMX_API void shmem_ctx_getmem_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t n, int pe);

/* ---- ordering ----------------------------------------------------------------------------------------- */

/* fence: puts, atomics and signals to one PE before it are delivered before those after it.
 * quiet: all of them, to all PEs, are complete. pe_quiet: all to those PEs (numbers of the context's team).
 * Of a context: those issued on it. A network may complete in the order of issue: then a quiet also waits for what other
 * contexts had issued to the same PE before, but not for what they issued after the context's last operation
 * (docs, OpenSHMEM support). */
SHMEMX_API void shmem_fence(void);
SHMEMX_API void shmem_ctx_fence(shmem_ctx_t ctx);
SHMEMX_API void shmem_quiet(void);
SHMEMX_API void shmem_ctx_quiet(shmem_ctx_t ctx);
SHMEMX_API void shmem_pe_quiet(const int *target_pes, size_t npes);
SHMEMX_API void shmem_ctx_pe_quiet(shmem_ctx_t ctx, const int *target_pes, size_t npes);

/* ---- signals: a put whose arrival is announced in a 64-bit signal word --------------------------------- */

/* When the signal word is seen changed at the target, the data is there. sig_op: SHMEM_SIGNAL_SET or _ADD. */
SHMEMX_API void shmem_putmem_signal(void *dest, const void *source, size_t n, uint64_t *sig_addr,
                                    uint64_t signal, int sig_op, int pe);
SHMEMX_API void shmem_putmem_signal_nbi(void *dest, const void *source, size_t n, uint64_t *sig_addr,
                                        uint64_t signal, int sig_op, int pe);
SHMEMX_API void shmem_ctx_putmem_signal(shmem_ctx_t ctx, void *dest, const void *source, size_t n,
                                        uint64_t *sig_addr, uint64_t signal, int sig_op, int pe);
SHMEMX_API void shmem_ctx_putmem_signal_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t n,
                                            uint64_t *sig_addr, uint64_t signal, int sig_op, int pe);
/* This PE's signal word, read atomically. */
SHMEMX_API uint64_t shmem_signal_fetch(const uint64_t *sig_addr);
/* Blocks until the word compares true, returns the value that did. */
SHMEMX_API uint64_t shmem_signal_wait_until(uint64_t *sig_addr, int cmp, uint64_t cmp_value);
/* A signal without data: atomic, in order after a fence. */
SHMEMX_API void shmem_signal_add(uint64_t *sig_addr, uint64_t signal, int pe);
SHMEMX_API void shmem_signal_set(uint64_t *sig_addr, uint64_t signal, int pe);
SHMEMX_API void shmem_ctx_signal_add(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe);
SHMEMX_API void shmem_ctx_signal_set(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe);

/* ---- locks: `lock` is symmetric, zeroed by its creator, and names one lock of the whole job ------------- */

/* Fair: PEs get it in the order they asked. clear completes this PE's puts first. */
SHMEMX_API void shmem_set_lock(long *lock);
SHMEMX_API void shmem_clear_lock(long *lock);
/* 0: got it; 1: somebody has it. */
SHMEMX_API int shmem_test_lock(long *lock);

/* ---- collectives: every member of the team calls, in the same order, with matching arguments ------------ */

/* Return 0 or a negative error. dest and source are symmetric; they may be the same address in reductions and in
 * broadcast on the root, else must not overlap. On return this PE's dest is complete and its source reusable.
 * sync: every member has arrived. barrier: sync after quiet. */
SHMEMX_API void shmem_sync_all(void);
SHMEMX_API void shmem_barrier_all(void);
SHMEMX_API int shmem_team_sync(shmem_team_t team);
/* n bytes of the root's (number in the team) source into dest on every member, the root included. */
SHMEMX_API int shmem_broadcastmem(shmem_team_t team, void *dest, const void *source, size_t n, int root);
/* n bytes of each member, in the order of their numbers; for collect n may differ, for fcollect it does not. */
SHMEMX_API int shmem_collectmem(shmem_team_t team, void *dest, const void *source, size_t n);
SHMEMX_API int shmem_fcollectmem(shmem_team_t team, void *dest, const void *source, size_t n);
/* Block j (n bytes) of member i's source becomes block i of member j's dest. */
SHMEMX_API int shmem_alltoallmem(shmem_team_t team, void *dest, const void *source, size_t n);
/* The same, one element after another at strides dst and sst (elements). Reductions and sum scans (inscan: over the members
 * up to this one; exscan: over those before it, 0 on the first) are typed only. */
SHMEMX_API int shmem_alltoallsmem(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,
                                  ptrdiff_t sst, size_t n);

/* ---- the rest of the standard's small calls -------------------------------------------------------------- */

SHMEMX_API void shmem_pcontrol(int level, ...);

/* ---- the typed calls, the deprecated ones, and one name for every type ----------------------------------------- */

#ifndef SHMEM_CDEF
#include "shmem_typed.h"

#include "shmem_deprecated.h"
#endif

#ifdef __cplusplus
}
#endif

#ifndef SHMEM_CDEF
#include "shmem_generic.h"
#endif
#endif
