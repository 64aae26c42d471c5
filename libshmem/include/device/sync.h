/* Waits, signals, teams, sync and barrier.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_SYNC_H
#define SHMEM_DEVICE_SYNC_H

namespace shmem
{

namespace detail
{

/* ---- waits --------------------------------------------------------------------------------------------- */

/* How long one wait may last. The clock is first read after 64 polls, so that a short wait never pays for it.
 * */
class patience
{
  public:
    /* Once after each poll that failed: true when the deadline has passed. */
    SHMEMX_DEVICE_FN bool over()
    {
        arch::relax(++polls_);
        if (polls_ % 64 != 0 || arch::state().timeout_ns == 0)
            return false;
        u64 now = arch::nanoseconds();
        if (start_ == 0)
            start_ = now;
        return now - start_ > arch::state().timeout_ns;
    }

  private:
    u64 start_ = 0;
    unsigned polls_ = 0;
};

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

/* One thread waits; who: the PE that should store, -1 if nobody knows. */
template <class T> SHMEMX_DEVICE_FN bool wait_for(unsigned call, const T *word, cmp op, T value, int who)
{
    T seen = look(word);
    for (patience left; !compare(seen, op, value); seen = look(word))
        if (left.over()) {
            report(SHMEMX_DEVICE_TIMEOUT, call, who, word, static_cast<u64>(seen), static_cast<u64>(value));
            return false;
        }
    return true;
}

/* ---- teams --------------------------------------------------------------------------------------------- */

/* Null, reported by the leader, for a team that this PE is not in. */
template <class Scope> SHMEMX_DEVICE_FN shmemx_device_team *find(Scope scope, team t, unsigned call)
{
    auto *teams = reinterpret_cast<shmemx_device_team *>(arch::state().teams);
    if (static_cast<unsigned>(t) < arch::state().nteams && teams[t].n > 0)
        return teams + t;
    refuse(scope, SHMEMX_DEVICE_TEAM, call, -1, nullptr, static_cast<u64>(static_cast<unsigned>(t)));
    return nullptr;
}
SHMEMX_DEVICE_FN int world_pe(const shmemx_device_team &t, int member)
{
    return t.table != 0 ? reinterpret_cast<const int *>(t.table)[member] : t.start + member * t.stride;
}
/* Member's copy of what lies at `offset` of each copy. */
template <class T> SHMEMX_DEVICE_FN T *area(const shmemx_device_team &t, int member, u64 offset)
{
    const shmemx_device_state &s = arch::state();
    return reinterpret_cast<T *>(
        s.heap + static_cast<u64>(static_cast<long long>(world_pe(t, member))) * s.stride + offset);
}

enum class order { none, publish };

/* The lanes of the scope tell every other member that this PE has reached epoch e. */
template <class Scope>
SHMEMX_DEVICE_FN void arrive(Scope scope, const shmemx_device_team &t, u64 e, order how)
{
    for (int j = static_cast<int>(arch::lane(scope)); j < t.n; j += static_cast<int>(arch::width(scope))) {
        if (j == t.me)
            continue;
        u64 *flag = area<u64>(t, j, t.sync) + t.me;
        if (how == order::publish)
            arch::store_release(
                flag, e); // observers: this PE's scope (by the barrier before) and member j in await
        else
            arch::store_relaxed(flag, e); // nothing to publish: the word is all there is to know
    }
}
/* Waits until every other member has reached it; per lane. */
template <class Scope>
SHMEMX_DEVICE_FN bool await(Scope scope, const shmemx_device_team &t, u64 e, unsigned call)
{
    bool ok = true;
    for (int j = static_cast<int>(arch::lane(scope)); j < t.n; j += static_cast<int>(arch::width(scope)))
        if (j != t.me)
            ok = wait_for(call, area<u64>(t, t.me, t.sync) + j, ge, e, world_pe(t, j)) && ok;
    return ok;
}
/* One epoch without data. With order::publish all puts of this scope are complete, everywhere, on return. */
template <class Scope>
SHMEMX_DEVICE_FN bool meet(Scope scope, shmemx_device_team &t, unsigned call, order how)
{
    const u64 e = t.epoch + 1;
    if (how == order::publish)
        settle(scope);
    arch::sync(scope); // all lanes are here, their stores visible to those that tell; all have read the epoch
    if (t.n > 1)
        arrive(scope, t, e, how);
    bool ok = t.n == 1 || await(scope, t, e, call);
    if (arch::lane(scope) == 0)
        t.epoch = e;
    return arch::all(scope, ok);
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
        ok = detail::wait_for(SHMEMX_DEVICE_CALL_WAIT_UNTIL, ivar, op, value, -1);
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
            ok = detail::wait_for(SHMEMX_DEVICE_CALL_WAIT_UNTIL, ivars + i, op, value, -1) && ok;
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
    if (op == signal_set)
        arch::store_relaxed(word, value);
    else
        (void)arch::fetch_add(word, value);
}

