// MoE dispatch and combine for large batches between PEs that are not mapped: every process is a rank, its kernels are CPU
// threads, rows go by the path that SHMEM_GPU_NIC names. All that arrives equals, bit for bit, what the kernels bring where all
// is mapped, which each process runs beside it for all ranks. tests/device/CMakeLists.txt starts it.
//
//     test_moe_nic [rounds]     all formats, on one level or, where nodes have several PEs, on two; 2 and more: with both paces of
//                               the copy engine, and on one level whose nodes have several PEs, too
//     test_moe_nic alone        for the sanitizers: a round without the kernels beside it
//     test_moe_nic late         two of those, for a NIC or a transport that takes its time (late_us=N, NIC_JOB_LATE_US=N): call
//                               follows call at once, so what was not waited for is seen
//     test_moe_nic absent       the last PE does not come
//     test_moe_nic dead         the last PE is killed while the others' kernels wait for it
//     test_moe_nic broken       the path from PE 0 fails; with SHMEM_SIM_FAULTS each PE's, as that says
//     test_moe_nic cut          all paths fail from the second dispatch's first word on; cut-back, cut-add: from the combine's,
//                               of blocks that send or add, and that do both
#include "moe_nodes_scene.h"

#include "nic_job.h"

#include "shmemx_errors.h"

#include <csignal>
#include <string>
#include <unistd.h>

static shmemx_device_state *state;
static unsigned char *memory; // symmetric
static constexpr std::size_t memory_bytes = 4 << 20;

static bool is_far(unsigned pe)
{
    const auto *nic = pointer<const shmemx_device_nic>(state->nic);
    return nic != nullptr && pointer<const unsigned char>(nic->path)[pe] != SHMEMX_NIC_MAPPED;
}

// The ranks on one machine, and this process's rank on a NIC's path.
class job_with_nic : public job_of_nodes
{
  public:
    job_with_nic(scene &job_, sizes s_, unsigned nodes_) : job_of_nodes(job_, s_, nodes_), me(static_cast<unsigned>(state->me))
    {
        const rank_side &like = ranks[me];
        const unsigned groups = shmemi_moen_groups(s.hidden, s.group), each = n / nodes;
        shmemi_moen o = whole;
        u64 end = (address(memory) + 127) / 128 * 128;
        o.mirror.far = 0;
        for (unsigned j = 0; j < (nodes == 1 ? n : nodes); ++j)
            if (is_far(nodes == 1 ? j : j * each + me % each))
                o.mirror.far |= 1ull << j;
        CHECK((o.mirror.far != 0) == (n > 1), "nobody is far");
        own.object = o;
        if (nodes == 1) {
            end = shmemi_moen_lay_out(&own.object, n, groups, end);
        } else {
            own.levels.nodes = nodes;
            own.levels.each = each;
            o.capacity = s.capacity;
            end = shmemi_moen_lay_out_levels(&own.levels, &o, me / each, groups, end);
            own.levels.within.team = shmem::shared;
            own.levels.between.team = NIC_JOB_COLUMN;
            own.object = own.levels.within;
        }
        for (unsigned i = 0; i < s.results; ++i) {
            shmemi_moen_result result = {};
            end = shmemi_moen_lay_out_result(&result, &own.object, each == n ? n : nodes == 1 ? n : each, groups, end);
            own.host.emplace_back(like.host[i].size());
            result.host = address(own.host.back().data());
            own.result.push_back(result);
        }
        if (end > address(memory) + memory_bytes) {
            std::fprintf(stderr, "the object needs %llu bytes\n", end - address(memory));
            std::exit(1);
        }
        std::memset(memory, 0, memory_bytes);
        nic_job_meet(); // before anybody writes
    }

    const unsigned me;
    rank_side own{};
    bool compares = true, alone = false; // alone: no kernels beside, for all ranks

