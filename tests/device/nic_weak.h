// What a PE stores and who finds it when, with stores as a GPU makes them (device/arch_host_weak.h): behind a barrier, a quiet
// and within collectives. A part of test_nic.cpp; each PE a node of its own, or two a node.
#ifndef NIC_WEAK_H
#define NIC_WEAK_H

#include "nic_teams.h"

constexpr unsigned weak_words = 40, weak_rounds = 30;

template <class Scope> static void weak_store(const Scope &scope, u64 *to, u64 round, int pe)
{
    for (unsigned i = arch::lane(scope); i < weak_words; i += arch::width(scope))
        p(to + i, round * 1000 + i, pe);
}
/* What `pe` has there, by a get. */
template <class Scope>
static void weak_look(const Scope &scope, const u64 *from, u64 round, int pe, const char *what)
{
    u64 *here = at<u64>(2 * half);
    get(scope, here, from, weak_words, pe);
    std::size_t early = 0;
    for (unsigned i = arch::lane(scope); i < weak_words; i += arch::width(scope))
        early += arch::load_plain(here + i) != round * 1000 + i;
    CHECK(early == 0, "round %llu, %s PE %d: %zu words were not there yet", round, what, pe, early);
}
/* What is tried: this PE stores to its own memory or to that of its mapped neighbour, and a PE of another node looks, or the
 * neighbour does. */
enum weak_case { OWN_FOR_FAR, NEIGHBOURS_FOR_FAR, OWN_FOR_NEIGHBOUR };
struct weak_pes {
    explicit weak_pes(weak_case what)
    {
        const int me = my_pe(), n = n_pes(), step = what == NEIGHBOURS_FOR_FAR ? 2 : 1;
        told = what == OWN_FOR_NEIGHBOUR ? me ^ 1 : (me + step) % n;
        teller = what == OWN_FOR_NEIGHBOUR ? me ^ 1 : (me + n - step) % n;
        stored = what == NEIGHBOURS_FOR_FAR ? me ^ 1 : me;
        looked = what == NEIGHBOURS_FOR_FAR ? teller ^ 1 : teller;
    }
    int told, teller, stored, looked;
};
template <class Scope> static void behind_a_barrier(const Scope &scope, weak_case what)
{
    const weak_pes pes(what);
    for (u64 round = 1; round <= weak_rounds; ++round) {
        weak_store(scope, at<u64>(half), round, pes.stored);
        CHECK(barrier(scope), "barrier");
        weak_look(scope, at<u64>(half), round, pes.looked, "behind a barrier, memory of");
        CHECK(barrier(scope), "barrier"); // all have looked
    }
}
/* Behind a quiet, and then a word for the PE that looks. */
template <class Scope> static void behind_a_quiet(const Scope &scope, weak_case what)
{
    const weak_pes pes(what);
    for (u64 round = 1; round <= weak_rounds; ++round) {
        weak_store(scope, at<u64>(half), round, pes.stored);
        CHECK(quiet(scope), "quiet");
        if (arch::lane(scope) == 0)
            p(at<u64>(64), round, pes.told);
        CHECK(wait_until(scope, at<u64>(64), ge, round), "flag %llu", round);
        weak_look(scope, at<u64>(half), round, pes.looked, "behind a quiet, memory of");
        CHECK(barrier(scope), "barrier");
    }
    if (arch::lane(scope) == 0)
        arch::store_plain(at<u64>(64), static_cast<u64>(0));
    CHECK(barrier(scope), "barrier");
}
static void test_weak()
{
    arch::weak_stores() = true;
    const auto *nic = reinterpret_cast<const shmemx_device_nic *>(state->nic);
    const bool neighbours =
        reinterpret_cast<const u8 *>(nic->path)[state->me ^ 1] == SHMEMX_NIC_MAPPED; // so on all PEs
    for (const weak_case what : {OWN_FOR_FAR, NEIGHBOURS_FOR_FAR, OWN_FOR_NEIGHBOUR}) {
        if (what != OWN_FOR_FAR && !neighbours)
            continue;
        step(1, 1, [what] { behind_a_barrier(thread, what), behind_a_quiet(thread, what); });
        step(1, 8, [what] { behind_a_barrier(warp, what), behind_a_quiet(warp, what); });
        step(1, 12, [what] { behind_a_barrier(block, what), behind_a_quiet(block, what); });
    }
    test_teams();
}

#endif
