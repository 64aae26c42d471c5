// The MoE kernels for large batches on CPU threads: layout, dispatch and combine against a plain reference.
//   g++ -std=c++17 -pthread -O1 -Ilibshmem/include -Ilibshmem/src/gpu -Itests/device tests/device/test_moe_normal.cpp
#include "moe_normal_scene.h"

// The quick quantization makes the bytes of the plain one, whatever the values.
static void test_quick(scene &job)
{
    std::mt19937 random(3);
    for (unsigned c = 0; c < 48; ++c) {
        const unsigned h = 8 * (1 + random() % 60), group = c % 2 != 0 ? 32 : 64;
        const shmem::moe::quantizer q = {c % 3 == 0 ? shmem::moe::as_fp8 : shmem::moe::as_int8, h, group,
                                         c % 6 == 0};
        std::vector<shmem::arch::vec16> x(h / 8);
        auto *values = reinterpret_cast<std::uint16_t *>(x.data());
        for (unsigned i = 0; i < h; ++i)
            values[i] = to_bf16(std::normal_distribution<float>()(random));
        if (c % 4 == 1)
            values[random() % h] = static_cast<std::uint16_t>(c % 8 == 1 ? 0x7f80 : 0xffc1); // infinity, NaN
        if (c % 4 == 2)
            for (unsigned i = 0; i < h; ++i) // any bits, tiny and huge
                values[i] = static_cast<std::uint16_t>(random() & 0xbf7f);
        if (c % 4 == 3)
            std::fill(values, values + h / 2, std::uint16_t(0));
        std::vector<u64> words[2] = {std::vector<u64>(h / 8), std::vector<u64>(h / 8)};
        std::vector<float> scales[2] = {std::vector<float>(q.groups()), std::vector<float>(q.groups())};
        shmem::host::launch(job.states[0], 1, shmem::arch::warp_width, 0, [&] {
            const auto from = [&](unsigned w) { return x[w]; };
            const auto word = [&](unsigned which) {
                return [&words, which](unsigned w, u64 v) { words[which][w] = v; };
            };
            const auto scale = [&](unsigned which) {
                return [&scales, which](unsigned g, float v) { scales[which][g] = v; };
            };
            normal::quantize(q, normal::quick_log(q), from, word(0), scale(0));
            shmem::moe::quantize_row(shmem::detail::crew{0, 1}, q, from, word(1), scale(1));
        });
        CHECK(normal::quick_log(q) != 0 && words[0] == words[1] && scales[0] == scales[1],
              "case %u, %u columns by %u", c, h, group);
    }
}

