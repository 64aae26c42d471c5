"""The Triton kernels of the GPU tests; compiled without a GPU as well."""

from __future__ import annotations

import triton
import triton.language as tl

from pyshmem.device import triton as shmem_triton


@triton.jit
def who(out, state):
    tl.store(out, shmem_triton.my_pe(state))
    tl.store(out + 1, shmem_triton.n_pes(state))


@triton.jit
def store_and_load(to, source, back, pe, state, N: tl.constexpr):
    """Into the peer's memory, and what is there back."""
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(shmem_triton.peer(to, pe, state) + i, tl.load(source + i))
    tl.store(back + i, tl.load(shmem_triton.peer(source + i, pe, state)))


@triton.jit
def signals(to, source, sig, ok, pe, rounds, state, N: tl.constexpr):
    """In each round new data to the next PE, a signal, a wait, and a look at what has come."""
    i = tl.arange(0, N)
    good = 0
    for round in range(1, rounds + 1):
        tl.store(shmem_triton.peer(to, pe, state) + i, tl.load(source + i) + round)
        shmem_triton.fence()  # of its own no need: that it compiles and harms nothing
        shmem_triton.signal_set(sig, round, pe, state)
        arrived = shmem_triton.signal_wait(sig, round, state)
        seen = tl.load(to + i, cache_modifier=".cv")
        good += arrived.to(tl.int32) * (tl.min(seen - tl.max(seen, axis=0), axis=0) == 0).to(tl.int32)
        good += (shmem_triton.barrier(state)).to(tl.int32)
    tl.store(ok, good)


@triton.jit
def exchange(to, source, mine, sig, ok, pe, rounds, state, N: tl.constexpr):
    """As `signals`, by calls that any PE is good for: what is put is what the program has just stored."""
    i = tl.arange(0, N)
    good = 0
    for round in range(1, rounds + 1):
        tl.store(mine + i, tl.load(source + i) + round)
        shmem_triton.put_signal_nbi(to, mine, N, sig, round, pe, state)
        arrived = shmem_triton.signal_wait(sig, round, state)
        seen = tl.load(to + i, cache_modifier=".cv")
        good += arrived.to(tl.int32) * (tl.min(seen - tl.max(seen, axis=0), axis=0) == 0).to(tl.int32)
        good += (shmem_triton.barrier(state)).to(tl.int32)
    tl.store(ok, good)


@triton.jit
def count(sig, total, ok, state):
    """Each program of every PE adds 1 to PE 0's word; program 0 of PE 0 waits for all."""
    shmem_triton.fence(state)
    shmem_triton.signal_add(sig, 1, 0, state)
    if tl.program_id(0) == 0:  # noqa: SIM102 - the second is a constant for PE 1
        if state.me == 0:
            tl.store(ok, shmem_triton.wait_until_equal(sig, total, state).to(tl.int32))


@triton.jit
def own(word, ok, state):
    """Atomics on this PE's own word are there behind a fence, and behind quiet; `ok` counts what is right."""
    shmem_triton.atomic_add(word, 3, state.me, state)
    shmem_triton.fence(state)
    good = (tl.load(word, volatile=True) == 3).to(tl.int32)
    shmem_triton.signal_add(word, 2, state.me, state)
    good += shmem_triton.quiet(state).to(tl.int32)
    good += (tl.load(word, volatile=True) == 5).to(tl.int32)
    good += (shmem_triton.atomic_fetch_add(word, 1, state.me, state) == 5).to(tl.int32)
    tl.store(ok, good)


