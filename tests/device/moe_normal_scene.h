/* Ranks of MoE on CPU threads for test_moe_normal.cpp: their tokens, calls of the kernels, and what these should give. */
#ifndef MOE_NORMAL_SCENE_H
#define MOE_NORMAL_SCENE_H

#include "host_scene.h"

#include "moe_normal_combine.cuh"
#include "moe_normal_dispatch.cuh"
#include "moe_normal_form.cuh"
#include "moe_normal_levels.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace normal = shmem::moe::normal;
using shmem::u32;
using shmem::u64;

constexpr std::size_t at = 4096; // of the object, in each copy

inline u64 address(const void *p)
{
    return reinterpret_cast<std::uintptr_t>(p);
}
template <class T> inline T *pointer(u64 a)
{
    return reinterpret_cast<T *>(a);
}
inline float of_bf16(std::uint16_t h)
{
    return shmem::moe::float_of_bits(static_cast<u32>(h) << 16);
}
inline std::uint16_t to_bf16(float f)
{
    return static_cast<std::uint16_t>(shmem::moe::to_bf16(f));
}

struct sizes {
    unsigned hidden, experts, topk, max_tokens, capacity;
    unsigned results = 2, group = 32;
};
enum routing_kind { spread, skewed, some_empty, one_expert, nowhere };

/* What a rank has of its own. */
struct rank_side {
    shmemi_moen object;
    shmemi_moen_levels levels; // between nodes; then object is the one within
    std::vector<shmemi_moen_result> result;
    std::vector<std::vector<u64>> host;
    unsigned tokens = 0;
    std::vector<long long> idx;
    std::vector<int> idx32;
    std::vector<float> weights;
    std::vector<std::uint16_t> x;
    std::vector<unsigned char> x8;
    std::vector<float> x_scales;
    std::vector<unsigned char> routing;
    std::vector<int> pos, per_rank, per_expert;      // reference
    std::vector<std::pair<unsigned, unsigned>> from; // rows received: source rank, token
};

class job_of_ranks
{
  public:
    // nodes: more than 1 = two levels, the scene has their teams
    job_of_ranks(scene &job_, unsigned team_, sizes s_, unsigned nodes_ = 1)
        : job(job_), team(team_), s(s_), n(static_cast<unsigned>(job_.npes)), nodes(nodes_), ranks(n)
    {
        for (unsigned pe = 0; pe < n; ++pe) {
            rank_side &r = ranks[rank_of(pe)];
            shmemi_moen &o = r.object = {};
            o.team = team;
            o.hidden = s.hidden;
            o.experts = s.experts;
            o.topk = s.topk;
            o.max_tokens = s.max_tokens;
            o.capacity = s.capacity;
            o.most = (s.experts + n - 1) / n;
            o.each = o.sources = 1;
            const unsigned groups = shmemi_moen_groups(s.hidden, s.group);
            unsigned char *copy = job.memory + scene::stride * pe;
            u64 end = address(copy + at);
            if (nodes == 1) {
                end = shmemi_moen_lay_out(&o, n, groups, end);
            } else {
                r.levels.nodes = nodes;
                r.levels.each = n / nodes;
                end = shmemi_moen_lay_out_levels(&r.levels, &o, pe / r.levels.each, groups, end);
                r.levels.within.team = scene::row;
                r.levels.between.team = scene::column;
                r.levels.stage.host = 0;
                o = r.levels.within;
            }
            for (unsigned i = 0; i < s.results; ++i) {
                shmemi_moen_result result = {};
                end = shmemi_moen_lay_out_result(&result, &o, n / nodes, groups, end);
                r.host.emplace_back(1 + o.most);
                result.host = address(r.host.back().data());
                r.result.push_back(result);
            }
            if (end > address(copy) + scene::user_bytes) {
                std::fprintf(stderr, "the object needs %llu bytes\n", end - address(copy));
                std::exit(1);
            }
            std::memset(copy + at, 0, end - address(copy + at));
        }
    }

    virtual ~job_of_ranks() = default;

    scene &job;
    const unsigned team;
    const sizes s;
    const unsigned n, nodes;
    std::vector<rank_side> ranks;
    std::mt19937 random{7};

