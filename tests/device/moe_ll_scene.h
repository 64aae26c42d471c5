/* An object of the low-latency MoE kernels on CPU threads: its ranks' inputs, launches, and what comes out, checked against a
 * plain reference in double. For the ranks of a scene, and for those of a job of processes. */
#ifndef MOE_LL_SCENE_H
#define MOE_LL_SCENE_H

#include "host_scene.h"

#include "../../libshmem/src/gpu/moe_ll_combine.cuh"
#include "../../libshmem/src/gpu/moe_ll_dispatch.cuh"

#include <cmath>
#include <random>
#include <string>

using namespace shmem;
using moe::place;

inline constexpr unsigned threads = 2 * arch::warp_width, blocks = 2;

struct shape {
    unsigned hidden, experts, topk, tokens, how, back_how, group, ue8m0;
    bool wide, late_weights, two_launches;
};

/* One rank's private memory of a dispatch and its combine. */
struct rank_memory {
    std::vector<u16> x, y, out;
    std::vector<long long> idx;
    std::vector<int> idx32;
    std::vector<float> weights, scales;
    std::vector<unsigned char> recv_x;
    std::vector<int> recv_count, recv_source;
    std::vector<u64> choices, routed;
    std::vector<u32> present;
    unsigned tokens = 0;
};

inline float value_of(u16 b)
{
    return moe::float_of_bits(static_cast<u32>(b) << 16);
}

/* Ranks of one process, all mapped. */
struct mapped_world : scene {
    using scene::scene;
    static constexpr std::size_t room = user_bytes, offset = 0; // of the object's memory in each copy
    static constexpr u64 far = 0;
    static bool here(unsigned)
    {
        return true;
    }
    void clear()
    {
        for (int pe = 0; pe < npes; ++pe)
            std::memset(memory + stride * static_cast<std::size_t>(pe), 0, room);
    }
};

