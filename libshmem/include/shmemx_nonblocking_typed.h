/* The nonblocking collectives by type: shmemx_TYPENAME_broadcast_nb, _collect_nb, _fcollect_nb, _alltoall_nb, _alltoalls_nb,
 * _OP_reduce_nb, _sum_inscan_nb, _sum_exscan_nb, for the types of the blocking calls; n counts elements. And one name for
 * every type: shmemx_broadcast_nb and so on, _Generic in C11, overloads in C++. Included by shmemx_nonblocking.h only. */
#ifndef SHMEMX_NONBLOCKING_TYPED_H
#define SHMEMX_NONBLOCKING_TYPED_H

#include "shmemx.h" /* enum shmemx_reduce_op */

#ifdef __cplusplus
#define SHMEMX_NAME inline
#else
#define SHMEMX_NAME static inline
#endif
/* Bytes of n elements; SIZE_MAX, which fits no heap, when that overflows. */
#define SHMEMX_BYTES(T, n) ((n) > SIZE_MAX / sizeof(T) ? SIZE_MAX : (n) * sizeof(T))

#define SHMEMX_MOVES(NAME, T, CORE)                                                                          \
    SHMEMX_NAME int shmemx_##NAME##_broadcast_nb(shmem_team_t team, T *dest, const T *source, size_t n,      \
                                                 int root, shmemx_request_t *request)                        \
    {                                                                                                        \
        return shmemx_broadcastmem_nb(team, dest, source, SHMEMX_BYTES(T, n), root, request);                \
    }                                                                                                        \
    SHMEMX_NAME int shmemx_##NAME##_collect_nb(shmem_team_t team, T *dest, const T *source, size_t n,        \
                                               shmemx_request_t *request)                                    \
    {                                                                                                        \
        return shmemx_collectmem_nb(team, dest, SIZE_MAX, source, SHMEMX_BYTES(T, n), request);              \
    }                                                                                                        \
    SHMEMX_NAME int shmemx_##NAME##_fcollect_nb(shmem_team_t team, T *dest, const T *source, size_t n,       \
                                                shmemx_request_t *request)                                   \
    {                                                                                                        \
        return shmemx_fcollectmem_nb(team, dest, source, SHMEMX_BYTES(T, n), request);                       \
    }                                                                                                        \
    SHMEMX_NAME int shmemx_##NAME##_alltoall_nb(shmem_team_t team, T *dest, const T *source, size_t n,       \
                                                shmemx_request_t *request)                                   \
    {                                                                                                        \
        return shmemx_alltoallmem_nb(team, dest, source, SHMEMX_BYTES(T, n), request);                       \
    }                                                                                                        \
    SHMEMX_NAME int shmemx_##NAME##_alltoalls_nb(shmem_team_t team, T *dest, const T *source, ptrdiff_t dst, \
                                                 ptrdiff_t sst, size_t n, shmemx_request_t *request)         \
    {                                                                                                        \
        return shmemx_alltoallsmem_nb(team, dest, source, dst, sst, sizeof(T), n, request);                  \
    }
#define SHMEMX_REDUCES(NAME, T, CORE, OPNAME, OP)                                                            \
    SHMEMX_NAME int shmemx_##NAME##_##OPNAME##_reduce_nb(shmem_team_t team, T *dest, const T *source,        \
                                                         size_t n, shmemx_request_t *request)                \
    {                                                                                                        \
        return shmemx_reduce_nb(team, OP, CORE, dest, source, n, request);                                   \
    }
#define SHMEMX_BITWISE(NAME, T, CORE)                                                                        \
    SHMEMX_REDUCES(NAME, T, CORE, and, SHMEMX_REDUCE_AND)                                                    \
    SHMEMX_REDUCES(NAME, T, CORE, or, SHMEMX_REDUCE_OR)                                                      \
    SHMEMX_REDUCES(NAME, T, CORE, xor, SHMEMX_REDUCE_XOR)
