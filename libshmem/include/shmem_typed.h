/* The typed calls of shmem.h, one block a family: the contract is in shmem.h, the type lists in shmem_types.h.
 * Included by shmem.h only. NAME stands for the type's name in the function, T for the C type. */
#ifndef SHMEM_TYPED_H
#define SHMEM_TYPED_H

/* put, get, p, g, iput, iget, ibput, ibget, put_nbi, get_nbi, put_signal, put_signal_nbi and their ctx forms.
 * p and g move one element by value; iput and iget n elements, dst and sst elements apart; ibput and ibget nblocks blocks
 * of bsize elements, dst and sst elements from start to start. */
#define SHMEMI_DECLARE_RMA_FORMS(NAME, PTR, CPTR)                                                            \
    SHMEMX_API void shmem_put##NAME(PTR dest, CPTR source, size_t n, int pe);                                \
    SHMEMX_API void shmem_get##NAME(PTR dest, CPTR source, size_t n, int pe);                                \
    SHMEMX_API void shmem_put##NAME##_nbi(PTR dest, CPTR source, size_t n, int pe);                          \
    SHMEMX_API void shmem_get##NAME##_nbi(PTR dest, CPTR source, size_t n, int pe);                          \
    SHMEMX_API void shmem_ctx_put##NAME(shmem_ctx_t ctx, PTR dest, CPTR source, size_t n, int pe);           \
    SHMEMX_API void shmem_ctx_get##NAME(shmem_ctx_t ctx, PTR dest, CPTR source, size_t n, int pe);           \
    SHMEMX_API void shmem_ctx_put##NAME##_nbi(shmem_ctx_t ctx, PTR dest, CPTR source, size_t n, int pe);     \
    SHMEMX_API void shmem_ctx_get##NAME##_nbi(shmem_ctx_t ctx, PTR dest, CPTR source, size_t n, int pe);     \
    SHMEMX_API void shmem_iput##NAME(PTR dest, CPTR source, ptrdiff_t dst, ptrdiff_t sst, size_t n, int pe); \
    SHMEMX_API void shmem_iget##NAME(PTR dest, CPTR source, ptrdiff_t dst, ptrdiff_t sst, size_t n, int pe); \
    SHMEMX_API void shmem_ctx_iput##NAME(shmem_ctx_t ctx, PTR dest, CPTR source, ptrdiff_t dst,              \
                                         ptrdiff_t sst, size_t n, int pe);                                   \
    SHMEMX_API void shmem_ctx_iget##NAME(shmem_ctx_t ctx, PTR dest, CPTR source, ptrdiff_t dst,              \
                                         ptrdiff_t sst, size_t n, int pe);                                   \
    SHMEMX_API void shmem_ibput##NAME(PTR dest, CPTR source, ptrdiff_t dst, ptrdiff_t sst, size_t bsize,     \
                                      size_t nblocks, int pe);                                               \
    SHMEMX_API void shmem_ibget##NAME(PTR dest, CPTR source, ptrdiff_t dst, ptrdiff_t sst, size_t bsize,     \
                                      size_t nblocks, int pe);                                               \
    SHMEMX_API void shmem_ctx_ibput##NAME(shmem_ctx_t ctx, PTR dest, CPTR source, ptrdiff_t dst,             \
                                          ptrdiff_t sst, size_t bsize, size_t nblocks, int pe);              \
    SHMEMX_API void shmem_ctx_ibget##NAME(shmem_ctx_t ctx, PTR dest, CPTR source, ptrdiff_t dst,             \
                                          ptrdiff_t sst, size_t bsize, size_t nblocks, int pe);              \
    SHMEMX_API void shmem_put##NAME##_signal(PTR dest, CPTR source, size_t n, uint64_t *sig_addr,            \
                                             uint64_t signal, int sig_op, int pe);                           \
    SHMEMX_API void shmem_put##NAME##_signal_nbi(PTR dest, CPTR source, size_t n, uint64_t *sig_addr,        \
                                                 uint64_t signal, int sig_op, int pe);                       \
    SHMEMX_API void shmem_ctx_put##NAME##_signal(shmem_ctx_t ctx, PTR dest, CPTR source, size_t n,           \
                                                 uint64_t *sig_addr, uint64_t signal, int sig_op, int pe);   \
    SHMEMX_API void shmem_ctx_put##NAME##_signal_nbi(shmem_ctx_t ctx, PTR dest, CPTR source, size_t n,       \
                                                     uint64_t *sig_addr, uint64_t signal, int sig_op,        \
                                                     int pe);

