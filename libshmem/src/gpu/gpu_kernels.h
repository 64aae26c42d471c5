/* The library's own kernels (kernels.cu), by number. Known to transports and to the layers above. */
#ifndef SHMEMI_GPU_KERNELS_H
#define SHMEMI_GPU_KERNELS_H

#include "shmemx_types.h"
#include "transport.h"

enum shmemi_kernel {
    SHMEMI_K_ATOMIC,
    SHMEMI_K_SIGNAL,
    SHMEMI_K_SIGNAL_WAIT,
    SHMEMI_K_BARRIER,
    SHMEMI_K_BROADCAST_PACKETS,
    SHMEMI_K_EXCHANGE_PACKETS,
    SHMEMI_K_EXCHANGE,
    SHMEMI_K_FETCH,
    SHMEMI_K_COLLECT,
    SHMEMI_K_ALLTOALLS,
    SHMEMI_K_STRIDED,
    SHMEMI_K_MOE_GATHER,
    SHMEMI_K_MOE_SUM,
    SHMEMI_K_MOE_LL_DISPATCH, /* each with the one that also knows a NIC's path behind it */
    SHMEMI_K_MOE_LL_DISPATCH_FAR,
    SHMEMI_K_MOE_LL_COMBINE,
    SHMEMI_K_MOE_LL_COMBINE_FAR,
    SHMEMI_K_MOE_LAYOUT,
    SHMEMI_K_MOE_DISPATCH,     /* up to shmemi_gpu_bulk_bytes of shared memory, these four */
    SHMEMI_K_MOE_DISPATCH_FAR, /* the one before, which also knows a NIC's path */
    SHMEMI_K_MOE_COMBINE,
    SHMEMI_K_MOE_COMBINE_FAR,
    SHMEMI_K_REDUCE_PACKETS, /* + enum shmemx_type */
    SHMEMI_K_REDUCE = SHMEMI_K_REDUCE_PACKETS + SHMEMX_TYPE_COUNT,
    SHMEMI_K_REDUCE_BULK = SHMEMI_K_REDUCE + SHMEMX_TYPE_COUNT, /* needs compute capability 9.0 */
    /* + 0, 1, 2: float16, bfloat16, float32 */
    SHMEMI_K_QUANT_COLL = SHMEMI_K_REDUCE_BULK + SHMEMX_TYPE_COUNT,
    SHMEMI_K_QUANTIZE = SHMEMI_K_QUANT_COLL + 3,
    SHMEMI_K_DEQUANTIZE = SHMEMI_K_QUANTIZE + 3,
    SHMEMI_K_SCAN_PACKETS = SHMEMI_K_DEQUANTIZE + 3, /* + enum shmemx_type, no signed one */
    SHMEMI_K_SCAN = SHMEMI_K_SCAN_PACKETS + SHMEMX_TYPE_COUNT,
    SHMEMI_K_COUNT = SHMEMI_K_SCAN + SHMEMX_TYPE_COUNT
};
/* Launches one; loads its module at the first. */
int shmemi_gpu_kernel(const char *call, int kernel, unsigned blocks, unsigned threads, void **arguments,
                      void *stream);
/* With that much dynamic shared memory, up to shmemi_gpu_bulk_bytes. */
int shmemi_gpu_kernel_shared(const char *call, int kernel, unsigned blocks, unsigned threads,
                             unsigned shared_bytes, void **arguments, void *stream);
/* When the device state ends. */
void shmemi_gpu_unload_kernels(void);
/* An atomic on PE pe's copy of `dst`, an address of this PE's GPU heap, in the order of the library's stream. A fetched
 * value is there on return. */
int shmemi_gpu_atomic(const char *call, const struct shmemi_amo *a, void *dst, int pe);

#endif