#define SHMEMX_ORDERED(NAME, T, CORE)                                                                        \
    SHMEMX_REDUCES(NAME, T, CORE, max, SHMEMX_REDUCE_MAX)                                                    \
    SHMEMX_REDUCES(NAME, T, CORE, min, SHMEMX_REDUCE_MIN)
#define SHMEMX_ARITHMETIC(NAME, T, CORE)                                                                     \
    SHMEMX_REDUCES(NAME, T, CORE, sum, SHMEMX_REDUCE_SUM)                                                    \
    SHMEMX_REDUCES(NAME, T, CORE, prod, SHMEMX_REDUCE_PROD)                                                  \
    SHMEMX_NAME int shmemx_##NAME##_sum_inscan_nb(shmem_team_t team, T *dest, const T *source, size_t n,     \
                                                  shmemx_request_t *request)                                 \
    {                                                                                                        \
        return shmemx_scan_nb(team, 0, CORE, dest, source, n, request);                                      \
    }                                                                                                        \
    SHMEMX_NAME int shmemx_##NAME##_sum_exscan_nb(shmem_team_t team, T *dest, const T *source, size_t n,     \
                                                  shmemx_request_t *request)                                 \
    {                                                                                                        \
        return shmemx_scan_nb(team, 1, CORE, dest, source, n, request);                                      \
    }
SHMEM_TYPES_RMA(SHMEMX_MOVES)
SHMEM_TYPES_REDUCE_BITWISE(SHMEMX_BITWISE)
SHMEM_TYPES_REDUCE_ORDERED(SHMEMX_ORDERED)
SHMEM_TYPES_REDUCE_ORDERED(SHMEMX_ARITHMETIC)
SHMEM_TYPES_COMPLEX(SHMEMX_ARITHMETIC)
#undef SHMEMX_ARITHMETIC
#undef SHMEMX_ORDERED
#undef SHMEMX_BITWISE
#undef SHMEMX_REDUCES
#undef SHMEMX_MOVES
#undef SHMEMX_BYTES
#undef SHMEMX_NAME

#if defined(__cplusplus)

#define SHMEMX_COLLECT(NAME, T, OP, UNUSED)                                                                  \
    inline int shmemx_##OP(shmem_team_t team, T *dest, const T *source, size_t n, shmemx_request_t *request) \
    {                                                                                                        \
        return shmemx_##NAME##_##OP(team, dest, source, n, request);                                         \
    }
#define SHMEMX_BROADCAST(NAME, T, A, B)                                                                      \
    inline int shmemx_broadcast_nb(shmem_team_t team, T *dest, const T *source, size_t n, int root,          \
                                   shmemx_request_t *request)                                                \
    {                                                                                                        \
        return shmemx_##NAME##_broadcast_nb(team, dest, source, n, root, request);                           \
    }                                                                                                        \
    inline int shmemx_alltoalls_nb(shmem_team_t team, T *dest, const T *source, ptrdiff_t dst,               \
                                   ptrdiff_t sst, size_t n, shmemx_request_t *request)                       \
    {                                                                                                        \
        return shmemx_##NAME##_alltoalls_nb(team, dest, source, dst, sst, n, request);                       \
    }
