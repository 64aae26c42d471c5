/* The type tables of OpenSHMEM 1.5, section by section; each row is X(name in the function, C type, core type).
 * Everything typed in shmem.h and in libshmem/src is made from these lists and from nothing else. */
#ifndef SHMEM_TYPES_H
#define SHMEM_TYPES_H

#include "shmemx_types.h"

/* Core type of an integer C type by its size and sign. */
#define SHMEMX_INT_OF(T)                                                                                     \
    (((T) - 1 < (T)1) ? (sizeof(T) == 1   ? SHMEMX_INT8                                                      \
                         : sizeof(T) == 2 ? SHMEMX_INT16                                                     \
                         : sizeof(T) == 4 ? SHMEMX_INT32                                                     \
                                          : SHMEMX_INT64)                                                    \
                      : (sizeof(T) == 1   ? SHMEMX_UINT8                                                     \
                         : sizeof(T) == 2 ? SHMEMX_UINT16                                                    \
                         : sizeof(T) == 4 ? SHMEMX_UINT32                                                    \
                                          : SHMEMX_UINT64))

/* Standard AMO and point-to-point synchronization types (Tables 5 and 9). */
#define SHMEM_TYPES_AMO(X)                                                                                   \
    X(int, int, SHMEMX_INT_OF(int))                                                                          \
    X(long, long, SHMEMX_INT_OF(long))                                                                       \
    X(longlong, long long, SHMEMX_INT_OF(long long))                                                         \
    X(uint, unsigned int, SHMEMX_INT_OF(unsigned int))                                                       \
    X(ulong, unsigned long, SHMEMX_INT_OF(unsigned long))                                                    \
    X(ulonglong, unsigned long long, SHMEMX_INT_OF(unsigned long long))                                      \
    X(int32, int32_t, SHMEMX_INT32)                                                                          \
    X(int64, int64_t, SHMEMX_INT64)                                                                          \
    X(uint32, uint32_t, SHMEMX_UINT32)                                                                       \
    X(uint64, uint64_t, SHMEMX_UINT64)                                                                       \
    X(size, size_t, SHMEMX_INT_OF(size_t))                                                                   \
    X(ptrdiff, ptrdiff_t, SHMEMX_INT_OF(ptrdiff_t))

/* Extended AMO types (Table 6): fetch, set, swap. */
#define SHMEM_TYPES_AMO_EXTENDED(X)                                                                          \
    X(float, float, SHMEMX_FLOAT32)                                                                          \
    X(double, double, SHMEMX_FLOAT64)                                                                        \
    SHMEM_TYPES_AMO(X)

/* Bitwise AMO types (Table 7). */
#define SHMEM_TYPES_AMO_BITWISE(X)                                                                           \
    X(uint, unsigned int, SHMEMX_INT_OF(unsigned int))                                                       \
    X(ulong, unsigned long, SHMEMX_INT_OF(unsigned long))                                                    \
    X(ulonglong, unsigned long long, SHMEMX_INT_OF(unsigned long long))                                      \
    X(int32, int32_t, SHMEMX_INT32)                                                                          \
    X(int64, int64_t, SHMEMX_INT64)                                                                          \
    X(uint32, uint32_t, SHMEMX_UINT32)                                                                       \
    X(uint64, uint64_t, SHMEMX_UINT64)

/* Bitwise reductions: and, or, xor (Table 10). */
#define SHMEM_TYPES_REDUCE_BITWISE(X)                                                                        \
    X(uchar, unsigned char, SHMEMX_UINT8)                                                                    \
    X(ushort, unsigned short, SHMEMX_UINT16)                                                                 \
    X(uint, unsigned int, SHMEMX_INT_OF(unsigned int))                                                       \
    X(ulong, unsigned long, SHMEMX_INT_OF(unsigned long))                                                    \
    X(ulonglong, unsigned long long, SHMEMX_INT_OF(unsigned long long))                                      \
    X(int8, int8_t, SHMEMX_INT8)                                                                             \
    X(int16, int16_t, SHMEMX_INT16)                                                                          \
    X(int32, int32_t, SHMEMX_INT32)                                                                          \
    X(int64, int64_t, SHMEMX_INT64)                                                                          \
    X(uint8, uint8_t, SHMEMX_UINT8)                                                                          \
    X(uint16, uint16_t, SHMEMX_UINT16)                                                                       \
    X(uint32, uint32_t, SHMEMX_UINT32)                                                                       \
    X(uint64, uint64_t, SHMEMX_UINT64)                                                                       \
    X(size, size_t, SHMEMX_INT_OF(size_t))

/* Reductions max and min: the bitwise ones and these. */
#define SHMEM_TYPES_REDUCE_ORDERED(X)                                                                        \
    SHMEM_TYPES_REDUCE_BITWISE(X)                                                                            \
    X(char, char, SHMEMX_INT_OF(char))                                                                       \
    X(schar, signed char, SHMEMX_INT8)                                                                       \
    X(short, short, SHMEMX_INT16)                                                                            \
    X(int, int, SHMEMX_INT_OF(int))                                                                          \
    X(long, long, SHMEMX_INT_OF(long))                                                                       \
    X(longlong, long long, SHMEMX_INT_OF(long long))                                                         \
    X(ptrdiff, ptrdiff_t, SHMEMX_INT_OF(ptrdiff_t))                                                          \
    X(float, float, SHMEMX_FLOAT32)                                                                          \
    X(double, double, SHMEMX_FLOAT64)                                                                        \
    X(longdouble, long double, SHMEMX_LONGDOUBLE)

/* Standard RMA types (Table 3): the ordered ones. Also the types of the typed collectives. */
#define SHMEM_TYPES_RMA(X) SHMEM_TYPES_REDUCE_ORDERED(X)

/* Complex types: reductions sum and prod take them beside the ordered ones. */
#define SHMEM_TYPES_COMPLEX(X)                                                                               \
    X(complexf, float _Complex, SHMEMX_COMPLEX64)                                                            \
    X(complexd, double _Complex, SHMEMX_COMPLEX128)

/* Sized forms: X(bits). */
#define SHMEM_SIZES(X) X(8) X(16) X(32) X(64) X(128)

#endif
