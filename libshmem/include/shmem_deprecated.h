/* What the specification keeps for old programs. Included by shmem.h only. New programs use what is named instead. */
#ifndef SHMEM_DEPRECATED_H
#define SHMEM_DEPRECATED_H

/* ---- names of 1.0 and 1.1 ------------------------------------------------------------------------------- */

/* shmem_init, unless that has been done; npes is ignored. A job that was started so and not finalized is finalized when
 * main returns or exit(0) is called; after exit with another status the others see a PE that failed. */
SHMEMX_API void start_pes(int npes);
SHMEMX_API int _my_pe(void);   /* shmem_my_pe */
SHMEMX_API int _num_pes(void); /* shmem_n_pes */
SHMEMX_API void *shmalloc(size_t size);
SHMEMX_API void shfree(void *ptr);
SHMEMX_API void *shrealloc(void *ptr, size_t size);
SHMEMX_API void *shmemalign(size_t alignment, size_t size);

#define _SHMEM_MAJOR_VERSION SHMEM_MAJOR_VERSION
#define _SHMEM_MINOR_VERSION SHMEM_MINOR_VERSION
#define _SHMEM_MAX_NAME_LEN SHMEM_MAX_NAME_LEN
#define _SHMEM_VENDOR_STRING SHMEM_VENDOR_STRING
#define _SHMEM_CMP_EQ SHMEM_CMP_EQ
#define _SHMEM_CMP_NE SHMEM_CMP_NE
#define _SHMEM_CMP_GT SHMEM_CMP_GT
#define _SHMEM_CMP_GE SHMEM_CMP_GE
#define _SHMEM_CMP_LT SHMEM_CMP_LT
#define _SHMEM_CMP_LE SHMEM_CMP_LE
#define _SHMEM_SYNC_VALUE SHMEM_SYNC_VALUE
#define _SHMEM_BARRIER_SYNC_SIZE SHMEM_BARRIER_SYNC_SIZE
#define _SHMEM_BCAST_SYNC_SIZE SHMEM_BCAST_SYNC_SIZE
#define _SHMEM_COLLECT_SYNC_SIZE SHMEM_COLLECT_SYNC_SIZE
#define _SHMEM_REDUCE_SYNC_SIZE SHMEM_REDUCE_SYNC_SIZE
#define _SHMEM_REDUCE_MIN_WRKDATA_SIZE SHMEM_REDUCE_MIN_WRKDATA_SIZE

/* ---- sessions, by the names of a draft of 1.6 that other libraries were released with -------------------------------- */

typedef shmem_ctx_session_config_t shmem_session_config_t;
#define SHMEM_SESSION_BATCH SHMEM_CTX_SESSION_BATCH
#define SHMEM_SESSION_SAME_AMO SHMEM_CTX_SESSION_SAME_AMO
#define SHMEM_SESSION_TOTAL_OPS SHMEM_CTX_SESSION_TOTAL_OPS
#define shmem_session_start shmem_ctx_session_start
#define shmem_session_stop shmem_ctx_session_stop

/* ---- caches: coherent on every machine this runs on, so there is nothing to do --------------------------------- */

SHMEMX_API void shmem_clear_cache_inv(void);
SHMEMX_API void shmem_set_cache_inv(void);
SHMEMX_API void shmem_clear_cache_line_inv(void *dest);
SHMEMX_API void shmem_set_cache_line_inv(void *dest);
SHMEMX_API void shmem_udcflush(void);
SHMEMX_API void shmem_udcflush_line(void *dest);

/* ---- waits: until *ivar differs from value; and wait_until, test for 16 bits --------------------------------------- */

SHMEMX_API void shmem_wait(long *ivar, long value);
#ifndef __cplusplus /* where an overload serves long */
SHMEMX_API void shmem_wait_until(long *ivar, int cmp, long value);
#endif
#define SHMEMI_DECLARE_WAIT(NAME, T, CORE) SHMEMX_API void shmem_##NAME##_wait(T *ivar, T value);
SHMEMI_DECLARE_WAIT(short, short, SHMEMX_INT16)
SHMEM_TYPES_OLD_AMO(SHMEMI_DECLARE_WAIT)
#undef SHMEMI_DECLARE_WAIT
#define SHMEMI_DECLARE_WAIT(NAME, T, CORE)                                                                   \
    SHMEMX_API void shmem_##NAME##_wait_until(T *ivar, int cmp, T value);                                    \
    SHMEMX_API int shmem_##NAME##_test(T *ivar, int cmp, T value);
SHMEM_TYPES_OLD_SYNC(SHMEMI_DECLARE_WAIT)
#undef SHMEMI_DECLARE_WAIT

/* ---- atomics: atomic_fetch, _set, _swap, _compare_swap, _fetch_inc, _inc, _fetch_add, _add ------------------------- */