SHMEM_C_TYPES_RMA(SHMEMX_BROADCAST, , )
SHMEM_C_TYPES_RMA(SHMEMX_COLLECT, collect_nb, )
SHMEM_C_TYPES_RMA(SHMEMX_COLLECT, fcollect_nb, )
SHMEM_C_TYPES_RMA(SHMEMX_COLLECT, alltoall_nb, )
SHMEM_C_TYPES_REDUCE_BITWISE(SHMEMX_COLLECT, and_reduce_nb, )
SHMEM_C_TYPES_REDUCE_BITWISE(SHMEMX_COLLECT, or_reduce_nb, )
SHMEM_C_TYPES_REDUCE_BITWISE(SHMEMX_COLLECT, xor_reduce_nb, )
SHMEM_C_TYPES_RMA(SHMEMX_COLLECT, max_reduce_nb, )
SHMEM_C_TYPES_RMA(SHMEMX_COLLECT, min_reduce_nb, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMX_COLLECT, sum_reduce_nb, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMX_COLLECT, prod_reduce_nb, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMX_COLLECT, sum_inscan_nb, )
SHMEM_C_TYPES_ARITHMETIC(SHMEMX_COLLECT, sum_exscan_nb, )
/* std::complex, as in shmem_generic.h */
#define SHMEMX_COMPLEX(OP)                                                                                   \
    template <class C, class T = typename shmemi::complex_of<typename C::value_type>::type>                  \
    inline int shmemx_##OP(shmem_team_t team, C *dest, const C *source, size_t n, shmemx_request_t *request) \
    {                                                                                                        \
        static_assert(sizeof(C) == sizeof(T), "a complex number of two parts");                              \
        return shmemx_##OP(team, reinterpret_cast<T *>(dest), reinterpret_cast<const T *>(source), n,        \
                           request);                                                                         \
    }
SHMEMX_COMPLEX(sum_reduce_nb)
SHMEMX_COMPLEX(prod_reduce_nb)
SHMEMX_COMPLEX(sum_inscan_nb)
SHMEMX_COMPLEX(sum_exscan_nb)
#undef SHMEMX_COMPLEX
#undef SHMEMX_BROADCAST
#undef SHMEMX_COLLECT

#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L

#define SHMEMX_TEAM_NB(TYPES, OP, team, first, ...)                                                          \
    _Generic (*(first)SHMEM_C_TYPES_##TYPES(SHMEMI_CASE, shmemx_, OP))(team, first, __VA_ARGS__)
#define shmemx_broadcast_nb(...) SHMEMX_TEAM_NB(RMA, _broadcast_nb, __VA_ARGS__)
#define shmemx_collect_nb(...) SHMEMX_TEAM_NB(RMA, _collect_nb, __VA_ARGS__)
#define shmemx_fcollect_nb(...) SHMEMX_TEAM_NB(RMA, _fcollect_nb, __VA_ARGS__)
#define shmemx_alltoall_nb(...) SHMEMX_TEAM_NB(RMA, _alltoall_nb, __VA_ARGS__)
#define shmemx_alltoalls_nb(...) SHMEMX_TEAM_NB(RMA, _alltoalls_nb, __VA_ARGS__)
#define shmemx_and_reduce_nb(...) SHMEMX_TEAM_NB(REDUCE_BITWISE, _and_reduce_nb, __VA_ARGS__)
#define shmemx_or_reduce_nb(...) SHMEMX_TEAM_NB(REDUCE_BITWISE, _or_reduce_nb, __VA_ARGS__)
#define shmemx_xor_reduce_nb(...) SHMEMX_TEAM_NB(REDUCE_BITWISE, _xor_reduce_nb, __VA_ARGS__)
#define shmemx_max_reduce_nb(...) SHMEMX_TEAM_NB(RMA, _max_reduce_nb, __VA_ARGS__)
#define shmemx_min_reduce_nb(...) SHMEMX_TEAM_NB(RMA, _min_reduce_nb, __VA_ARGS__)
#define shmemx_sum_reduce_nb(...) SHMEMX_TEAM_NB(ARITHMETIC, _sum_reduce_nb, __VA_ARGS__)
#define shmemx_prod_reduce_nb(...) SHMEMX_TEAM_NB(ARITHMETIC, _prod_reduce_nb, __VA_ARGS__)
#define shmemx_sum_inscan_nb(...) SHMEMX_TEAM_NB(ARITHMETIC, _sum_inscan_nb, __VA_ARGS__)
#define shmemx_sum_exscan_nb(...) SHMEMX_TEAM_NB(ARITHMETIC, _sum_exscan_nb, __VA_ARGS__)

#endif
#endif
