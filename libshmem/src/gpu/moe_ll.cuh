/* Low-latency dispatch and combine of MoE, for few tokens: everything travels as packets (device/packets.h), whose
 * lines say themselves that they have arrived, so that no message waits for a release (1.5 us across NVLink).
 *
 * Dispatch. A token goes once to each rank that has one of its experts. Its record is
 *     head  K words: weight << 32 | expert; the scales; filled up to whole groups of the wire
 *     data  the row: BF16, INT8 or FP8
 * in the slot of (source rank, token). Beside the records each rank gets a message of bits: which tokens have chosen which
 * of its experts. From those of all ranks the receiver knows where every row goes: expert by expert, in the order of source
 * rank and token; nothing depends on timing.
 * Combine. The rank of the experts adds a token's rows, weighted, in float, and sends one row to the token's slot at
 * its owner, which adds those in the order of the ranks.
 *
 * Reuse of a slot. Round n uses half n % 2. Every kernel that sends begins with telling all ranks the round that this
 * rank has received (a kernel before it in the stream did), and sends round n when all have received n - 2.
 * Ranks that are not mapped (`far`). What is for them goes, as the same lines, to a mirror in this PE's heap, one for all of
 * them where the message is the same; then a NIC's path puts it into the slot (device/nic.h), and behind it the round into the
 * slot's word. A NIC promises no order inside one put, so a line's round says nothing there: who receives waits for the word,
 * and reads the lines as ever. Mirrors are used as slots are, by the same rule: who has received round n - 2 has all its
 * bytes, so the NIC is done with their source.
 * Phases. Send and receive may be two launches, with whatever between them; a rank never waits in a send for anything
 * but such a word.
 *
 * Sources: rank de-duplication and pre-reduction as DeepEP's normal kernels do it, round numbers in the flags as
 * FlashInfer, lines with inline flags as NCCL's LL128. Compiled for GPUs (moe_ll.cu) and CPU threads (tests/device). */
#ifndef SHMEMI_GPU_MOE_LL_CUH
#define SHMEMI_GPU_MOE_LL_CUH

#include "moe_ll_args.h"
#include "moe_quant.cuh"

namespace shmem
{
namespace moe
{

using detail::crew;
using detail::members;
using detail::place;

template <class T> SHMEMX_DEVICE_FN T *pointer(u64 address)
{
    return reinterpret_cast<T *>(address);
}

/* The set bits of rows of bits, in order, every `step`-th of them from the `first`-th on: the tokens that came, shared out
 * among the blocks. */
class chosen_bits
{
  public:
    SHMEMX_DEVICE_FN chosen_bits(unsigned rows, unsigned words, unsigned first, unsigned step)
        : rows_(rows), words_(words), wanted_(first), step_(step)
    {
    }
    /* Finds the next; bits(row) is where a row's words begin. False: there is none. */
    template <class Bits> SHMEMX_DEVICE_FN bool next(Bits bits, unsigned &row, unsigned &bit)
    {
        SHMEMX_DEVICE_ROLLED
        for (; row_ < rows_; ++row_, word_ = 0) {
            const u32 *words = bits(row_);
            SHMEMX_DEVICE_ROLLED
            for (; word_ < words_; ++word_) {
                u32 word = words[word_];
                const unsigned here = arch::count_bits(word);
                if (before_ + here > wanted_) {
                    SHMEMX_DEVICE_ROLLED
                    for (unsigned skip = wanted_ - before_; skip != 0; --skip)
                        word &= word - 1;
                    row = row_;
                    bit = word_ * 32 + arch::lowest_bit(word);
                    wanted_ += step_;
                    return true;
                }
                before_ += here;
            }
        }
        return false;
    }

  private:
    unsigned rows_, words_, wanted_, step_, row_ = 0, word_ = 0, before_ = 0;
};

/* Where there are twice as many blocks as tokens, two blocks may share one: this block's number in each share, and how the
 * warps of a share are numbered. */
struct share {
    unsigned token, tokens; // first, and from one to the next
    unsigned part, parts;

    SHMEMX_DEVICE_FN share(unsigned n, unsigned most) : share(n, most, arch::block_index(), arch::blocks()) {}
    SHMEMX_DEVICE_FN crew warps() const
    {
        const crew c = detail::whole_crew(block);
        return crew{part * c.warps + c.mine, parts * c.warps};
    }