/* World: npes, room, offset, far as above, clear(), and run(blocks, threads, bytes, kernel) for the ranks that are here(). */
template <bool Lines, class World = mapped_world> struct job {
    World &world;
    const shape &s;
    unsigned ranks;
    shmemi_moe_ll o = {};
    std::vector<rank_memory> m, waiting; // see turn()
    std::vector<shmemi_moe_ll_local> local;
    std::mt19937 random{7};

    job(World &w, const shape &sh)
        : world(w), s(sh), ranks(static_cast<unsigned>(w.npes)), m(ranks), waiting(ranks), local(ranks)
    {
        o.hidden = s.hidden;
        o.experts = s.experts;
        o.topk = s.topk;
        o.max_tokens = s.tokens;
        o.group = s.group;
        o.ue8m0 = s.ue8m0;
        o.how = s.how;
        o.back_how = s.back_how;
        u64 bytes = shmemi_moe_ll_lay_out(&o, ranks, place<Lines>::data, detail::wire_group);
        if ((o.far = world.far) != 0)
            bytes = shmemi_moe_ll_lay_out_far(&o, ranks, bytes);
        if (bytes > world.room) {
            std::fprintf(stderr, "the object wants %llu bytes\n", bytes);
            std::abort();
        }
        o.timeout_ns = 20'000'000'000;
        world.clear();
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
            mine.block = detail::my_copy() + world.offset;
            mine.local = reinterpret_cast<u64>(&local[r]);
            mine.far &= ~(1ull << r);
            if (r != absent)
                each(mine, m[r], r);
        });
    }
    unsigned absent = ~0u; // a rank that launches nothing
    /* The other one of two dispatches that are under way. */
    void turn()
    {
        m.swap(waiting);
    }
    shmemi_moe_ll_handle handle(rank_memory &p) const
    {
        return {reinterpret_cast<u64>(p.choices.data()), reinterpret_cast<u64>(p.present.data()),
                reinterpret_cast<u64>(p.routed.data())};
    }
    void dispatch(unsigned phases)
    {
        launch([&](const shmemi_moe_ll &mine, rank_memory &p, unsigned) {
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
    /* What rank r's experts make of what came: exact in BF16, different for each expert; NaN where nothing came. */
    void experts(unsigned r)
    {
        rank_memory &p = m[r];
        p.y.assign(static_cast<std::size_t>(local_experts(r)) * ranks * s.tokens * s.hidden, 0x7fc0);
        for_rows(r, [&](unsigned e, unsigned row, std::size_t at) {
            for (unsigned c = 0; c < s.hidden; ++c) {
                const float y =
                    static_cast<float>(received(p, r, e, row, c)) * (1 + static_cast<float>((r * 5 + e) % 4));
                p.y[at * s.hidden + c] = static_cast<u16>(moe::to_bf16(y));
            }
        });
    }
    /* The rows that rank r received: each(expert, row, which of all). */
    template <class Each> void for_rows(unsigned r, Each each) const
    {
        for (unsigned e = 0; e < local_experts(r); ++e)
            for (unsigned row = 0; row < static_cast<unsigned>(m[r].recv_count[e]); ++row)
                each(e, row, static_cast<std::size_t>(e) * ranks * s.tokens + row);
    }
    /* All that rank r has received and added up, as a number: equal bits, equal numbers. */
    u64 digest(unsigned r) const
    {
        const rank_memory &p = m[r];
        u64 h = 14695981039346656037ull;
        const auto add = [&h](const void *from, std::size_t n) {
            for (std::size_t i = 0; i < n; ++i)
                h = (h ^ static_cast<const unsigned char *>(from)[i]) * 1099511628211ull;
        };
        add(p.recv_count.data(), p.recv_count.size() * sizeof(int));
        const std::size_t bytes = s.hidden * (s.how == moe::as_bf16 ? 2 : 1), rows = ranks * s.tokens,
                          groups = (s.hidden + s.group - 1) / s.group;
        for_rows(r, [&](unsigned e, unsigned row, std::size_t at) {
            add(&p.recv_source[at], sizeof(int));
            add(p.recv_x.data() + at * bytes, bytes);
            for (unsigned g = 0; s.how != moe::as_bf16 && g < groups; ++g)
                add(&p.scales[(e * groups + g) * rows + row], sizeof(float));
        });
        add(p.out.data(), p.tokens * s.hidden * 2);
        return h;
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
            const rank_memory &p = m[r];
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
    void check_row(const rank_memory &p, unsigned r, unsigned e, unsigned row, unsigned source, unsigned token)
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
    /* Dispatch, experts, combine; dispatched() and combined() look at what there is by then. */
    template <class Dispatched, class Combined>
    void round(const std::string &how, Dispatched dispatched, Combined combined)
    {
        inputs(how);
        in_phases([&](unsigned phases) { dispatch(phases); });
        dispatched();
        all_experts();
        in_phases([&](unsigned phases) { combine(phases); });
        combined();
    }
    void round(const std::string &how)
    {
        round(how, [&] { check_dispatch(); }, [&] { check_combine(); });
    }
    /* Two dispatches, and two combines, whose receives come later. combined() for each. */
    template <class Combined> void two_rounds(Combined combined)
    {
        const auto both = [&](auto what) {
            for (int i = 0; i < 2; ++i, turn())
                what();
        };
        both([&] {
            inputs("random");
            dispatch(SHMEMI_MOE_LL_SEND);
        });
        both([&] {
            dispatch(SHMEMI_MOE_LL_RECV);
            all_experts();
        });
        both([&] { combine(SHMEMI_MOE_LL_SEND); });
        both([&] {
            combine(SHMEMI_MOE_LL_RECV);
            combined();
        });
    }
    /* Dispatches without a combine between them, always one more sent than received: nothing but the rule of rounds keeps a
     * rank from what others have not read yet. before() each launch. */
    template <class Before, class Dispatched> void only_dispatches(unsigned n, Before before, Dispatched dispatched)
    {
        for (unsigned i = 0; i <= n; ++i, turn()) {
            before();
            if (i < n) {
                inputs("random");
                dispatch(SHMEMI_MOE_LL_SEND);
            }
            turn();
            if (i > 0) {
                dispatch(SHMEMI_MOE_LL_RECV);
                dispatched();
            }
            turn();
        }
    }

  private:
    template <class What> void in_phases(What what)
    {
        if (s.two_launches) {
            what(SHMEMI_MOE_LL_SEND);
            what(SHMEMI_MOE_LL_RECV);
        } else {
            what(SHMEMI_MOE_LL_SEND | SHMEMI_MOE_LL_RECV);
        }
    }
    void all_experts()
    {
        for (unsigned r = 0; r < ranks; ++r)
            if (world.here(r) && r != absent)
                experts(r);
    }
};

/* The digests of all rounds in one. */
class chain
{
  public:
    void add(u64 digest)
    {
        sum_ = (sum_ * 31 + digest) | 1;
    }
    u64 sum() const
    {
        return sum_;
    }

  private:
    u64 sum_ = 1;
};

/* The same rounds in any world, a chain for each rank; one round is for a short test, without the dispatches alone. */
template <bool Lines, class World>
void play_all(job<Lines, World> &j, unsigned rounds, std::vector<chain> &of, bool late = false)
{
    const char *const kinds[] = {"random", "one", "none", "few"};
    const auto look = [&] {
        for (unsigned r = 0; r < j.ranks; ++r)
            if (j.world.here(r) && r != j.absent)
                of[r].add(j.digest(r));
    };
    for (unsigned i = 0; i < rounds; ++i)
        j.round(kinds[i % 4], [] {}, look);
    j.two_rounds(look);
    if (rounds == 1)
        return;
    j.only_dispatches(
        4,
        [late] {
            if (late)
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
        },
        look);
}

#endif
