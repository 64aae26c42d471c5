/* Quantized collectives on GPU memory. Also compiled for CPU threads (tests/device/test_quant.cpp).
 *
 * Every warp of the launch is a worker by itself: worker w of a PE works with worker w of every other PE and with nobody
 * else. There is no barrier inside a block and no fence anywhere: a message is a piece of a record, 1024 codes and their
 * scales, and goes as packets (device/packets.h), whose lines say themselves that they have arrived. So all that a
 * worker waits for is hidden behind the others of its SM, and a small vector takes one trip for each step.
 *
 * An allreduce in two shots takes n records at a time, one for each member to add up: the worker quantizes its elements of
 * the others' records and sends them; adds up its own one, of which its own elements were never quantized, in float32 and
 * in the order of the members; quantizes the sum and sends it to all; and unpacks what the others have added up.
 * All others take a record, or one for each member, at a time: quantize, send, receive.
 *
 * When a slot may be written again:
 *   between calls: a call begins with everybody's word that its stream has come here, so that all its earlier calls have
 *     ended. Rounds count calls of two PEs with each other, whatever the teams: they never repeat.
 *   two shots, step k: member j has taken what I sent in k - 1, since it answered with its sum, which I have; and j has
 *     taken my sum of k - 1, since it came to send me step k, which I have before I send a sum.
 *   one step: two regions in turn. j came to send me step k - 1, which I have, so it had ended step k - 2.
 *   broadcast: the root's pieces as in two shots; what members pass on as in one step. */
#ifndef SHMEMI_GPU_QUANT_COLL_CUH
#define SHMEMI_GPU_QUANT_COLL_CUH

#include "quant_args.h"
#include "shmem_device.h"

