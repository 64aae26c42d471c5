// The low-latency MoE kernels on CPU threads, against a plain reference in double.
#include "mini_nic.h"
#include "moe_ll_scene.h"

template <bool Lines> static void play(int npes, const shape &s)
{
    mapped_world world(npes, Lines, 20'000'000'000);
    job<Lines> j(world, s);
    for (const char *how : {"random", "one", "none", "few", "random"})
        j.round(how);
    for (const shmemi_moe_ll_local &l : j.local)
        CHECK(l.dead == 0 && l.sent[0] == 5 && l.received[1] == 5, "rounds");
    for (const shmemx_device_error &e : world.boxes)
        CHECK(e.kind == 0, "mailbox: kind %u", e.kind);
}

/* No rank is mapped, and the NIC brings the last byte of a message first. The same bits. */
template <bool Lines> static void play_far(int npes, const shape &s)
{
    struct far_world : mapped_world {
        using mapped_world::mapped_world;
        u64 far = ~0ull;
    };
    far_world world(npes, Lines, 20'000'000'000);
    mapped_world near(npes, Lines);
    mini_nic nic(world, 64, 2, 65500);
    nic.pauses = true; // the round of a line is there long before its data
    job<Lines, far_world> j(world, s);
    job<Lines> reference(near, s);
    std::vector<chain> found(j.ranks), wanted(j.ranks);
    play_all(j, 1, found);
    play_all(reference, 1, wanted);
    for (unsigned r = 0; r < j.ranks; ++r)
        CHECK(found[r].sum() == wanted[r].sum(), "rank %u, lines %d: not what it is where all are mapped", r, Lines);
    for (const shmemx_device_error &e : world.boxes)
        CHECK(e.kind == 0, "mailbox: kind %u", e.kind);
}

/* A rank that never sends: the others go on without it. */
static void test_dead()
{
    const shape s = {64, 6, 2, 4, moe::as_int8, moe::as_int8, 32, 0, true, false, false};
    mapped_world world(3, true, 0);
    job<true> j(world, s);
    j.o.timeout_ns = 300'000'000;
    j.inputs("random");
    j.absent = 1;
    j.launch([&](const shmemi_moe_ll &mine, rank_memory &p, unsigned) {
        shmemi_moe_ll_dispatch a = {};
        a.x = reinterpret_cast<u64>(p.x.data());
        a.x_stride = s.hidden * 2;
        a.idx = reinterpret_cast<u64>(p.idx.data());
        a.wide_idx = 1;
        a.recv_x = reinterpret_cast<u64>(p.recv_x.data());
        a.recv_scales = reinterpret_cast<u64>(p.scales.data());
        a.scale_group = 4;
        a.scale_row = 8;
        a.scale_expert = 8 * 12;
        a.recv_count = reinterpret_cast<u64>(p.recv_count.data());
        a.handle = j.handle(p);
        a.tokens = p.tokens;
        a.phases = SHMEMI_MOE_LL_SEND | SHMEMI_MOE_LL_RECV;
        moe::ll_dispatch(mine, a, host::shared());
    });
    for (unsigned r : {0u, 2u}) {
        CHECK(j.local[r].dead == 2, "rank %u: dead %llx", r, static_cast<unsigned long long>(j.local[r].dead));
        int want = 0, got = 0;
        for (unsigned source : {0u, 2u})
            for (unsigned t = 0; t < j.m[source].tokens; ++t)
                want += j.chose(source, t, 2 * r) + j.chose(source, t, 2 * r + 1);
        for (int n : j.m[r].recv_count)
            got += n;
        CHECK(want == got, "rank %u: %d rows, not %d", r, got, want);
        j.m[r].y.assign(2 * 3 * 4 * s.hidden, static_cast<u16>(moe::to_bf16(1.0f)));
    }
    j.launch([&](const shmemi_moe_ll &mine, rank_memory &p, unsigned) {
        shmemi_moe_ll_combine a = {};
        a.y = reinterpret_cast<u64>(p.y.data());
        a.out = reinterpret_cast<u64>(p.out.data());
        a.out_stride = s.hidden * 2;
        a.handle = j.handle(p);
        a.tokens = p.tokens;
        a.phases = SHMEMI_MOE_LL_SEND | SHMEMI_MOE_LL_RECV;
        moe::ll_combine(mine, a, host::shared());
    });
    for (unsigned r : {0u, 2u})
        for (unsigned t = 0; t < j.m[r].tokens; ++t) {
            int want = 0; // as many ones as choices of living ranks
            for (unsigned k = 0; k < s.topk; ++k)
                want += j.m[r].idx[t * s.topk + k] >= 0 && j.m[r].idx[t * s.topk + k] / 2 != 1;
            const float got = value_of(j.m[r].out[t * s.hidden]);
            CHECK(std::fabs(got - static_cast<float>(want)) < 0.02f, "rank %u token %u: %g, not %d", r, t,
                  static_cast<double>(got), want);
        }
}

static void test_wrong_id()
{
    const shape s = {64, 4, 2, 2, moe::as_bf16, moe::as_bf16, 32, 0, true, false, false};
    mapped_world world(1, true, 0);
    job<true> j(world, s);
    j.inputs("none");
    j.m[0].idx[1] = 4;
    j.dispatch(SHMEMI_MOE_LL_SEND | SHMEMI_MOE_LL_RECV);
    CHECK(world.boxes[0].kind == SHMEMX_DEVICE_EXPERT && world.boxes[0].value == 1, "kind %u", world.boxes[0].kind);
    CHECK(j.m[0].recv_count[0] + j.m[0].recv_count[3] == 0, "it was sent");
}

static void test_codec()
{
    for (unsigned b = 0; b < 256; ++b) {
        const float f = moe::from_e4m3(b);
        CHECK(f != f || moe::to_e4m3(f) == b, "e4m3 %u", b);
    }
    std::mt19937 random(3);
    for (int i = 0; i < 20000; ++i) {
        const float x = (static_cast<float>(random()) / 4294967296.0f - 0.5f) * std::exp2(static_cast<float>(i % 20) - 10);
        float best = 1e9f;
        for (unsigned b = 0; b < 256; ++b) {
            const float f = moe::from_e4m3(b);
            if (f == f)
                best = std::min(best, std::fabs(f - x));
        }
        CHECK(std::fabs(moe::from_e4m3(moe::to_e4m3(x)) - x) == best, "e4m3 of %g", static_cast<double>(x));
    }
}

int main(int argc, char **argv)
{
    const bool few = argc > 1 && std::strcmp(argv[1], "few") == 0;
    test_codec();
    test_wrong_id();
    test_dead();
    const shape shapes[] = {
        {128, 8, 3, 5, moe::as_bf16, moe::as_bf16, 128, 0, true, false, false},
        {128, 8, 3, 5, moe::as_int8, moe::as_int8, 32, 0, false, true, true},
        {136, 7, 4, 6, moe::as_fp8, moe::as_bf16, 128, 0, true, true, false},
        {128, 5, 2, 33, moe::as_fp8, moe::as_int8, 64, 1, false, false, true},
        {24, 2, 1, 3, moe::as_int8, moe::as_int8, 24, 0, true, false, false},
    };
    for (const shape &s : shapes)
        for (int npes : {1, 2, 3, 4}) {
            if (few && (npes == 1 || npes == 4 || &s == shapes + 3))
                continue;
            play<true>(npes, s);
            play<false>(npes, s);
        }
    play_far<true>(3, shapes[2]);
    std::printf("%lu checks passed, %lu failed\n", passed.load(), failures.load());
    return failures.load() != 0;
}
