/* put_gather_nbi (shmem_device.h): by ibgda one message for many pieces, else a put for each.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_GATHER_H
#define SHMEM_DEVICE_GATHER_H

namespace shmem
{

template <class Scope>
SHMEMX_DEVICE_FN void put_gather_nbi(const Scope &scope, void *dst, const gather_piece *pieces, size count,
                                     int pe)
{
    using namespace detail;
    u64 all = 0;
    SHMEMX_DEVICE_ROLLED
    for (size i = 0; i < count; ++i)
        all += pieces[i].bytes;
    if (!valid(scope, SHMEMX_DEVICE_CALL_PUT, dst, all, pe))
        return;
    if (far(pe) && path_to(pe) == SHMEMX_NIC_IBGDA) {
        if (arch::lane(scope) == 0)
            ibgda::gather_on(ibgda::mine(pe), offset_of(dst), pieces, count);
        return;
    }
    auto *to = static_cast<unsigned char *>(dst);
    SHMEMX_DEVICE_ROLLED
    for (size i = 0; i < count; ++i) {
        put_bytes(scope, to, pieces[i].src, pieces[i].bytes, pe, false);
        to += pieces[i].bytes;
    }
}

} // namespace shmem

#endif
