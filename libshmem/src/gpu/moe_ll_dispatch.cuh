/* The dispatch of moe_ll.cuh. */
#ifndef SHMEMI_GPU_MOE_LL_DISPATCH_CUH
#define SHMEMI_GPU_MOE_LL_DISPATCH_CUH

#include "moe_ll.cuh"

namespace shmem
{
namespace moe
{

/* Choice i of a table of ids; what is no expert is none. */
struct ids_of {
    const void *ids;
    bool wide;
    unsigned experts;

    /* The low half of a wide one is enough: those above 2^32 are reported, and stay consistent. */
    SHMEMX_DEVICE_FN unsigned at(unsigned i) const
    {
        const auto e = static_cast<unsigned>(arch::load_plain(static_cast<const int *>(ids) + (wide ? 2 * i : i)));
        return e < experts ? e : no_expert;
    }
    SHMEMX_DEVICE_FN bool wrong(unsigned i) const
    {
        const long long e = wide ? arch::load_plain(static_cast<const long long *>(ids) + i)
                                 : static_cast<long long>(arch::load_plain(static_cast<const int *>(ids) + i));
        return e < -1 || e >= static_cast<long long>(experts);
    }
};

template <bool Lines> struct ll_sender : ll<Lines> {
    using base = ll<Lines>;
    using base::o;
    const shmemi_moe_ll_dispatch &a;
    const experts_of experts;
    u32 *to_ranks; // shared, as the following: the token's ranks, a bit each, in two words
    unsigned char *head, *row, *x, *message; // x: the row as it is
    const ids_of ids;

    SHMEMX_DEVICE_FN ll_sender(const base &object, const shmemi_moe_ll_dispatch &arguments, unsigned char *shared)
        : base(object), a(arguments), experts(object.o.experts, object.ranks()),
          to_ranks(reinterpret_cast<u32 *>(shared)), head(shared + 16), row(head + o.head),
          x(head + (o.head + (o.how == as_bf16 ? 0 : o.row) + 15) / 16 * 16), message(x + 2 * o.hidden),
          ids{pointer<const void>(arguments.idx), arguments.wide_idx != 0, object.o.experts}
    {
    }

    /* The head's words of token t and its ranks, by a thread a choice; before a barrier. */
    SHMEMX_DEVICE_FN void write_choices(unsigned t) const
    {
        for (unsigned k = arch::lane(block); k < o.topk; k += arch::width(block)) {
            const unsigned i = t * o.topk + k, e = ids.at(i);
            const float w = a.weights == 0 ? 1.0f : arch::load_plain(pointer<const float>(a.weights) + i);
            reinterpret_cast<u64 *>(head)[k] = static_cast<u64>(bits_of_float(w)) << 32 | e;
            if (e != no_expert) {
                const unsigned r = experts.owner(e);
                arch::shared_or(to_ranks + r / 32, 1u << r % 32);
            } else if (ids.wrong(i)) {
                detail::report(SHMEMX_DEVICE_EXPERT, SHMEMX_DEVICE_CALL_MOE_DISPATCH, -1,
                               static_cast<const char *>(ids.ids) + i * (ids.wide ? 8 : 4), i, o.experts);
            }
        }
    }
    SHMEMX_DEVICE_FN void send_token(unsigned t, const share &mine, u64 alive, u64 round, bool first) const
    {
        const crew c = detail::whole_crew(block);
        for (unsigned i = 16 * arch::lane(block); i < 2 * o.hidden; i += 16 * arch::width(block))
            arch::async_copy(x + i, pointer<const unsigned char>(a.x + t * a.x_stride) + i);
        write_choices(t);
        arch::async_wait();
        if (o.how != as_bf16) {
            arch::sync(block); // the row is there
            quantize_row(
                c, base::codec(o.how), [&](unsigned w) { return reinterpret_cast<const arch::vec16 *>(x)[w]; },
                [&](unsigned w, u64 eight) { reinterpret_cast<u64 *>(row)[w] = eight; },
                [&](unsigned g, float s) { reinterpret_cast<float *>(head + 8 * o.topk)[g] = s; });
        }
        if (first && c.mine == 0)
            base::await_room(dispatching, round);
        arch::sync(block); // the record is whole, and there is room for it
        const u64 to = static_cast<u64>(to_ranks[1]) << 32 | to_ranks[0];
        if (mine.part == 0 && arch::lane(block) == 0)
            pointer<u64>(a.handle.routed)[t] = to;
        const unsigned slot = base::slot_of(static_cast<unsigned>(base::all_ranks.me), t);
        const messages rows = base::rows();
        base::send(mine.warps(), head, o.head, o.how == as_bf16 ? x : row, o.row, base::written(to & alive), round,
                   [&](unsigned r) { return base::target(r, round, rows, slot, t); });
        arch::sync(block); // sent: the shared memory is free
        if (c.mine == 0)
            base::post(to & alive, round, rows, slot, t);
        if (arch::lane(block) < 2)
            to_ranks[arch::lane(block)] = 0;
        arch::sync(block);
    }
    /* Which tokens chose which of rank r's experts. */
    SHMEMX_DEVICE_FN void send_maps(unsigned r, u64 round) const
    {
        constexpr unsigned N = 4; // loads in flight
        const crew c = detail::whole_crew(block);
        auto *maps = reinterpret_cast<u32 *>(message), *any = maps + o.any_at / 4;
        for (unsigned i = arch::lane(block); i < o.maps / 4; i += arch::width(block))
            maps[i] = 0;
        arch::sync(block);
        const unsigned first = experts.first(r), n = experts.count(r);
        const unsigned end = a.tokens * o.topk, step = arch::width(block);
        SHMEMX_DEVICE_ROLLED
        for (unsigned j = arch::lane(block); j < end; j += N * step) {
            unsigned e[N];
            // loads without conditions, so that all are in flight before the first is used
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < N; ++i)
                e[i] = ids.at(j + i * step < end ? j + i * step : end - 1) - first; // no_expert is far from all
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < N; ++i)
                if (e[i] < n && j + i * step < end) {
                    const unsigned t = arch::quotient(j + i * step, o.topk);
                    arch::shared_or(maps + e[i] * o.bit_words + t / 32, 1u << t % 32);
                    arch::shared_or(any + t / 32, 1u << t % 32);
                }
        }
        if (c.mine == 0)
            base::await_room(dispatching, round);
        arch::sync(block);
        const unsigned me = static_cast<unsigned>(base::all_ranks.me);
        const messages all = base::maps();
        base::send(c, message, 0, message, o.maps, static_cast<u64>(1) << r, round,
                   [&](unsigned) { return base::target(r, round, all, me, r); });
        arch::sync(block);
        if (c.mine == 0)
            base::post(static_cast<u64>(1) << r, round, all, me, r);
    }
    SHMEMX_DEVICE_FN void run() const
    {
        const u64 round = base::sending(dispatching);
        const unsigned me = arch::block_index(), all = arch::blocks();
        if (me == 0 && arch::lane(block) < arch::warp_width)
            base::acknowledge();
        if (arch::lane(block) < 2)
            to_ranks[arch::lane(block)] = 0;
        const u64 alive = base::alive(reinterpret_cast<u64 *>(head));
        // the last blocks have no tokens where there are more blocks than tokens
        for (unsigned r = all - 1 - me; r < base::ranks(); r += all)
            send_maps(r, round);
        // two would both quantize; and a mirror is posted by the block that has written it
        const share mine(a.tokens, o.how == as_bf16 && !base::some_far() ? 2 : 1);
        bool first = true;
        for (unsigned t = mine.token; t < a.tokens; t += mine.tokens, first = false)
            send_token(t, mine, alive, round, first);
    }
};

