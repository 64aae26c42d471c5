// The MoE kernels for large batches between nodes, on CPU threads: two levels against the plain reference of one.
//   g++ -std=c++17 -pthread -O1 -Ilibshmem/include -Ilibshmem/src/gpu -Itests/device tests/device/test_moe_nodes.cpp
#include "moe_nodes_scene.h"

// Rounds with changing tokens; room 0: no copy engine; the smaller, the fewer slots.
static void test_rounds(scene &job, unsigned nodes, sizes s, unsigned first, unsigned rounds)
{
    job_of_nodes ranks(job, s, nodes);
    const routing_kind kinds[] = {spread, skewed, some_empty, one_expert, nowhere, spread};
    const unsigned rooms[] = {65536, 2 * s.hidden + 1500, 0, 8 * s.hidden + 4096};
    unsigned ticket = 0;
    for (unsigned round = first; round < first + rounds; ++round) {
        const unsigned room = rooms[(round + s.hidden / 16) % 4], group = round % 3 == 0 ? 32 : round % 3 == 1 ? 0 : 64;
        ranks.late = round % 2 != 0;
        ranks.make_tokens(kinds[round % 6]);
        ranks.layout(round % 2 == 0);
        auto h = made(SHMEMI_MOEN_BF16, 0, round % 2, room);
        h.wide = round % 2 != 0;
        h.alignment = round % 3 == 0 ? 8 : 1;
        h.worst_case = round % 2 != 0;
        ranks.dispatch(h, ++ticket);
        ranks.check_dispatch(h, ticket);

        job_of_ranks::back b;
        b.room = room;
        ranks.combine(b);
        h = made(SHMEMI_MOEN_INT8, group, 1 - round % 2, rooms[(round + 1) % 4]); // the stage holds other rows then
        h.cached = true;
        ranks.dispatch(h, ++ticket);
        ranks.check_dispatch(h, ticket);
        b.weighted = b.weights = true;
        b.wide = round % 2 != 0;
        b.biases = round % 3;
        ranks.combine(b);
        b.format = SHMEMI_MOEN_INT8;
        b.group = group;
        ranks.combine(b);

        h = made(SHMEMI_MOEN_FP8, group, 1, rooms[(round + 2) % 4]);
        h.ue8m0 = round % 2 != 0;
        ranks.dispatch(h, ++ticket);
        ranks.check_dispatch(h, ticket);
        h = made(SHMEMI_MOEN_BYTES, 0, 0, room);
        h.groups = round % 3 == 0 ? 0 : round % 3 == 1 ? s.hidden / s.group : 1;
        h.strided = round % 2 != 0;
        ranks.dispatch(h, ++ticket);
        ranks.check_dispatch(h, ticket);
    }
}

// Tokens that go to more nodes than was said are reported, and go there.
static void test_max_nodes(scene &job, unsigned nodes)
{
    job_of_nodes ranks(job, sizes{32, 16, 4, 12, 96}, nodes);
    ranks.make_tokens(spread);
    for (rank_side &r : ranks.ranks)
        r.levels.between.max_nodes = nodes;
    ranks.layout(true);
    CHECK(ranks.job_is_quiet(), "all nodes are allowed");
    for (rank_side &r : ranks.ranks) {
        r.levels.between.max_nodes = nodes - 1;
        for (unsigned k = 0; k < 4; ++k) // one of its tokens goes to all nodes, the others nowhere
            for (unsigned t = 0; t < r.tokens; ++t)
                r.idx[t * 4 + k] =
                    t == r.tokens - 1 ? static_cast<long long>(ranks.first(k % nodes * (ranks.n / nodes))) : -1;
        r.idx32.assign(r.idx.begin(), r.idx.end());
    }
    ranks.reference();
    ranks.layout(true);
    for (unsigned me = 0; me < ranks.n; ++me) {
        const shmemx_device_error &e = job.boxes[me];
        CHECK(e.kind == SHMEMX_DEVICE_NODES && e.value == ranks.ranks[me].tokens - 1 &&
                  e.pe == static_cast<int>(nodes) && e.expected == nodes - 1,
              "rank %u: kind %u, token %llu, %d nodes", me, e.kind, e.value, e.pe);
    }
    job.clear_mailboxes();
    auto h = made(SHMEMI_MOEN_BF16, 0, 0, 65536);
    ranks.dispatch(h, 1);
    ranks.check_dispatch(h, 1);
}

