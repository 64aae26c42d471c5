/* Work queue elements of an mlx5 NIC, built in the send queue (device/mlx5.h has their format).
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_IBGDA_WQE_H
#define SHMEM_DEVICE_IBGDA_WQE_H

#include "ibgda_state.h"
#include "mlx5.h"

namespace shmem::detail
{

/* Two big-endian words of 4 bytes as they follow each other in memory. */
SHMEMX_DEVICE_FN u64 big_pair(u32 first, u32 second)
{
    return static_cast<u64>(arch::big(first)) | static_cast<u64>(arch::big(second)) << 32;
}
/* The same of words that are big-endian already. */
SHMEMX_DEVICE_FN u64 word_pair(u32 first, u32 second)
{
    return static_cast<u64>(first) | static_cast<u64>(second) << 32;
}

/* A place at a peer or here, as WQEs name it. */
struct nic_place {
    u64 address;
    u32 key; /* as it stands in a WQE */
};

/* What posting needs of a queue pair, loaded at once before anything else. */
struct queue {
    SHMEMX_DEVICE_FN explicit queue(shmemx_ibgda_qp &q)
    {
        const arch::vec16 a = arch::load_constants(&q.wq), b = arch::load_constants(&q.uar),
                          c = arch::load_constants(&q.qpn), d = arch::load_constants(&q.first_end);
        qp = &q;
        wq = a.x;
        record = a.y;
        uar = b.x;
        slots = b.y;
        qpn = static_cast<u32>(c.x);
        mask = static_cast<u32>(c.x >> 32);
        first_key = static_cast<u32>(c.y);
        first_local = static_cast<u32>(c.y >> 32);
        first_end = d.x;
        first_address = d.y;
    }
    shmemx_ibgda_qp *qp;
    u64 wq, record, uar, slots, first_end, first_address;
    u32 qpn, mask, first_key, first_local;
};

/* One WQE. Segments of 16 bytes are stored one by one, by whole stores that the compiler may not drop, change or move;
 * they go on at the ring's start where they pass its end. */
class wqe
{
  public:
    SHMEMX_DEVICE_FN wqe(const queue &q, u64 block)
        : ring_(q.wq), mask_(q.mask), block_(static_cast<u32>(block)), qpn_(q.qpn)
    {
    }
    /* flags: SHMEMX_MLX5_CE_ALWAYS, SHMEMX_MLX5_FENCE_SMALL, ..; imm: as it shall arrive. */
    SHMEMX_DEVICE_FN void control(u32 opcode, u32 ds, u32 flags, u32 opmod = 0, u32 imm = 0) const
    {
        store(0, big_pair(opmod << 24 | (block_ & 0xffffu) << 8 | opcode, qpn_ | ds),
              static_cast<u64>(flags) << 24 | static_cast<u64>(imm) << 32);
    }
    SHMEMX_DEVICE_FN void remote(const nic_place &there) const
    {
        store(1, arch::big(there.address), there.key);
    }
    SHMEMX_DEVICE_FN void data(unsigned segment, const nic_place &here, u32 bytes) const
    {
        store(segment, word_pair(arch::big(bytes), here.key), arch::big(here.address));
    }
    SHMEMX_DEVICE_FN void store(unsigned segment, u64 first, u64 second) const
    {
        arch::pair_store(at(segment), first, second);
    }
    /* Word `i` of 4 bytes, as it is, of the inline data that begins in segment 2. */
    SHMEMX_DEVICE_FN void word(unsigned i, u32 value) const
    {
        arch::store_relaxed(static_cast<u32 *>(at(2 + i / 4)) + i % 4, value);
    }

  private:
    SHMEMX_DEVICE_FN void *at(unsigned segment) const
    {
        return reinterpret_cast<void *>(ring_ + ((block_ * 4 + segment) & (mask_ * 4 + 3)) * 16ull);
    }
    u64 ring_;
    u32 mask_, block_, qpn_;
};

