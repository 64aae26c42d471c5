/* Waits, signals, teams, sync and barrier.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_SYNC_H
#define SHMEM_DEVICE_SYNC_H

namespace shmem
{

namespace detail
{

/* ---- waits --------------------------------------------------------------------------------------------- */

template <class T> SHMEMX_DEVICE_FN bool compare(T a, cmp op, T b)
{
    switch (op) {
    case eq:
        return a == b;
    case ne:
        return a != b;
    case gt:
        return a > b;
    case ge:
        return a >= b;
    case lt:
        return a < b;
    default:
        return a <= b;
    }
}

/* acquire; observers: this thread and whoever stored the word after a fence or with a release */
template <class T> SHMEMX_DEVICE_FN T look(const T *word)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "waits take 32- and 64-bit types");
    return bits<T>(arch::load_acquire(words(word)));
}

/* One thread waits; who() is the PE that should store, -1 if nobody knows. */
template <class T, class Who>
SHMEMX_DEVICE_FN bool wait_for(unsigned call, const T *word, cmp op, T value, Who who)
{
    T seen = look(word);
    for (patience left; !compare(seen, op, value); seen = look(word))
        if (left.over()) {
            report(SHMEMX_DEVICE_TIMEOUT, call, who(), word, static_cast<u64>(seen), static_cast<u64>(value));
            return false;
        }
    return true;
}
template <class T> SHMEMX_DEVICE_FN bool wait_for(unsigned call, const T *word, cmp op, T value)
{
    return wait_for(call, word, op, value, [] { return -1; });
}

/* ---- teams --------------------------------------------------------------------------------------------- */

/* What a call needs of a team, in registers. */
struct members {
    int me, n;       /* n = 0: no such team, or this PE is not in it */
    u64 first, step; /* member j's copy of the heap is at first + j * step, */
    u64 bases;       /* or, if this is not 0, where the j-th u64 here says */
    u64 sync, packets, slot_bytes;
    shmemx_device_team *home; /* where its counts are */
};

/* The world number of a member, for those who have time: reports and translations. */
SHMEMX_DEVICE_FN int world_pe(const members &t, int member)
{
    const shmemx_device_team &home = *t.home;
    return home.table != 0 ? reinterpret_cast<const int *>(home.table)[member]
                           : home.start + member * home.stride;
}
SHMEMX_DEVICE_FN u64 copy_of(const members &t, int member)
{
    if (const u64 bases = arch::opaque(t.bases))
        return reinterpret_cast<const u64 *>(bases)[member];
    return t.first + static_cast<u64>(static_cast<long long>(member)) * t.step;
}
/* Member's copy of p. */
template <class T> SHMEMX_DEVICE_FN T *peer(const members &t, int member, T *p)
{
    return reinterpret_cast<T *>(copy_of(t, member) + (reinterpret_cast<u64>(p) - arch::state().copy));
}
/* Member's copy of what lies at `offset` of each copy. */
template <class T> SHMEMX_DEVICE_FN T *area(const members &t, int member, u64 offset)
{
    return reinterpret_cast<T *>(copy_of(t, member) + offset);
}
template <class T> SHMEMX_DEVICE_FN T *own_area(u64 offset)
{
    return reinterpret_cast<T *>(arch::state().copy + offset);
}

/* A team that this PE is not in is reported by the leader. The world comes from constant memory. */
template <class Scope> SHMEMX_DEVICE_FN members find(Scope scope, team t, unsigned call)
{
    const shmemx_device_state &s = arch::state();
    auto *home = reinterpret_cast<shmemx_device_team *>(s.teams) + t;
    if (t == world && s.nteams > 0)
        return members{
            s.me, s.npes, s.heap, s.stride, s.bases, s.world_sync, s.world_packets, s.world_slot_bytes, home};
    if (static_cast<unsigned>(t) < s.nteams && home->n > 0)
        return members{home->me,
                       home->n,
                       s.heap + static_cast<u64>(static_cast<long long>(home->start)) * s.stride,
                       static_cast<u64>(static_cast<long long>(home->stride)) * s.stride,
                       home->bases,
                       home->sync,
                       home->packets,
                       home->slot_bytes,
                       home};
    refuse(scope, SHMEMX_DEVICE_TEAM, call, -1, nullptr, static_cast<u64>(static_cast<unsigned>(t)));
    return members{};
}