#define SHMEMI_DECLARE_SIZED(BITS) SHMEMI_DECLARE_RMA_FORMS(BITS, void *, const void *)
SHMEM_SIZES(SHMEMI_DECLARE_SIZED)
#undef SHMEMI_DECLARE_SIZED
#undef SHMEMI_DECLARE_RMA_FORMS

#define SHMEMI_DECLARE_RMA(NAME, T, CORE)                                                                    \
    SHMEMX_API void shmem_##NAME##_put(T *dest, const T *source, size_t n, int pe);                          \
    SHMEMX_API void shmem_##NAME##_get(T *dest, const T *source, size_t n, int pe);                          \
    SHMEMX_API void shmem_##NAME##_put_nbi(T *dest, const T *source, size_t n, int pe);                      \
    SHMEMX_API void shmem_##NAME##_get_nbi(T *dest, const T *source, size_t n, int pe);                      \
    SHMEMX_API void shmem_ctx_##NAME##_put(shmem_ctx_t ctx, T *dest, const T *source, size_t n, int pe);     \
    SHMEMX_API void shmem_ctx_##NAME##_get(shmem_ctx_t ctx, T *dest, const T *source, size_t n, int pe);     \
    SHMEMX_API void shmem_ctx_##NAME##_put_nbi(shmem_ctx_t ctx, T *dest, const T *source, size_t n, int pe); \
    SHMEMX_API void shmem_ctx_##NAME##_get_nbi(shmem_ctx_t ctx, T *dest, const T *source, size_t n, int pe); \
    SHMEMX_API void shmem_##NAME##_p(T *dest, T value, int pe);                                              \
    SHMEMX_API T shmem_##NAME##_g(const T *source, int pe);                                                  \
    SHMEMX_API void shmem_ctx_##NAME##_p(shmem_ctx_t ctx, T *dest, T value, int pe);                         \
    SHMEMX_API T shmem_ctx_##NAME##_g(shmem_ctx_t ctx, const T *source, int pe);                             \
    SHMEMX_API void shmem_##NAME##_iput(T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst, size_t n,    \
                                        int pe);                                                             \
    SHMEMX_API void shmem_##NAME##_iget(T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst, size_t n,    \
                                        int pe);                                                             \
    SHMEMX_API void shmem_ctx_##NAME##_iput(shmem_ctx_t ctx, T *dest, const T *source, ptrdiff_t dst,        \
                                            ptrdiff_t sst, size_t n, int pe);                                \
    SHMEMX_API void shmem_ctx_##NAME##_iget(shmem_ctx_t ctx, T *dest, const T *source, ptrdiff_t dst,        \
                                            ptrdiff_t sst, size_t n, int pe);                                \
    SHMEMX_API void shmem_##NAME##_ibput(T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst,             \
                                         size_t bsize, size_t nblocks, int pe);                              \
    SHMEMX_API void shmem_##NAME##_ibget(T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst,             \
                                         size_t bsize, size_t nblocks, int pe);                              \
    SHMEMX_API void shmem_ctx_##NAME##_ibput(shmem_ctx_t ctx, T *dest, const T *source, ptrdiff_t dst,       \
                                             ptrdiff_t sst, size_t bsize, size_t nblocks, int pe);           \
    SHMEMX_API void shmem_ctx_##NAME##_ibget(shmem_ctx_t ctx, T *dest, const T *source, ptrdiff_t dst,       \
                                             ptrdiff_t sst, size_t bsize, size_t nblocks, int pe);           \
    SHMEMX_API void shmem_##NAME##_put_signal(T *dest, const T *source, size_t n, uint64_t *sig_addr,        \
                                              uint64_t signal, int sig_op, int pe);                          \
    SHMEMX_API void shmem_##NAME##_put_signal_nbi(T *dest, const T *source, size_t n, uint64_t *sig_addr,    \
                                                  uint64_t signal, int sig_op, int pe);                      \
    SHMEMX_API void shmem_ctx_##NAME##_put_signal(shmem_ctx_t ctx, T *dest, const T *source, size_t n,       \
                                                  uint64_t *sig_addr, uint64_t signal, int sig_op, int pe);  \
    SHMEMX_API void shmem_ctx_##NAME##_put_signal_nbi(shmem_ctx_t ctx, T *dest, const T *source, size_t n,   \
                                                      uint64_t *sig_addr, uint64_t signal, int sig_op,       \
                                                      int pe);
