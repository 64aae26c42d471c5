/* What quantized collectives of GPUs must give, computed with the CPU's codec. */
#ifndef QUANT_REFERENCE_H
#define QUANT_REFERENCE_H

#include "quant_coll.cuh"
#include "shmemx_int8.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

/* 0: a bell curve; 1: of all magnitudes, with zeros and groups of nothing else; 2: with NaN and infinity; 3: the smallest
 * and the largest. */
inline std::vector<float> numbers(std::size_t n, unsigned what, unsigned seed)
{
    std::mt19937 random{seed};
    std::normal_distribution<float> normal;
    std::vector<float> v(n);
    for (std::size_t i = 0; i < n; ++i) {
        v[i] = normal(random);
        if (what == 1)
            v[i] = i / 128 % 4 == 0 || random() % 7 == 0 ? 0.0f
                                                         : std::ldexp(v[i], static_cast<int>(random() % 20) - 12);
        if (what == 3)
            v[i] = std::ldexp(v[i], i / 128 % 2 ? -130 : 8);
    }
    if (what == 2)
        for (std::size_t i = 0; i < n; i += 301)
            v[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    return v;
}

inline std::size_t bytes_of(int dtype)
{
    return dtype == SHMEMX_FLOAT32 ? 4 : 2;
}
inline void narrow(unsigned char *to, const std::vector<float> &v, int dtype)
{
    using namespace shmem::codec;
    for (std::size_t i = 0; i < v.size(); ++i)
        if (dtype == SHMEMX_FLOAT32)
            float32::store(to + 4 * i, v[i]);
        else if (dtype == SHMEMX_FLOAT16)
            float16::store(to + 2 * i, v[i]);
        else
            bfloat16::store(to + 2 * i, v[i]);
}
inline float widen(const unsigned char *from, std::size_t i, int dtype)
{
    using namespace shmem::codec;
    return dtype == SHMEMX_FLOAT32   ? float32::load(from + 4 * i)
           : dtype == SHMEMX_FLOAT16 ? float16::load(from + 2 * i)
                                     : bfloat16::load(from + 2 * i);
}
/* The same bytes, but that one NaN is as good as another. */
inline bool same_numbers(const std::vector<unsigned char> &a, const std::vector<unsigned char> &b, int dtype)
{
    if (a.size() != b.size())
        return false;
    const std::size_t size = bytes_of(dtype);
    for (std::size_t i = 0; i < a.size() / size; ++i)
        if (std::memcmp(a.data() + i * size, b.data() + i * size, size) != 0 &&
            !(std::isnan(widen(a.data(), i, dtype)) && std::isnan(widen(b.data(), i, dtype))))
            return false;
    return true;
}
inline double error_of(const std::vector<float> &a, const std::vector<float> &b) // of the root mean square
{
    double e = 0, s = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        e += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        s += static_cast<double>(b[i]) * b[i];
    }
    return std::sqrt(e / s);
}

struct vector {
    std::vector<float> values;
    std::vector<unsigned char> bytes;
    void store(int dtype)
    {
        bytes.resize(values.size() * bytes_of(dtype));
        narrow(bytes.data(), values, dtype);
        load(dtype);
    }
    void load(int dtype)
    {
        values.resize(bytes.size() / bytes_of(dtype));
        for (std::size_t i = 0; i < values.size(); ++i)
            values[i] = widen(bytes.data(), i, dtype);
    }
};

struct reference {
    unsigned kind;
    int format;
    unsigned group;
    std::size_t record;
    unsigned root;
    std::size_t nelems;
    int dtype;
    float factor;
    const std::vector<vector> &x;
    std::vector<std::vector<float>> residual; // changed as the call changes them
    std::vector<vector> result;

