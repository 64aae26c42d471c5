/* Deprecated names: each is today's call. Those over active sets are in active_set.c, start_pes is in setup.c. */
#include "world.h"

int _my_pe(void)
{
    return shmem_my_pe();
}

int _num_pes(void)
{
    return shmem_n_pes();
}

void *shmalloc(size_t size)
{
    return shmem_malloc(size);
}

void shfree(void *ptr)
{
    shmem_free(ptr);
}

void *shrealloc(void *ptr, size_t size)
{
    return shmem_realloc(ptr, size);
}

void *shmemalign(size_t alignment, size_t size)
{
    return shmem_align(alignment, size);
}

/* Caches are coherent. */
void shmem_clear_cache_inv(void) {}

void shmem_set_cache_inv(void) {}

void shmem_clear_cache_line_inv(void *dest)
{
    (void)dest;
}

void shmem_set_cache_line_inv(void *dest)
{
    (void)dest;
}

void shmem_udcflush(void) {}

void shmem_udcflush_line(void *dest)
{
    (void)dest;
}

void shmem_wait(long *ivar, long value)
{
    shmem_long_wait_until(ivar, SHMEM_CMP_NE, value);
}

/* in parentheses: the name is a macro too */
void(shmem_wait_until)(long *ivar, int cmp, long value)
{
    shmem_long_wait_until(ivar, cmp, value);
}

#define WAIT(NAME, T, CORE)                                                                                  \
    void shmem_##NAME##_wait(T *ivar, T value)                                                               \
    {                                                                                                        \
        shmem_##NAME##_wait_until(ivar, SHMEM_CMP_NE, value);                                                \
    }
WAIT(short, short, SHMEMX_INT16)
SHMEM_TYPES_OLD_AMO(WAIT)

#define OLD_AMO(NAME, T, CORE)                                                                               \
    T shmem_##NAME##_cswap(T *dest, T cond, T value, int pe)                                                 \
    {                                                                                                        \
        return shmem_##NAME##_atomic_compare_swap(dest, cond, value, pe);                                    \
    }                                                                                                        \
    T shmem_##NAME##_finc(T *dest, int pe)                                                                   \
    {                                                                                                        \
        return shmem_##NAME##_atomic_fetch_inc(dest, pe);                                                    \
    }                                                                                                        \
    void shmem_##NAME##_inc(T *dest, int pe)                                                                 \
    {                                                                                                        \
        shmem_##NAME##_atomic_inc(dest, pe);                                                                 \
    }                                                                                                        \
    T shmem_##NAME##_fadd(T *dest, T value, int pe)                                                          \
    {                                                                                                        \
        return shmem_##NAME##_atomic_fetch_add(dest, value, pe);                                             \
    }                                                                                                        \
    void shmem_##NAME##_add(T *dest, T value, int pe)                                                        \
    {                                                                                                        \
        shmem_##NAME##_atomic_add(dest, value, pe);                                                          \
    }
SHMEM_TYPES_OLD_AMO(OLD_AMO)

#define OLD_AMO_EXTENDED(NAME, T, CORE)                                                                      \
    T shmem_##NAME##_fetch(const T *source, int pe)                                                          \
    {                                                                                                        \
        return shmem_##NAME##_atomic_fetch(source, pe);                                                      \
    }                                                                                                        \
    void shmem_##NAME##_set(T *dest, T value, int pe)                                                        \
    {                                                                                                        \
        shmem_##NAME##_atomic_set(dest, value, pe);                                                          \
    }                                                                                                        \
    T shmem_##NAME##_swap(T *dest, T value, int pe)                                                          \
    {                                                                                                        \
        return shmem_##NAME##_atomic_swap(dest, value, pe);                                                  \
    }
SHMEM_TYPES_OLD_AMO_EXTENDED(OLD_AMO_EXTENDED)
