// The low-latency MoE kernels on CPU threads, against a plain reference in double.
#include "host_scene.h"

#include "../../libshmem/src/gpu/moe_ll_combine.cuh"
#include "../../libshmem/src/gpu/moe_ll_dispatch.cuh"

#include <cmath>
#include <random>
#include <string>

using namespace shmem;
using moe::place;

static constexpr unsigned threads = 2 * arch::warp_width, blocks = 2;

struct shape {
    unsigned hidden, experts, topk, tokens, how, back_how, group, ue8m0;
    bool wide, late_weights, two_launches;
};

/* One rank's private memory. */
struct rank_memory {
    std::vector<u16> x, y, out;
    std::vector<long long> idx;
    std::vector<int> idx32;
    std::vector<float> weights, scales;
    std::vector<unsigned char> recv_x;
    std::vector<int> recv_count, recv_source;
    std::vector<u64> choices, routed;
    std::vector<u32> present;
    shmemi_moe_ll_local local = {};
    unsigned tokens = 0;
};

static float value_of(u16 b)
{
    return moe::float_of_bits(static_cast<u32>(b) << 16);
}

template <bool Lines> struct job {
    scene &world;
    const shape &s;
    unsigned ranks;
    shmemi_moe_ll o = {};
    std::vector<rank_memory> m;
    std::mt19937 random{7};

    job(scene &w, const shape &sh) : world(w), s(sh), ranks(static_cast<unsigned>(w.npes)), m(ranks)
    {
        o.hidden = s.hidden;
        o.experts = s.experts;
        o.topk = s.topk;
        o.max_tokens = s.tokens;
        o.group = s.group;
        o.ue8m0 = s.ue8m0;
        o.how = s.how;
        o.back_how = s.back_how;
        if (shmemi_moe_ll_lay_out(&o, ranks, place<Lines>::data, detail::wire_group) > scene::user_bytes)
            std::abort();
        o.timeout_ns = 20'000'000'000;
        for (int pe = 0; pe < world.npes; ++pe)
            std::memset(world.memory + scene::stride * static_cast<std::size_t>(pe), 0, scene::user_bytes);
    }
    unsigned local_experts(unsigned r) const
    {
        return moe::experts_of(s.experts, ranks).count(r);
    }
    void inputs(const std::string &how)
    {
        std::normal_distribution<float> normal;
        for (unsigned r = 0; r < ranks; ++r) {
            rank_memory &p = m[r];
            p.tokens = how == "few" ? (r == 0 ? s.tokens : r % 2) : s.tokens;
            p.x.resize(s.tokens * s.hidden);
            for (u16 &x : p.x)
                x = static_cast<u16>(moe::to_bf16(normal(random)));
            p.idx.assign(s.tokens * s.topk, -1);
            p.weights.resize(s.tokens * s.topk);
            for (unsigned i = 0; i < s.tokens * s.topk; ++i) {
                p.weights[i] = std::fabs(normal(random));
                if (how == "one")
                    p.idx[i] = i % s.topk == 0 ? static_cast<long long>(s.experts) - 1 : -1;
                else if (how != "none" && random() % 8 != 0)
                    p.idx[i] = random() % s.experts; // the same expert twice may happen, and must work
            }
            p.idx32.assign(p.idx.begin(), p.idx.end());
            const std::size_t rows = static_cast<std::size_t>(local_experts(r)) * ranks * s.tokens;
            const unsigned groups = (s.hidden + s.group - 1) / s.group;
            p.recv_x.assign(rows * s.hidden * 2, 0xee);
            p.scales.assign(rows * groups, -1);
            p.recv_count.assign(local_experts(r), -1);
            p.recv_source.assign(rows, -1);
            p.choices.assign(ranks * s.tokens * s.topk, 5);
            p.routed.assign(s.tokens, 5);
            p.present.assign(ranks * ((s.tokens + 31) / 32), 5);
            p.out.assign(s.tokens * s.hidden, 0x4242);
        }
    }
    template <class Each> void launch(Each each)
    {
        world.run(blocks, threads, 1 << 16, [&] {
            const auto r = static_cast<unsigned>(my_pe());
            shmemi_moe_ll mine = o;
            mine.block = detail::my_copy();
            mine.local = reinterpret_cast<u64>(&m[r].local);
            each(mine, m[r], r);
        });
    }
    shmemi_moe_ll_handle handle(rank_memory &p) const
    {
        return {reinterpret_cast<u64>(p.choices.data()), reinterpret_cast<u64>(p.present.data()),
                reinterpret_cast<u64>(p.routed.data())};
    }
    void dispatch(unsigned phases)
    {
        launch([&](const shmemi_moe_ll &mine, rank_memory &p, unsigned r) {
            shmemi_moe_ll_dispatch a = {};
            const u64 rows = static_cast<u64>(ranks) * s.tokens;
            a.x = reinterpret_cast<u64>(p.x.data());
            a.x_stride = s.hidden * 2;
            a.idx = s.wide ? reinterpret_cast<u64>(p.idx.data()) : reinterpret_cast<u64>(p.idx32.data());
            a.wide_idx = s.wide;
            a.weights = s.late_weights ? 0 : reinterpret_cast<u64>(p.weights.data());
            a.recv_x = reinterpret_cast<u64>(p.recv_x.data());
            a.recv_scales = reinterpret_cast<u64>(p.scales.data());
            a.scale_group = rows * 4; // by columns, as DeepEP has them
            a.scale_row = 4;
            a.scale_expert = rows * 4 * ((s.hidden + s.group - 1) / s.group);
            a.recv_count = reinterpret_cast<u64>(p.recv_count.data());
            a.recv_source = reinterpret_cast<u64>(p.recv_source.data());
            a.handle = handle(p);
            a.tokens = p.tokens;
            a.phases = phases;
            (void)r;
            moe::ll_dispatch(mine, a, host::shared());
        });
    }
    void combine(unsigned phases)
    {
        launch([&](const shmemi_moe_ll &mine, rank_memory &p, unsigned) {
            shmemi_moe_ll_combine a = {};
            a.y = reinterpret_cast<u64>(p.y.data());
            a.weights = s.late_weights ? reinterpret_cast<u64>(p.weights.data()) : 0;
            a.out = reinterpret_cast<u64>(p.out.data());
            a.out_stride = s.hidden * 2;
            a.handle = handle(p);
            a.tokens = p.tokens;
            a.phases = phases;
            moe::ll_combine(mine, a, host::shared());
        });
    }
    /* The value at column c of a row that rank r received. */
    double received(const rank_memory &p, unsigned r, unsigned e, unsigned row, unsigned c) const
    {
        const unsigned rows = ranks * s.tokens, groups = (s.hidden + s.group - 1) / s.group;
        const std::size_t at = (static_cast<std::size_t>(e) * rows + row) * s.hidden + c;
        (void)r;
        if (s.how == moe::as_bf16) {
            u16 b;
            std::memcpy(&b, p.recv_x.data() + at * 2, 2);
            return value_of(b);
        }
        const float scale = p.scales[(static_cast<std::size_t>(e) * groups + c / s.group) * rows + row];
        const unsigned char q = p.recv_x[at];
        return s.how == moe::as_int8 ? static_cast<double>(static_cast<signed char>(q)) * scale
                                     : static_cast<double>(moe::from_e4m3(q)) * scale;
    }
    bool chose(unsigned r, unsigned t, unsigned expert) const
    {
        for (unsigned k = 0; k < s.topk; ++k)
            if (m[r].idx[t * s.topk + k] == static_cast<long long>(expert))
                return true;
        return false;
    }
    void check_dispatch()
    {
        for (unsigned r = 0; r < ranks; ++r) {
            rank_memory &p = m[r];
            p.y.assign(static_cast<std::size_t>(local_experts(r)) * ranks * s.tokens * s.hidden, 0x7fc0); // NaN
            const unsigned first = moe::experts_of(s.experts, ranks).first(r);
            for (unsigned e = 0; e < local_experts(r); ++e) {
                unsigned row = 0;
                for (unsigned source = 0; source < ranks; ++source)
                    for (unsigned t = 0; t < m[source].tokens; ++t)
                        if (chose(source, t, first + e)) {
                            check_row(p, r, e, row, source, t);
                            ++row;
                        }
                CHECK(p.recv_count[e] == static_cast<int>(row), "rank %u expert %u: %d rows, not %u", r, e,
                      p.recv_count[e], row);
            }
        }
    }
    void check_row(rank_memory &p, unsigned r, unsigned e, unsigned row, unsigned source, unsigned token)
    {
        const std::size_t at = static_cast<std::size_t>(e) * ranks * s.tokens + row;
        CHECK(p.recv_source[at] == static_cast<int>(source * s.tokens + token), "source of row %u", row);
        bool same = true;
        for (unsigned c = 0; c < s.hidden; ++c) {
            const float x = value_of(m[source].x[token * s.hidden + c]);
            const double got = received(p, r, e, row, c);
            double amax = 0;
            for (unsigned j = c / s.group * s.group; j < std::min(s.hidden, (c / s.group + 1) * s.group); ++j)
                amax = std::max(amax, std::fabs(static_cast<double>(value_of(m[source].x[token * s.hidden + j]))));
            const double step = s.how == moe::as_bf16   ? 0
                                : s.how == moe::as_int8 ? amax / 127 * 0.5001
                                                        : std::max(std::fabs(static_cast<double>(x)) / 16, amax / 448 / 512) *
                                                              (s.ue8m0 ? 1.001 : 1.0001);
            same = same && std::fabs(got - x) <= step + 1e-12;
            // what the expert makes of it: exact in BF16, different for each expert
            const float y = static_cast<float>(got) * (1 + static_cast<float>((r * 5 + e) % 4));
            p.y[at * s.hidden + c] = static_cast<u16>(moe::to_bf16(y));
        }
        CHECK(same, "rank %u expert %u row %u of rank %u token %u differs", r, e, row, source, token);
    }
    void check_combine()
    {
        double signal = 0, noise = 0;
        for (unsigned r = 0; r < ranks; ++r)
            for (unsigned t = 0; t < m[r].tokens; ++t)
                for (unsigned c = 0; c < s.hidden; ++c) {
                    double want = 0;
                    for (unsigned k = 0; k < s.topk; ++k)
                        want += contribution(r, t, k, c);
                    const double got = value_of(m[r].out[t * s.hidden + c]);
                    signal += want * want;
                    noise += (got - want) * (got - want);
                }
        const double db = noise == 0 ? 999 : signal == 0 ? 0 : 10 * std::log10(signal / noise);
        CHECK(db > (s.back_how == moe::as_bf16 ? 45 : 36), "combine: %.1f dB", db);
    }
    /* weight * y of choice k of token t of rank r: found through recv_source, which has been checked. */
    double contribution(unsigned r, unsigned t, unsigned k, unsigned c)
    {
        const long long expert = m[r].idx[t * s.topk + k];
        if (expert < 0)
            return 0;
        const moe::experts_of who(s.experts, ranks);
        const unsigned owner = who.owner(static_cast<unsigned>(expert));
        const unsigned e = static_cast<unsigned>(expert) - who.first(owner);
        for (unsigned row = 0; row < static_cast<unsigned>(m[owner].recv_count[e]); ++row) {
            const std::size_t at = static_cast<std::size_t>(e) * ranks * s.tokens + row;
            if (m[owner].recv_source[at] == static_cast<int>(r * s.tokens + t))
                return static_cast<double>(m[r].weights[t * s.topk + k]) * value_of(m[owner].y[at * s.hidden + c]);
        }
        return 1e9;
    }
    void round(const std::string &how)
    {
        inputs(how);
        if (s.two_launches) {
            dispatch(SHMEMI_MOE_LL_SEND);
            dispatch(SHMEMI_MOE_LL_RECV);
        } else {
            dispatch(SHMEMI_MOE_LL_SEND | SHMEMI_MOE_LL_RECV);
        }
        check_dispatch();
        if (s.two_launches) {
            combine(SHMEMI_MOE_LL_SEND);
            combine(SHMEMI_MOE_LL_RECV);
        } else {
            combine(SHMEMI_MOE_LL_SEND | SHMEMI_MOE_LL_RECV);
        }
        check_combine();
    }
};