namespace shmem
{
namespace quantized
{

/* Bytes of codes in a message. */
constexpr unsigned piece_bytes = SHMEMI_QUANT_GPU_PIECE;

using codec::floats;
using codec::lane_words;
using codec::word_of;

/* What the shared memory of a block holds: calls so far and world numbers by member, then two pieces for each warp. */
constexpr unsigned most = SHMEMI_QUANT_GPU_MEMBERS, head_bytes = most * (8 + 4);
constexpr unsigned warp_bytes = 2 * SHMEMI_QUANT_GPU_MESSAGE;

/* A part of a vector: `count` elements at p; their error feedback at r, or null. */
struct part {
    u8 *p;
    float *r;
    unsigned count;
};

template <class E, bool Lines> class worker
{
  public:
    SHMEMX_DEVICE_FN worker(const shmemi_quant_coll &args, const detail::members &team, u8 *shared)
        : a(args), m(team), counts(reinterpret_cast<const u64 *>(shared)),
          pes(reinterpret_cast<const u32 *>(shared + most * 8)), own(shared + head_bytes + detail::warp_index(block) * warp_bytes), got(own + SHMEMI_QUANT_GPU_MESSAGE),
          number(arch::block_index() * detail::warp_count(block) + detail::warp_index(block)),
          raw(args.format == SHMEMI_QUANT_GPU_RAW),
          how{args.format == SHMEMI_QUANT_GPU_E4M3, args.group, false},
          bytes(raw ? piece_bytes : (piece_bytes + how.scales() * 4 + 7) & ~7u),
          elements(raw ? piece_bytes / E::bytes : codec::piece)
    {
    }

    /* All that this worker has to do. */
    SHMEMX_DEVICE_FN void run()
    {
        const u64 records = (a.nelems + a.record - 1) / a.record, n = static_cast<u64>(m.n);
        const u64 units = is_shared() ? (records + n - 1) / n : records;
        // what is given to others, what concerns this member itself, what is taken: one after the other
        const bool gives = a.kind == SHMEMI_QUANT_GPU_TWO_SHOT || by_owner() ||
                           (a.kind == SHMEMI_QUANT_GPU_BROADCAST && m.me == static_cast<int>(a.root));
        const bool takes = a.kind != SHMEMI_QUANT_GPU_ONE_SHOT && a.kind != SHMEMI_QUANT_GPU_REDUCE_SCATTER;
        const int first = gives ? 1 : m.n, last = takes ? 2 * m.n : m.n + 1;
        SHMEMX_DEVICE_ROLLED
        for (u64 u = number < a.workers ? number : units; ok && u < units; u += a.workers, ++step) {
            SHMEMX_DEVICE_ROLLED
            for (int k = first; ok && k < last; ++k)
                record(u, k);
        }
    }

  private:
    static constexpr unsigned groups =
        (SHMEMI_QUANT_GPU_MESSAGE + detail::place<Lines>::data - 1) / detail::place<Lines>::data;
    using parcel = arch::vec16[groups];

    const shmemi_quant_coll &a;
    const detail::members &m;
    const u64 *counts;
    const u32 *pes;
    u8 *own, *got;
    const unsigned number;
    const bool raw;
    const codec::form how;
    const unsigned bytes, elements; // of a message
    const detail::place<Lines> me{};
    unsigned step = 0;
    bool ok = true;

    /* ---- places ------------------------------------------------------------------------------------------- */

    SHMEMX_DEVICE_FN int member(int k) const // the next one first, so that not all send to one at once
    {
        return m.me + k < m.n ? m.me + k : m.me + k - m.n;
    }
    SHMEMX_DEVICE_FN u8 *slot(int receiver, unsigned region, int sender, unsigned p) const
    {
        const u64 index = static_cast<u64>(number * a.regions + region) * a.pieces + p;
        const u64 at = a.stage + SHMEMI_QUANT_GPU_SLOTS(static_cast<unsigned>(arch::state().npes)) +
                       pes[sender] * a.area + index * a.slot;
        return detail::area<u8>(m, receiver, at);
    }
    SHMEMX_DEVICE_FN u64 round(int j) const
    {
        return counts[j] << SHMEMI_QUANT_GPU_STEP_BITS | (step + 1);
    }
    /* Piece p of record r of the vector at `base`; of the residual's as well. */
    SHMEMX_DEVICE_FN part part_of(u64 base, u64 residual, u64 r, unsigned p) const
    {
        const u64 at = r * a.record + p * elements;
        const u64 end = (r + 1) * a.record < a.nelems ? (r + 1) * a.record : a.nelems;
        const u64 left = at < end ? end - at : 0;
        return part{reinterpret_cast<u8 *>(base + at * E::bytes),
                    residual != 0 ? reinterpret_cast<float *>(residual + at * 4) : nullptr,
                    left < elements ? static_cast<unsigned>(left) : elements};
    }
    SHMEMX_DEVICE_FN u64 block_at(u64 base, int j, unsigned each) const // block j of a vector of n
    {
        return base == 0 ? 0 : base + static_cast<u64>(j) * a.nelems * each;
    }

    /* ---- elements ----------------------------------------------------------------------------------------- */

    SHMEMX_DEVICE_FN bool here(unsigned i) const // words of a piece of fewer elements
    {
        return word_of(i) * 8 < elements;
    }
    SHMEMX_DEVICE_FN void load(const part &x, floats &f) const
    {
        codec::load_piece<E>(x.p, x.count, f);
        if (x.r != nullptr) {
            floats rest;
            codec::load_piece<codec::float32>(reinterpret_cast<const u8 *>(x.r), x.count, rest);
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < lane_words; ++i)
                SHMEMX_DEVICE_UNROLL
                for (unsigned k = 0; k < 8; ++k)
                    f[i][k] = codec::total(f[i][k], rest[i][k]);
        }
    }
    SHMEMX_DEVICE_FN void store(const part &x, const floats &f) const
    {
        codec::store_piece<E>(x.p, x.count, f);
    }
    /* The elements of this lane's word i of a message in shared memory. */
    SHMEMX_DEVICE_FN void decode_word(const u8 *from, unsigned i, float (&f)[8]) const
    {
        const unsigned w = word_of(i);
        if (!raw) {
            const u8 *scale = from + piece_bytes + how.group_of(w) * 4;
            codec::unpack(how.e4m3, arch::load_plain(reinterpret_cast<const u64 *>(from + w * 8)),
                          codec::float32::load(scale), f);
        } else if (here(i)) {
            E::load_eight(from + w * 8 * E::bytes, f);
        } else {
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < 8; ++k)
                f[k] = 0;
        }
    }
    /* f += message, or = the first. */
    SHMEMX_DEVICE_FN void add(const u8 *from, floats &f, bool first) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i) {
            float term[8];
            decode_word(from, i, term);
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < 8; ++k)
                f[i][k] = first ? term[k] : codec::total(f[i][k], term[k]);
        }
    }
    SHMEMX_DEVICE_FN void add(const floats &term, floats &f, bool first) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < 8; ++k)
                f[i][k] = first ? term[i][k] : codec::total(f[i][k], term[i][k]);
    }
    SHMEMX_DEVICE_FN void scale(floats &f) const
    {
        if (a.factor != 1.0f) {
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < lane_words; ++i)
                SHMEMX_DEVICE_UNROLL
                for (unsigned k = 0; k < 8; ++k)
                    f[i][k] = codec::product(f[i][k], a.factor);
        }
    }
    SHMEMX_DEVICE_FN void look(const part &x, bool finite) const
    {
        if (a.strict != 0 && !finite)
            detail::report(SHMEMX_DEVICE_DATA, SHMEMX_DEVICE_CALL_QUANT, -1, x.p, x.count, 0);
    }
    /* f as a message in `own`; error feedback of what it leaves out, over `factor`. */
    SHMEMX_DEVICE_FN void encode(const part &x, floats &f, u32 whole, float factor)
    {
        arch::sync(warp); // all lanes have read what was there
        if (raw) {
            look(x, codec::all_finite(f));
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < lane_words; ++i)
                if (here(i))
                    E::store_eight(own + word_of(i) * 8 * E::bytes, f[i]);
        } else {
            codec::words w;
            float scales[lane_words];
            look(x, codec::quantize_piece(how, f, whole, w, scales));
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < lane_words; ++i) {
                const unsigned word = word_of(i);
                arch::store_plain(reinterpret_cast<u64 *>(own + word * 8), w[i]);
                if (how.leads(word))
                    codec::float32::store(own + piece_bytes + how.group_of(word) * 4, scales[i]);
            }
        }
        arch::sync(warp); // and now read what others have written
        if (x.r == nullptr)
            return;
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i) {
            float back[8];
            decode_word(own, i, back);
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < 8; ++k) {
                const float rest = codec::total(f[i][k], -back[k]);
                f[i][k] = factor == 1.0f ? rest : rest / factor;
            }
        }
        codec::store_piece<codec::float32>(reinterpret_cast<u8 *>(x.r), x.count, f);
    }

    /* ---- messages ----------------------------------------------------------------------------------------- */

    SHMEMX_DEVICE_FN bool inside(unsigned g) const
    {
        return g * me.data + me.first < bytes;
    }
    SHMEMX_DEVICE_FN void read(const u8 *from, parcel &v) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned g = 0; g < groups; ++g)
            v[g] = inside(g) ? detail::read_words(me, from, g * me.data, bytes) : arch::make_vec16(0, 0);
    }
    SHMEMX_DEVICE_FN void send(int j, unsigned region, unsigned p, const parcel &v) const
    {
        u8 *to = slot(j, region, m.me, p) + me.piece;
        const u64 r = round(j);
        SHMEMX_DEVICE_UNROLL
        for (unsigned g = 0; g < groups; ++g)
            detail::send_piece(me, to + g * detail::wire_group, inside(g), v[g], r);
    }
    /* A message in shared memory goes to members me + first .. me + last - 1. */
    SHMEMX_DEVICE_FN void send_to(int first, int last, unsigned region, unsigned p, const u8 *from) const
    {
        parcel v;
        read(from, v);
        SHMEMX_DEVICE_ROLLED
        for (int k = first; k < last; ++k)
            send(member(k), region, p, v);
    }
    /* Member j's message in `got`. */
    SHMEMX_DEVICE_FN bool receive(int j, unsigned region, unsigned p)
    {
        const u8 *const base = slot(m.me, region, j, p) + me.piece;
        const u8 *from[groups];
        bool wanted[groups];
        parcel v = {};
        SHMEMX_DEVICE_UNROLL
        for (unsigned g = 0; g < groups; ++g) {
            from[g] = base + g * detail::wire_group;
            wanted[g] = inside(g);
        }
        detail::patience left;
        if (!detail::await_pieces(me, v, from, wanted, round(j), left)) {
            if (arch::lane(warp) == 0)
                detail::report(SHMEMX_DEVICE_TIMEOUT, SHMEMX_DEVICE_CALL_QUANT, static_cast<int>(pes[j]), base, 0,
                               round(j));
            ok = false;
            return false;
        }
        arch::sync(warp); // all lanes have read what was there
        SHMEMX_DEVICE_UNROLL
        for (unsigned g = 0; g < groups; ++g)
            if (wanted[g])
                detail::write_words(me, got, g * me.data, bytes, v[g]);
        arch::sync(warp);
        return true;
    }

    /* ---- records ------------------------------------------------------------------------------------------ */

    SHMEMX_DEVICE_FN bool one_scale() const
    {
        return !raw && a.group == 0;
    }
    /* A record is dealt out among the members, n at a time; else each has blocks of its own. */
    SHMEMX_DEVICE_FN bool is_shared() const
    {
        return a.kind == SHMEMI_QUANT_GPU_TWO_SHOT || a.kind == SHMEMI_QUANT_GPU_BROADCAST;
    }
    /* Block j of the source goes to member j. */
    SHMEMX_DEVICE_FN bool by_owner() const
    {
        return a.kind == SHMEMI_QUANT_GPU_REDUCE_SCATTER || a.kind == SHMEMI_QUANT_GPU_ALLTOALL;
    }
    /* f = the sum of piece p over members lo .. hi - 1, in their order. This member's elements are x, or with `again` what
     * `own` holds. */
    SHMEMX_DEVICE_FN bool sum(floats &f, int lo, int hi, unsigned region, unsigned p, const part &x, bool again)
    {
        SHMEMX_DEVICE_ROLLED
        for (int j = lo; j < hi; ++j) {
            if (j == m.me && !again) {
                floats mine;
                load(x, mine);
                add(mine, f, j == lo);
                continue;
            }
            if (j != m.me && !receive(j, region, p))
                return false;
            add(j == m.me ? own : got, f, j == lo);
        }
        return true;
    }

    /* Unit u, k-th of what there is to do: k < n gives member(k) its record; n is the own record, which is added up,
     * shown to all, or passed on; above, member(k - n)'s is taken. One text for all collectives, because the driver
     * compiles what stands here. */
    SHMEMX_DEVICE_FN void record(u64 u, int k)
    {
        const bool giving = k < m.n, taking = k > m.n, one_shot = a.kind == SHMEMI_QUANT_GPU_ONE_SHOT;
        const int j = giving ? member(k) : taking ? member(k - m.n) : m.me, root = static_cast<int>(a.root);
        const u64 r = is_shared() ? u * static_cast<u64>(m.n) + static_cast<u64>(j) : u;
        const bool gathers = a.kind == SHMEMI_QUANT_GPU_ALLGATHER || a.kind == SHMEMI_QUANT_GPU_ALLTOALL;
        const u64 source = by_owner() ? block_at(a.source, j, E::bytes) : a.source;
        const u64 residual = by_owner() ? block_at(a.residual, j, 4) : a.residual;
        const u64 dest = gathers ? block_at(a.dest, j, E::bytes) : a.dest;
        const unsigned turn = step & 1;
        const unsigned in = is_shared() ? 0 : turn;
        const unsigned out = a.kind == SHMEMI_QUANT_GPU_TWO_SHOT ? 1 : a.kind == SHMEMI_QUANT_GPU_BROADCAST ? 1 + turn : turn;

        const bool mine = !giving && !taking, shows = mine && !by_owner();
        const bool passes_on = mine && a.kind == SHMEMI_QUANT_GPU_BROADCAST && m.me != root;
        const bool packs = giving || (shows && !passes_on);
        const bool adds = mine && (a.kind == SHMEMI_QUANT_GPU_TWO_SHOT || a.kind == SHMEMI_QUANT_GPU_REDUCE_SCATTER);
        // whose elements are wanted, and where from
        const int lo = adds ? 0 : taking ? j : passes_on ? root : m.me, hi = adds ? m.n : lo + 1;
        u32 whole = 0;
        SHMEMX_DEVICE_ROLLED
        for (unsigned pass = packs && one_scale() ? 0 : 1; pass < 2; ++pass) { // first the largest magnitude
            SHMEMX_DEVICE_ROLLED
            for (unsigned p = 0; p < a.pieces; ++p) {
                const part x = part_of(source, residual, r, p), to = part_of(dest, 0, r, p);
                floats f = {};
                SHMEMX_DEVICE_ROLLED
                for (unsigned again = 0; again < 2; ++again) { // what has been packed is read as the others see it
                    const bool all = again != 0 && one_shot;
                    if (!sum(f, all ? 0 : again != 0 ? m.me : lo, all ? m.n : again != 0 ? m.me + 1 : hi,
                             taking ? out : in, p, x, again != 0))
                        return;
                    if (all || (again == 0 && adds))
                        scale(f);
                    if (again != 0 || pass == 0)
                        break;
                    if (packs)
                        encode(x, f, whole, adds ? a.factor : 1.0f);
                    if (giving || shows)
                        send_to(giving ? k : 1, giving ? k + 1 : m.n, giving ? in : out, p, packs ? own : got);
                    if (!packs || giving)
                        break;
                }
                if (pass == 0)
                    whole = codec::larger(whole, codec::magnitude_of_piece(f));
                else if (!giving)
                    keep(to, f, x, adds && !packs, one_shot || (adds && !packs));
            }
            if (pass == 0)
                whole = codec::largest_of_warp(whole);
        }
    }
    /* Stores a result. */
    SHMEMX_DEVICE_FN void keep(const part &to, const floats &f, const part &x, bool exact, bool look_at) const
    {
        if (look_at)
            look(to, codec::all_finite(f));
        store(to, f);
        if (exact && x.r != nullptr) { // nothing of it was left out
            arch::sync(warp);          // all lanes have read it
            SHMEMX_DEVICE_ROLLED
            for (unsigned i = arch::lane(warp); i < x.count; i += arch::warp_width)
                x.r[i] = 0;
        }
    }
};