    unsigned rank_of(unsigned pe) const
    {
        return team == 3 ? n - 1 - pe : pe;
    }
    rank_side &mine()
    {
        return ranks[rank_of(static_cast<unsigned>(shmem::my_pe()))];
    }
    unsigned owner(long long e) const
    {
        return normal::owners(s.experts, n).owner(static_cast<unsigned>(e));
    }
    unsigned first(unsigned rank) const
    {
        return normal::owners(s.experts, n).first(rank);
    }
    float number()
    {
        return std::normal_distribution<float>()(random);
    }

    void make_tokens(routing_kind kind)
    {
        for (unsigned me = 0; me < n; ++me) {
            rank_side &r = ranks[me];
            r.tokens =
                kind == some_empty && me % 2 == 0 ? 0 : s.max_tokens - random() % (s.max_tokens / 2 + 1);
            r.idx.assign(r.tokens * s.topk, -1);
            for (unsigned t = 0; t < r.tokens; ++t)
                for (unsigned k = 0; k < s.topk; ++k) {
                    const unsigned wide = kind == skewed       ? std::max(1u, s.experts / n)
                                          : kind == one_expert ? 1
                                                               : s.experts;
                    if (kind != nowhere && random() % 8 != 0)
                        r.idx[t * s.topk + k] = static_cast<long long>(random() % wide);
                }
            r.idx32.assign(r.idx.begin(), r.idx.end());
            r.weights.resize(r.idx.size());
            for (float &w : r.weights)
                w = std::abs(number());
            r.x.resize(static_cast<std::size_t>(r.tokens) * s.hidden);
            r.x8.resize(r.x.size());
            for (std::size_t i = 0; i < r.x.size(); ++i) {
                r.x[i] = to_bf16(number());
                r.x8[i] = static_cast<unsigned char>(random());
            }
            r.x_scales.resize(static_cast<std::size_t>(r.tokens) * 64);
            for (float &f : r.x_scales)
                f = number();
            r.routing.assign((nodes == 1 ? shmemi_moen_routing_size(&r.object, n, r.tokens)
                                         : shmemi_moen_way_at(&r.levels, 0, r.tokens).end) +
                                 16,
                             0xee);
        }
        reference();
    }
    void reference()
    {
        for (rank_side &r : ranks)
            r.from.clear();
        for (unsigned me = 0; me < n; ++me) {
            rank_side &r = ranks[me];
            r.pos.assign(r.tokens * n, -1);
            r.per_rank.assign(n, 0);
            r.per_expert.assign(s.experts, 0);
            for (unsigned t = 0; t < r.tokens; ++t)
                for (unsigned k = 0; k < s.topk; ++k)
                    if (long long e = r.idx[t * s.topk + k]; e >= 0) {
                        ++r.per_expert[static_cast<std::size_t>(e)];
                        const unsigned j = owner(e);
                        if (r.pos[t * n + j] < 0) {
                            r.pos[t * n + j] = r.per_rank[j]++;
                            ranks[j].from.emplace_back(me, t);
                        }
                    }
        }
    }
    static unsigned char *routing_of(rank_side &r)
    {
        return r.routing.data() + (16 - address(r.routing.data()) % 16) % 16;
    }

    void layout(bool wide)
    {
        std::vector<std::vector<int>> per_rank(n, std::vector<int>(n, -9)),
            per_expert(n, std::vector<int>(s.experts, -9));
        std::vector<std::vector<unsigned char>> in_rank(n);
        std::vector<shmemi_moen_layout> args(n);
        for (unsigned me = 0; me < n; ++me) {
            rank_side &r = ranks[me];
            in_rank[me].assign(r.tokens * n, 7);
            args[me] = {wide ? address(r.idx.data()) : address(r.idx32.data()),
                        address(routing_of(r)),
                        address(per_rank[me].data()),
                        address(per_expert[me].data()),
                        address(in_rank[me].data()),
                        0,
                        r.tokens,
                        wide};
        }
        const unsigned threads = 2 * shmem::arch::warp_width;
        job.run(n + 1, threads, shmemi_moen_layout_shared(threads, s.experts), [&] {
            const unsigned me = rank_of(static_cast<unsigned>(shmem::my_pe()));
            normal::layout(ranks[me].object, args[me], shmem::host::shared());
        });
        for (unsigned me = 0; me < n; ++me) {
            rank_side &r = ranks[me];
            const shmemi_moen_places p = shmemi_moen_place_all(&r.object, n);
            const int *pos = reinterpret_cast<const int *>(routing_of(r) + p.pos);
            CHECK(per_rank[me] == r.per_rank && per_expert[me] == r.per_expert, "counts of rank %u", me);
            bool same = true;
            for (std::size_t i = 0; i < r.pos.size(); ++i)
                same = same && pos[i] == r.pos[i] && in_rank[me][i] == (r.pos[i] >= 0);
            CHECK(same, "places of rank %u's tokens", me);
        }
    }