SHMEM_TYPES_RMA(SHMEMI_DECLARE_RMA)
#undef SHMEMI_DECLARE_RMA

/* Atomics on PE's copy of dest, atomic against all other atomics of this library on it. The fetching forms return
 * the old value; nbi forms store it to *fetch, complete after quiet. */
#define SHMEMI_DECLARE_AMO_OP(NAME, T, OP)                                                                   \
    SHMEMX_API void shmem_##NAME##_atomic_##OP(T *dest, T value, int pe);                                    \
    SHMEMX_API void shmem_ctx_##NAME##_atomic_##OP(shmem_ctx_t ctx, T *dest, T value, int pe);
#define SHMEMI_DECLARE_AMO_FETCH(NAME, T, OP)                                                                \
    SHMEMX_API T shmem_##NAME##_atomic_##OP(T *dest, T value, int pe);                                       \
    SHMEMX_API T shmem_ctx_##NAME##_atomic_##OP(shmem_ctx_t ctx, T *dest, T value, int pe);                  \
    SHMEMX_API void shmem_##NAME##_atomic_##OP##_nbi(T *fetch, T *dest, T value, int pe);                    \
    SHMEMX_API void shmem_ctx_##NAME##_atomic_##OP##_nbi(shmem_ctx_t ctx, T *fetch, T *dest, T value, int pe);

#define SHMEMI_DECLARE_AMO_EXTENDED(NAME, T, CORE)                                                           \
    SHMEMX_API T shmem_##NAME##_atomic_fetch(const T *source, int pe);                                       \
    SHMEMX_API T shmem_ctx_##NAME##_atomic_fetch(shmem_ctx_t ctx, const T *source, int pe);                  \
    SHMEMX_API void shmem_##NAME##_atomic_fetch_nbi(T *fetch, const T *source, int pe);                      \
    SHMEMX_API void shmem_ctx_##NAME##_atomic_fetch_nbi(shmem_ctx_t ctx, T *fetch, const T *source, int pe); \
    SHMEMI_DECLARE_AMO_OP(NAME, T, set)                                                                      \
    SHMEMI_DECLARE_AMO_FETCH(NAME, T, swap)
SHMEM_TYPES_AMO_EXTENDED(SHMEMI_DECLARE_AMO_EXTENDED)
#undef SHMEMI_DECLARE_AMO_EXTENDED

#define SHMEMI_DECLARE_AMO(NAME, T, CORE)                                                                    \
    SHMEMX_API T shmem_##NAME##_atomic_compare_swap(T *dest, T cond, T value, int pe);                       \
    SHMEMX_API T shmem_ctx_##NAME##_atomic_compare_swap(shmem_ctx_t ctx, T *dest, T cond, T value, int pe);  \
    SHMEMX_API void shmem_##NAME##_atomic_compare_swap_nbi(T *fetch, T *dest, T cond, T value, int pe);      \
    SHMEMX_API void shmem_ctx_##NAME##_atomic_compare_swap_nbi(shmem_ctx_t ctx, T *fetch, T *dest, T cond,   \
                                                               T value, int pe);                             \
    SHMEMX_API T shmem_##NAME##_atomic_fetch_inc(T *dest, int pe);                                           \
    SHMEMX_API T shmem_ctx_##NAME##_atomic_fetch_inc(shmem_ctx_t ctx, T *dest, int pe);                      \
    SHMEMX_API void shmem_##NAME##_atomic_fetch_inc_nbi(T *fetch, T *dest, int pe);                          \
    SHMEMX_API void shmem_ctx_##NAME##_atomic_fetch_inc_nbi(shmem_ctx_t ctx, T *fetch, T *dest, int pe);     \
    SHMEMX_API void shmem_##NAME##_atomic_inc(T *dest, int pe);                                              \
    SHMEMX_API void shmem_ctx_##NAME##_atomic_inc(shmem_ctx_t ctx, T *dest, int pe);                         \
    SHMEMI_DECLARE_AMO_FETCH(NAME, T, fetch_add)                                                             \
    SHMEMI_DECLARE_AMO_OP(NAME, T, add)