    void stay_alone()
    {
        alone = true;
        ranks[me].result = own.result;
        ranks[me].host.swap(own.host);
    }
    rank_of_nodes own_launches()
    {
        own.routing.resize(ranks[me].routing.size(), 0xee);
        return {*state, own.object, own.levels, n, routing_of(own), ranks[me].tokens};
    }
    void layout(bool wide)
    {
        if (!alone)
            each_pe([&](unsigned pe) { launches(pe).layout(ids_of(pe, wide)); });
        own_launches().layout(ids_of(me, wide));
    }
    static bool same(u64 a, u64 b, std::size_t bytes)
    {
        return std::memcmp(pointer<char>(a), pointer<char>(b), bytes) == 0;
    }
    void run_dispatch(const how &h, std::vector<shmemi_moen_dispatch> &args) override
    {
        how all = h; // what comes does not depend on the number of blocks
        all.absent = 99;
        all.blocks = all.warps = 1;
        if (!alone)
            job_of_nodes::run_dispatch(all, args);
        shmemi_moen_dispatch a = args[me];
        a.result = own.result[h.result];
        a.routing = address(routing_of(own));
        if (me != h.absent)
            own_launches().dispatch(a, h, [] {});
        if (!compares || alone)
            return;
        const rank_side &like = ranks[me];
        const shmemi_moen_result &is = own.result[h.result], &want = like.result[h.result];
        const std::size_t rows = like.from.size(), wide = h.format == SHMEMI_MOEN_BF16 ? 2 : 1;
        CHECK(*pointer<int>(is.rows) == *pointer<int>(want.rows) && own.host[h.result] == like.host[h.result],
              "%d rows, not %d", *pointer<int>(is.rows), *pointer<int>(want.rows));
        CHECK(same(is.x, want.x, rows * s.hidden * wide), "rows of format %u", h.format);
        CHECK(same(is.scales, want.scales, rows * shmemi_moen_up(4 * a.groups, 16)), "scales of format %u", h.format);
        CHECK(same(is.source_token, want.source_token, rows * 4), "source tokens");
        if (h.ids && !h.cached)
            CHECK(same(is.topk_idx, want.topk_idx, (h.worst_case ? s.capacity : rows) * s.topk * 8) &&
                      same(is.topk_weights, want.topk_weights, rows * s.topk * 4),
                  "ids and weights");
        CHECK(same(is.per_source, want.per_source, 4ull * n), "rows of each source");
    }
    bool has_results(unsigned rank) const override
    {
        return !alone || rank == me;
    }
    void run_combine(const back &b, std::vector<shmemi_moen_combine> &args) override
    {
        if (alone) {
            shmemi_moen_combine a = args[me];
            a.routing = address(routing_of(own));
            own_launches().combine(a, b);
            return;
        }
        back all = b;
        all.blocks = 1;
        all.warps = 2;
        job_of_nodes::run_combine(all, args);
        const shmemi_moen_combine &like = args[me];
        shmemi_moen_combine a = like;
        std::vector<std::uint16_t> out(static_cast<std::size_t>(like.tokens) * s.hidden + 8, 0x7fc0);
        std::vector<float> weights(static_cast<std::size_t>(like.tokens) * s.topk + 1, NAN);
        a.routing = address(routing_of(own));
        a.out = address(out.data());
        a.out_weights = b.weights ? address(weights.data()) : 0;
        own_launches().combine(a, b);
        if (!compares)
            return;
        CHECK(same(a.out, like.out, static_cast<std::size_t>(like.tokens) * s.hidden * 2), "sums of format %u", b.format);
        CHECK(!b.weights || same(a.out_weights, like.out_weights, static_cast<std::size_t>(like.tokens) * s.topk * 4),
              "weights that came back");
    }
    // Nothing has been counted that is not put: the next kernel begins with zeros.
    void check_staged()
    {
        const shmemi_moen &o = nodes == 1 ? own.object : own.levels.between;
        bool zero = true;
        for (unsigned i = 0; i < o.max_tokens / SHMEMI_MOEN_TILE + 1; ++i)
            zero = zero && pointer<u32>(o.mirror.staged)[i] == 0;
        CHECK(zero || o.mirror.far == 0, "a tile was not put");
    }
};