template <class Scope, class S>
SHMEMX_DEVICE_FN bool signal_wait_until(const Scope &scope, const S *sig, cmp op, u64 value)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    bool ok = true;
    if (arch::lane(scope) == 0)
        ok = detail::wait_for(SHMEMX_DEVICE_CALL_SIGNAL_WAIT_UNTIL, sig, op, static_cast<S>(value), -1);
    return arch::all(scope, ok);
}

template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal_nbi(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                     signal_kind op, int pe)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    const u64 bytes = nelems * sizeof(T);
    if (!detail::valid(scope, SHMEMX_DEVICE_CALL_PUT_SIGNAL, dst, bytes, pe) ||
        !detail::valid(scope, SHMEMX_DEVICE_CALL_PUT_SIGNAL, sig, 8, pe, 8))
        return;
    const bool leader = arch::lane(scope) == 0;
    if (bytes <= 16) { // one thread alone: the barrier between the data and the signal falls away
        if (leader)
            detail::copy<detail::from_here>(thread, detail::at(dst, pe), src, bytes);
    } else {
        detail::copy<detail::from_here>(scope, detail::at(dst, pe), src, bytes);
        detail::settle(scope);
        arch::sync(scope);
    }
    if (leader) {
        u64 *word = detail::words(detail::at(sig, pe));
        // release; observers: this scope's lanes, which stored the data, and the PE that acquires the signal
        if (op == signal_set)
            arch::store_release(word, value);
        else
            arch::add_release(word, value);
    }
}

template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                 signal_kind op, int pe)
{
    put_signal_nbi(scope, dst, src, nelems, sig, value, op, pe);
    if (nelems * sizeof(T) <= 16)
        arch::sync(
            scope); // the others may write the source only now; above 16 bytes they met before the signal
}

/* ---- teams --------------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN int team_my_pe(team t)
{
    const shmemx_device_team *found = detail::find(thread, t, SHMEMX_DEVICE_CALL_TEAM);
    return found == nullptr ? -1 : found->me;
}
SHMEMX_DEVICE_FN int team_n_pes(team t)
{
    const shmemx_device_team *found = detail::find(thread, t, SHMEMX_DEVICE_CALL_TEAM);
    return found == nullptr ? -1 : found->n;
}
SHMEMX_DEVICE_FN int team_translate_pe(team from, int pe, team to)
{
    const shmemx_device_team *a = detail::find(thread, from, SHMEMX_DEVICE_CALL_TEAM);
    const shmemx_device_team *b = detail::find(thread, to, SHMEMX_DEVICE_CALL_TEAM);
    if (a == nullptr || b == nullptr || pe < 0 || pe >= a->n)
        return -1;
    int wanted = detail::world_pe(*a, pe);
    if (b->table == 0) { // regular: no search
        int distance = wanted - b->start;
        int member = b->stride == 0 ? 0 : distance / b->stride;
        return member >= 0 && member < b->n && b->start + member * b->stride == wanted ? member : -1;
    }
    for (int j = 0; j < b->n; ++j)
        if (detail::world_pe(*b, j) == wanted)
            return j;
    return -1;
}

template <class Scope> SHMEMX_DEVICE_FN bool sync(const Scope &scope, team t)
{
    shmemx_device_team *found = detail::find(scope, t, SHMEMX_DEVICE_CALL_SYNC);
    return found != nullptr && detail::meet(scope, *found, SHMEMX_DEVICE_CALL_SYNC, detail::order::none);
}

template <class Scope> SHMEMX_DEVICE_FN bool barrier(const Scope &scope, team t)
{
    shmemx_device_team *found = detail::find(scope, t, SHMEMX_DEVICE_CALL_BARRIER);
    return found != nullptr &&
           detail::meet(scope, *found, SHMEMX_DEVICE_CALL_BARRIER, detail::order::publish);
}

} // namespace shmem

#endif