SHMEM_TYPES_AMO(SHMEMI_DECLARE_AMO)
#undef SHMEMI_DECLARE_AMO

#define SHMEMI_DECLARE_AMO_BITWISE(NAME, T, CORE)                                                            \
    SHMEMI_DECLARE_AMO_FETCH(NAME, T, fetch_and)                                                             \
    SHMEMI_DECLARE_AMO_FETCH(NAME, T, fetch_or)                                                              \
    SHMEMI_DECLARE_AMO_FETCH(NAME, T, fetch_xor)                                                             \
    SHMEMI_DECLARE_AMO_OP(NAME, T, and)                                                                      \
    SHMEMI_DECLARE_AMO_OP(NAME, T, or)                                                                       \
    SHMEMI_DECLARE_AMO_OP(NAME, T, xor)
SHMEM_TYPES_AMO_BITWISE(SHMEMI_DECLARE_AMO_BITWISE)
#undef SHMEMI_DECLARE_AMO_BITWISE
#undef SHMEMI_DECLARE_AMO_FETCH
#undef SHMEMI_DECLARE_AMO_OP

/* Point-to-point synchronization on this PE's symmetric variables. wait blocks, test looks once. status (may be
 * NULL) has one int an element: non-zero = leave this one out. all: every one compares true. any: the index of one
 * that does, SIZE_MAX if status leaves out all (test: or none does). some: the number of those that do, their
 * indices in `indices`. The vector forms compare element i with values[i]. */
#define SHMEMI_DECLARE_SYNC(NAME, T, CORE)                                                                   \
    SHMEMX_API void shmem_##NAME##_wait_until(T *ivar, int cmp, T value);                                    \
    SHMEMX_API void shmem_##NAME##_wait_until_all(T *ivars, size_t n, const int *status, int cmp, T value);  \
    SHMEMX_API size_t shmem_##NAME##_wait_until_any(T *ivars, size_t n, const int *status, int cmp,          \
                                                    T value);                                                \
    SHMEMX_API size_t shmem_##NAME##_wait_until_some(T *ivars, size_t n, size_t *indices, const int *status, \
                                                     int cmp, T value);                                      \
    SHMEMX_API void shmem_##NAME##_wait_until_all_vector(T *ivars, size_t n, const int *status, int cmp,     \
                                                         const T *values);                                   \
    SHMEMX_API size_t shmem_##NAME##_wait_until_any_vector(T *ivars, size_t n, const int *status, int cmp,   \
                                                           const T *values);                                 \
    SHMEMX_API size_t shmem_##NAME##_wait_until_some_vector(T *ivars, size_t n, size_t *indices,             \
                                                            const int *status, int cmp, const T *values);    \
    SHMEMX_API int shmem_##NAME##_test(T *ivar, int cmp, T value);                                           \
    SHMEMX_API int shmem_##NAME##_test_all(T *ivars, size_t n, const int *status, int cmp, T value);         \
    SHMEMX_API size_t shmem_##NAME##_test_any(T *ivars, size_t n, const int *status, int cmp, T value);      \
    SHMEMX_API size_t shmem_##NAME##_test_some(T *ivars, size_t n, size_t *indices, const int *status,       \
                                               int cmp, T value);                                            \
    SHMEMX_API int shmem_##NAME##_test_all_vector(T *ivars, size_t n, const int *status, int cmp,            \
                                                  const T *values);                                          \
    SHMEMX_API size_t shmem_##NAME##_test_any_vector(T *ivars, size_t n, const int *status, int cmp,         \
                                                     const T *values);                                       \
    SHMEMX_API size_t shmem_##NAME##_test_some_vector(T *ivars, size_t n, size_t *indices,                   \
                                                      const int *status, int cmp, const T *values);
