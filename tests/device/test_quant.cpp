// The codec of 8-bit records and the quantized collectives of GPUs on CPU threads, bit by bit against the CPU's codec.
#include "host_scene.h"
#include "quant_reference.h"

#include <cmath>
#include <string>

#include "quant_rows.cuh"

using namespace shmem;
namespace q = shmem::quantized;

/* ---- the codec ------------------------------------------------------------------------------------------------ */

/* The steps that take the place of divisions on a GPU give the quotients, for every mantissa. */
static void test_quotients()
{
    std::size_t wrong = 0;
    for (u32 b = 0x3f800000u; b < 0x40000000u; ++b) {
        const float x = codec::float_of_bits(b);
        const float p = 0x1.020408p-7f, a = x * p, r = 0x1.24924ap-9f, c = x * r;
        wrong += std::fmaf(std::fmaf(a, -127.0f, x), p, a) != x / 127.0f;
        wrong += std::fmaf(std::fmaf(c, -448.0f, x), r, c) != x / 448.0f;
    }
    CHECK(wrong == 0, "%zu quotients", wrong);
}

template <class E> static void codec_of(int dtype, unsigned cols, unsigned group, int format, unsigned what, unsigned shift)
{
    const std::vector<float> values = numbers(cols, what, cols * 7 + group);
    std::vector<unsigned char> x(cols * E::bytes + 64, 0xee), record(shmemx_int8_row_bytes(cols, group) + 64, 0xee), want;
    unsigned char *from = x.data() + shift * E::bytes;
    narrow(from, values, dtype);
    const std::size_t length = shmemx_int8_row_bytes(cols, group);
    CHECK(length == quant_bytes(cols, group), "%u columns", cols);
    for (int policy : {SHMEMX_NONFINITE_SATURATE, SHMEMX_NONFINITE_PROPAGATE}) {
        want.assign(length, 0xaa);
        CHECK(shmemx_quantize(format, want.data(), 0, from, 0, dtype, 1, cols, group, policy, nullptr) == 0, "reference");
        for (unsigned warps : {1u, 3u}) {
            const codec::form how = {format == SHMEMX_QUANT_E4M3, group, policy == SHMEMX_NONFINITE_SATURATE};
            std::fill(record.begin(), record.end(), 0xee);
            std::atomic<bool> finite{true};
            std::vector<unsigned char> out(x.size(), 0xdd), expected(x.size(), 0xdd);
            const shmemx_device_state none = {};
            host::launch(none, 1, warps * arch::warp_width, 0, [&] {
                const detail::crew c = detail::whole_crew(block);
                if (!codec::quantize_record(c, record.data() + shift, cols, how, [&](u64 at, unsigned n, codec::floats &f) {
                        codec::load_piece<E>(from + at * E::bytes, n, f);
                    }))
                    finite = false;
                arch::sync(block);
                codec::dequantize_record(c, record.data() + shift, cols, how,
                                         [&](u64 at, unsigned n, const codec::floats &f) {
                                             codec::store_piece<E>(out.data() + shift * E::bytes + at * E::bytes, n, f);
                                         });
            });
            shmemx_dequantize(format, expected.data() + shift * E::bytes, 0, dtype, want.data(), 0, 1, cols, group);
            CHECK(std::memcmp(record.data() + shift, want.data(), length) == 0 && record[shift + length] == 0xee,
                  "record of %u columns, group %u, format %d, dtype %d, numbers %u, policy %d, %u warps", cols, group,
                  format, dtype, what, policy, warps);
            CHECK(finite == (what != 2), "numbers %u", what);
            CHECK(same_numbers(out, expected, dtype), "elements of %u columns, group %u, format %d, dtype %d, numbers %u",
                  cols, group, format, dtype, what);
        }
    }
}

/* One of `every` combinations. */
static void test_codec(unsigned every)
{
    unsigned i = 0;
    for (unsigned cols : {1u, 7u, 32u, 100u, 1000u, 1024u, 1030u, 2048u, 3333u})
        for (unsigned group : {0u, 32u, 64u, 128u})
            for (int format : {SHMEMX_QUANT_INT8, SHMEMX_QUANT_E4M3})
                for (unsigned what = 0; what < 4; ++what) {
                    if (i++ % every != 0)
                        continue;
                    const unsigned shift = cols % 3;
                    switch ((cols + group / 32 + what) % 3) {
                    case 0:
                        codec_of<codec::float32>(SHMEMX_FLOAT32, cols, group, format, what, shift);
                        break;
                    case 1:
                        codec_of<codec::float16>(SHMEMX_FLOAT16, cols, group, format, what, shift);
                        break;
                    default:
                        codec_of<codec::bfloat16>(SHMEMX_BFLOAT16, cols, group, format, what, shift);
                    }
                }
}