  private:
    SHMEMX_DEVICE_FN share(unsigned n, unsigned most, unsigned me, unsigned blocks)
        : token(me), tokens(blocks), part(0), parts(n == 0 || blocks < most * n ? 1 : most)
    {
        if (parts > 1) {
            token = me < n * parts ? me % n : n; // the last few have nothing to do
            tokens = n;
            part = me / n;
        }
    }
};

/* Which experts are whose: contiguous blocks, the first experts % ranks ranks have one more. */
struct experts_of {
    unsigned base, extra;

    SHMEMX_DEVICE_FN experts_of(unsigned experts, unsigned ranks) : base(experts / ranks), extra(experts % ranks) {}
    SHMEMX_DEVICE_FN unsigned owner(unsigned e) const // numbers are below 2^16: no division of integers
    {
        const unsigned wide = extra * (base + 1);
        return e < wide ? arch::quotient(e, base + 1) : extra + arch::quotient(e - wide, base);
    }
    SHMEMX_DEVICE_FN unsigned first(unsigned rank) const
    {
        return rank * base + (rank < extra ? rank : extra);
    }
    SHMEMX_DEVICE_FN unsigned count(unsigned rank) const
    {
        return base + (rank < extra ? 1 : 0);
    }
};

constexpr u32 no_expert = 0xffff;
constexpr u64 no_row = ~0ull;

/* ---- waits for a rank ---------------------------------------------------------------------------------------------------- */

/* Patience with one rank (or those of a mask): over when it is known to be dead, or when the deadline has passed; the
 * rank is dead from then on, for this object. */
class vigil : public detail::persistent<vigil>
{
  public:
    SHMEMX_DEVICE_FN vigil(const shmemi_moe_ll &o, u64 ranks, int blamed)
        : dead_(&pointer<shmemi_moe_ll_local>(o.local)->dead), timeout_(o.timeout_ns), ranks_(ranks), blamed_(blamed)
    {
    }

  private:
    friend detail::persistent<vigil>;
    SHMEMX_DEVICE_FN bool expired()
    {
        left_ = 64;
        start_ = look(dead_, ranks_, blamed_, timeout_, start_);
        return start_ == detail::too_late;
    }
    /* By value, so that a poll loop keeps its registers. */
    SHMEMX_DEVICE_SLOW u64 look(u64 *dead, u64 ranks, int blamed, u64 timeout, u64 start)
    {
        if ((arch::load_relaxed(dead) & ranks) != 0)
            return detail::too_late;
        const u64 now = arch::nanoseconds();
        if (start == 0)
            return now;
        if (timeout == 0 || now - start <= timeout)
            return start;
        if (blamed >= 0)
            arch::or_relaxed(dead, static_cast<u64>(1) << blamed);
        return detail::too_late;
    }