    struct how {
        unsigned format = SHMEMI_MOEN_BF16, group = 0, groups = 0, ue8m0 = 0, result = 0, alignment = 1;
        bool cached = false, ids = true, wide = true, worst_case = false, strided = false;
        unsigned room = 65536, blocks = 2, warps = 2;
        unsigned absent = 99; // a rank that does not come
    };
    void dispatch(const how &h, unsigned ticket)
    {
        std::vector<shmemi_moen_dispatch> args(n);
        for (unsigned me = 0; me < n; ++me) {
            rank_side &r = ranks[me];
            shmemi_moen_dispatch &a = args[me] = {};
            const bool bytes = h.format == SHMEMI_MOEN_BYTES, bf16 = h.format == SHMEMI_MOEN_BF16;
            a.result = r.result[h.result];
            a.routing = address(routing_of(r));
            a.x = bytes ? address(r.x8.data()) : address(r.x.data());
            a.x_stride = bytes ? s.hidden : 2 * s.hidden;
            a.idx = h.ids && !h.cached ? (h.wide ? address(r.idx.data()) : address(r.idx32.data())) : 0;
            a.weights = h.ids && !h.cached ? address(r.weights.data()) : 0;
            a.tokens = r.tokens;
            a.wide = h.wide;
            a.format = h.format;
            a.group = h.group != 0 ? h.group : s.hidden;
            a.groups = bytes ? h.groups : bf16 ? 0 : shmemi_moen_groups(s.hidden, h.group);
            if (bytes && h.groups != 0) {
                a.x_scales = address(r.x_scales.data());
                a.x_scales_row = h.strided ? 4 : 4 * h.groups;
                a.x_scales_column = h.strided ? 4 * r.tokens : 4;
                a.bulk_scales = !h.strided && (a.x_scales | a.x_scales_row) % 16 == 0;
            }
            a.ue8m0 = h.ue8m0;
            a.cached = h.cached;
            a.worst_case = h.worst_case;
            a.alignment = h.alignment;
            a.what = h.result | a.cached << 6 | a.format << 7 | a.groups << 9;
            a.ticket = ticket;
        }
        run_dispatch(h, args);
        quiet_now = job_is_quiet();
    }
    // The library's, but that rows also travel by blocks of their own, every other time, though there are few.
    static unsigned shape(shmemi_moen_dispatch &a, const shmemi_moen &o, unsigned ranks, const how &h)
    {
        const unsigned shared = shmemi_moen_shape_dispatch(&a, &o, ranks, h.room, h.warps, h.blocks);
        const bool quantizes = a.format == SHMEMI_MOEN_INT8 || a.format == SHMEMI_MOEN_FP8;
        if (a.pipe.slots != 0 && !quantizes && ranks > 1 && h.blocks > 1 && a.ticket % 2 != 0)
            a.abroad = h.blocks - 1;
        return shared;
    }
    virtual void run_dispatch(const how &h, std::vector<shmemi_moen_dispatch> &args)
    {
        unsigned shared = 0;
        for (unsigned me = 0; me < n; ++me)
            shared = std::max(shared, shape(args[me], ranks[me].object, n, h));
        // ranks without aligned scales would have other shapes; threads are those of the first
        job.run(h.blocks, args[0].pipe.warps * shmem::arch::warp_width, shared, [&] {
            const unsigned me = rank_of(static_cast<unsigned>(shmem::my_pe()));
            if (me != h.absent)
                normal::dispatch(ranks[me].object, args[me], shmem::host::shared());
        });
    }
    bool job_is_quiet() const
    {
        for (const shmemx_device_error &e : job.boxes)
            if (e.kind != 0)
                return false;
        return true;
    }
    bool quiet_now = true;