template <bool Lines> static void play(int npes, const shape &s)
{
    scene world(npes, Lines, 20'000'000'000);
    job<Lines> j(world, s);
    for (const char *how : {"random", "one", "none", "few", "random"})
        j.round(how);
    for (const rank_memory &p : j.m)
        CHECK(p.local.dead == 0 && p.local.sent[0] == 5 && p.local.received[1] == 5, "rounds");
    for (const shmemx_device_error &e : world.boxes)
        CHECK(e.kind == 0, "mailbox: kind %u", e.kind);
}

/* A rank that never sends: the others go on without it. */
static void test_dead()
{
    const shape s = {64, 6, 2, 4, moe::as_int8, moe::as_int8, 32, 0, true, false, false};
    scene world(3, true, 0);
    job<true> j(world, s);
    j.o.timeout_ns = 300'000'000;
    j.inputs("random");
    j.launch([&](const shmemi_moe_ll &mine, rank_memory &p, unsigned r) {
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
        if (r != 1)
            moe::ll_dispatch(mine, a, host::shared());
    });
    for (unsigned r : {0u, 2u}) {
        CHECK(j.m[r].local.dead == 2, "rank %u: dead %llx", r, static_cast<unsigned long long>(j.m[r].local.dead));
        int want = 0, got = 0;
        for (unsigned source : {0u, 2u})
            for (unsigned t = 0; t < j.m[source].tokens; ++t)
                want += j.chose(source, t, 2 * r) + j.chose(source, t, 2 * r + 1);
        for (int n : j.m[r].recv_count)
            got += n;
        CHECK(want == got, "rank %u: %d rows, not %d", r, got, want);
        j.m[r].y.assign(2 * 3 * 4 * s.hidden, static_cast<u16>(moe::to_bf16(1.0f)));
    }
    j.launch([&](const shmemi_moe_ll &mine, rank_memory &p, unsigned r) {
        shmemi_moe_ll_combine a = {};
        a.y = reinterpret_cast<u64>(p.y.data());
        a.out = reinterpret_cast<u64>(p.out.data());
        a.out_stride = s.hidden * 2;
        a.handle = j.handle(p);
        a.tokens = p.tokens;
        a.phases = SHMEMI_MOE_LL_SEND | SHMEMI_MOE_LL_RECV;
        if (r != 1)
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
    scene world(1, true, 0);
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

int main()
{
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
            play<true>(npes, s);
            play<false>(npes, s);
        }
    std::printf("%lu checks passed, %lu failed\n", passed.load(), failures.load());
    return failures.load() != 0;
}