enum class order { none, publish };

/* The lanes of the scope tell every other member that this PE has arrived once more. The words count, so that
 * nobody has to know the count before the news are on their way. */
template <class Scope> SHMEMX_DEVICE_FN void arrive(Scope scope, const members &t, order how)
{
    if (some_far()) {
        arrive_far(scope, t, how);
        return;
    }
    SHMEMX_DEVICE_ROLLED
    for (int j = static_cast<int>(arch::lane(scope)); j < t.n; j += static_cast<int>(arch::width(scope))) {
        if (j == t.me)
            continue;
        u64 *word = area<u64>(t, j, t.sync) + t.me;
        if (how == order::publish)
            arch::add_release(word,
                              1); // observers: this PE's scope (by the barrier before), member j in gather
        else
            arch::add_relaxed(word,
                              static_cast<u64>(1)); // nothing to publish: the count is all there is to know
    }
}
/* The same where some PE is far: the news go there as atomics. What the scope has put is complete already, and what it has stored
 * released: by proxy::quiet's fence, or the doorbell's. */
template <class Scope> SHMEMX_DEVICE_SLOW void arrive_far(Scope scope, members t, order how)
{
    SHMEMX_DEVICE_ROLLED
    for (int j = static_cast<int>(arch::lane(scope)); j < t.n; j += static_cast<int>(arch::width(scope))) {
        u64 *word = area<u64>(t, j, t.sync) + t.me;
        const int pe = world_pe(t, j);
        if (j == t.me)
            continue;
        if (path_to(pe) != SHMEMX_NIC_MAPPED)
            (void)far_amo(own_area<u64>(t.sync) + t.me, pe, amo_add, 8, 1, 0, false);
        else if (how == order::publish)
            arch::add_release(word, 1); // observers: as in arrive
        else
            arch::add_relaxed(word, static_cast<u64>(1));
    }
}
/* Waits until every other member has arrived as often as this one. */
template <class Scope> SHMEMX_DEVICE_FN bool gather(Scope scope, const members &t, unsigned call)
{
    const u64 count = arch::load_relaxed(&t.home->meetings) + 1; // while the arrivals are on their way
    bool ok = true;
    SHMEMX_DEVICE_ROLLED
    for (int j = static_cast<int>(arch::lane(scope)); j < t.n; j += static_cast<int>(arch::width(scope)))
        if (j != t.me)
            ok = wait_for(call, own_area<u64>(t.sync) + j, ge, count, [&] { return world_pe(t, j); }) && ok;
    ok = arch::all(scope, ok); // every lane has read the count
    if (arch::lane(scope) == 0)
        arch::store_relaxed(&t.home->meetings, count);
    arch::sync(scope);
    return ok;
}
/* All members meet, without data. With order::publish all puts of this scope are complete, everywhere, on
 * return. */
template <class Scope> SHMEMX_DEVICE_FN bool meet(Scope scope, const members &t, unsigned call, order how)
{
    bool ok = true;
    if (how == order::publish)
        settle(scope);
    arch::sync(scope); // all lanes are here, their stores visible to those that tell
    if (some_far() && how == order::publish)
        ok = far_quiet(plain(scope), -1);
    if (t.n == 1)
        return ok;
    arrive(scope, t, how);
    return gather(scope, t, call) && ok;
}

/* ---- members whose copies are not mapped ---------------------------------------------------------------- */

/* Has the team any? */
SHMEMX_DEVICE_FN bool some_far(const members &t)
{
    return some_far() && t.home->unmapped != 0;
}