/* Blocks that a WQE of so many segments takes. */
constexpr SHMEMX_DEVICE_FN u32 blocks_of(u32 ds)
{
    return (ds + 3) / 4;
}
/* Segments of an RDMA write with so many bytes in it. */
constexpr SHMEMX_DEVICE_FN u32 inline_ds(u32 bytes)
{
    return 2 + (4 + bytes + 15) / 16;
}
/* What one block holds. */
constexpr u32 inline_block = 28;

/* Word `i` of `bytes` bytes at any address; what is behind the end is 0. */
SHMEMX_DEVICE_FN u32 gather_word(const void *src, u32 i, u32 bytes)
{
    const auto *p = static_cast<const unsigned char *>(src) + i * 4;
    const u32 n = bytes > i * 4 ? bytes - i * 4 : 0;
    if (n >= 4 && reinterpret_cast<u64>(p) % 4 == 0)
        return arch::load_plain(reinterpret_cast<const u32 *>(p));
    u32 v = 0;
    SHMEMX_DEVICE_ROLLED
    for (u32 k = 0; k < n && k < 4; ++k)
        v |= static_cast<u32>(arch::load_plain(p + k)) << 8 * k;
    return v;
}

/* The data of a short put, loaded before the WQE has its place. */
struct inline_words {
    static constexpr u32 most = 12; // bytes beside the length in one segment
    u32 word[3];
};
SHMEMX_DEVICE_FN inline_words load_inline(const void *src, u32 bytes)
{
    return inline_words{{gather_word(src, 0, bytes), gather_word(src, 1, bytes), gather_word(src, 2, bytes)}};
}

/* RDMA write of `bytes` bytes at src, any memory of this thread, which may change afterwards: at most
 * SHMEMX_IBGDA_MOST_INLINE. Up to inline_words::most they come from `few` instead. */
SHMEMX_DEVICE_FN void build_inline(const wqe &w, const nic_place &there, const void *src, u32 bytes,
                                   const inline_words &few, u32 flags)
{
    const u32 length = arch::big(bytes | SHMEMX_MLX5_INLINE);
    w.control(SHMEMX_MLX5_RDMA_WRITE, inline_ds(bytes), flags);
    w.remote(there);
    if (bytes <= inline_words::most) { // the usual case, one store
        w.store(2, word_pair(length, few.word[0]), word_pair(few.word[1], few.word[2]));
        return;
    }
    w.word(0, length);
    SHMEMX_DEVICE_ROLLED
    for (u32 i = 0; i * 4 < bytes; ++i)
        w.word(1 + i, gather_word(src, i, bytes));
}

/* RDMA write from registered memory. */
SHMEMX_DEVICE_FN void build_write(const wqe &w, const nic_place &there, const nic_place &here, u32 bytes,
                                  u32 flags)
{
    w.control(SHMEMX_MLX5_RDMA_WRITE, bytes == 0 ? 2 : 3, flags); // a segment of 0 bytes would mean 2^31
    w.remote(there);
    if (bytes != 0)
        w.data(2, here, bytes);
}
/* RDMA write from `count` places, part(i) each, one behind the other at the peer. */
struct gather_part {
    nic_place here;
    u32 bytes; // not 0
};
constexpr u32 most_parts = 14; // behind two segments: four blocks, as the longest inline WQE
template <class Part>
SHMEMX_DEVICE_FN void build_gather(const wqe &w, const nic_place &there, u32 count, Part part, u32 flags)
{
    w.control(SHMEMX_MLX5_RDMA_WRITE, 2 + count, flags);
    w.remote(there);
    SHMEMX_DEVICE_ROLLED
    for (u32 i = 0; i < count; ++i) {
        const gather_part p = part(i);
        w.data(2 + i, p.here, p.bytes);
    }
}
/* As build_write; consumes one receive of the peer, whose completion has `imm`. */
SHMEMX_DEVICE_FN void build_write_imm(const wqe &w, const nic_place &there, const nic_place &here, u32 bytes,
                                      u32 imm, u32 flags)
{
    w.control(SHMEMX_MLX5_RDMA_WRITE_IMM, bytes == 0 ? 2 : 3, flags, 0, arch::big(imm));
    w.remote(there);
    if (bytes != 0)
        w.data(2, here, bytes);
}
SHMEMX_DEVICE_FN void build_read(const wqe &w, const nic_place &there, const nic_place &here, u32 bytes,
                                 u32 flags)
{
    w.control(SHMEMX_MLX5_RDMA_READ, 3, flags);
    w.remote(there);
    w.data(2, here, bytes);
}
/* Does nothing, in order; with SHMEMX_MLX5_CE_ALWAYS its completion speaks for all WQEs before it. */
SHMEMX_DEVICE_FN void build_nop(const wqe &w, u32 flags)
{
    w.control(SHMEMX_MLX5_NOP, 1, flags);
}

