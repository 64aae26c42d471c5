/* Kernels of the quantized collectives and of the codec alone, of one type of elements: libshmem/tools/ptx.py compiles this
 * file once for each, twice: with the conversions of FP8 that sm_90 has, and without. */
#include "quant_coll.cuh"
#include "quant_rows.cuh"

using namespace shmem;

/* What ptx.py defines. */
using element = SHMEMI_ELEMENT;

extern __shared__ __align__(128) unsigned char shared_memory[];

extern "C" __global__ void __launch_bounds__(SHMEMI_QUANT_GPU_WARPS * 32, 1)
    shmem_k_quant_coll(const __grid_constant__ shmemi_quant_coll a)
{
    quantized::collective<element>(a, shared_memory);
}

extern "C" __global__ void __launch_bounds__(quantized::rows_warps * 32, quantized::rows_blocks)
    shmem_k_quantize(const __grid_constant__ shmemi_quant_rows a)
{
    quantized::quantize_rows<element>(a);
}

extern "C" __global__ void __launch_bounds__(quantized::rows_warps * 32, quantized::rows_blocks)
    shmem_k_dequantize(const __grid_constant__ shmemi_quant_rows a)
{
    quantized::dequantize_rows<element>(a);
}