#define SHMEMI_DECLARE_OLD_AMO(NAME, T, CORE)                                                                \
    SHMEMX_API T shmem_##NAME##_cswap(T *dest, T cond, T value, int pe);                                     \
    SHMEMX_API T shmem_##NAME##_finc(T *dest, int pe);                                                       \
    SHMEMX_API void shmem_##NAME##_inc(T *dest, int pe);                                                     \
    SHMEMX_API T shmem_##NAME##_fadd(T *dest, T value, int pe);                                              \
    SHMEMX_API void shmem_##NAME##_add(T *dest, T value, int pe);
SHMEM_TYPES_OLD_AMO(SHMEMI_DECLARE_OLD_AMO)
#undef SHMEMI_DECLARE_OLD_AMO
#define SHMEMI_DECLARE_OLD_AMO(NAME, T, CORE)                                                                \
    SHMEMX_API T shmem_##NAME##_fetch(const T *source, int pe);                                              \
    SHMEMX_API void shmem_##NAME##_set(T *dest, T value, int pe);                                            \
    SHMEMX_API T shmem_##NAME##_swap(T *dest, T value, int pe);
SHMEM_TYPES_OLD_AMO_EXTENDED(SHMEMI_DECLARE_OLD_AMO)
#undef SHMEMI_DECLARE_OLD_AMO

/* ---- collectives over active sets ----------------------------------------------------------------------------------- */

/* An active set: PE_size PEs of the world from PE_start on, 2^logPE_stride apart. Only its members call; they pass the same
 * arguments. pSync: symmetric, each long SHMEM_SYNC_VALUE, in no other use; it has that value again on return. pWrk is
 * not used. The first call over a set makes a team of it (from pSync), which the later ones take: as fast as the calls
 * above. nelems in elements; PE_root counts in the set. Errors are logged, and nothing is written. */
SHMEMX_API void shmem_barrier(int PE_start, int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_sync(int PE_start, int logPE_stride, int PE_size, long *pSync);
/* On the root dest is not written. */
SHMEMX_API void shmem_broadcast32(void *dest, const void *source, size_t nelems, int PE_root, int PE_start,
                                  int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_broadcast64(void *dest, const void *source, size_t nelems, int PE_root, int PE_start,
                                  int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_collect32(void *dest, const void *source, size_t nelems, int PE_start, int logPE_stride,
                                int PE_size, long *pSync);
SHMEMX_API void shmem_collect64(void *dest, const void *source, size_t nelems, int PE_start, int logPE_stride,
                                int PE_size, long *pSync);
SHMEMX_API void shmem_fcollect32(void *dest, const void *source, size_t nelems, int PE_start,
                                 int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_fcollect64(void *dest, const void *source, size_t nelems, int PE_start,
                                 int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_alltoall32(void *dest, const void *source, size_t nelems, int PE_start,
                                 int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_alltoall64(void *dest, const void *source, size_t nelems, int PE_start,
                                 int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_alltoalls32(void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst, size_t nelems,
                                  int PE_start, int logPE_stride, int PE_size, long *pSync);
SHMEMX_API void shmem_alltoalls64(void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst, size_t nelems,
                                  int PE_start, int logPE_stride, int PE_size, long *pSync);

#define SHMEMI_DECLARE_TO_ALL(NAME, T, OP)                                                                   \
    SHMEMX_API void shmem_##NAME##_##OP##_to_all(T *dest, const T *source, int nreduce, int PE_start,        \
                                                 int logPE_stride, int PE_size, T *pWrk, long *pSync);
#define SHMEMI_DECLARE_BITWISE(NAME, T, CORE)                                                                \
    SHMEMI_DECLARE_TO_ALL(NAME, T, and)                                                                      \
    SHMEMI_DECLARE_TO_ALL(NAME, T, or)                                                                       \
    SHMEMI_DECLARE_TO_ALL(NAME, T, xor)
#define SHMEMI_DECLARE_ORDERED(NAME, T, CORE)                                                                \
    SHMEMI_DECLARE_TO_ALL(NAME, T, max)                                                                      \
    SHMEMI_DECLARE_TO_ALL(NAME, T, min)
#define SHMEMI_DECLARE_ARITHMETIC(NAME, T, CORE)                                                             \
    SHMEMI_DECLARE_TO_ALL(NAME, T, sum)                                                                      \
    SHMEMI_DECLARE_TO_ALL(NAME, T, prod)
SHMEM_TYPES_TO_ALL_BITWISE(SHMEMI_DECLARE_BITWISE)
SHMEM_TYPES_TO_ALL_ORDERED(SHMEMI_DECLARE_ORDERED)
SHMEM_TYPES_TO_ALL_ORDERED(SHMEMI_DECLARE_ARITHMETIC)
SHMEM_TYPES_COMPLEX(SHMEMI_DECLARE_ARITHMETIC)
#undef SHMEMI_DECLARE_ARITHMETIC
#undef SHMEMI_DECLARE_ORDERED
#undef SHMEMI_DECLARE_BITWISE
#undef SHMEMI_DECLARE_TO_ALL

#endif