/* ---- atomics ------------------------------------------------------------------------------------------- */

/* Whether it is done by comparing and swapping under masks, rather than by adding. */
constexpr SHMEMX_DEVICE_FN bool amo_swaps(atomic_op op)
{
    return op != amo_fetch && op != amo_add && op != amo_xor;
}
/* Segments of the WQE: those of 8 bytes that swap under masks take two blocks. */
constexpr SHMEMX_DEVICE_FN u32 amo_ds(atomic_op op, u32 size)
{
    return size == 8 && amo_swaps(op) && op != amo_compare_swap ? 5 : 4;
}

/* An atomic on `size` bytes, 4 or 8; what was there comes to `here`: of 8 bytes as a number of this machine, of 4 bytes
 * big-endian. Bits that `keep` does not have become those of `value`:
 *   set, swap  all        and  where value has 0       or  where value has 1       compare_swap  all, if equal
 * Adding: of exclusive or every bit is a field of its own, which carries nothing to the next. */
SHMEMX_DEVICE_FN void build_amo(const wqe &w, const nic_place &there, const nic_place &here, atomic_op op,
                                u32 size, u64 value, u64 cond, u32 flags)
{
    const u32 ds = amo_ds(op, size);
    const bool swaps = amo_swaps(op), compares = op == amo_compare_swap;
    const bool native = size == 8 && (compares || op == amo_fetch || op == amo_add);
    const u32 opcode = native  ? (compares ? SHMEMX_MLX5_ATOMIC_CS : SHMEMX_MLX5_ATOMIC_FA)
                       : swaps ? SHMEMX_MLX5_ATOMIC_MASKED_CS
                               : SHMEMX_MLX5_ATOMIC_MASKED_FA;
    const u32 opmod = native ? 0 : size == 4 ? SHMEMX_MLX5_OPMOD_4 : SHMEMX_MLX5_OPMOD_8;
    w.control(opcode, ds, flags, opmod);
    w.remote(there);
    if (op == amo_fetch)
        value = 0;
    const u64 mask = op == amo_and ? ~value : op == amo_or ? value : ~0ull;
    if (!swaps) {
        const u64 boundary = op == amo_xor ? ~0ull : 0;
        if (size == 4)
            w.store(2, big_pair(static_cast<u32>(value), static_cast<u32>(boundary)), 0);
        else
            w.store(2, arch::big(value), arch::big(boundary));
    } else if (size == 4) {
        w.store(2, big_pair(static_cast<u32>(value), static_cast<u32>(cond)),
                big_pair(static_cast<u32>(mask), compares ? 0xffffffffu : 0));
    } else {
        w.store(2, arch::big(value), arch::big(compares ? cond : 0));
        if (!native)
            w.store(3, arch::big(mask), 0);
    }
    w.data(ds - 1, here, size);
}

} // namespace shmem::detail

#endif