// Rows gathered by expert and summed again, against loops.
static void test_forms(scene &job)
{
    std::mt19937 random(9);
    constexpr unsigned h = 80, rows = 13, from = 6, topk = 3;
    std::vector<std::uint16_t> x(from * h), out(rows * h), sums(from * h);
    std::vector<signed char> q(from * h), bytes(rows * h);
    std::vector<float> scales(from * h), weights(from * topk);
    std::vector<long long> source(rows), position(from * topk, -1);
    for (auto &v : x)
        v = to_bf16(std::normal_distribution<float>()(random));
    for (auto &v : q)
        v = static_cast<signed char>(random() % 127 + (random() % 2 ? 0 : -127)); // as FP8 no NaN
    for (auto &v : scales)
        v = std::uniform_real_distribution<float>(0.01f, 2)(random);
    for (auto &v : weights)
        v = std::uniform_real_distribution<float>()(random);
    for (unsigned r = 0; r < rows; ++r)
        source[r] = static_cast<long long>(random() % (from + 1)) - 1;
    for (auto &p : position)
        p = static_cast<long long>(random() % (rows + 1)) - 1;
    const auto run = [&](auto kernel) {
        shmem::host::launch(job.states[0], 2, 2 * shmem::arch::warp_width, 0, kernel);
    };
    for (unsigned format : {SHMEMI_MOEN_BF16, SHMEMI_MOEN_INT8, SHMEMI_MOEN_FP8, SHMEMI_MOEN_BYTES})
        for (unsigned group : {16u, 5u, h})
            for (bool whole : {false, true}) {
                const bool quantized = format == SHMEMI_MOEN_INT8 || format == SHMEMI_MOEN_FP8;
                shmemi_moen_gather a = {};
                a.x = format == SHMEMI_MOEN_BF16 ? address(x.data()) : address(q.data());
                a.scales = address(scales.data());
                a.scales_row = 4 * h;
                a.source = whole ? 0 : address(source.data());
                a.out = format == SHMEMI_MOEN_BYTES ? address(bytes.data()) : address(out.data());
                a.rows = whole ? from : rows;
                a.hidden = h;
                a.format = format;
                a.group = group;
                run([&] { normal::gather(a); });
                bool right = true;
                for (unsigned r = 0; r < a.rows; ++r)
                    for (unsigned c = 0; c < h; ++c) {
                        const long long s = whole ? r : source[r];
                        const auto i = static_cast<std::size_t>(s) * h;
                        const signed char v = s < 0 ? 0 : q[i + c];
                        const float value = format == SHMEMI_MOEN_INT8
                                                ? v
                                                : shmem::moe::from_e4m3(static_cast<unsigned char>(v));
                        const float scaled = s < 0 ? 0 : value * scales[i + c / group];
                        right = right && (format == SHMEMI_MOEN_BYTES ? bytes[r * h + c] == v
                                          : quantized                 ? out[r * h + c] == to_bf16(scaled)
                                                      : out[r * h + c] == (s < 0 ? 0 : x[i + c]));
                    }
                CHECK(right, "format %u, groups of %u, all rows %d", format, group, whole);
            }
    for (bool weighted : {false, true}) {
        shmemi_moen_gather again = {};
        again.x = address(x.data());
        again.source = address(source.data());
        again.out = address(out.data());
        again.rows = rows;
        again.hidden = again.group = h;
        run([&] { normal::gather(again); });
        shmemi_moen_sum a = {};
        a.y = address(out.data());
        a.y_stride = 2 * h;
        a.position = address(position.data());
        a.weights = weighted ? address(weights.data()) : 0;
        a.out = address(sums.data());
        a.rows = from;
        a.hidden = h;
        a.topk = topk;
        run([&] { normal::sum_choices(a); });
        bool right = true;
        for (unsigned r = 0; r < from; ++r)
            for (unsigned c = 0; c < h; ++c) {
                float sum = 0;
                for (unsigned k = 0; k < topk; ++k)
                    if (position[r * topk + k] >= 0)
                        sum = std::fma(of_bf16(out[static_cast<std::size_t>(position[r * topk + k]) * h + c]),
                                       weighted ? weights[r * topk + k] : 1, sum);
                right = right && sums[r * h + c] == to_bf16(sum);
            }
        CHECK(right, "sums, weighted %d", weighted);
    }
}

// Rounds with changing tokens; room 0: no copy engine; the smaller, the fewer slots.
static void test_rounds(scene &job, unsigned team, sizes s, unsigned rounds)
{
    job_of_ranks ranks(job, team, s);
    const routing_kind kinds[] = {spread, skewed, some_empty, nowhere, spread};
    const unsigned rooms[] = {65536, 2 * s.hidden + 1300, 0, 8 * s.hidden + 4096, 2 * s.hidden + 2048};
    unsigned ticket = 0;
    for (unsigned round = 0; round < rounds; ++round) {
        const unsigned room = rooms[(round + s.hidden / 16) % 5], group = round % 3 == 0   ? 32
                                                                          : round % 3 == 1 ? 0
                                                                                           : 64;
        ranks.make_tokens(kinds[round % 5]);
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
        b.weighted = b.weights = true;
        b.wide = round % 2 != 0;
        b.biases = round % 3;
        ranks.combine(b);
        b.format = SHMEMI_MOEN_INT8;
        b.group = group;
        ranks.combine(b);

        for (unsigned format : {SHMEMI_MOEN_INT8, SHMEMI_MOEN_FP8}) {
            h = made(format, group, 1, rooms[(round + format) % 5]);
            h.cached = format == SHMEMI_MOEN_INT8;
            h.ids = round % 3 != 0;
            h.ue8m0 = format == SHMEMI_MOEN_FP8 && round % 2 != 0;
            ranks.dispatch(h, ++ticket);
            ranks.check_dispatch(h, ticket);
        }
        h = made(SHMEMI_MOEN_BYTES, 0, 0, room);
        h.groups = round % 3 == 0 ? 0 : round % 3 == 1 ? s.hidden / s.group : 1;
        h.strided = round % 2 != 0;
        ranks.dispatch(h, ++ticket);
        ranks.check_dispatch(h, ticket);
    }
}

