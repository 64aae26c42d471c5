/* One name for every type: shmem_put(dest, source, n, pe) calls shmem_long_put for long, and so on; with a context in front
 * it calls shmem_ctx_long_put. Included by shmem.h only; the types of each name are the lists SHMEM_C_TYPES_.. of
 * shmem_types.h. In C11 the names are macros that choose by _Generic, in C++ overloaded functions. */
#ifndef SHMEM_GENERIC_H
#define SHMEM_GENERIC_H

#if defined(__cplusplus)

/* Takes the parentheses off a list. */
#define SHMEMI_BARE(...) __VA_ARGS__
#define SHMEMI_OVERLOAD(RET, CALL, TYPED, PARAMS, ARGS)                                                      \
    inline RET CALL(SHMEMI_BARE PARAMS)                                                                      \
    {                                                                                                        \
        return TYPED(SHMEMI_BARE ARGS);                                                                      \
    }
/* Plain and with a context. */
#define SHMEMI_BOTH(RET, NAME, OP, PARAMS, ARGS)                                                             \
    SHMEMI_OVERLOAD(RET, shmem_##OP, shmem_##NAME##_##OP, PARAMS, ARGS)                                      \
    SHMEMI_OVERLOAD(RET, shmem_##OP, shmem_ctx_##NAME##_##OP, (shmem_ctx_t ctx, SHMEMI_BARE PARAMS),         \
                    (ctx, SHMEMI_BARE ARGS))

#define SHMEMI_COPY(NAME, T, OP, UNUSED)                                                                     \
    SHMEMI_BOTH(void, NAME, OP, (T * dest, const T *source, size_t n, int pe), (dest, source, n, pe))
#define SHMEMI_STRIDED(NAME, T, OP, UNUSED)                                                                  \
    SHMEMI_BOTH(void, NAME, OP, (T * dest, const T *source, ptrdiff_t dst, ptrdiff_t sst, size_t n, int pe), \
                (dest, source, dst, sst, n, pe))
#define SHMEMI_BLOCKS(NAME, T, OP, UNUSED)                                                                   \
    SHMEMI_BOTH(                                                                                             \
        void, NAME, OP,                                                                                      \
        (T * dest, const T *source, ptrdiff_t dst, ptrdiff_t sst, size_t bsize, size_t nblocks, int pe),     \
        (dest, source, dst, sst, bsize, nblocks, pe))
#define SHMEMI_WITH_SIGNAL(NAME, T, OP, UNUSED)                                                              \
    SHMEMI_BOTH(                                                                                             \
        void, NAME, OP,                                                                                      \
        (T * dest, const T *source, size_t n, uint64_t *sig_addr, uint64_t signal, int sig_op, int pe),      \
        (dest, source, n, sig_addr, signal, sig_op, pe))
/* RET is void or, for T, the type itself. */
#define SHMEMI_OF_VALUE(NAME, T, OP, RET)                                                                    \
    SHMEMI_BOTH(RET, NAME, OP, (T * dest, T value, int pe), (dest, value, pe))
#define SHMEMI_VALUE(NAME, T, OP, UNUSED) SHMEMI_OF_VALUE(NAME, T, OP, void)
#define SHMEMI_FETCH(NAME, T, OP, UNUSED)                                                                    \
    SHMEMI_BOTH(T, NAME, OP, (T * dest, T value, int pe), (dest, value, pe))                                 \
    SHMEMI_BOTH(void, NAME, OP##_nbi, (T * fetch, T * dest, T value, int pe), (fetch, dest, value, pe))
#define SHMEMI_READ(NAME, T, OP, UNUSED) SHMEMI_BOTH(T, NAME, OP, (const T *source, int pe), (source, pe))
#define SHMEMI_READ_NBI(NAME, T, OP, UNUSED)                                                                 \
    SHMEMI_BOTH(void, NAME, OP, (T * fetch, const T *source, int pe), (fetch, source, pe))
#define SHMEMI_COUNTERS(NAME, T, A, B)                                                                       \
    SHMEMI_BOTH(T, NAME, atomic_fetch_inc, (T * dest, int pe), (dest, pe))                                   \
    SHMEMI_BOTH(void, NAME, atomic_fetch_inc_nbi, (T * fetch, T * dest, int pe), (fetch, dest, pe))          \
    SHMEMI_BOTH(void, NAME, atomic_inc, (T * dest, int pe), (dest, pe))                                      \
    SHMEMI_BOTH(T, NAME, atomic_compare_swap, (T * dest, T cond, T value, int pe), (dest, cond, value, pe))  \
    SHMEMI_BOTH(void, NAME, atomic_compare_swap_nbi, (T * fetch, T * dest, T cond, T value, int pe),         \
                (fetch, dest, cond, value, pe))

SHMEM_C_TYPES_RMA(SHMEMI_COPY, put, )
SHMEM_C_TYPES_RMA(SHMEMI_COPY, get, )
SHMEM_C_TYPES_RMA(SHMEMI_COPY, put_nbi, )
SHMEM_C_TYPES_RMA(SHMEMI_COPY, get_nbi, )
SHMEM_C_TYPES_RMA(SHMEMI_STRIDED, iput, )
SHMEM_C_TYPES_RMA(SHMEMI_STRIDED, iget, )
SHMEM_C_TYPES_RMA(SHMEMI_BLOCKS, ibput, )
SHMEM_C_TYPES_RMA(SHMEMI_BLOCKS, ibget, )
SHMEM_C_TYPES_RMA(SHMEMI_WITH_SIGNAL, put_signal, )
SHMEM_C_TYPES_RMA(SHMEMI_WITH_SIGNAL, put_signal_nbi, )
SHMEM_C_TYPES_RMA(SHMEMI_VALUE, p, )
SHMEM_C_TYPES_RMA(SHMEMI_READ, g, )
SHMEM_C_TYPES_AMO_EXTENDED(SHMEMI_READ, atomic_fetch, )
SHMEM_C_TYPES_AMO_EXTENDED(SHMEMI_READ_NBI, atomic_fetch_nbi, )
SHMEM_C_TYPES_AMO_EXTENDED(SHMEMI_VALUE, atomic_set, )
SHMEM_C_TYPES_AMO_EXTENDED(SHMEMI_FETCH, atomic_swap, )
SHMEM_C_TYPES_AMO(SHMEMI_COUNTERS, , )
SHMEM_C_TYPES_AMO(SHMEMI_VALUE, atomic_add, )
SHMEM_C_TYPES_AMO(SHMEMI_FETCH, atomic_fetch_add, )
SHMEM_C_TYPES_AMO_BITWISE(SHMEMI_VALUE, atomic_and, )
SHMEM_C_TYPES_AMO_BITWISE(SHMEMI_VALUE, atomic_or, )
SHMEM_C_TYPES_AMO_BITWISE(SHMEMI_VALUE, atomic_xor, )
SHMEM_C_TYPES_AMO_BITWISE(SHMEMI_FETCH, atomic_fetch_and, )
SHMEM_C_TYPES_AMO_BITWISE(SHMEMI_FETCH, atomic_fetch_or, )
SHMEM_C_TYPES_AMO_BITWISE(SHMEMI_FETCH, atomic_fetch_xor, )

inline void shmem_signal_add(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmem_ctx_signal_add(ctx, sig_addr, signal, pe);
}
inline void shmem_signal_set(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmem_ctx_signal_set(ctx, sig_addr, signal, pe);
}

/* RET: of a test; VALUES: what the elements are compared with. */
#define SHMEMI_WAIT(NAME, T, UNUSED, UNUSED2)                                                                \
    SHMEMI_OVERLOAD(void, shmem_wait_until, shmem_##NAME##_wait_until, (T * ivar, int cmp, T value),         \
                    (ivar, cmp, value))                                                                      \
    SHMEMI_OVERLOAD(int, shmem_test, shmem_##NAME##_test, (T * ivar, int cmp, T value), (ivar, cmp, value))
#define SHMEMI_OF_MANY(RET, NAME, T, OP, VALUES)                                                             \
    SHMEMI_OVERLOAD(RET, shmem_##OP, shmem_##NAME##_##OP,                                                    \
                    (T * ivars, size_t n, const int *status, int cmp, T VALUES),                             \
                    (ivars, n, status, cmp, values))
#define SHMEMI_OF_SOME(NAME, T, OP, VALUES)                                                                  \
    SHMEMI_OVERLOAD(size_t, shmem_##OP, shmem_##NAME##_##OP,                                                 \
                    (T * ivars, size_t n, size_t *indices, const int *status, int cmp, T VALUES),            \
                    (ivars, n, indices, status, cmp, values))
#define SHMEMI_WAIT_MANY(NAME, T, SUFFIX, VALUES)                                                            \
    SHMEMI_OF_MANY(void, NAME, T, wait_until_all##SUFFIX, VALUES)                                            \
    SHMEMI_OF_MANY(int, NAME, T, test_all##SUFFIX, VALUES)                                                   \
    SHMEMI_OF_MANY(size_t, NAME, T, wait_until_any##SUFFIX, VALUES)                                          \
    SHMEMI_OF_MANY(size_t, NAME, T, test_any##SUFFIX, VALUES)                                                \
    SHMEMI_OF_SOME(NAME, T, wait_until_some##SUFFIX, VALUES)                                                 \
    SHMEMI_OF_SOME(NAME, T, test_some##SUFFIX, VALUES)
SHMEM_C_TYPES_AMO(SHMEMI_WAIT, , )
SHMEMI_WAIT(short, short, , )
SHMEMI_WAIT(ushort, unsigned short, , )
SHMEM_C_TYPES_AMO(SHMEMI_WAIT_MANY, , values)
SHMEM_C_TYPES_AMO(SHMEMI_WAIT_MANY, _vector, const *values)

#define SHMEMI_COLLECT(NAME, T, OP, UNUSED)                                                                  \
    SHMEMI_OVERLOAD(int, shmem_##OP, shmem_##NAME##_##OP,                                                    \
                    (shmem_team_t team, T * dest, const T *source, size_t n), (team, dest, source, n))
#define SHMEMI_BROADCAST(NAME, T, A, B)                                                                      \
    SHMEMI_OVERLOAD(int, shmem_broadcast, shmem_##NAME##_broadcast,                                          \
                    (shmem_team_t team, T * dest, const T *source, size_t n, int root),                      \
                    (team, dest, source, n, root))                                                           \
    SHMEMI_OVERLOAD(int, shmem_alltoalls, shmem_##NAME##_alltoalls,                                          \
                    (shmem_team_t team, T * dest, const T *source, ptrdiff_t dst, ptrdiff_t sst, size_t n),  \
                    (team, dest, source, dst, sst, n))
SHMEM_C_TYPES_RMA(SHMEMI_BROADCAST, , )
SHMEM_C_TYPES_RMA(SHMEMI_COLLECT, collect, )
SHMEM_C_TYPES_RMA(SHMEMI_COLLECT, fcollect, )
SHMEM_C_TYPES_RMA(SHMEMI_COLLECT, alltoall, )
SHMEM_C_TYPES_REDUCE_BITWISE(SHMEMI_COLLECT, and_reduce, )
SHMEM_C_TYPES_REDUCE_BITWISE(SHMEMI_COLLECT, or_reduce, )
SHMEM_C_TYPES_REDUCE_BITWISE(SHMEMI_COLLECT, xor_reduce, )
SHMEM_C_TYPES_RMA(SHMEMI_COLLECT, max_reduce, )
SHMEM_C_TYPES_RMA(SHMEMI_COLLECT, min_reduce, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMI_COLLECT, sum_reduce, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMI_COLLECT, prod_reduce, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMI_COLLECT, sum_inscan, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMI_COLLECT, sum_exscan, )

/* std::complex<float> and <double> are laid out as C's; taken here without including <complex>. */
namespace shmemi
{
template <class V> struct complex_of {
};
template <> struct complex_of<float> {
    typedef shmemx_complexf_t type;
};
template <> struct complex_of<double> {
    typedef shmemx_complexd_t type;
};
} // namespace shmemi
#define SHMEMI_COMPLEX(OP)                                                                                   \
    template <class C, class T = typename shmemi::complex_of<typename C::value_type>::type>                  \
    inline int shmem_##OP(shmem_team_t team, C *dest, const C *source, size_t n)                             \
    {                                                                                                        \
        static_assert(sizeof(C) == sizeof(T), "a complex number of two parts");                              \
        return shmem_##OP(team, reinterpret_cast<T *>(dest), reinterpret_cast<const T *>(source), n);        \
    }
SHMEMI_COMPLEX(sum_reduce)
SHMEMI_COMPLEX(prod_reduce)
SHMEMI_COMPLEX(sum_inscan)
SHMEMI_COMPLEX(sum_exscan)

inline int shmem_sync(shmem_team_t team)
{
    return shmem_team_sync(team);
}

/* Deprecated. */
#define SHMEMI_OLD_AMO(NAME, T, A, B)                                                                        \
    SHMEMI_OVERLOAD(T, shmem_cswap, shmem_##NAME##_cswap, (T * dest, T cond, T value, int pe),               \
                    (dest, cond, value, pe))                                                                 \
    SHMEMI_OVERLOAD(T, shmem_finc, shmem_##NAME##_finc, (T * dest, int pe), (dest, pe))                      \
    SHMEMI_OVERLOAD(void, shmem_inc, shmem_##NAME##_inc, (T * dest, int pe), (dest, pe))                     \
    SHMEMI_OVERLOAD(T, shmem_fadd, shmem_##NAME##_fadd, (T * dest, T value, int pe), (dest, value, pe))      \
    SHMEMI_OVERLOAD(void, shmem_add, shmem_##NAME##_add, (T * dest, T value, int pe), (dest, value, pe))
#define SHMEMI_OLD_AMO_EXTENDED(NAME, T, A, B)                                                               \
    SHMEMI_OVERLOAD(T, shmem_fetch, shmem_##NAME##_fetch, (const T *source, int pe), (source, pe))           \
    SHMEMI_OVERLOAD(void, shmem_set, shmem_##NAME##_set, (T * dest, T value, int pe), (dest, value, pe))     \
    SHMEMI_OVERLOAD(T, shmem_swap, shmem_##NAME##_swap, (T * dest, T value, int pe), (dest, value, pe))
SHMEM_C_TYPES_OLD_AMO(SHMEMI_OLD_AMO, , )
SHMEM_C_TYPES_OLD_AMO_EXTENDED(SHMEMI_OLD_AMO_EXTENDED, , )

#undef SHMEMI_OLD_AMO_EXTENDED
#undef SHMEMI_OLD_AMO
#undef SHMEMI_COMPLEX
#undef SHMEMI_BROADCAST
#undef SHMEMI_COLLECT
#undef SHMEMI_WAIT_MANY
#undef SHMEMI_OF_SOME
#undef SHMEMI_OF_MANY
#undef SHMEMI_WAIT
#undef SHMEMI_COUNTERS
#undef SHMEMI_READ_NBI
#undef SHMEMI_READ
#undef SHMEMI_FETCH
#undef SHMEMI_VALUE
#undef SHMEMI_OF_VALUE
#undef SHMEMI_WITH_SIGNAL
#undef SHMEMI_BLOCKS
#undef SHMEMI_STRIDED
#undef SHMEMI_COPY
#undef SHMEMI_BOTH
#undef SHMEMI_OVERLOAD

#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L

#define SHMEMI_CASE(NAME, T, A, B) , T : A##NAME##B
/* The call with and without a context, and with a team; the type is that of the first pointer's target. */
#define SHMEMI_PLAIN(TYPES, OP, first, ...)                                                                  \
    _Generic (*(first)SHMEM_C_TYPES_##TYPES(SHMEMI_CASE, shmem_, OP))(first, __VA_ARGS__)
#define SHMEMI_CTX(TYPES, OP, ctx, first, ...)                                                               \
    _Generic (*(first)SHMEM_C_TYPES_##TYPES(SHMEMI_CASE, shmem_ctx_, OP))(ctx, first, __VA_ARGS__)
#define SHMEMI_TEAM(TYPES, OP, team, first, ...)                                                             \
    _Generic (*(first)SHMEM_C_TYPES_##TYPES(SHMEMI_CASE, shmem_, OP))(team, first, __VA_ARGS__)
/* A context in front makes one argument more: SHMEMI_n chooses where the plain call has n of them. */
#define SHMEMI_OF_4(a, b, c, d, ...) d
#define SHMEMI_OF_5(a, b, c, d, e, ...) e
#define SHMEMI_OF_6(a, b, c, d, e, f, ...) f
#define SHMEMI_OF_7(a, b, c, d, e, f, g, ...) g
#define SHMEMI_OF_8(a, b, c, d, e, f, g, h, ...) h
#define SHMEMI_OF_9(a, b, c, d, e, f, g, h, i, ...) i
#define SHMEMI_2(TYPES, OP, ...) SHMEMI_OF_4(__VA_ARGS__, SHMEMI_CTX, SHMEMI_PLAIN, )(TYPES, OP, __VA_ARGS__)
#define SHMEMI_3(TYPES, OP, ...) SHMEMI_OF_5(__VA_ARGS__, SHMEMI_CTX, SHMEMI_PLAIN, )(TYPES, OP, __VA_ARGS__)
#define SHMEMI_4(TYPES, OP, ...) SHMEMI_OF_6(__VA_ARGS__, SHMEMI_CTX, SHMEMI_PLAIN, )(TYPES, OP, __VA_ARGS__)
#define SHMEMI_6(TYPES, OP, ...) SHMEMI_OF_8(__VA_ARGS__, SHMEMI_CTX, SHMEMI_PLAIN, )(TYPES, OP, __VA_ARGS__)
#define SHMEMI_7(TYPES, OP, ...) SHMEMI_OF_9(__VA_ARGS__, SHMEMI_CTX, SHMEMI_PLAIN, )(TYPES, OP, __VA_ARGS__)

#define shmem_put(...) SHMEMI_4(RMA, _put, __VA_ARGS__)
#define shmem_get(...) SHMEMI_4(RMA, _get, __VA_ARGS__)
#define shmem_put_nbi(...) SHMEMI_4(RMA, _put_nbi, __VA_ARGS__)
#define shmem_get_nbi(...) SHMEMI_4(RMA, _get_nbi, __VA_ARGS__)
#define shmem_iput(...) SHMEMI_6(RMA, _iput, __VA_ARGS__)
#define shmem_iget(...) SHMEMI_6(RMA, _iget, __VA_ARGS__)
#define shmem_ibput(...) SHMEMI_7(RMA, _ibput, __VA_ARGS__)
#define shmem_ibget(...) SHMEMI_7(RMA, _ibget, __VA_ARGS__)
#define shmem_put_signal(...) SHMEMI_7(RMA, _put_signal, __VA_ARGS__)
#define shmem_put_signal_nbi(...) SHMEMI_7(RMA, _put_signal_nbi, __VA_ARGS__)
#define shmem_p(...) SHMEMI_3(RMA, _p, __VA_ARGS__)
#define shmem_g(...) SHMEMI_2(RMA, _g, __VA_ARGS__)

#define shmem_atomic_fetch(...) SHMEMI_2(AMO_EXTENDED, _atomic_fetch, __VA_ARGS__)
#define shmem_atomic_fetch_nbi(...) SHMEMI_3(AMO_EXTENDED, _atomic_fetch_nbi, __VA_ARGS__)
#define shmem_atomic_set(...) SHMEMI_3(AMO_EXTENDED, _atomic_set, __VA_ARGS__)
#define shmem_atomic_swap(...) SHMEMI_3(AMO_EXTENDED, _atomic_swap, __VA_ARGS__)
#define shmem_atomic_swap_nbi(...) SHMEMI_4(AMO_EXTENDED, _atomic_swap_nbi, __VA_ARGS__)
#define shmem_atomic_compare_swap(...) SHMEMI_4(AMO, _atomic_compare_swap, __VA_ARGS__)
#define shmem_atomic_compare_swap_nbi(...)                                                                   \
    SHMEMI_OF_7(__VA_ARGS__, SHMEMI_CTX, SHMEMI_PLAIN, )(AMO, _atomic_compare_swap_nbi, __VA_ARGS__)
#define shmem_atomic_fetch_inc(...) SHMEMI_2(AMO, _atomic_fetch_inc, __VA_ARGS__)
#define shmem_atomic_fetch_inc_nbi(...) SHMEMI_3(AMO, _atomic_fetch_inc_nbi, __VA_ARGS__)
#define shmem_atomic_inc(...) SHMEMI_2(AMO, _atomic_inc, __VA_ARGS__)
#define shmem_atomic_fetch_add(...) SHMEMI_3(AMO, _atomic_fetch_add, __VA_ARGS__)
#define shmem_atomic_fetch_add_nbi(...) SHMEMI_4(AMO, _atomic_fetch_add_nbi, __VA_ARGS__)
#define shmem_atomic_add(...) SHMEMI_3(AMO, _atomic_add, __VA_ARGS__)
#define shmem_atomic_fetch_and(...) SHMEMI_3(AMO_BITWISE, _atomic_fetch_and, __VA_ARGS__)
#define shmem_atomic_fetch_and_nbi(...) SHMEMI_4(AMO_BITWISE, _atomic_fetch_and_nbi, __VA_ARGS__)
#define shmem_atomic_and(...) SHMEMI_3(AMO_BITWISE, _atomic_and, __VA_ARGS__)
#define shmem_atomic_fetch_or(...) SHMEMI_3(AMO_BITWISE, _atomic_fetch_or, __VA_ARGS__)
#define shmem_atomic_fetch_or_nbi(...) SHMEMI_4(AMO_BITWISE, _atomic_fetch_or_nbi, __VA_ARGS__)
#define shmem_atomic_or(...) SHMEMI_3(AMO_BITWISE, _atomic_or, __VA_ARGS__)
#define shmem_atomic_fetch_xor(...) SHMEMI_3(AMO_BITWISE, _atomic_fetch_xor, __VA_ARGS__)
#define shmem_atomic_fetch_xor_nbi(...) SHMEMI_4(AMO_BITWISE, _atomic_fetch_xor_nbi, __VA_ARGS__)
#define shmem_atomic_xor(...) SHMEMI_3(AMO_BITWISE, _atomic_xor, __VA_ARGS__)

#define shmem_signal_add(...) SHMEMI_OF_5(__VA_ARGS__, shmem_ctx_signal_add, shmem_signal_add, )(__VA_ARGS__)
#define shmem_signal_set(...) SHMEMI_OF_5(__VA_ARGS__, shmem_ctx_signal_set, shmem_signal_set, )(__VA_ARGS__)

#define SHMEM_C_TYPES_SYNC(X, A, B)                                                                          \
    SHMEM_C_TYPES_AMO(X, A, B)                                                                               \
    X(short, short, A, B)                                                                                    \
    X(ushort, unsigned short, A, B)
#define shmem_wait_until(...) SHMEMI_PLAIN(SYNC, _wait_until, __VA_ARGS__)
#define shmem_wait_until_all(...) SHMEMI_PLAIN(AMO, _wait_until_all, __VA_ARGS__)
#define shmem_wait_until_any(...) SHMEMI_PLAIN(AMO, _wait_until_any, __VA_ARGS__)
#define shmem_wait_until_some(...) SHMEMI_PLAIN(AMO, _wait_until_some, __VA_ARGS__)
#define shmem_wait_until_all_vector(...) SHMEMI_PLAIN(AMO, _wait_until_all_vector, __VA_ARGS__)
#define shmem_wait_until_any_vector(...) SHMEMI_PLAIN(AMO, _wait_until_any_vector, __VA_ARGS__)
#define shmem_wait_until_some_vector(...) SHMEMI_PLAIN(AMO, _wait_until_some_vector, __VA_ARGS__)
#define shmem_test(...) SHMEMI_PLAIN(SYNC, _test, __VA_ARGS__)
#define shmem_test_all(...) SHMEMI_PLAIN(AMO, _test_all, __VA_ARGS__)
#define shmem_test_any(...) SHMEMI_PLAIN(AMO, _test_any, __VA_ARGS__)
#define shmem_test_some(...) SHMEMI_PLAIN(AMO, _test_some, __VA_ARGS__)
#define shmem_test_all_vector(...) SHMEMI_PLAIN(AMO, _test_all_vector, __VA_ARGS__)
#define shmem_test_any_vector(...) SHMEMI_PLAIN(AMO, _test_any_vector, __VA_ARGS__)
#define shmem_test_some_vector(...) SHMEMI_PLAIN(AMO, _test_some_vector, __VA_ARGS__)

#define shmem_broadcast(...) SHMEMI_TEAM(RMA, _broadcast, __VA_ARGS__)
#define shmem_collect(...) SHMEMI_TEAM(RMA, _collect, __VA_ARGS__)
#define shmem_fcollect(...) SHMEMI_TEAM(RMA, _fcollect, __VA_ARGS__)
#define shmem_alltoall(...) SHMEMI_TEAM(RMA, _alltoall, __VA_ARGS__)
#define shmem_alltoalls(...) SHMEMI_TEAM(RMA, _alltoalls, __VA_ARGS__)
#define shmem_and_reduce(...) SHMEMI_TEAM(REDUCE_BITWISE, _and_reduce, __VA_ARGS__)
#define shmem_or_reduce(...) SHMEMI_TEAM(REDUCE_BITWISE, _or_reduce, __VA_ARGS__)
#define shmem_xor_reduce(...) SHMEMI_TEAM(REDUCE_BITWISE, _xor_reduce, __VA_ARGS__)
#define shmem_max_reduce(...) SHMEMI_TEAM(RMA, _max_reduce, __VA_ARGS__)
#define shmem_min_reduce(...) SHMEMI_TEAM(RMA, _min_reduce, __VA_ARGS__)
#define shmem_sum_reduce(...) SHMEMI_TEAM(ARITHMETIC, _sum_reduce, __VA_ARGS__)
#define shmem_prod_reduce(...) SHMEMI_TEAM(ARITHMETIC, _prod_reduce, __VA_ARGS__)
#define shmem_sum_inscan(...) SHMEMI_TEAM(ARITHMETIC, _sum_inscan, __VA_ARGS__)
#define shmem_sum_exscan(...) SHMEMI_TEAM(ARITHMETIC, _sum_exscan, __VA_ARGS__)
/* One argument: a team. Four: the deprecated function over an active set. */
#define shmem_sync(...)                                                                                      \
    SHMEMI_OF_5(__VA_ARGS__, shmem_sync, shmem_sync, shmem_sync, shmem_team_sync, )(__VA_ARGS__)

/* Deprecated. */
#define shmem_cswap(...) SHMEMI_PLAIN(OLD_AMO, _cswap, __VA_ARGS__)
#define shmem_finc(...) SHMEMI_PLAIN(OLD_AMO, _finc, __VA_ARGS__)
#define shmem_inc(...) SHMEMI_PLAIN(OLD_AMO, _inc, __VA_ARGS__)
#define shmem_fadd(...) SHMEMI_PLAIN(OLD_AMO, _fadd, __VA_ARGS__)
#define shmem_add(...) SHMEMI_PLAIN(OLD_AMO, _add, __VA_ARGS__)
#define shmem_fetch(...) SHMEMI_PLAIN(OLD_AMO_EXTENDED, _fetch, __VA_ARGS__)
#define shmem_set(...) SHMEMI_PLAIN(OLD_AMO_EXTENDED, _set, __VA_ARGS__)
#define shmem_swap(...) SHMEMI_PLAIN(OLD_AMO_EXTENDED, _swap, __VA_ARGS__)

#endif
#endif