/* Member's dst gets these bytes: complete, for the member, at the next meeting that publishes. */
template <class Scope>
SHMEMX_DEVICE_FN void put_member(const Scope &scope, const members &t, int member, void *dst, const void *src,
                                 u64 bytes)
{
    if (some_far()) {
        put_bytes(scope, dst, src, bytes, world_pe(t, member), false);
        return;
    }
    copy<from_here>(scope, peer(t, member, static_cast<unsigned char *>(dst)), src, bytes);
}

} // namespace detail

/* ---- point to point ------------------------------------------------------------------------------------ */

template <class T> SHMEMX_DEVICE_FN bool test(const T *ivar, cmp op, same<T> value)
{
    return detail::compare(detail::look(ivar), op, value);
}

template <class Scope, class T>
SHMEMX_DEVICE_FN bool wait_until(const Scope &scope, const T *ivar, cmp op, same<T> value)
{
    bool ok = true;
    if (arch::lane(scope) == 0)
        ok = detail::wait_for(SHMEMX_DEVICE_CALL_WAIT_UNTIL, ivar, op, value);
    return arch::all(scope, ok);
}

template <class T>
SHMEMX_DEVICE_FN bool test_all(const T *ivars, size nelems, const int *status, cmp op, same<T> value)
{
    for (size i = 0; i < nelems; ++i)
        if ((status == nullptr || status[i] == 0) && !test(ivars + i, op, value))
            return false;
    return true;
}

template <class T>
SHMEMX_DEVICE_FN size test_any(const T *ivars, size nelems, const int *status, cmp op, same<T> value)
{
    for (size i = 0; i < nelems; ++i)
        if ((status == nullptr || status[i] == 0) && test(ivars + i, op, value))
            return i;
    return none;
}

/* The lanes share the words between them. */
template <class Scope, class T>
SHMEMX_DEVICE_FN bool wait_until_all(const Scope &scope, const T *ivars, size nelems, const int *status,
                                     cmp op, same<T> value)
{
    bool ok = true;
    for (size i = arch::lane(scope); i < nelems; i += arch::width(scope))
        if (status == nullptr || status[i] == 0)
            ok = detail::wait_for(SHMEMX_DEVICE_CALL_WAIT_UNTIL, ivars + i, op, value) && ok;
    return arch::all(scope, ok);
}

template <class T>
SHMEMX_DEVICE_FN size wait_until_any(const T *ivars, size nelems, const int *status, cmp op, same<T> value)
{
    bool some = false;
    for (size i = 0; i < nelems; ++i)
        some = some || status == nullptr || status[i] == 0;
    size hit = none;
    detail::patience left;
    while (some && (hit = test_any(ivars, nelems, status, op, value)) == none)
        if (left.over()) {
            detail::report(SHMEMX_DEVICE_TIMEOUT, SHMEMX_DEVICE_CALL_WAIT_UNTIL, -1, ivars, nelems,
                           static_cast<u64>(value));
            break;
        }
    return hit;
}

/* ---- signals ------------------------------------------------------------------------------------------- */

template <class S> SHMEMX_DEVICE_FN u64 signal_fetch(const S *sig)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    return static_cast<u64>(detail::look(sig));
}

template <class S> SHMEMX_DEVICE_FN void signal_op(S *sig, u64 value, signal_kind op, int pe)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    if (!detail::valid(thread, SHMEMX_DEVICE_CALL_SIGNAL_OP, sig, 8, pe, 8))
        return;
    u64 *word = detail::words(detail::at(sig, pe));
    if (detail::far(pe) || (op == signal_add && detail::amo_far(pe)))
        (void)detail::far_amo(sig, pe, op == signal_set ? detail::amo_set : detail::amo_add, 8, value, 0,
                              false);
    else if (op == signal_set)
        arch::store_relaxed(word, value);
    else
        arch::add_relaxed(word, value);
}

template <class Scope, class S>
SHMEMX_DEVICE_FN bool signal_wait_until(const Scope &scope, const S *sig, cmp op, u64 value)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    bool ok = true;
    if (arch::lane(scope) == 0)
        ok = detail::wait_for(SHMEMX_DEVICE_CALL_SIGNAL_WAIT_UNTIL, sig, op, static_cast<S>(value));
    return arch::all(scope, ok);
}