template <bool Lines> struct ll_receiver : ll<Lines> {
    using base = ll<Lines>;
    using base::spot;
    using base::o;
    const shmemi_moe_ll_dispatch &a;
    const experts_of experts;
    unsigned char *maps;    // shared: the messages of all ranks
    u32 *counts;            // shared: [rank][expert] tokens
    unsigned char *heads;   // two, in turn
    u64 *places;            // two times topk: where a choice's row goes, no_row = not here

    SHMEMX_DEVICE_FN ll_receiver(const base &object, const shmemi_moe_ll_dispatch &arguments, unsigned char *shared)
        : base(object), a(arguments), experts(object.o.experts, object.ranks()), maps(shared),
          counts(reinterpret_cast<u32 *>(shared + object.ranks() * o.maps)),
          heads(shared + object.ranks() * (o.maps + (4 * o.most_local + 7) / 8 * 8)),
          places(reinterpret_cast<u64 *>(heads + 2 * o.head))
    {
    }
    /* Who of rank s chose local expert e, and who any. */
    SHMEMX_DEVICE_FN const u32 *map_of(unsigned s, unsigned e) const
    {
        return reinterpret_cast<const u32 *>(maps + s * o.maps) + e * o.bit_words;
    }
    SHMEMX_DEVICE_FN const u32 *any_of(unsigned s) const
    {
        return reinterpret_cast<const u32 *>(maps + s * o.maps + o.any_at);
    }
    SHMEMX_DEVICE_FN unsigned rows_an_expert() const
    {
        return base::ranks() * o.max_tokens;
    }

    SHMEMX_DEVICE_FN void recv_maps(u64 round) const
    {
        const crew c = detail::whole_crew(block);
        const unsigned all = base::groups(o.maps);
        bool ok = true;
        for (unsigned i = c.mine; i < base::ranks() * all; i += c.warps) { // a group a warp, so that they come together
            const unsigned s = i / all, g = i - s * all;
            vigil left(o, static_cast<u64>(1) << s, static_cast<int>(s));
            arch::vec16 v[1] = {};
            if (base::arrived(s, round, base::maps(), s, left) &&
                base::await(v, base::mine(round, base::maps(), s), g, 1, o.maps, round, left))
                detail::write_words(spot, maps + s * o.maps, g * spot.data, o.maps, v[0]);
            else
                ok = false;
        }
        if (!arch::all(block, ok)) {
            const u64 alive = base::alive(places);
            for (unsigned s = 0; s < base::ranks(); ++s)
                for (unsigned i = arch::lane(block); (alive >> s & 1) == 0 && i < o.maps / 4; i += arch::width(block))
                    reinterpret_cast<u32 *>(maps + s * o.maps)[i] = 0; // a dead rank sends nothing
            arch::sync(block);
        }
        for (unsigned i = arch::lane(block); i < base::ranks() * o.most_local; i += arch::width(block)) {
            const u32 *map = map_of(i / o.most_local, i % o.most_local);
            u32 sum = 0;
            for (unsigned w = 0; w < o.bit_words; ++w)
                sum += arch::count_bits(map[w]);
            counts[i] = sum;
        }
        arch::sync(block);
    }
    /* One block writes what the caller wants to know of them. */
    SHMEMX_DEVICE_FN void write_counts() const
    {
        const unsigned n = experts.count(static_cast<unsigned>(base::all_ranks.me));
        for (unsigned e = arch::lane(block); e < n; e += arch::width(block)) {
            u32 sum = 0;
            for (unsigned s = 0; s < base::ranks(); ++s)
                sum += counts[s * o.most_local + e];
            pointer<int>(a.recv_count)[e] = static_cast<int>(sum);
        }
        for (unsigned s = 0; s < base::ranks(); ++s)
            for (unsigned i = arch::lane(block); i < o.bit_words; i += arch::width(block))
                pointer<u32>(a.handle.present)[s * o.bit_words + i] = any_of(s)[i];
    }
    /* Where a choice of token t of rank s goes. */
    SHMEMX_DEVICE_FN u64 place_of(u64 word, unsigned s, unsigned t) const
    {
        const unsigned rank = static_cast<unsigned>(base::all_ranks.me), e = static_cast<u32>(word);
        const unsigned local = e - experts.first(rank);
        if (e == no_expert || local >= experts.count(rank))
            return no_row;
        const u32 *map = map_of(s, local);
        u32 before = arch::count_bits(map[t / 32] & ((1u << t % 32) - 1));
        for (unsigned w = 0; w < t / 32; ++w)
            before += arch::count_bits(map[w]);
        for (unsigned r = 0; r < s; ++r)
            before += counts[r * o.most_local + local];
        return static_cast<u64>(local) * rows_an_expert() + before;
    }
    SHMEMX_DEVICE_FN bool recv_head(unsigned char *head, u64 *place, const unsigned char *slot, unsigned s, unsigned t,
                                    u64 round, vigil &left) const
    {
        const bool ok = base::arrived(s, round, base::rows(), base::slot_of(s, t), left) &&
                        base::recv(head, slot, o.head, round, left);
        arch::sync(warp);
        for (unsigned k = arch::lane(warp); k < o.topk; k += arch::warp_width) {
            const u64 word = reinterpret_cast<const u64 *>(head)[k];
            const u64 to = ok ? place_of(word, s, t) : no_row;
            place[k] = to;
            pointer<u64>(a.handle.choices)[base::slot_of(s, t) * o.topk + k] =
                to == no_row ? no_row : (word >> 32) << 32 | to;
            if (to != no_row && a.recv_source != 0)
                // relaxed: a token that chose an expert twice stores it twice
                arch::store_relaxed(pointer<u32>(a.recv_source) + to, static_cast<u32>(base::slot_of(s, t)));
        }
        return ok;
    }
    SHMEMX_DEVICE_FN void write_row(unsigned char *to, unsigned g, const arch::vec16 &v) const
    {
        detail::write_words(spot, to, g * spot.data, o.row, v);
    }
    SHMEMX_DEVICE_FN void write_scales(const unsigned char *head, const u64 *place) const
    {
        if (o.how == as_bf16)
            return;
        auto *scales = reinterpret_cast<const float *>(head + 8 * o.topk);
        const unsigned n = (o.hidden + o.group - 1) / o.group;
        for (unsigned k = 0; k < o.topk; ++k) {
            if (place[k] == no_row)
                continue;
            const u32 at = static_cast<u32>(place[k]), e = at / rows_an_expert(), row = at - e * rows_an_expert();
            const u64 to = a.recv_scales + e * a.scale_expert + row * a.scale_row;
            for (unsigned g = arch::lane(block); g < n; g += arch::width(block))
                if (a.scale_packed != 0)
                    *pointer<u8>(to + g / 4 * a.scale_group + g % 4) = static_cast<u8>(bits_of_float(scales[g]) >> 23);
                else
                    *pointer<float>(to + g * a.scale_group) = scales[g];
        }
    }
    /* Receives the record of token t of rank s and gives each of its experts here a copy. */
    SHMEMX_DEVICE_FN void recv_token(unsigned s, unsigned t, unsigned turn, u64 round) const
    {
        constexpr unsigned N = 4; // pieces in flight: all of a row of 14,336 bytes with 8 warps
        const crew c = detail::whole_crew(block);
        unsigned char *head = heads + turn * o.head;
        u64 *place = places + turn * o.topk;
        const unsigned char *slot = base::mine(round, base::rows(), base::slot_of(s, t));
        const unsigned char *data = slot + static_cast<u64>(o.head / spot.data) * detail::wire_group;
        const unsigned all = base::groups(o.row);
        vigil left(o, static_cast<u64>(1) << s, static_cast<int>(s));
        // One warp polls, and the others when its head is there: polls of all would be more than the L2 cache can serve.
        bool ok = c.mine != 0 || recv_head(head, place, slot, s, t, round, left);
        // everybody knows the places; and those of the token before last, in the same shared memory, are done with
        if (!arch::all(block, ok))
            return;
        for (unsigned g = c.mine; g < all; g += N * c.warps) {
            arch::vec16 v[N] = {};
            if (!base::await(v, data, g, c.warps, o.row, round, left))
                return; // a rank that died in between: its rows are unspecified
            SHMEMX_DEVICE_ROLLED
            for (unsigned k = 0; k < o.topk; ++k) {
                if (place[k] == no_row)
                    continue;
                unsigned char *to = pointer<unsigned char>(a.recv_x) + place[k] * o.row;
                SHMEMX_DEVICE_UNROLL
                for (unsigned i = 0; i < N; ++i)
                    write_row(to, g + i * c.warps, v[i]);
            }
        }
        write_scales(head, place);
    }
    SHMEMX_DEVICE_FN void run() const
    {
        const u64 round = base::receiving(dispatching);
        recv_maps(round);
        if (arch::block_index() == arch::blocks() - 1)
            write_counts();
        chosen_bits items(base::ranks(), o.bit_words, arch::block_index(), arch::blocks());
        unsigned s, t;
        for (unsigned turn = 0; items.next([&](unsigned r) { return any_of(r); }, s, t); turn ^= 1)
            recv_token(s, t, turn, round);
    }
};

template <bool Lines>
SHMEMX_DEVICE_FN void ll_dispatch(const members &t, const shmemi_moe_ll &o, const shmemi_moe_ll_dispatch &a,
                                  unsigned char *shared)
{
    const ll<Lines> object(o, t);
    if (a.phases & SHMEMI_MOE_LL_SEND)
        ll_sender<Lines>(object, a, shared).run();
    if (a.phases & SHMEMI_MOE_LL_RECV)
        ll_receiver<Lines>(object, a, shared).run();
    object.finish(dispatching, a.phases);
}
SHMEMX_DEVICE_FN void ll_dispatch(const shmemi_moe_ll &o, const shmemi_moe_ll_dispatch &a, unsigned char *shared)
{
    const members t = detail::find(block, static_cast<team>(o.team), SHMEMX_DEVICE_CALL_MOE_DISPATCH);
    if (t.n == 0)
        return;
    if (detail::lines_here())
        ll_dispatch<true>(t, o, a, shared);
    else
        ll_dispatch<false>(t, o, a, shared);
}

} // namespace moe
} // namespace shmem

#endif