SHMEM_TYPES_AMO(SHMEMI_DECLARE_SYNC)
#undef SHMEMI_DECLARE_SYNC

/* Typed collectives: n in elements. */
#define SHMEMI_DECLARE_COLL(NAME, T, CORE)                                                                   \
    SHMEMX_API int shmem_##NAME##_broadcast(shmem_team_t team, T *dest, const T *source, size_t n,           \
                                            int root);                                                       \
    SHMEMX_API int shmem_##NAME##_collect(shmem_team_t team, T *dest, const T *source, size_t n);            \
    SHMEMX_API int shmem_##NAME##_fcollect(shmem_team_t team, T *dest, const T *source, size_t n);           \
    SHMEMX_API int shmem_##NAME##_alltoall(shmem_team_t team, T *dest, const T *source, size_t n);           \
    SHMEMX_API int shmem_##NAME##_alltoalls(shmem_team_t team, T *dest, const T *source, ptrdiff_t dst,      \
                                            ptrdiff_t sst, size_t n);
SHMEM_TYPES_RMA(SHMEMI_DECLARE_COLL)
#undef SHMEMI_DECLARE_COLL

#define SHMEMI_DECLARE_REDUCE(NAME, T, OP)                                                                   \
    SHMEMX_API int shmem_##NAME##_##OP##_reduce(shmem_team_t team, T *dest, const T *source, size_t n);
#define SHMEMI_DECLARE_BITWISE(NAME, T, CORE)                                                                \
    SHMEMI_DECLARE_REDUCE(NAME, T, and)                                                                      \
    SHMEMI_DECLARE_REDUCE(NAME, T, or)                                                                       \
    SHMEMI_DECLARE_REDUCE(NAME, T, xor)
#define SHMEMI_DECLARE_ORDERED(NAME, T, CORE)                                                                \
    SHMEMI_DECLARE_REDUCE(NAME, T, max)                                                                      \
    SHMEMI_DECLARE_REDUCE(NAME, T, min)
#define SHMEMI_DECLARE_ARITHMETIC(NAME, T, CORE)                                                             \
    SHMEMI_DECLARE_REDUCE(NAME, T, sum)                                                                      \
    SHMEMI_DECLARE_REDUCE(NAME, T, prod)
SHMEM_TYPES_REDUCE_BITWISE(SHMEMI_DECLARE_BITWISE)
SHMEM_TYPES_REDUCE_ORDERED(SHMEMI_DECLARE_ORDERED)
SHMEM_TYPES_REDUCE_ORDERED(SHMEMI_DECLARE_ARITHMETIC)
SHMEM_TYPES_COMPLEX(SHMEMI_DECLARE_ARITHMETIC)
#undef SHMEMI_DECLARE_ARITHMETIC
#undef SHMEMI_DECLARE_ORDERED
#undef SHMEMI_DECLARE_BITWISE
#undef SHMEMI_DECLARE_REDUCE

/* Prefix sums, element by element: inscan over the members up to this one, exscan over those before it (0 on the first).
 * dest may be source. */
#define SHMEMI_DECLARE_SCAN(NAME, T, CORE)                                                                   \
    SHMEMX_API int shmem_##NAME##_sum_inscan(shmem_team_t team, T *dest, const T *source, size_t n);         \
    SHMEMX_API int shmem_##NAME##_sum_exscan(shmem_team_t team, T *dest, const T *source, size_t n);
SHMEM_TYPES_REDUCE_ORDERED(SHMEMI_DECLARE_SCAN)
SHMEM_TYPES_COMPLEX(SHMEMI_DECLARE_SCAN)
#undef SHMEMI_DECLARE_SCAN

#endif