// More rows than a rank has room for: its node says so, and all go on.
static void test_limit(scene &job, unsigned nodes)
{
    sizes s{32, 16, 2, 16, 20};
    job_of_nodes ranks(job, s, nodes);
    ranks.make_tokens(skewed); // all to rank 0
    if (ranks.ranks[0].from.size() <= s.capacity)
        return;
    ranks.layout(true);
    auto h = made(SHMEMI_MOEN_BF16, 0, 0, 65536);
    ranks.dispatch(h, 1);
    const unsigned each = ranks.n / nodes;
    for (unsigned me = 0; me < ranks.n; ++me) {
        const shmemx_device_error &e = job.boxes[me];
        CHECK(e.kind == (me < each ? SHMEMX_DEVICE_LIMIT : SHMEMX_DEVICE_OK), "rank %u: kind %u", me, e.kind);
        CHECK(ranks.ranks[me].host[0][0] == (1ull << 32 | (me < each ? SHMEMI_MOEN_NO_ROOM : 0)),
              "rank %u: the host's word", me);
    }
    job.clear_mailboxes();
    job_of_ranks::back b;
    b.empty = true; // no other node has anything
    ranks.combine(b);
    ranks.make_tokens(nowhere);
    ranks.layout(true);
    ranks.dispatch(h, 2);
    ranks.check_dispatch(h, 2);
}

// A rank that does not come: those of its number in other nodes say so, then those of its node, and all end.
static void test_absent()
{
    scene job(4, true, 300000000, 2);
    job_of_nodes ranks(job, sizes{32, 8, 2, 16, 64}, 2);
    ranks.make_tokens(spread);
    ranks.layout(true);
    auto h = made(SHMEMI_MOEN_BF16, 0, 0, 65536);
    h.absent = 3;
    ranks.dispatch(h, 1);
    CHECK(job.boxes[1].kind == SHMEMX_DEVICE_TIMEOUT && job.boxes[1].pe == 3, "kind %u, PE %d", job.boxes[1].kind,
          job.boxes[1].pe);
    CHECK(job.boxes[2].kind == SHMEMX_DEVICE_TIMEOUT && job.boxes[2].pe == 3, "kind %u, PE %d", job.boxes[2].kind,
          job.boxes[2].pe);
}

int main(int argc, char **argv)
{
    const unsigned more = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 1; // 0 = a round of each
    const struct {
        int n, nodes;
        sizes s;
    } shapes[] = {
        {4, 2, {64, 8, 3, 20, 80}},     {4, 2, {336, 10, 6, 18, 72}}, // 10 experts: 3, 3, 2, 2
        {4, 2, {32, 3, 2, 20, 80}},                                   // the last rank has none
        {8, 2, {64, 64, 8, 11, 88}},    {8, 4, {96, 21, 4, 12, 96}},
        {6, 3, {128, 13, 5, 10, 60}},
    };
    using shmem::arch::pace;
    for (pace how : {pace::at_once, pace::late, pace::any}) {
        shmem::arch::engine_pace() = how;
        unsigned first = 0; // the shapes begin with other kinds of routing
        for (const auto &shape : shapes) {
            const bool few = shape.n == 4; // every lane is a thread
            if (how != pace::at_once && !few)
                continue;
            const auto nodes = static_cast<unsigned>(shape.nodes);
            scene job(shape.n, true, 60000000000ull, shape.n / shape.nodes);
            const unsigned rounds = how != pace::at_once ? 2 : few ? 6 : 3;
            test_rounds(job, nodes, shape.s, first, more ? more * rounds : 1);
            first += 3;
            if (how == pace::at_once) {
                test_max_nodes(job, nodes);
                test_limit(job, nodes);
            }
        }
    }
    shmem::arch::engine_pace() = pace::at_once;
    test_absent();
    std::printf("%lu checks passed, %lu failed\n", passed.load(), failures.load());
    return failures != 0;
}