    // Row i of rank me, as it should be and as it is, in float.
    void check_row(unsigned me, const how &h, std::size_t i)
    {
        const rank_side &r = ranks[me], &source = ranks[r.from[i].first];
        const shmemi_moen_result &got = r.result[h.result];
        const std::size_t t = r.from[i].second, groups = h.format == SHMEMI_MOEN_BYTES
                                                             ? h.groups
                                                             : shmemi_moen_groups(s.hidden, h.group);
        const float *scales = pointer<float>(got.scales) + i * ((groups + 3) / 4 * 4);
        bool same = true;
        if (h.format == SHMEMI_MOEN_BF16) {
            same = std::memcmp(pointer<char>(got.x) + i * s.hidden * 2, source.x.data() + t * s.hidden,
                               s.hidden * 2) == 0;
        } else if (h.format == SHMEMI_MOEN_BYTES) {
            same = std::memcmp(pointer<char>(got.x) + i * s.hidden, source.x8.data() + t * s.hidden,
                               s.hidden) == 0;
            for (std::size_t g = 0; g < groups; ++g)
                same =
                    same && scales[g] == source.x_scales[h.strided ? g * source.tokens + t : t * groups + g];
        } else {
            const std::size_t width = h.group != 0 ? h.group : s.hidden;
            for (std::size_t g = 0; g < groups; ++g) {
                const std::size_t end = std::min<std::size_t>((g + 1) * width, s.hidden);
                float amax = 0;
                for (std::size_t c = g * width; c < end; ++c)
                    amax = std::max(amax, std::abs(of_bf16(source.x[t * s.hidden + c])));
                const bool int8 = h.format == SHMEMI_MOEN_INT8;
                const float scale = int8 ? amax / 127 : std::max(amax, 1e-4f) / 448;
                // FP8's scale may differ in the last bit
                same = same && (int8           ? scales[g] == scale
                                : h.ue8m0 != 0 ? scales[g] >= scale * 0.999999f && scales[g] < 2 * scale
                                               : std::abs(scales[g] / scale - 1) < 1e-6f);
                for (std::size_t c = g * width; c < end; ++c) {
                    const unsigned char b = pointer<unsigned char>(got.x)[i * s.hidden + c];
                    const float want = of_bf16(source.x[t * s.hidden + c]);
                    const float is =
                        (int8 ? static_cast<float>(static_cast<signed char>(b)) : shmem::moe::from_e4m3(b)) *
                        scales[g];
                    const float room =
                        int8 ? 0.501f * scales[g] : std::max(std::abs(want) / 15.9f, scales[g] / 1000);
                    same = same && std::abs(is - want) <= room;
                }
            }
        }
        CHECK(same, "row %zu of rank %u, format %u, from rank %u, token %zu", i, me, h.format,
              r.from[i].first, t);
    }
    void check_dispatch(const how &h, unsigned ticket)
    {
        CHECK(quiet_now, "a kernel has reported something");
        for (unsigned me = 0; me < n; ++me) {
            if (!has_results(me))
                continue;
            const rank_side &r = ranks[me];
            const shmemi_moen_result &got = r.result[h.result];
            const std::size_t rows = r.from.size();
            const std::vector<u64> &host = r.host[h.result];
            CHECK(*pointer<int>(got.rows) == static_cast<int>(rows) &&
                      host[0] == (static_cast<u64>(ticket) << 32 | rows),
                  "rank %u has %d rows, not %zu", me, *pointer<int>(got.rows), rows);
            for (unsigned from = 0; from < n; ++from)
                CHECK(pointer<int>(got.per_source)[from] == ranks[from].per_rank[me], "rows from %u", from);
            for (unsigned e = 0; e < normal::owners(s.experts, n).count(me); ++e) {
                int all = 0;
                for (const rank_side &o : ranks)
                    all += o.per_expert[first(me) + e];
                all = (all + static_cast<int>(h.alignment) - 1) / static_cast<int>(h.alignment) *
                      static_cast<int>(h.alignment);
                CHECK(pointer<int>(got.per_expert)[e] == all &&
                          host[1 + e] == (static_cast<u64>(ticket) << 32 | static_cast<u64>(all)),
                      "expert %u of rank %u: %d choices, not %d", e, me, pointer<int>(got.per_expert)[e],
                      all);
            }
            for (std::size_t i = 0; i < rows; ++i) {
                check_row(me, h, i);
                CHECK(pointer<u32>(got.source_token)[i] == r.from[i].second, "source of row %zu", i);
                for (unsigned k = 0; k < s.topk && h.ids && !h.cached; ++k) {
                    const std::size_t c = r.from[i].second * s.topk + k;
                    const long long e = ranks[r.from[i].first].idx[c];
                    const bool here = e >= 0 && owner(e) == me;
                    CHECK(pointer<long long>(got.topk_idx)[i * s.topk + k] == (here ? e - first(me) : -1) &&
                              pointer<float>(got.topk_weights)[i * s.topk + k] ==
                                  (here ? ranks[r.from[i].first].weights[c] : 0),
                          "id or weight of row %zu", i);
                }
            }
            for (std::size_t i = rows * s.topk;
                 h.worst_case && i < static_cast<std::size_t>(s.capacity) * s.topk; ++i)
                CHECK(pointer<long long>(got.topk_idx)[i] == -1, "id %zu behind the rows", i);
        }
    }

