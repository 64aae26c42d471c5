/* Kernels of the scans of one type, as reduce.cu has them for the reductions. Sums of integers are the same bits, signed or
 * not, and a complex number's parts are summed apart: stream_coll.c knows which of these types stands for another. */
#include "together.cuh"
#include "elements.cuh"

using namespace shmem;

/* What ptx.py defines. */
using element = SHMEMI_ELEMENT;

extern "C" __global__ void __launch_bounds__(512)
    shmem_k_scan_packets(unsigned t, int exclusive, void *dst, const void *src, u64 nelems)
{
    const detail::members m = detail::enter(detail::grid, static_cast<team>(t), SHMEMX_DEVICE_CALL_SCAN);
    if (m.n != 0)
        detail::scan_packets<true, element>(detail::grid, m, exclusive != 0, dst, src, nelems * sizeof(element));
}

extern "C" __global__ void __launch_bounds__(512)
    shmem_k_scan(unsigned t, int exclusive, void *dst, const void *src, u64 nelems)
{
    const detail::members m = detail::find(thread, static_cast<team>(t), SHMEMX_DEVICE_CALL_SCAN);
    if (m.n == 0)
        return;
    together(m, [&] {
        detail::scan_share(detail::grid, m, exclusive != 0, static_cast<element *>(dst),
                           static_cast<const element *>(src), nelems);
    });
}