    /* v as the others get it. */
    std::vector<float> through(const std::vector<float> &v) const
    {
        vector sent;
        if (v.empty())
            return v;
        if (format == SHMEMI_QUANT_GPU_RAW) {
            sent.values = v;
            sent.store(dtype);
            return sent.values;
        }
        std::vector<unsigned char> r(shmemx_int8_row_bytes(v.size(), group));
        std::vector<float> back(v.size());
        (void)shmemx_quantize(format, r.data(), 0, v.data(), 0, SHMEMX_FLOAT32, 1, v.size(), group,
                              SHMEMX_NONFINITE_PROPAGATE, nullptr);
        (void)shmemx_dequantize(format, back.data(), 0, SHMEMX_FLOAT32, r.data(), 0, 1, v.size(), group);
        return back;
    }
    /* Member j's elements from `at` on, with error feedback. */
    std::vector<float> given(unsigned j, std::size_t at, std::size_t n) const
    {
        std::vector<float> v(x[j].values.begin() + static_cast<long>(at), x[j].values.begin() + static_cast<long>(at + n));
        for (std::size_t i = 0; i < n && !residual[j].empty(); ++i)
            v[i] += residual[j][at + i];
        return v;
    }
    void keep(unsigned j, std::size_t at, const std::vector<float> &v, const std::vector<float> &back, float over)
    {
        for (std::size_t i = 0; i < v.size() && !residual[j].empty(); ++i) {
            const float rest = v[i] - back[i];
            residual[j][at + i] = over == 1.0f ? rest : rest / over;
        }
    }
    /* Member j's elements as they arrive elsewhere. */
    std::vector<float> sent(unsigned j, std::size_t at, std::size_t n)
    {
        const std::vector<float> v = given(j, at, n), back = through(v);
        keep(j, at, v, back, 1.0f);
        return back;
    }
    void put(unsigned j, std::size_t at, const std::vector<float> &v)
    {
        std::copy(v.begin(), v.end(), result[j].values.begin() + static_cast<long>(at));
    }
    /* The sum of n elements at `at` of each, by member `owner`, whose own are not packed; owner = members: all are. */
    std::vector<float> sum(unsigned owner, std::size_t at, std::size_t n)
    {
        std::vector<float> acc;
        for (unsigned j = 0; j < x.size(); ++j) {
            const std::vector<float> term = j == owner ? given(j, at, n) : sent(j, at, n);
            if (j == 0)
                acc = term;
            else
                for (std::size_t i = 0; i < n; ++i)
                    acc[i] += term[i];
        }
        for (float &f : acc)
            f *= factor;
        return acc;
    }
    void compute()
    {
        const unsigned n = static_cast<unsigned>(x.size());
        const bool blocks = kind == SHMEMI_QUANT_GPU_ALLGATHER || kind == SHMEMI_QUANT_GPU_ALLTOALL;
        result.resize(n);
        for (vector &v : result)
            v.values.resize(blocks ? n * nelems : nelems);
        for (std::size_t at = 0, r = 0; at < nelems; at += record, ++r)
            each(at, std::min(record, nelems - at), static_cast<unsigned>(r % n));
        for (vector &v : result)
            v.store(dtype);
    }
    void each(std::size_t at, std::size_t count, unsigned owner)
    {
        const unsigned n = static_cast<unsigned>(x.size());
        std::vector<float> all;
        switch (kind) {
        case SHMEMI_QUANT_GPU_ONE_SHOT:
            all = sum(n, at, count);
            break;
        case SHMEMI_QUANT_GPU_TWO_SHOT: {
            const std::vector<float> exact = sum(owner, at, count);
            all = through(exact);
            keep(owner, at, exact, all, factor);
            break;
        }
        case SHMEMI_QUANT_GPU_BROADCAST:
            all = sent(root, at, count);
            break;
        case SHMEMI_QUANT_GPU_REDUCE_SCATTER:
            for (unsigned j = 0; j < n; ++j) {
                const std::size_t from = j * nelems + at;
                const std::vector<float> total = sum(j, from, count);
                keep(j, from, total, total, 1.0f);
                put(j, at, total);
            }
            return;
        case SHMEMI_QUANT_GPU_ALLGATHER:
            for (unsigned j = 0; j < n; ++j) {
                const std::vector<float> v = sent(j, at, count);
                for (unsigned i = 0; i < n; ++i)
                    put(i, j * nelems + at, v);
            }
            return;
        default:
            for (unsigned i = 0; i < n; ++i)
                for (unsigned j = 0; j < n; ++j)
                    put(j, i * nelems + at,
                        i == j ? given(i, j * nelems + at, count) : sent(i, j * nelems + at, count));
            return;
        }
        for (unsigned j = 0; j < n; ++j)
            put(j, at, all);
    }
};

#endif
