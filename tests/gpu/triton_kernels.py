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
        shmem_triton.signal_set(sig, round, pe, state)
        arrived = shmem_triton.signal_wait(sig, round, state)
        seen = tl.load(to + i, cache_modifier=".cv")
        good += arrived.to(tl.int32) * (tl.min(seen - tl.max(seen, axis=0), axis=0) == 0).to(tl.int32)
        good += (shmem_triton.barrier(state)).to(tl.int32)
    tl.store(ok, good)


@triton.jit
def count(sig, total, ok, state):
    """Each program of every PE adds 1 to PE 0's word; program 0 of PE 0 waits for all."""
    shmem_triton.fence()
    shmem_triton.signal_add(sig, 1, 0, state)
    if tl.program_id(0) == 0:  # noqa: SIM102 - the second is a constant for PE 1
        if state.me == 0:
            tl.store(ok, shmem_triton.wait_until_equal(sig, total, state).to(tl.int32))


@triton.jit
def endless(sig, ok, state):
    tl.store(ok, shmem_triton.signal_wait(sig, 99, state).to(tl.int32))