/* This PE's own words at the head of the stage. */
SHMEMX_DEVICE_FN u64 *head(const shmemi_quant_coll &a, u64 at)
{
    return detail::own_area<u64>(a.stage + at);
}
/* How a PE begins its call number `count` with another one. */
SHMEMX_DEVICE_FN u64 beginning(const shmemi_quant_coll &a, u64 count)
{
    return count << 32 | a.signature;
}

/* Tells all members that this PE has come, and how; every warp waits until all have. False: one has not, or makes another
 * call, which is reported. */
SHMEMX_DEVICE_FN bool begin(const shmemi_quant_coll &a, const detail::members &m, u8 *shared)
{
    auto *counts = reinterpret_cast<u64 *>(shared);
    auto *pes = reinterpret_cast<u32 *>(shared + most * 8);
    const auto npes = static_cast<unsigned>(arch::state().npes);
    const auto n = static_cast<unsigned>(m.n);
    for (unsigned j = arch::lane(block); j < n; j += arch::width(block)) {
        const int pe = detail::world_pe(m, static_cast<int>(j));
        const u64 count = arch::load_relaxed(head(a, SHMEMI_QUANT_GPU_COUNTS) + pe) + 1;
        counts[j] = count;
        pes[j] = static_cast<u32>(pe);
        if (arch::block_index() == 0 && static_cast<int>(j) != m.me)
            // relaxed: all that this PE's stream held before this launch is complete
            arch::store_relaxed(detail::area<u64>(m, static_cast<int>(j), a.stage + SHMEMI_QUANT_GPU_ARRIVALS(npes)) +
                                    arch::state().me,
                                beginning(a, count));
    }
    arch::sync(block);
    bool ok = true;
    for (unsigned j = arch::lane(warp); j < n; j += arch::warp_width) {
        if (static_cast<int>(j) == m.me)
            continue;
        const int pe = static_cast<int>(pes[j]);
        const u64 *word = head(a, SHMEMI_QUANT_GPU_ARRIVALS(npes)) + pe, want = beginning(a, counts[j]);
        u64 seen = arch::load_acquire(word);
        // calls are compared by the lower half of their number, which may have wrapped
        for (detail::patience left; ok && static_cast<int>(static_cast<u32>(seen >> 32) - static_cast<u32>(want >> 32)) < 0;
             seen = arch::load_acquire(word))
            if (left.over()) {
                detail::report(SHMEMX_DEVICE_TIMEOUT, SHMEMX_DEVICE_CALL_QUANT, pe, word, seen, want);
                ok = false;
            }
        if (ok && seen != want) {
            detail::report(SHMEMX_DEVICE_MISMATCH, SHMEMX_DEVICE_CALL_QUANT, pe, word, seen, want);
            ok = false;
        }
    }
    return arch::all(warp, ok);
}

/* The block that ends last counts the call. */
SHMEMX_DEVICE_FN void end(const shmemi_quant_coll &a, const detail::members &m)
{
    arch::sync(block);
    if (arch::thread_index() != 0)
        return;
    // relaxed: the other blocks have used the counts that they read
    if (arch::fetch_add(head(a, 0), static_cast<u64>(1)) != arch::blocks() - 1)
        return;
    for (int j = 0; j < m.n; ++j) {
        u64 *count = head(a, SHMEMI_QUANT_GPU_COUNTS) + detail::world_pe(m, j);
        arch::store_relaxed(count, arch::load_relaxed(count) + 1);
    }
    arch::store_relaxed(head(a, 0), static_cast<u64>(0));
}

template <class E> SHMEMX_DEVICE_FN void collective(const shmemi_quant_coll &a, u8 *shared)
{
    const detail::members m = detail::find(thread, static_cast<team>(a.team), SHMEMX_DEVICE_CALL_QUANT);
    if (m.n == 0)
        return;
    if (begin(a, m, shared)) {
        if (detail::lines_here())
            worker<E, true>(a, m, shared).run();
        else
            worker<E, false>(a, m, shared).run();
    }
    end(a, m);
}

} // namespace quantized
} // namespace shmem

#endif