// Rounds with changing tokens, without a meeting of the PEs. room 0: no copy engine; the smaller, the fewer slots.
static void test_rounds(scene &job, unsigned nodes, sizes s, unsigned rounds, bool alone)
{
    job_with_nic ranks(job, s, nodes);
    if (alone)
        ranks.stay_alone();
    const routing_kind kinds[] = {spread, some_empty, skewed, one_expert, nowhere, spread};
    const unsigned rooms[] = {65536, 0, 2 * s.hidden + 1500, 8 * s.hidden + 4096};
    unsigned ticket = 0;
    const auto dispatch = [&](const job_of_ranks::how &h) {
        ranks.dispatch(h, ++ticket);
        if (alone) // else it is compared with what the kernels beside bring
            ranks.check_dispatch(h, ticket);
    };
    for (unsigned round = 0; round < rounds; ++round) {
        const unsigned room = rooms[round % 4], group = round % 3 == 0 ? 32 : round % 3 == 1 ? 0 : 64;
        ranks.make_tokens(alone ? spread : kinds[round % 6]);
        ranks.layout(round % 2 == 0);
        auto h = made(SHMEMI_MOEN_BF16, 0, round % 2, room);
        h.wide = round % 2 != 0;
        h.worst_case = round % 2 != 0;
        ranks.dispatch(h, ++ticket);
        ranks.check_dispatch(h, ticket);
        job_of_ranks::back b;
        b.room = room;
        ranks.combine(b);
        h = made(SHMEMI_MOEN_INT8, group, 1 - round % 2, rooms[(round + 1) % 4]);
        h.cached = true;
        dispatch(h);
        b.weighted = b.weights = true;
        b.wide = round % 2 != 0;
        b.biases = round % 3;
        ranks.combine(b);
        b.format = SHMEMI_MOEN_INT8;
        b.group = group;
        b.room = rooms[(round + 2) % 4];
        ranks.combine(b);
        b.room = 0; // all blocks send
        for (unsigned i = 0; alone && i < 4 * round; ++i) {
            b.format = i % 2 != 0 ? SHMEMI_MOEN_INT8 : SHMEMI_MOEN_BF16;
            ranks.combine(b); // upon the mirror of the one before
        }
        h = made(SHMEMI_MOEN_FP8, group, 1, rooms[(round + 2) % 4]);
        dispatch(h);
        h = made(SHMEMI_MOEN_BYTES, 0, 0, room);
        h.groups = round % 2 == 0 ? s.hidden / s.group : 1;
        h.strided = round % 2 != 0;
        dispatch(h);
        ranks.check_staged();
    }
    nic_job_meet();
}

// More rows than a rank has room for: all say so, nothing is sent, and they go on.
static void test_limit(scene &job)
{
    sizes s{32, 16, 2, 16, 20};
    job_with_nic ranks(job, s, 1);
    ranks.make_tokens(skewed); // all to rank 0
    if (ranks.ranks[0].from.size() <= s.capacity)
        return;
    ranks.layout(true);
    auto h = made(SHMEMI_MOEN_BF16, 0, 0, 65536);
    ranks.compares = false;
    ranks.dispatch(h, 1);
    CHECK(nic_job_note()->kind == SHMEMX_DEVICE_LIMIT && ranks.own.host[0][0] == (1ull << 32 | SHMEMI_MOEN_NO_ROOM),
          "kind %u, the host's word %llx", nic_job_note()->kind, ranks.own.host[0][0]);
    nic_job_forget_note();
    job.clear_mailboxes();
    ranks.compares = true;
    ranks.make_tokens(spread);
    for (rank_side &r : ranks.ranks) // few enough
        for (std::size_t i = 2 * s.topk; i < r.idx.size(); ++i)
            r.idx[i] = r.idx32[i] = -1;
    ranks.reference();
    ranks.layout(true);
    ranks.dispatch(h, 2);
    ranks.check_dispatch(h, 2);
    nic_job_meet();
}

