/* Compiler settings of the INT8 kernels; they include it first. */

/* A product and a sum stay two roundings in every implementation, as the portable one on a machine without
 * fused multiply-add has them. GCC would fuse them by default. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

/* Before a loop over the 4 vectors of a block: keeps the block in registers at -O2, where GCC leaves the loop
 * and so the block in memory (portable dequantize_add 7.6 GB/s instead of 21). */
#if defined(__GNUC__) && !defined(__clang__)
#define INT8_UNROLL _Pragma("GCC unroll 4")
#else
#define INT8_UNROLL
#endif
