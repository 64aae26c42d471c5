/* The additions of OpenSHMEM 1.6 under the shmemx_ names that other libraries had them by, before they were standard: programs
 * written for those compile unchanged. Included by shmemx.h only. Each is the standard's call of the same name. */
#ifndef SHMEMX_NAMES_H
#define SHMEMX_NAMES_H

#ifdef __cplusplus
#define SHMEMX_NAME inline
#else
#define SHMEMX_NAME static inline
#endif

SHMEMX_NAME void shmemx_query_initialized(int *initialized)
{
    shmem_query_initialized(initialized);
}
SHMEMX_NAME void *shmemx_team_ptr(shmem_team_t team, const void *dest, int pe)
{
    return shmem_team_ptr(team, dest, pe);
}
SHMEMX_NAME void shmemx_pe_quiet(const int *target_pes, size_t npes)
{
    shmem_pe_quiet(target_pes, npes);
}
SHMEMX_NAME void shmemx_ctx_pe_quiet(shmem_ctx_t ctx, const int *target_pes, size_t npes)
{
    shmem_ctx_pe_quiet(ctx, target_pes, npes);
}
SHMEMX_NAME void shmemx_signal_add(uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmem_signal_add(sig_addr, signal, pe);
}
SHMEMX_NAME void shmemx_signal_set(uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmem_signal_set(sig_addr, signal, pe);
}
SHMEMX_NAME void shmemx_ctx_signal_add(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmem_ctx_signal_add(ctx, sig_addr, signal, pe);
}
SHMEMX_NAME void shmemx_ctx_signal_set(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmem_ctx_signal_set(ctx, sig_addr, signal, pe);
}
typedef shmem_ctx_session_config_t shmemx_session_config_t;
enum {
    SHMEMX_SESSION_BATCH = SHMEM_CTX_SESSION_BATCH,
    SHMEMX_SESSION_SAME_AMO = SHMEM_CTX_SESSION_SAME_AMO,
    SHMEMX_SESSION_TOTAL_OPS = SHMEM_CTX_SESSION_TOTAL_OPS
};
SHMEMX_NAME void shmemx_session_start(shmem_ctx_t ctx, long options, const shmem_ctx_session_config_t *config,
                                      long config_mask)
{
    shmem_ctx_session_start(ctx, options, config, config_mask);
}
SHMEMX_NAME void shmemx_session_stop(shmem_ctx_t ctx)
{
    shmem_ctx_session_stop(ctx);
}

/* BEFORE and AFTER: what stands around ibput in the name. */
#define SHMEMX_BLOCKS(BEFORE, AFTER, P, CP)                                                                  \
    SHMEMX_NAME void shmemx_##BEFORE##ibput##AFTER(P dest, CP source, ptrdiff_t dst, ptrdiff_t sst,          \
                                                   size_t bsize, size_t nblocks, int pe)                     \
    {                                                                                                        \
        shmem_##BEFORE##ibput##AFTER(dest, source, dst, sst, bsize, nblocks, pe);                            \
    }                                                                                                        \
    SHMEMX_NAME void shmemx_##BEFORE##ibget##AFTER(P dest, CP source, ptrdiff_t dst, ptrdiff_t sst,          \
                                                   size_t bsize, size_t nblocks, int pe)                     \
    {                                                                                                        \
        shmem_##BEFORE##ibget##AFTER(dest, source, dst, sst, bsize, nblocks, pe);                            \
    }                                                                                                        \
    SHMEMX_NAME void shmemx_ctx_##BEFORE##ibput##AFTER(shmem_ctx_t ctx, P dest, CP source, ptrdiff_t dst,    \
                                                       ptrdiff_t sst, size_t bsize, size_t nblocks, int pe)  \
    {                                                                                                        \
        shmem_ctx_##BEFORE##ibput##AFTER(ctx, dest, source, dst, sst, bsize, nblocks, pe);                   \
    }                                                                                                        \
    SHMEMX_NAME void shmemx_ctx_##BEFORE##ibget##AFTER(shmem_ctx_t ctx, P dest, CP source, ptrdiff_t dst,    \
                                                       ptrdiff_t sst, size_t bsize, size_t nblocks, int pe)  \
    {                                                                                                        \
        shmem_ctx_##BEFORE##ibget##AFTER(ctx, dest, source, dst, sst, bsize, nblocks, pe);                   \
    }