/* Rows at a stride, more of them than warps: whole pieces and others, aligned and not, beside each other. */
template <class E>
static void rows_of(int dtype, unsigned cols, unsigned group, int format, int policy, unsigned what, unsigned shift)
{
    constexpr unsigned rows = 7;
    const std::size_t x_stride = cols + cols % 8 + 16, length = shmemx_int8_row_bytes(cols, group), stride = length + 16;
    const std::vector<float> values = numbers(rows * x_stride, what, cols + group);
    std::vector<unsigned char> x(rows * x_stride * E::bytes + 64, 0xee), y(x.size(), 0xdd), back(y);
    std::vector<unsigned char> got(rows * stride + 64, 0xee), want(got);
    unsigned char *const from = x.data() + shift * E::bytes;
    narrow(from, values, dtype);
    shmemi_quant_rows a = {};
    a.rows = reinterpret_cast<u64>(got.data());
    a.row_stride = stride;
    a.x = reinterpret_cast<u64>(from);
    a.x_stride = x_stride * E::bytes;
    a.nrows = rows;
    a.cols = cols;
    a.format = static_cast<unsigned>(format);
    a.group = group;
    a.nonfinite = static_cast<unsigned>(policy);
    shmemx_device_error box = {};
    shmemx_device_state state = {};
    unsigned claim = 0;
    state.mailbox = reinterpret_cast<u64>(&box);
    state.claim = reinterpret_cast<u64>(&claim);
    host::launch(state, 2, 2 * arch::warp_width, 0, [&] { q::quantize_rows<E>(a); });
    const int refer = policy == SHMEMX_NONFINITE_ERROR ? SHMEMX_NONFINITE_PROPAGATE : policy;
    CHECK(shmemx_quantize(format, want.data(), stride, from, x_stride, dtype, rows, cols, group, refer, nullptr) == 0,
          "reference");
    CHECK(got == want, "rows of %u columns, group %u, format %d, dtype %d, numbers %u, policy %d, shift %u", cols, group,
          format, dtype, what, policy, shift);
    CHECK(box.kind == (policy == SHMEMX_NONFINITE_ERROR && what == 2 ? SHMEMX_DEVICE_DATA : SHMEMX_DEVICE_OK),
          "error %u of numbers %u, policy %d", box.kind, what, policy);
    a.x = reinterpret_cast<u64>(y.data() + shift * E::bytes);
    host::launch(state, 2, 2 * arch::warp_width, 0, [&] { q::dequantize_rows<E>(a); });
    shmemx_dequantize(format, back.data() + shift * E::bytes, x_stride, dtype, want.data(), stride, rows, cols, group);
    CHECK(same_numbers(y, back, dtype), "elements of rows of %u columns, group %u, format %d, dtype %d, shift %u", cols,
          group, format, dtype, shift);
}
static void test_rows(unsigned every)
{
    unsigned i = 0;
    for (unsigned cols : {1024u, 2048u, 3000u, 100u})
        for (unsigned group : {0u, 32u, 64u, 128u})
            for (int policy : {SHMEMX_NONFINITE_ERROR, SHMEMX_NONFINITE_SATURATE, SHMEMX_NONFINITE_PROPAGATE})
                for (unsigned what : {0u, 2u}) {
                    if (i % every != 0) {
                        ++i;
                        continue;
                    }
                    const int format = i % 2 != 0 ? SHMEMX_QUANT_E4M3 : SHMEMX_QUANT_INT8;
                    const unsigned shift = i % 5 == 0 ? 1 : 0;
                    switch (i++ % 3) {
                    case 0:
                        rows_of<codec::float32>(SHMEMX_FLOAT32, cols, group, format, policy, what, shift);
                        break;
                    case 1:
                        rows_of<codec::float16>(SHMEMX_FLOAT16, cols, group, format, policy, what, shift);
                        break;
                    default:
                        rows_of<codec::bfloat16>(SHMEMX_BFLOAT16, cols, group, format, policy, what, shift);
                    }
                }
}

