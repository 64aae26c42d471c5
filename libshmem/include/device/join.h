/* What reductions do to elements: operators, the type they are computed in, words of several elements.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_JOIN_H
#define SHMEM_DEVICE_JOIN_H

namespace shmem
{

namespace detail
{

/* Classes of 2 bytes are the 16-bit floats (half, bfloat16): added in float, rounded once at the end. */
template <class T, bool Half = __is_class(T)> struct accumulator {
    using type = T;
};
template <class T> struct accumulator<T, true> {
    static_assert(sizeof(T) == 2, "reductions take numbers and 16-bit floats");
    using type = float;
};
template <class T> using accumulated = typename accumulator<T>::type;

/* Integers wrap around, signed ones too. */
template <class A> SHMEMX_DEVICE_FN A join(sum_op, A a, A b)
{
    if constexpr (is_integer<A>())
        return static_cast<A>(static_cast<u64>(a) + static_cast<u64>(b));
    else
        return a + b;
}
template <class A> SHMEMX_DEVICE_FN A join(prod_op, A a, A b)
{
    if constexpr (is_integer<A>())
        return static_cast<A>(static_cast<u64>(a) * static_cast<u64>(b));
    else
        return a * b;
}
/* A NaN on either side is the result: a != a keeps it. */
template <class A> SHMEMX_DEVICE_FN A join(min_op, A a, A b)
{
    return b < a || b != b ? (a != a ? a : b) : a;
}
template <class A> SHMEMX_DEVICE_FN A join(max_op, A a, A b)
{
    return a < b || b != b ? (a != a ? a : b) : a;
}
template <class A> SHMEMX_DEVICE_FN A join(bit_and_op, A a, A b)
{
    return static_cast<A>(a & b);
}
template <class A> SHMEMX_DEVICE_FN A join(bit_or_op, A a, A b)
{
    return static_cast<A>(a | b);
}
template <class A> SHMEMX_DEVICE_FN A join(bit_xor_op, A a, A b)
{
    return static_cast<A>(a ^ b);
}

/* a[i] = a[i] op b[i]. */
template <class Op, class A, unsigned N> SHMEMX_DEVICE_FN void join_all(Op op, A (&a)[N], const A (&b)[N])
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < N; ++i)
        a[i] = join(op, a[i], b[i]);
}

/* Word (8 or 16 bytes) of T's being reduced: first, then join in the order of the members. */
template <class T, class Word> struct running {
    static constexpr unsigned n = sizeof(Word) / sizeof(T);
    accumulated<T> value[n] = {};

    SHMEMX_DEVICE_FN void first(const Word &w)
    {
        const Word word = w; // one load: memcpy from where w lies takes it byte by byte
        T part[n];
        memcpy(static_cast<void *>(part), &word, sizeof word);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < n; ++i)
            value[i] = static_cast<accumulated<T>>(part[i]);
    }
    template <class Op> SHMEMX_DEVICE_FN void next(Op op, const Word &w)
    {
        running other;
        other.first(w);
        join_all(op, value, other.value);
    }
    SHMEMX_DEVICE_FN Word result() const
    {
        T part[n];
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < n; ++i)
            part[i] = static_cast<T>(value[i]);
        Word w;
        memcpy(&w, part, sizeof w);
        return w;
    }
};

} // namespace detail

} // namespace shmem

#endif