namespace detail
{

/* wait: as far_put_signal. */
template <class Scope>
SHMEMX_DEVICE_FN void put_signal_bytes(const Scope &scope, void *dst, const void *src, u64 bytes, void *sig,
                                       u64 value, signal_kind op, int pe, bool wait)
{
    if (!valid(scope, SHMEMX_DEVICE_CALL_PUT_SIGNAL, dst, bytes, pe) ||
        !valid(scope, SHMEMX_DEVICE_CALL_PUT_SIGNAL, sig, 8, pe, 8))
        return;
    if (far(pe)) {
        far_put_signal(plain(scope), dst, src, bytes, sig, value, op, pe, wait);
        return;
    }
    const bool leader = arch::lane(scope) == 0;
    if (bytes <= 16) { // one thread alone: the barrier between the data and the signal falls away
        if (leader)
            copy_few(at(dst, pe), src, bytes);
    } else {
        copy<from_here>(scope, at(dst, pe), src, bytes);
        settle_copy(scope);
        arch::sync(scope);
    }
    if (leader) {
        u64 *word = static_cast<u64 *>(at(sig, pe));
        // release; observers: this scope's lanes, which stored the data, and the PE that acquires the signal
        if (op == signal_set) {
            arch::store_release(word, value);
        } else if (amo_far(pe)) {
            arch::fence(); // observers: the same; a path's command has no release of its own
            (void)far_amo(sig, pe, amo_add, 8, value, 0, false);
        } else {
            arch::add_release(word, value);
        }
    }
}

} // namespace detail

template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal_nbi(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                     signal_kind op, int pe)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    detail::put_signal_bytes(scope, dst, src, nelems * sizeof(T), sig, value, op, pe, false);
}

template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                 signal_kind op, int pe)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    detail::put_signal_bytes(scope, dst, src, nelems * sizeof(T), sig, value, op, pe, true);
    if (nelems * sizeof(T) <= 16)
        arch::sync(
            scope); // the others may write the source only now; above 16 bytes they met before the signal
}

/* ---- teams --------------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN int team_my_pe(team t)
{
    const detail::members found = detail::find(thread, t, SHMEMX_DEVICE_CALL_TEAM);
    return found.n == 0 ? -1 : found.me;
}
SHMEMX_DEVICE_FN int team_n_pes(team t)
{
    const detail::members found = detail::find(thread, t, SHMEMX_DEVICE_CALL_TEAM);
    return found.n == 0 ? -1 : found.n;
}
SHMEMX_DEVICE_FN int team_translate_pe(team from, int pe, team to)
{
    const detail::members a = detail::find(thread, from, SHMEMX_DEVICE_CALL_TEAM);
    const detail::members b = detail::find(thread, to, SHMEMX_DEVICE_CALL_TEAM);
    if (pe < 0 || pe >= a.n || b.n == 0)
        return -1;
    const int wanted = detail::world_pe(a, pe);
    const shmemx_device_team &there = *b.home;
    if (there.table == 0) { // regular: no search
        const int distance = wanted - there.start, member = there.stride == 0 ? 0 : distance / there.stride;
        return member >= 0 && member < b.n && there.start + member * there.stride == wanted ? member : -1;
    }
    for (int j = 0; j < b.n; ++j)
        if (detail::world_pe(b, j) == wanted)
            return j;
    return -1;
}

template <class Scope> SHMEMX_DEVICE_FN bool sync(const Scope &scope, team t)
{
    const detail::members found = detail::find(scope, t, SHMEMX_DEVICE_CALL_SYNC);
    return found.n != 0 && detail::meet(scope, found, SHMEMX_DEVICE_CALL_SYNC, detail::order::none);
}

template <class Scope> SHMEMX_DEVICE_FN bool barrier(const Scope &scope, team t)
{
    const detail::members found = detail::find(scope, t, SHMEMX_DEVICE_CALL_BARRIER);
    return found.n != 0 && detail::meet(scope, found, SHMEMX_DEVICE_CALL_BARRIER, detail::order::publish);
}

} // namespace shmem

#endif