// What goes wrong: every kernel ends, and who knows why says so.
[[noreturn]] static void test_trouble(scene &job, const std::string &what)
{
    const bool absent = what == "absent", dead = what == "dead", cut = what.rfind("cut", 0) == 0;
    job_with_nic ranks(job, sizes{64, 8, 3, 20, 80}, 1);
    ranks.make_tokens(spread);
    ranks.layout(true);
    auto h = made(SHMEMI_MOEN_BF16, 0, 0, 65536);
    ranks.dispatch(h, 1);
    nic_job_meet();
    ranks.compares = false;
    nic_job_log(0);
    const bool faults = std::getenv("SHMEM_SIM_FAULTS") != nullptr, breaks = what == "broken" && !faults && ranks.me == 0;
    if (absent)
        h.absent = ranks.n - 1;
    if (dead && ranks.me == ranks.n - 1) {
        usleep(100000);
        std::raise(SIGKILL);
    }
    if (breaks)
        nic_job_break(1, SHMEMX_ERR_SYSTEM);
    if (cut) {
        nic_job_unregister();
        nic_job_meet();
    }
    h.cached = true;
    job_of_ranks::back b;
    b.room = what == "cut-back" ? b.room : 0;
    if (cut && what != "cut")
        ranks.combine(b);
    else
        ranks.dispatch(h, 2);
    char text[600] = "";
    const int rc = nic_job_error(text, sizeof text);
    const shmemx_device_error *note = nic_job_note();
    if (absent)
        CHECK(ranks.me == h.absent ||
                  (rc == 0 && note->kind == SHMEMX_DEVICE_TIMEOUT && note->call == SHMEMX_DEVICE_CALL_MOE_DISPATCH &&
                   note->pe == static_cast<int>(h.absent)),
              "kind %u, call %u, PE %d: %s", note->kind, note->call, note->pe, text);
    else if (dead)
        CHECK(rc == SHMEMX_ERR_PEER_DEAD, "%d: %s", rc, text);
    else if (cut) // the NIC's cause, not that the others did not come
        CHECK(rc == SHMEMX_ERR_SYSTEM && note->kind == SHMEMX_DEVICE_NIC, "%d: kind %u: %s", rc, note->kind, text);
    else if (breaks || (faults && ranks.me == 1)) // PE 1 sends more
        CHECK(rc == SHMEMX_ERR_SYSTEM && text[0] != 0, "%d: %s", rc, text);
    else
        CHECK(rc == SHMEMX_ERR_SYSTEM || note->kind == SHMEMX_DEVICE_TIMEOUT, "kind %u", note->kind);
    CHECK(ranks.me == h.absent || (cut && what != "cut") || ranks.own.host[0][0] >> 32 == 2, "the host was not told");
    std::printf("trouble: PE %u: %s\n", ranks.me, rc != 0 ? text : "no error of the path");
    std::fflush(stdout);
    // the others' waits end before this PE leaves
    if (absent)
        nic_job_meet();
    else
        usleep(700000);
    std::_Exit(failures.load() != 0);
}

int main(int argc, char **argv)
{
    const std::string what = argc > 1 ? argv[1] : "4";
    const bool trouble = what == "absent" || what == "broken" || what == "dead" || what.rfind("cut", 0) == 0;
    if (nic_job_init() != 0)
        return 1;
    void *symmetric;
    state = nic_job_open(memory_bytes, &symmetric, trouble && what != "dead" ? 0.5 : 60);
    memory = static_cast<unsigned char *>(symmetric);
    const int n = state->npes, each = pointer<shmemx_device_team>(state->teams)[shmem::shared].n;
    const bool alone = what == "alone" || what == "late";
    const auto rounds = what == "late" ? 2u : alone ? 1u : static_cast<unsigned>(std::atoi(what.c_str()));
    using shmem::arch::pace;
    shmem::arch::weak_stores() = what == "late";
    for (pace how : {pace::at_once, pace::any}) {
        shmem::arch::engine_pace() = how;
        if (how == pace::at_once && (alone || rounds == 1))
            continue;
        scene job(n, true, 60000000000ull, each);
        if (trouble)
            test_trouble(job, what);
        if (each == 1 || (rounds > 1 && !alone)) // with several on a node, some are mapped
            test_rounds(job, 1, n == 2 ? sizes{128, 7, 3, 40, 80} : sizes{64, 10, 4, 20, 80}, rounds, alone);
        if (each > 1)
            test_rounds(job, static_cast<unsigned>(n / each), sizes{64, 10, 4, 20, 80}, rounds, alone);
        if (how == pace::any && each == 1 && !alone)
            test_limit(job);
    }
    char text[600];
    const int rc = nic_job_error(text, sizeof text);
    CHECK(rc == 0 && nic_job_note()->kind == SHMEMX_DEVICE_OK, "an error that nobody made: %s, kind %u", text,
          nic_job_note()->kind);
    nic_job_meet();
    const bool first = state->me == 0;
    nic_job_close();
    if (first)
        std::printf("MoE over a NIC's path: %lu checks, %lu failed\n", passed.load(), failures.load());
    nic_job_finalize();
    return failures.load() != 0;
}