// Rounds without a meeting of the ranks between them, each on its own threads, some late: dispatch, and back what came.
static void test_overlap(scene &job, routing_kind kind, unsigned rounds, sizes s, unsigned blocks,
                         unsigned warps)
{
    job_of_ranks ranks(job, 0, s);
    ranks.make_tokens(kind);
    ranks.layout(true);
    const unsigned h = ranks.s.hidden;
    std::vector<std::thread> pes;
    for (unsigned me = 0; me < ranks.n; ++me)
        pes.emplace_back([&ranks, &job, me, rounds, h, blocks, warps] {
            rank_side &r = ranks.ranks[me];
            std::mt19937 random(me);
            std::vector<std::uint16_t> y((r.from.size() + 1) * h), out(r.x.size() + h);
            for (unsigned round = 0; round < rounds; ++round) {
                for (std::size_t i = 0; i < r.x.size(); ++i)
                    r.x[i] = to_bf16(static_cast<float>((i * 7 + me * 3 + round * 5) % 31));
                shmemi_moen_dispatch d = {};
                d.result = r.result[0];
                d.routing = address(job_of_ranks::routing_of(r));
                d.x = address(r.x.data());
                d.x_stride = 2 * h;
                d.tokens = r.tokens;
                d.cached = round % 3 != 0;
                d.group = h;
                d.what = d.cached << 6;
                d.alignment = 1;
                unsigned shared =
                    shmemi_moen_shape_dispatch(&d, &r.object, ranks.n, round % 2 * 65536, warps, blocks);
                const auto late = [&] {
                    std::this_thread::sleep_for(std::chrono::milliseconds(me == 0 ? 0 : random() % 16));
                };
                late();
                shmem::host::launch(job.states[me], blocks, d.pipe.warps * shmem::arch::warp_width, shared,
                                    [&] { normal::dispatch(r.object, d, shmem::host::shared()); });
                for (unsigned times = 1; times <= 4;
                     ++times) { // combines follow each other without a meeting
                    late();
                    for (std::size_t i = 0; i < r.from.size() * h; ++i)
                        y[i] = to_bf16(static_cast<float>(times) *
                                       of_bf16(pointer<std::uint16_t>(d.result.x)[i]));
                    shmemi_moen_combine c = {};
                    c.routing = d.routing;
                    c.y = address(y.data());
                    c.y_stride = c.out_stride = 2 * h;
                    c.out = address(out.data());
                    c.tokens = r.tokens;
                    c.group = h;
                    c.shift = 31;
                    shared = shmemi_moen_shape_combine(&c, &r.object, ranks.n, round % 2 * 65536, 2 * warps,
                                                       blocks);
                    shmem::host::launch(job.states[me], blocks, 2 * warps * shmem::arch::warp_width, shared,
                                        [&] { normal::combine(r.object, c, shmem::host::shared()); });
                    bool same = true;
                    for (std::size_t i = 0; i < r.x.size(); ++i) {
                        unsigned copies = 0;
                        for (unsigned j = 0; j < ranks.n; ++j)
                            copies += r.pos[i / h * ranks.n + j] >= 0;
                        same =
                            same && out[i] == to_bf16(static_cast<float>(copies * times) * of_bf16(r.x[i]));
                    }
                    CHECK(same, "round %u of rank %u, combine %u", round, me, times);
                }
            }
        });
    for (std::thread &pe : pes)
        pe.join();
    CHECK(ranks.job_is_quiet(), "a kernel has reported something");
}