/* The calls of users, from a function and into one. */
static void test_calls()
{
    const shmemx_device_state none = {};
    std::vector<float> x = numbers(1500, 0, 3), y(1500), z(1500);
    std::vector<unsigned char> a(quant_bytes(1500)), b(a.size());
    host::launch(none, 1, 2 * arch::warp_width, 0, [&] {
        const float *from = x.data();
        float *to = y.data();
        const bool one = quantize(block, a.data(), from, 1500);
        const bool two = quantize(block, b.data(), [&](size i) { return x[i]; }, 1500);
        dequantize(block, to, a.data(), 1500);
        dequantize(block, [&](size i, float v) { z[i] = v; }, b.data(), 1500);
        CHECK(one && two, "finite");
    });
    CHECK(a == b && y == z, "a function is as good as memory");
    CHECK(error_of(y, x) < 0.01, "error %g", error_of(y, x));
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

struct setting {
    unsigned kind, format, group, record, root;
    std::size_t nelems;
    int dtype;
    bool in_place, residual, mean;
    unsigned numbers;
};

static constexpr unsigned blocks = 2, warps = 2, workers = 3; // the last warp has nothing to do

/* For one sender: 3 workers, 3 regions, 3 pieces. */
static constexpr std::size_t area_bytes = 27 * SHMEMI_QUANT_GPU_SLOT_PAIRS;

static unsigned dealt(unsigned kind)
{
    return kind == SHMEMI_QUANT_GPU_BROADCAST ? 3 : 2;
}
static std::size_t slot_bytes(bool lines)
{
    return lines ? SHMEMI_QUANT_GPU_SLOT_LINES : SHMEMI_QUANT_GPU_SLOT_PAIRS;
}

/* One call on all PEs. */
template <class E> static void call(scene &world, bool lines, unsigned team_number, const setting &s)
{
    const unsigned n = static_cast<unsigned>(world.teams[0][team_number].n), raw = s.format == SHMEMI_QUANT_GPU_RAW;
    const unsigned elements = raw ? SHMEMI_QUANT_GPU_PIECE / E::bytes : 1024;
    const bool out_blocks = s.kind == SHMEMI_QUANT_GPU_ALLGATHER || s.kind == SHMEMI_QUANT_GPU_ALLTOALL;
    const bool in_blocks = s.kind == SHMEMI_QUANT_GPU_REDUCE_SCATTER || s.kind == SHMEMI_QUANT_GPU_ALLTOALL;
    const std::size_t in = s.nelems * (in_blocks ? n : 1), out = s.nelems * (out_blocks ? n : 1);
    std::vector<vector> x(n), y(n);
    std::vector<std::vector<float>> residual(n);
    for (unsigned j = 0; j < n; ++j) {
        x[j].values = numbers(in, s.numbers, 100 * s.kind + j);
        x[j].store(s.dtype);
        y[j].bytes.assign(out * E::bytes, 0xee);
        if (s.residual)
            residual[j] = numbers(in, 0, 1000 + j);
        for (float &r : residual[j])
            r *= 0.01f;
    }
    reference r = {s.kind, static_cast<int>(s.format), s.group, s.record, s.root, s.nelems, s.dtype,
                   s.mean ? 1.0f / static_cast<float>(n) : 1.0f, x, residual, {}};
    r.compute();
    if (s.in_place) // the source is a part of the result, or the other way round
        for (unsigned j = 0; j < n; ++j)
            if (s.kind == SHMEMI_QUANT_GPU_ALLGATHER)
                std::memcpy(y[j].bytes.data() + j * s.nelems * E::bytes, x[j].bytes.data(), x[j].bytes.size());
    world.run(blocks, warps * arch::warp_width, SHMEMI_QUANT_GPU_SHARED(warps), [&] {
        const shmemx_device_team &t = reinterpret_cast<const shmemx_device_team *>(arch::state().teams)[team_number];
        if (t.n == 0)
            return;
        const auto me = static_cast<unsigned>(t.me);
        shmemi_quant_coll a = {};
        u8 *source = x[me].bytes.data(), *dest = y[me].bytes.data();
        if (s.in_place && s.kind == SHMEMI_QUANT_GPU_ALLGATHER)
            source = dest + me * s.nelems * E::bytes;
        else if (s.in_place)
            dest = s.kind == SHMEMI_QUANT_GPU_REDUCE_SCATTER ? source + me * s.nelems * E::bytes : source;
        a.dest = reinterpret_cast<u64>(dest);
        a.source = reinterpret_cast<u64>(source);
        a.residual = s.residual ? reinterpret_cast<u64>(residual[me].data()) : 0;
        a.nelems = s.nelems;
        a.team = team_number;
        a.kind = s.kind;
        a.format = s.format;
        a.group = s.group;
        a.record = s.record;
        a.pieces = (s.record + elements - 1) / elements;
        a.workers = workers;
        a.regions = dealt(s.kind);
        a.slot = static_cast<unsigned>(slot_bytes(lines));
            a.area = area_bytes;
        a.root = s.root;
        a.signature = 77;
        a.strict = s.numbers != 2;
        a.factor = s.mean ? 1.0f / static_cast<float>(n) : 1.0f;
        q::collective<E>(a, host::shared());
    });
    for (unsigned j = 0; j < n; ++j) {
        std::vector<unsigned char> got = y[j].bytes;
        if (s.in_place && s.kind == SHMEMI_QUANT_GPU_REDUCE_SCATTER)
            got.assign(x[j].bytes.begin() + static_cast<long>(j * s.nelems * E::bytes),
                       x[j].bytes.begin() + static_cast<long>((j + 1) * s.nelems * E::bytes));
        else if (s.in_place && s.kind != SHMEMI_QUANT_GPU_ALLGATHER)
            got = x[j].bytes;
        CHECK(same_numbers(got, r.result[j].bytes, s.dtype),
              "member %u of %u, kind %u, format %u, group %u, record %u, %zu elements, dtype %d, lines %d, place %d", j, n,
              s.kind, s.format, s.group, s.record, s.nelems, s.dtype, lines, s.in_place);
        if (s.residual)
            CHECK(std::memcmp(residual[j].data(), r.residual[j].data(), in * 4) == 0, "residual of member %u, kind %u", j,
                  s.kind);
    }
    for (const shmemx_device_error &box : world.boxes)
        CHECK(box.kind == SHMEMX_DEVICE_OK, "error %u of call %u", box.kind, box.call);
}

static void call_of(scene &world, bool lines, unsigned team_number, const setting &s)
{
    if (s.dtype == SHMEMX_FLOAT32)
        call<codec::float32>(world, lines, team_number, s);
    else if (s.dtype == SHMEMX_FLOAT16)
        call<codec::float16>(world, lines, team_number, s);
    else
        call<codec::bfloat16>(world, lines, team_number, s);
}

/* Many calls in a row, of all kinds, on one stage: each with what the last one has left there. */
static void test_collectives(int npes, bool lines, int rounds)
{
    scene world(npes, lines);
    const int types[] = {SHMEMX_FLOAT32, SHMEMX_FLOAT16, SHMEMX_BFLOAT16};
    const unsigned sizes[] = {1, 1024, 1023, 3000, 9001, 20000};
    std::mt19937 random{static_cast<unsigned>(npes) * 2 + lines};
    for (int i = 0; i < rounds; ++i) {
        setting s = {};
        s.kind = static_cast<unsigned>(i) % 6;
        s.format = random() % 4 % 3;
        s.group = random() % 5 == 0 ? 0 : 32u << random() % 3;
        s.dtype = types[random() % 3];
        const unsigned size = s.dtype == SHMEMX_FLOAT32 ? 4 : 2;
        s.record = s.format == SHMEMI_QUANT_GPU_RAW ? 1024 / size : s.group == 0 ? 100 + random() % 2500 : 1024;
        s.nelems = sizes[random() % 6];
        s.root = random() % static_cast<unsigned>(npes);
        s.in_place = random() % 2;
        s.residual = (s.kind < 3) && random() % 2;
        s.mean = s.kind < 3 && random() % 2;
        s.numbers = random() % 4;
        if (s.numbers == 2 && s.residual)
            s.numbers = 1;
        unsigned team_number = random() % 4;
        if (world.teams[0][team_number].n < 2 || s.root >= static_cast<unsigned>(world.teams[0][team_number].n))
            team_number = 0;
        call_of(world, lines, team_number, s);
    }
}

/* What goes wrong is said, on every PE that can know, and the next call works. */
static void test_errors()
{
    scene world(2, true, 300'000'000);
    auto run = [&](unsigned other, int absent) {
        world.clear_mailboxes();
        world.run(1, arch::warp_width, SHMEMI_QUANT_GPU_SHARED(1), [&] {
            if (my_pe() == absent)
                return;
            shmemi_quant_coll a = {};
            a.nelems = 0;
            a.kind = SHMEMI_QUANT_GPU_TWO_SHOT;
            a.group = 128;
            a.record = 1024;
            a.pieces = 1;
            a.workers = 1;
            a.regions = 2;
            a.slot = SHMEMI_QUANT_GPU_SLOT_LINES;
            a.area = area_bytes;
            a.signature = my_pe() == 1 ? other : 5;
            a.strict = 1;
            a.factor = 1;
            q::collective<codec::float32>(a, host::shared());
        });
    };
    run(6, -1);
    CHECK(world.boxes[0].kind == SHMEMX_DEVICE_MISMATCH && world.boxes[0].pe == 1, "%u", world.boxes[0].kind);
    CHECK(world.boxes[1].kind == SHMEMX_DEVICE_MISMATCH && world.boxes[1].pe == 0, "%u", world.boxes[1].kind);
    run(5, -1);
    CHECK(world.boxes[0].kind == SHMEMX_DEVICE_OK && world.boxes[1].kind == SHMEMX_DEVICE_OK, "after a mismatch");
    run(5, 1);
    CHECK(world.boxes[0].kind == SHMEMX_DEVICE_TIMEOUT && world.boxes[0].pe == 1, "%u", world.boxes[0].kind);
}

static void test_nonfinite()
{
    scene world(2, true);
    std::vector<std::vector<float>> x(2), y(2);
    for (float bad : {INFINITY, -INFINITY, NAN}) {
        world.clear_mailboxes();
        for (auto &v : x)
            v = numbers(5000, 0, 9);
        x[1][700] = bad;
        for (auto &v : y)
            v.assign(5000, 0);
        world.run(1, arch::warp_width, SHMEMI_QUANT_GPU_SHARED(1), [&] {
            shmemi_quant_coll a = {};
            a.source = reinterpret_cast<u64>(x[static_cast<std::size_t>(my_pe())].data());
            a.dest = reinterpret_cast<u64>(y[static_cast<std::size_t>(my_pe())].data());
            a.nelems = 5000;
            a.kind = SHMEMI_QUANT_GPU_TWO_SHOT;
            a.group = 128;
            a.record = 1024;
            a.pieces = 1;
            a.workers = 1;
            a.regions = 2;
            a.slot = SHMEMI_QUANT_GPU_SLOT_LINES;
            a.area = area_bytes;
            a.strict = 1;
            a.factor = 1;
            q::collective<codec::float32>(a, host::shared());
        });
        // whoever packs it says so; element 700 is of a record of member 0's, which adds it up as well
        CHECK(world.boxes[1].kind == SHMEMX_DEVICE_DATA && world.boxes[1].value == 1024, "%u", world.boxes[1].kind);
        CHECK(world.boxes[0].kind == SHMEMX_DEVICE_DATA, "%u", world.boxes[0].kind);
        for (const auto &v : y)
            for (std::size_t i = 0; i < v.size(); ++i)
                CHECK(std::isnan(v[i]) == (i >= 640 && i < 768), "element %zu is %g", i, static_cast<double>(v[i]));
    }
}

/* test_quant_gpu [ROUNDS of collectives, on each of six jobs, or if they are few, on three [1: the codec in all shapes, not
 * in one of seven]]; 150 1 takes minutes. */
int main(int argc, char **argv)
{
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 12;
    const unsigned every = argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 7;
    test_quotients();
    test_codec(every);
    test_rows(every);
    test_calls();
    for (int npes : {2, 3, 4})
        for (bool lines : {true, false})
            if (rounds > 6 || (npes % 2 != 0) == lines)
                test_collectives(npes, lines, rounds);
    test_errors();
    test_nonfinite();
    std::printf("%lu checks passed, %lu failed\n", passed.load(), failures.load());
    return failures != 0;
}
