/* Element types of the untyped core. One enum serves reductions, waits, INT8 transfers and MoE. */
#ifndef SHMEMX_TYPES_H
#define SHMEMX_TYPES_H

/* Exported; the build hides everything else. */
#ifndef SHMEMX_API
#define SHMEMX_API __attribute__((visibility("default")))
#endif

/* What an element is. */
enum shmemx_type {
    SHMEMX_INT8 = 0,
    SHMEMX_INT16,
    SHMEMX_INT32,
    SHMEMX_INT64,
    SHMEMX_UINT8,
    SHMEMX_UINT16,
    SHMEMX_UINT32,
    SHMEMX_UINT64,
    SHMEMX_FLOAT16,
    SHMEMX_BFLOAT16,
    SHMEMX_FLOAT32,
    SHMEMX_FLOAT64,
    SHMEMX_LONGDOUBLE,
    SHMEMX_COMPLEX64,  /* two float32 */
    SHMEMX_COMPLEX128, /* two float64 */
    SHMEMX_TYPE_COUNT
};

#endif