// More rows than there is room for: all ranks say so, and go on.
static void test_limit(scene &job)
{
    sizes s{32, 8, 2, 16, 20};
    job_of_ranks ranks(job, 0, s);
    ranks.make_tokens(skewed);
    if (ranks.ranks[0].from.size() <= s.capacity)
        return;
    ranks.layout(true);
    auto h = made(SHMEMI_MOEN_BF16, 0, 0, 65536);
    ranks.dispatch(h, 1);
    for (unsigned me = 0; me < ranks.n; ++me) {
        const shmemx_device_error &e = job.boxes[me];
        CHECK(e.kind == SHMEMX_DEVICE_LIMIT && e.pe == 0 && e.value == ranks.ranks[0].from.size() &&
                  e.expected == 20,
              "rank %u: kind %u", me, e.kind);
        CHECK(ranks.ranks[me].host[0][0] == (1ull << 32 | SHMEMI_MOEN_NO_ROOM), "rank %u: the host's word",
              me);
    }
    job.clear_mailboxes();
    job_of_ranks::back b;
    b.empty = true;
    ranks.combine(b);
    ranks.make_tokens(nowhere);
    ranks.layout(true);
    ranks.dispatch(h, 2);
    ranks.check_dispatch(h, 2);
}

// Ids that are no experts, and a rank that does not come.
static void test_errors()
{
    scene job(2, true, 300000000);
    job_of_ranks ranks(job, 0, sizes{32, 8, 2, 16, 32});
    ranks.make_tokens(spread);
    ranks.ranks[1].idx[3] = 8;
    ranks.ranks[1].idx32[3] = 8;
    shmemi_moen_layout a = {address(ranks.ranks[1].idx.data()), 0, 0, 0, 0, 0, ranks.ranks[1].tokens, 1};
    job.run(3, 8, shmemi_moen_layout_shared(8, 8), [&] {
        if (shmem::my_pe() == 1)
            normal::layout(ranks.ranks[1].object, a, shmem::host::shared());
    });
    const shmemx_device_error &bad = job.boxes[1];
    CHECK(bad.kind == SHMEMX_DEVICE_EXPERT && bad.value == 3 && bad.expected == 8, "kind %u, choice %llu",
          bad.kind, bad.value);
    job.clear_mailboxes();
    ranks.make_tokens(spread);
    ranks.layout(true);
    auto h = made(SHMEMI_MOEN_BF16, 0, 0, 65536);
    h.absent = 1;
    ranks.dispatch(h, 1);
    CHECK(job.boxes[0].kind == SHMEMX_DEVICE_TIMEOUT && job.boxes[0].pe == 1, "kind %u, PE %d",
          job.boxes[0].kind, job.boxes[0].pe);
    CHECK(ranks.ranks[0].host[0][0] == (1ull << 32 | SHMEMI_MOEN_NO_PEER), "the host's word is %llx",
          ranks.ranks[0].host[0][0]);
}

int main(int argc, char **argv)
{
    const unsigned rounds = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 5;
    const sizes many[] = {
        {128, 7, 3, 24, 96},
        {64, 64, 8, 37, 4 * 37},
        {32, 3, 1, 20, 80},
        {336, 10, 6, 18, 72},
    };
    using shmem::arch::pace;
    std::vector<pace> paces = {pace::at_once, pace::late, pace::any};
    if (rounds == 1)
        paces = {pace::any}; // now this, now that
    for (pace how : paces)
        for (int n = 1; n <= 4; ++n) {
            shmem::arch::engine_pace() = how;
            scene job(n, true, 60000000000ull);
            test_rounds(job, n == 3 ? 3 : 0, many[n - 1], rounds);
            if (n > 2)
                test_rounds(job, 0, many[(n + 1) % 4], rounds);
            if (n > 1)
                for (routing_kind kind :
                     {spread, some_empty}) // with some_empty rank 0 waits for nobody's rows
                    test_overlap(job, kind, 2 * rounds, sizes{64, 6, 2, 20, 80, 1, 32}, 1, 2);
            // blocks that only add, many tokens for each, and rows that leave most of their warps nothing to do
            if (n == 2)
                test_overlap(job, spread, rounds, sizes{128, 6, 4, 256, 512, 1, 32}, 3, 4);
            if (n > 1)
                test_limit(job);
        }
    shmem::arch::engine_pace() = pace::at_once;
    {
        scene one(1, true);
        test_quick(one);
        test_forms(one);
    }
    test_errors();
    std::printf("%lu checks passed, %lu failed\n", passed.load(), failures.load());
    return failures != 0;
}
