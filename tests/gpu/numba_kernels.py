"""The Numba kernels of the GPU tests; compiled without a GPU as well."""

from __future__ import annotations

from numba import cuda

from pyshmem.device import numba as shmem_numba


@cuda.jit
def rma(scope, a, b, got, sig, pe):
    half = a.size // 2
    shmem_numba.put(scope, a[:half], b[:half], pe)
    shmem_numba.put_nbi(scope, a[half:], b[half:], pe)
    shmem_numba.fence(scope, pe)
    shmem_numba.quiet(scope)
    shmem_numba.get(scope, got[:half], b[:half], pe)
    shmem_numba.get_nbi(scope, got[half:], b[half:], pe)
    shmem_numba.quiet(scope)
    shmem_numba.put_signal(scope, a, b, sig, 10, shmem_numba.signal_set, pe)
    shmem_numba.signal_wait_until(scope, sig, shmem_numba.ge, 10)
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        shmem_numba.signal_op(sig, 1, shmem_numba.signal_add, pe)
        shmem_numba.quiet(shmem_numba.thread)
    shmem_numba.signal_wait_until(scope, sig, shmem_numba.eq, 11)


@cuda.jit
def elements(i, j, f, d, b, out, pe):
    me = shmem_numba.my_pe()
    shmem_numba.p(i, me + 1, pe)
    shmem_numba.p(j, me + 1, pe)
    shmem_numba.p(f, me + 1.5, pe)
    shmem_numba.p(d, me + 1.25, pe)
    shmem_numba.p(b, me + 1, pe)
    shmem_numba.quiet(shmem_numba.thread)
    out[0] = shmem_numba.g(i, pe)
    out[1] = shmem_numba.g(j, pe)
    out[2] = shmem_numba.g(f, pe)
    out[3] = shmem_numba.g(d, pe)
    out[4] = shmem_numba.g(b, pe)
    out[5] = shmem_numba.n_pes()
    out[6] = shmem_numba.team_my_pe(shmem_numba.world)
    out[7] = shmem_numba.team_n_pes(shmem_numba.world)


@cuda.jit
def through_peer(d, pe):
    there = shmem_numba.peer(d, pe)
    there[0] = shmem_numba.my_pe() + 7


@cuda.jit
def count(words):
    shmem_numba.atomic_inc(words, 0)
    shmem_numba.atomic_add(words[1:], 3, 0)
    shmem_numba.atomic_fetch_add(words[2:], 2, 0)
    shmem_numba.atomic_xor(words[3:], 5, 0)
    shmem_numba.atomic_or(words[4:], 8, 0)
    shmem_numba.atomic_and(words[5:], 6, 0)


@cuda.jit
def values(words, out, pe):
    out[0] = shmem_numba.atomic_fetch(words, pe)
    shmem_numba.atomic_set(words, 7, pe)
    out[1] = shmem_numba.atomic_swap(words, 8, pe)
    shmem_numba.atomic_swap(words, 7, pe)
    out[2] = shmem_numba.atomic_compare_swap(words, 7, 3, pe)
    out[3] = shmem_numba.atomic_fetch_inc(words, pe)


@cuda.jit
def together(word, sig, src, dst, out, pe):
    thread, n = cuda.threadIdx.x, shmem_numba.n_pes()
    for round in range(1, 4):
        if thread == 0:
            shmem_numba.p(word, round, pe)
        ok = shmem_numba.barrier(shmem_numba.block, shmem_numba.world)
        if thread == 0 and ok and shmem_numba.test(word, shmem_numba.eq, round):
            out[0] += 1
        shmem_numba.sync(shmem_numba.block, shmem_numba.world)
    part = src[:64]
    shmem_numba.broadcast(shmem_numba.block, shmem_numba.world, dst[:64], part, n - 1)
    if thread == 0:
        out[1] = dst[63]
    shmem_numba.barrier(shmem_numba.block, shmem_numba.world)
    shmem_numba.fcollect(shmem_numba.block, shmem_numba.world, dst, part)
    if thread == 0:
        out[2] = dst[dst.size - 1]
    shmem_numba.barrier(shmem_numba.block, shmem_numba.world)
    shmem_numba.alltoall(shmem_numba.block, shmem_numba.world, dst, src)
    if thread == 0:
        out[3] = dst[dst.size - 1]
    shmem_numba.barrier(shmem_numba.block, shmem_numba.world)
    shmem_numba.all_reduce(shmem_numba.SUM, shmem_numba.world, dst, part)
    if thread == 0:
        out[4] = dst[63]
        shmem_numba.signal_op(sig, 42, shmem_numba.signal_set, pe)
    shmem_numba.wait_until(shmem_numba.block, sig, shmem_numba.eq, 42)
    if thread == 0:
        out[5] = shmem_numba.signal_fetch(sig)
    shmem_numba.sync(shmem_numba.block, shmem_numba.world)
    shmem_numba.sum_inscan(shmem_numba.world, dst, part)
    if thread == 0:
        out[6] = dst[63]
    shmem_numba.barrier(shmem_numba.block, shmem_numba.world)
    shmem_numba.sum_exscan(shmem_numba.world, part, part)
    if thread == 0:
        out[7] = part[63]


@cuda.jit
def several(words, a, b, sig, out, pe):
    """Each PE sets its word on all; then waits and tests of several words, and a put_signal_nbi."""
    thread, me = cuda.threadIdx.x, shmem_numba.my_pe()
    if thread < shmem_numba.n_pes():
        shmem_numba.p(words[me:], 5, thread)
    fine = shmem_numba.wait_until_all(shmem_numba.block, words, shmem_numba.ge, 5)
    if thread == 0:
        out[0] = fine
        out[1] = shmem_numba.test_all(words, shmem_numba.eq, 5)
        out[2] = shmem_numba.test_all(words, shmem_numba.gt, 5)
        out[3] = shmem_numba.wait_until_any(words, shmem_numba.eq, 5)
        out[4] = shmem_numba.test_any(words, shmem_numba.ne, 5)
        out[5] = shmem_numba.wait_until_any(words[:0], shmem_numba.eq, 5)
    shmem_numba.put_signal_nbi(shmem_numba.block, a, b, sig, 3, shmem_numba.signal_add, pe)
    shmem_numba.signal_wait_until(shmem_numba.block, sig, shmem_numba.eq, 3)
    if thread == 0:
        out[6] = a[a.size - 1]


def put_only(a, b):
    shmem_numba.put(shmem_numba.thread, a, b, 0)


def add_only(a):
    shmem_numba.atomic_add(a, 1, 0)