#define SHMEMX_TYPED(NAME, T, CORE) SHMEMX_BLOCKS(NAME##_, , T *, const T *)
#define SHMEMX_SIZED(BITS) SHMEMX_BLOCKS(, BITS, void *, const void *)
SHMEM_TYPES_RMA(SHMEMX_TYPED)
SHMEM_SIZES(SHMEMX_SIZED)
#undef SHMEMX_SIZED
#undef SHMEMX_TYPED
#undef SHMEMX_BLOCKS

#define SHMEMX_SCAN(NAME, T, CORE)                                                                           \
    SHMEMX_NAME int shmemx_##NAME##_sum_inscan(shmem_team_t team, T *dest, const T *source, size_t n)        \
    {                                                                                                        \
        return shmem_##NAME##_sum_inscan(team, dest, source, n);                                             \
    }                                                                                                        \
    SHMEMX_NAME int shmemx_##NAME##_sum_exscan(shmem_team_t team, T *dest, const T *source, size_t n)        \
    {                                                                                                        \
        return shmem_##NAME##_sum_exscan(team, dest, source, n);                                             \
    }
SHMEM_TYPES_REDUCE_ORDERED(SHMEMX_SCAN)
SHMEM_TYPES_COMPLEX(SHMEMX_SCAN)
#undef SHMEMX_SCAN
#undef SHMEMX_NAME

/* One name for every type. shmemx_ibput and _ibget with nine arguments are this library's own (shmemx.h). */
#if defined(__cplusplus)
template <class T>
inline void shmemx_ibput(T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst, size_t bsize, size_t nblocks,
                         int pe)
{
    shmem_ibput(dest, source, dst, sst, bsize, nblocks, pe);
}
template <class T>
inline void shmemx_ibput(shmem_ctx_t ctx, T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst,
                         size_t bsize, size_t nblocks, int pe)
{
    shmem_ibput(ctx, dest, source, dst, sst, bsize, nblocks, pe);
}
template <class T>
inline void shmemx_ibget(T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst, size_t bsize, size_t nblocks,
                         int pe)
{
    shmem_ibget(dest, source, dst, sst, bsize, nblocks, pe);
}
template <class T>
inline void shmemx_ibget(shmem_ctx_t ctx, T *dest, const T *source, ptrdiff_t dst, ptrdiff_t sst,
                         size_t bsize, size_t nblocks, int pe)
{
    shmem_ibget(ctx, dest, source, dst, sst, bsize, nblocks, pe);
}
template <class T> inline int shmemx_sum_inscan(shmem_team_t team, T *dest, const T *source, size_t n)
{
    return shmem_sum_inscan(team, dest, source, n);
}
template <class T> inline int shmemx_sum_exscan(shmem_team_t team, T *dest, const T *source, size_t n)
{
    return shmem_sum_exscan(team, dest, source, n);
}
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define SHMEMX_OF_10(a, b, c, d, e, f, g, h, i, j, ...) j
#define SHMEMX_IBPUT(...) shmem_ibput(__VA_ARGS__)
#define SHMEMX_IBGET(...) shmem_ibget(__VA_ARGS__)
#define shmemx_ibput(...) SHMEMX_OF_10(__VA_ARGS__, shmemx_ibput, SHMEMX_IBPUT, SHMEMX_IBPUT, )(__VA_ARGS__)
#define shmemx_ibget(...) SHMEMX_OF_10(__VA_ARGS__, shmemx_ibget, SHMEMX_IBGET, SHMEMX_IBGET, )(__VA_ARGS__)
#define shmemx_sum_inscan(...) shmem_sum_inscan(__VA_ARGS__)
#define shmemx_sum_exscan(...) shmem_sum_exscan(__VA_ARGS__)
#endif

#endif
