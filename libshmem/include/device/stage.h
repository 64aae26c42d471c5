/* The stage's layout: 8 completion words of the copy engine, the word of their phases at byte 64, slots from
 * 128 on.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_STAGE_H
#define SHMEM_DEVICE_STAGE_H

namespace shmem
{

/* Four slots keep three loads in flight while one chunk is stored; above 128 KiB more slots of 32 KiB, eight
 * at most (chunks of 16 to 32 KiB reached the link's rate from 8 SMs on H100). */
SHMEMX_DEVICE_FN stage::stage(void *memory, unsigned bytes, int)
    : memory_(static_cast<unsigned char *>(memory))
{
    const unsigned room = bytes > 128 ? bytes - 128 : 0;
    slots_ = room / 32768 < 4 ? 4 : room / 32768 > 8 ? 8 : room / 32768;
    chunk_ = room / slots_ / 128 * 128;
}

SHMEMX_DEVICE_FN stage::stage(void *memory, unsigned bytes) : stage(memory, bytes, 0)
{
    if (usable() && arch::lane(block) == 0) {
        arch::bulk_open(reinterpret_cast<u64 *>(memory_), slots_);
        *reinterpret_cast<unsigned *>(memory_ + 64) = 0;
    }
    arch::sync(block);
}

SHMEMX_DEVICE_FN void stage::engine(unsigned char *dst, const unsigned char *src, u64 bytes) const
{
    auto *phases = reinterpret_cast<unsigned *>(memory_ + 64);
    unsigned now = *phases;
    arch::bulk_copy(dst, src, bytes, memory_ + 128, chunk_, slots_, reinterpret_cast<u64 *>(memory_), now);
    *phases = now;
}

} // namespace shmem

#endif