@triton.jit
def ring(to, source, sig, back, ok, pe, n, state):
    """n elements to `pe`, then to it again with a signal, then fetched; `ok` counts what is right."""
    shmem_triton.put_nbi(to, source, n, pe, state, BLOCK=256)
    good = shmem_triton.quiet(state).to(tl.int32)
    shmem_triton.put(to + n, source, n, pe, state, BLOCK=256)
    shmem_triton.fence(state)
    shmem_triton.signal_add(sig, 1, pe, state)
    shmem_triton.put_signal(to + 2 * n, source, n, sig, 2, pe, state, ADD=True)
    shmem_triton.put_signal_nbi(to + 3 * n, source, n, sig, 3, pe, state, ADD=True)
    good += shmem_triton.signal_wait(sig, 6, state).to(tl.int32)
    shmem_triton.get(back, source, n, pe, state, BLOCK=256)
    good += shmem_triton.quiet(state).to(tl.int32)
    good += shmem_triton.barrier(state).to(tl.int32)
    tl.store(ok, good)


@triton.jit
def values(f, h, i, u, ok, pe, state):
    """Values and atomics on `pe`'s words, two each: float32, float16, int32, uint64; by one PE at a time."""
    shmem_triton.p(f, 1.5, pe, state)
    shmem_triton.p(h, 0.25, pe, state)
    shmem_triton.p(i, -7, pe, state)
    shmem_triton.p(u, 1 << 63, pe, state)
    shmem_triton.quiet(state)
    good = (shmem_triton.g(f, pe, state) == 1.5).to(tl.int32)
    good += (shmem_triton.g(h, pe, state) == 0.25).to(tl.int32)
    good += (shmem_triton.g(i, pe, state) == -7).to(tl.int32)
    good += (shmem_triton.g(u, pe, state) == 1 << 63).to(tl.int32)
    shmem_triton.atomic_set(u + 1, 12, pe, state)
    good += (shmem_triton.atomic_fetch(u + 1, pe, state) == 12).to(tl.int32)
    good += (shmem_triton.atomic_swap(u + 1, 10, pe, state) == 12).to(tl.int32)
    good += (shmem_triton.atomic_compare_swap(u + 1, 9, 1, pe, state) == 10).to(tl.int32)
    good += (shmem_triton.atomic_compare_swap(u + 1, 10, 3, pe, state) == 10).to(tl.int32)
    shmem_triton.atomic_add(u + 1, 4, pe, state)
    good += (shmem_triton.atomic_fetch_add(u + 1, 1, pe, state) == 7).to(tl.int32)
    shmem_triton.atomic_or(u + 1, 3, pe, state)
    good += (shmem_triton.atomic_fetch_or(u + 1, 16, pe, state) == 11).to(tl.int32)
    shmem_triton.atomic_and(u + 1, 25, pe, state)
    good += (shmem_triton.atomic_fetch_and(u + 1, 24, pe, state) == 25).to(tl.int32)
    shmem_triton.atomic_xor(u + 1, 1, pe, state)
    good += (shmem_triton.atomic_fetch_xor(u + 1, 2, pe, state) == 25).to(tl.int32)
    shmem_triton.atomic_set(i + 1, -2, pe, state)
    good += (shmem_triton.atomic_fetch_add(i + 1, 1, pe, state) == -2).to(tl.int32)
    shmem_triton.atomic_set(f + 1, 2.5, pe, state)
    good += (shmem_triton.atomic_swap(f + 1, 0.5, pe, state) == 2.5).to(tl.int32)
    good += (shmem_triton.atomic_fetch(u + 1, pe, state) == 27).to(tl.int32)
    tl.store(ok, good)


VALUES = 15  # what `values` counts where all is right


@triton.jit
def astray(to, far, ok, pe, state):
    """ok[0]: whether all is well after a store to where `to` has its element number `far`."""
    shmem_triton.p(to + far, 5, pe, state)
    tl.store(ok, shmem_triton.quiet(state).to(tl.int32))


@triton.jit
def mapped(out, state):
    """Whether each PE is."""
    for pe in range(state.n_pes):
        if shmem_triton.is_mapped(pe, state):
            tl.store(out + pe, 1)


@triton.jit
def endless(sig, ok, state):
    tl.store(ok, shmem_triton.signal_wait(sig, 99, state).to(tl.int32))