    u64 *dead_;
    u64 timeout_, ranks_;
    int blamed_;
};

/* ---- the object in a kernel --------------------------------------------------------------------------------------------- */

enum kind : unsigned { dispatching = 0, combining = 1 };

/* Messages of a kind: where their slots are in a half, bytes of one; for far ranks the first of their words, and their
 * mirrors. */
struct messages {
    u64 at, bytes;
    unsigned words;
    u64 mirrors;
};

template <bool Lines> struct ll {
    const shmemi_moe_ll &o;
    const members &all_ranks;
    const place<Lines> spot;

    SHMEMX_DEVICE_FN ll(const shmemi_moe_ll &object, const members &team) : o(object), all_ranks(team) {}
    SHMEMX_DEVICE_FN shmemi_moe_ll_local *local() const
    {
        return pointer<shmemi_moe_ll_local>(o.local);
    }
    SHMEMX_DEVICE_FN unsigned ranks() const
    {
        return static_cast<unsigned>(all_ranks.n);
    }
    SHMEMX_DEVICE_FN quantizer codec(unsigned how) const
    {
        return quantizer{how, o.hidden, o.group, o.ue8m0};
    }
    SHMEMX_DEVICE_FN messages maps() const
    {
        return messages{o.maps_at, o.maps_bytes, 0, o.maps_mirror};
    }
    SHMEMX_DEVICE_FN messages rows() const
    {
        return messages{o.rows_at, o.row_bytes, ranks(), o.rows_mirror};
    }
    SHMEMX_DEVICE_FN messages back() const
    {
        return messages{o.back_at, o.back_bytes, ranks() * (1 + o.max_tokens), o.back_mirror};
    }
    SHMEMX_DEVICE_FN messages weights() const
    {
        return messages{o.weights_at, o.weights_bytes, ranks() * (1 + 2 * o.max_tokens), o.weights_mirror};
    }
    /* Slot `number` in my memory; and in rank r's. */
    SHMEMX_DEVICE_FN unsigned char *mine(u64 round, const messages &m, unsigned number) const
    {
        return pointer<unsigned char>(o.block) + (round & 1) * o.half + m.at + number * m.bytes;
    }
    SHMEMX_DEVICE_FN unsigned char *theirs(unsigned r, u64 round, const messages &m, unsigned number) const
    {
        return detail::peer(all_ranks, static_cast<int>(r), mine(round, m, number));
    }
    SHMEMX_DEVICE_FN unsigned slot_of(unsigned rank, unsigned token) const
    {
        return rank * o.max_tokens + token;
    }
    SHMEMX_DEVICE_FN unsigned groups(unsigned bytes) const
    {
        return (bytes + spot.data - 1) / spot.data;
    }

    /* The ranks that are not dead; all threads of the block get the same, through a word of shared memory. */
    SHMEMX_DEVICE_FN u64 alive(u64 *shared) const
    {
        if (arch::lane(block) == 0)
            *shared = ~arch::load_relaxed(&local()->dead);
        arch::sync(block);
        const u64 found = *shared;
        arch::sync(block);
        return found;
    }

    /* ---- rounds ---- */

    SHMEMX_DEVICE_FN u64 sending(kind k) const
    {
        return arch::load_relaxed(&local()->sent[k]) + 1;
    }
    SHMEMX_DEVICE_FN u64 receiving(kind k) const
    {
        return arch::load_relaxed(&local()->received[k]) + 1;
    }
    /* Tells all ranks what this one has received; one warp of the launch. */
    SHMEMX_DEVICE_FN void acknowledge() const
    {
        for (unsigned r = arch::lane(warp); r < ranks(); r += arch::warp_width)
            for (unsigned k = 0; k < 2; ++k) {
                u64 *word = pointer<u64>(o.block + o.acks_at) + k * ranks() + all_ranks.me;
                const u64 round = arch::load_relaxed(&local()->received[k]);
                if (far(r)) // a signal, since those of a block stay in order
                    signal(r, word, word, 0, word, round);
                else
                    arch::store_relaxed(detail::peer(all_ranks, static_cast<int>(r), word), round);
            }
    }
    /* A warp waits until no rank needs what round `round` will overwrite. */
    SHMEMX_DEVICE_FN void await_room(kind k, u64 round) const
    {
        if (round <= 2)
            return;
        for (unsigned r = arch::lane(warp); r < ranks(); r += arch::warp_width) {
            vigil left(o, static_cast<u64>(1) << r, static_cast<int>(r));
            // acquire; observers: that rank, which has read its slots, and this one, which writes them
            while (arch::load_acquire(pointer<u64>(o.block + o.acks_at) + k * ranks() + r) + 2 < round && !left.over())
                ;
        }
    }
    /* All blocks, at the end. The one that is last counts the rounds. */
    SHMEMX_DEVICE_FN void finish(kind k, unsigned phases) const
    {
        arch::sync(block);
        if (arch::lane(block) != 0)
            return;
        shmemi_moe_ll_local *here = local();
        if (arch::fetch_add(&here->finished[k], 1u) != arch::blocks() - 1)
            return;
        arch::store_relaxed(&here->finished[k], 0u);
        if (phases & SHMEMI_MOE_LL_SEND)
            arch::store_relaxed(&here->sent[k], here->sent[k] + 1);
        if (phases & SHMEMI_MOE_LL_RECV)
            arch::store_relaxed(&here->received[k], here->received[k] + 1);
    }

    /* ---- far ranks; without any, or compiled for mapped memory alone, nothing of it is there ---- */

    SHMEMX_DEVICE_FN bool some_far() const
    {
        return detail::some_far() && o.far != 0;
    }
    SHMEMX_DEVICE_FN bool far(unsigned r) const
    {
        return detail::some_far() && (o.far >> r & 1) != 0;
    }
    /* Of these ranks those that get a message by stores of their own: one of the far ranks stands for all. */
    SHMEMX_DEVICE_FN u64 written(u64 to) const
    {
        if (!some_far())
            return to;
        const u64 there = to & o.far;
        return (to & ~there) | (there & (0 - there));
    }
    SHMEMX_DEVICE_FN unsigned char *mirror(u64 round, const messages &m, unsigned number) const
    {
        return pointer<unsigned char>(o.block) + (round & 1) * o.far_half + m.mirrors + number * m.bytes;
    }
    SHMEMX_DEVICE_FN u64 *word(u64 round, const messages &m, unsigned number) const
    {
        return pointer<u64>(o.block + (round & 1) * o.far_half + o.words_at) + m.words + number;
    }
    /* Where a message to slot `number` of rank r is stored, whose mirror would be that of number `copy`. */
    SHMEMX_DEVICE_FN unsigned char *target(unsigned r, u64 round, const messages &m, unsigned number, unsigned copy) const
    {
        return far(r) ? mirror(round, m, copy) : theirs(r, round, m, number);
    }
    /* Bytes from `src` to r's copy of `slot`, and behind them the round to that of `word`; one thread, and the block has met
     * since the bytes were written. */
    SHMEMX_DEVICE_FN void signal(unsigned r, void *slot, const void *src, u64 bytes, u64 *word, u64 round) const
    {
        detail::far_put_signal(thread, slot, src, bytes, word, round, signal_set,
                               detail::world_pe(all_ranks, static_cast<int>(r)), false);
    }
    /* A warp posts mirror `copy` to slot `number` of those of the ranks that are far. */
    SHMEMX_DEVICE_FN void post(u64 to, u64 round, const messages &m, unsigned number, unsigned copy) const
    {
        if (some_far())
            for (unsigned r = arch::lane(warp); r < ranks(); r += arch::warp_width)
                if ((to & o.far) >> r & 1)
                    signal(r, mine(round, m, number), mirror(round, m, copy), m.bytes, word(round, m, number), round);
    }
    /* A warp waits until all of a message from rank r is there, if a NIC brings it: otherwise its lines say so. False: the
     * patience ended. */
    SHMEMX_DEVICE_FN bool arrived(unsigned r, u64 round, const messages &m, unsigned number, vigil &left) const
    {
        if (!far(r))
            return true;
        bool ok = true;
        // acquire; observers: the NIC, which has written the slot before, and this warp, or its block behind a barrier
        while (arch::load_acquire(word(round, m, number)) < round && ok) {
            arch::give_way(); // a NIC takes its time
            ok = !left.over();
        }
        return arch::all(warp, ok);
    }

    /* ---- messages ---- */

    /* A record of head and row to the slot `to(r)` of each rank in `ranks`. */
    template <class To>
    SHMEMX_DEVICE_FN void send(const crew &c, const unsigned char *head, unsigned head_bytes, const unsigned char *row,
                               unsigned row_bytes, u64 to_ranks, u64 round, To to) const
    {
        const unsigned all = groups(head_bytes + row_bytes);
        SHMEMX_DEVICE_ROLLED
        for (unsigned g = c.mine; g < all; g += c.warps) {
            const unsigned begin = g * spot.data;
            const bool front = begin < head_bytes;
            const unsigned at = front ? begin : begin - head_bytes, end = front ? head_bytes : row_bytes;
            const arch::vec16 v = detail::read_words(spot, front ? head : row, at, end);
            SHMEMX_DEVICE_ROLLED
            for (u64 rest = to_ranks; rest != 0; rest &= rest - 1)
                detail::send_piece(spot, to(arch::lowest_bit(rest)) + g * static_cast<u64>(detail::wire_group) + spot.piece,
                                   at + spot.first < end, v, round);
        }
    }
    /* This lane's pieces of groups g, g + step, .. of a message of `bytes`, N at most. */
    template <unsigned N, class Patience>
    SHMEMX_DEVICE_FN bool await(arch::vec16 (&v)[N], const unsigned char *slot, unsigned g, unsigned step, unsigned bytes,
                                u64 round, Patience &left) const
    {
        const unsigned char *from[N];
        bool wanted[N];
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < N; ++i) {
            from[i] = slot + (g + i * step) * static_cast<u64>(detail::wire_group) + spot.piece;
            wanted[i] = (g + i * step) * spot.data + spot.first < bytes;
        }
        return detail::await_pieces(spot, v, from, wanted, round, left);
    }
    /* A warp receives a whole message, its first group at `slot`, to `dst` in shared memory. */
    SHMEMX_DEVICE_FN bool recv(unsigned char *dst, const unsigned char *slot, unsigned bytes, u64 round, vigil &left) const
    {
        bool ok = true;
        SHMEMX_DEVICE_ROLLED
        for (unsigned g = 0; ok && g * spot.data < bytes; ++g) {
            arch::vec16 v[1] = {};
            ok = await(v, slot, g, 1, bytes, round, left);
            if (ok)
                detail::write_words(spot, dst, g * spot.data, bytes, v[0]);
        }
        return ok;
    }
};

} // namespace moe
} // namespace shmem

#endif
