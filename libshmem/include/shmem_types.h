/* The type tables of OpenSHMEM 1.6, section by section; each row is X(name in the function, C type, core type).
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

/* Complex types: sums, products and scans take them beside the ordered ones. _Complex is an extension in C++. */
__extension__ typedef float _Complex shmemx_complexf_t;
__extension__ typedef double _Complex shmemx_complexd_t;
#define SHMEM_TYPES_COMPLEX(X)                                                                               \
    X(complexf, shmemx_complexf_t, SHMEMX_COMPLEX64)                                                         \
    X(complexd, shmemx_complexd_t, SHMEMX_COMPLEX128)

/* Deprecated forms: reductions over active sets (to_all), and the atomics without "atomic" in their names. */
#define SHMEM_TYPES_TO_ALL_BITWISE(X)                                                                        \
    X(short, short, SHMEMX_INT16)                                                                            \
    X(int, int, SHMEMX_INT_OF(int))                                                                          \
    X(long, long, SHMEMX_INT_OF(long))                                                                       \
    X(longlong, long long, SHMEMX_INT_OF(long long))
#define SHMEM_TYPES_TO_ALL_ORDERED(X)                                                                        \
    SHMEM_TYPES_TO_ALL_BITWISE(X)                                                                            \
    X(float, float, SHMEMX_FLOAT32)                                                                          \
    X(double, double, SHMEMX_FLOAT64)                                                                        \
    X(longdouble, long double, SHMEMX_LONGDOUBLE)
#define SHMEM_TYPES_OLD_AMO(X)                                                                               \
    X(int, int, SHMEMX_INT_OF(int))                                                                          \
    X(long, long, SHMEMX_INT_OF(long))                                                                       \
    X(longlong, long long, SHMEMX_INT_OF(long long))
#define SHMEM_TYPES_OLD_AMO_EXTENDED(X)                                                                      \
    X(float, float, SHMEMX_FLOAT32)                                                                          \
    X(double, double, SHMEMX_FLOAT64)                                                                        \
    SHMEM_TYPES_OLD_AMO(X)
/* Types that wait_until and test had up to 1.4, beside today's. */
#define SHMEM_TYPES_OLD_SYNC(X)                                                                              \
    X(short, short, SHMEMX_INT16)                                                                            \
    X(ushort, unsigned short, SHMEMX_UINT16)

/* The types of C behind the lists above, each once (int64_t is long or long long), for names that serve every type:
 * X(name in the function, C type, A, B), with two arguments handed through. */
#define SHMEM_C_TYPES_AMO(X, A, B)                                                                           \
    X(int, int, A, B)                                                                                        \
    X(long, long, A, B)                                                                                      \
    X(longlong, long long, A, B)                                                                             \
    X(uint, unsigned int, A, B)                                                                              \
    X(ulong, unsigned long, A, B)                                                                            \
    X(ulonglong, unsigned long long, A, B)
#define SHMEM_C_TYPES_AMO_EXTENDED(X, A, B)                                                                  \
    SHMEM_C_TYPES_AMO(X, A, B)                                                                               \
    X(float, float, A, B)                                                                                    \
    X(double, double, A, B)
#define SHMEM_C_TYPES_AMO_BITWISE(X, A, B)                                                                   \
    X(int32, int32_t, A, B)                                                                                  \
    X(int64, int64_t, A, B)                                                                                  \
    X(uint, unsigned int, A, B)                                                                              \
    X(ulong, unsigned long, A, B)                                                                            \
    X(ulonglong, unsigned long long, A, B)
#define SHMEM_C_TYPES_REDUCE_BITWISE(X, A, B)                                                                \
    X(int8, int8_t, A, B)                                                                                    \
    X(int16, int16_t, A, B)                                                                                  \
    X(uchar, unsigned char, A, B)                                                                            \
    X(ushort, unsigned short, A, B)                                                                          \
    SHMEM_C_TYPES_AMO_BITWISE(X, A, B)
#define SHMEM_C_TYPES_RMA(X, A, B)                                                                           \
    SHMEM_C_TYPES_AMO_EXTENDED(X, A, B)                                                                      \
    X(char, char, A, B)                                                                                      \
    X(schar, signed char, A, B)                                                                              \
    X(short, short, A, B)                                                                                    \
    X(uchar, unsigned char, A, B)                                                                            \
    X(ushort, unsigned short, A, B)                                                                          \
    X(longdouble, long double, A, B)
#define SHMEM_C_TYPES_ARITHMETIC(X, A, B)                                                                    \
    SHMEM_C_TYPES_RMA(X, A, B)                                                                               \
    X(complexf, shmemx_complexf_t, A, B)                                                                     \
    X(complexd, shmemx_complexd_t, A, B)
#define SHMEM_C_TYPES_OLD_AMO(X, A, B)                                                                       \
    X(int, int, A, B)                                                                                        \
    X(long, long, A, B)                                                                                      \
    X(longlong, long long, A, B)
#define SHMEM_C_TYPES_OLD_AMO_EXTENDED(X, A, B)                                                              \
    SHMEM_C_TYPES_OLD_AMO(X, A, B)                                                                           \
    X(float, float, A, B)                                                                                    \
    X(double, double, A, B)

/* Sized forms: X(bits). */
#define SHMEM_SIZES(X) X(8) X(16) X(32) X(64) X(128)

#endif