    struct back {
        unsigned format = SHMEMI_MOEN_BF16, group = 0, biases = 0;
        bool weighted = false, weights = false, wide = true, empty = false;
        unsigned room = 65536, blocks = 2, warps = 4;
    };
    void combine(const back &b)
    {
        std::vector<shmemi_moen_combine> args(n);
        std::vector<std::vector<std::uint16_t>> y(n), out(n), bias(n);
        std::vector<std::vector<float>> weights(n), out_weights(n);
        for (unsigned me = 0; me < n; ++me) {
            rank_side &r = ranks[me];
            y[me].resize((r.from.size() + 1) * s.hidden);
            for (std::uint16_t &v : y[me])
                v = to_bf16(number());
            bias[me].resize((static_cast<std::size_t>(r.tokens) + 1) * s.hidden * 2);
            for (std::uint16_t &v : bias[me])
                v = to_bf16(number());
            weights[me].resize((r.from.size() + 1) * s.topk);
            for (float &w : weights[me])
                w = number();
            out[me].assign((static_cast<std::size_t>(r.tokens) + 1) * s.hidden, 0x7fc0);
            out_weights[me].assign((static_cast<std::size_t>(r.tokens) + 1) * s.topk, NAN);
            shmemi_moen_combine &a = args[me] = {};
            a.routing = address(routing_of(r));
            a.y = address(y[me].data());
            a.y_stride = a.out_stride = s.hidden * 2;
            a.weights = b.weights ? address(weights[me].data()) : 0;
            a.out_weights = b.weights ? address(out_weights[me].data()) : 0;
            a.topk_weights = b.weighted ? address(r.weights.data()) : 0;
            a.idx = b.wide ? address(r.idx.data()) : address(r.idx32.data());
            a.wide = b.wide;
            for (unsigned i = 0; i < b.biases; ++i)
                a.bias[i] = address(bias[me].data() + i * static_cast<std::size_t>(r.tokens) * s.hidden);
            a.out = address(out[me].data());
            a.tokens = r.tokens;
            a.format = b.format;
            a.group = b.group != 0 ? b.group : s.hidden;
            a.shift = b.group == 32 ? 5 : b.group == 64 ? 6 : b.group == 128 ? 7 : 31;
        }
        run_combine(b, args);
        CHECK(job_is_quiet(), "a kernel has reported something");
        for (unsigned me = 0; me < n; ++me)
            for (unsigned t = 0; t < ranks[me].tokens && has_results(me); ++t)
                check_sum(b, me, t, y, bias[me], weights, out[me], out_weights[me]);
    }
    virtual bool has_results(unsigned) const // the kernels have run for this rank
    {
        return true;
    }
    virtual void run_combine(const back &b, std::vector<shmemi_moen_combine> &args)
    {
        unsigned shared = 0;
        for (unsigned me = 0; me < n; ++me)
            shared = shmemi_moen_shape_combine(&args[me], &ranks[me].object, n, b.room, b.warps, b.blocks);
        job.run(b.blocks, b.warps * shmem::arch::warp_width, shared, [&] {
            const unsigned me = rank_of(static_cast<unsigned>(shmem::my_pe()));
            normal::combine(ranks[me].object, args[me], shmem::host::shared());
        });
    }
    // What INT8 may be off by in column c of a row.
    template <class Row> double quantum(const back &b, unsigned c, Row row) const
    {
        const unsigned width = b.group != 0 ? b.group : s.hidden;
        double amax = 0;
        for (unsigned d = c / width * width; d < std::min((c / width + 1) * width, s.hidden); ++d)
            amax = std::max(amax, std::abs(static_cast<double>(row(d))));
        return b.format == SHMEMI_MOEN_INT8 ? amax / 127 * 0.501 : 0;
    }
    void check_sum(const back &b, unsigned me, unsigned t, const std::vector<std::vector<std::uint16_t>> &y,
                   const std::vector<std::uint16_t> &bias, const std::vector<std::vector<float>> &weights,
                   const std::vector<std::uint16_t> &out, const std::vector<float> &out_weights)
    {
        const rank_side &r = ranks[me];
        std::vector<double> sum(s.hidden), room(s.hidden), back_weights(s.topk);
        std::vector<double> part(s.hidden), part_room(s.hidden); // of a node
        const unsigned each = n / nodes, forwards = me % each;   // who does, in each node
        for (unsigned j = 0; j < n && !b.empty; ++j) {
            if (j % each == 0) {
                part.assign(s.hidden, 0);
                part_room.assign(s.hidden, 0);
            }
            if (r.pos[t * n + j] >= 0)
                add_row(b, me, t, j, each == n ? me : forwards + j / each * each, y, weights, part, part_room,
                        back_weights);
            if ((j + 1) % each != 0)
                continue;
            for (unsigned c = 0; c < s.hidden; ++c) {
                if (nodes > 1) // the part is rounded, and quantized for another node
                    part_room[c] += (std::abs(part[c]) + part_room[c]) / 255;
                if (nodes > 1 && j / each != me / each)
                    part_room[c] +=
                        1.01 * quantum(b, c, [&](unsigned d) { return std::abs(part[d]) + part_room[d]; });
            }
            for (unsigned c = 0; c < s.hidden; ++c) {
                sum[c] += part[c];
                room[c] += part_room[c];
            }
        }
        bool same = true;
        for (unsigned c = 0; c < s.hidden; ++c) {
            for (unsigned i = 0; i < b.biases; ++i)
                sum[c] += of_bf16(bias[(static_cast<std::size_t>(i) * r.tokens + t) * s.hidden + c]);
            const double is = of_bf16(out[static_cast<std::size_t>(t) * s.hidden + c]);
            same = same && std::abs(is - sum[c]) <= room[c] + (std::abs(sum[c]) + room[c]) / 255 + 1e-5;
        }
        CHECK(same, "sum of token %u of rank %u, format %u", t, me, b.format);
        for (unsigned k = 0; k < s.topk && b.weights; ++k)
            CHECK(std::abs(out_weights[t * s.topk + k] - back_weights[k]) < 1e-5, "weight %u of token %u", k,
                  t);
    }
    // Adds rank j's row for token t of rank `me`, which `adder` adds first.
    void add_row(const back &b, unsigned me, unsigned t, unsigned j, unsigned adder,
                 const std::vector<std::vector<std::uint16_t>> &y,
                 const std::vector<std::vector<float>> &weights, std::vector<double> &sum,
                 std::vector<double> &room, std::vector<double> &back_weights) const
    {
        const rank_side &r = ranks[me];
        std::size_t row = static_cast<std::size_t>(r.pos[t * n + j]);
        for (unsigned q = 0; q < me; ++q)
            row += static_cast<std::size_t>(ranks[q].per_rank[j]);
        double factor = b.weighted ? 0 : 1;
        for (unsigned k = 0; k < s.topk; ++k) {
            const long long e = r.idx[t * s.topk + k];
            if (b.weighted && e >= 0 && owner(e) == j)
                factor += r.weights[t * s.topk + k];
            back_weights[k] += weights[j][row * s.topk + k];
        }
        for (unsigned c = 0; c < s.hidden; ++c) {
            sum[c] += factor * of_bf16(y[j][row * s.hidden + c]);
            if (j != adder)
                room[c] +=
                    factor * quantum(b, c, [&](unsigned d) { return of_bf16(y[j][row * s.hidden + d]); });
        }
    }
};

/* room: of shared memory, for rows by the copy engine. */
static job_of_ranks::how made(unsigned format, unsigned group, unsigned result, unsigned room)
{
    job_of_ranks::how h;
    h.format = format;
    h.group = group;
    h.result = result;
    h.room = room;
    return h;
}

#endif
