"""Memory spaces: where the pages are, what comes from them, what is refused."""

from __future__ import annotations

import ctypes
import os
from collections import Counter

import numpy as np
import pytest

import pyshmem as shmem
from pyshmem import errors

MIB = 1 << 20
NODES = [n.node for n in shmem.numa_nodes()]


def nodes_of(a: np.ndarray) -> Counter[int] | None:
    """How many pages of an array lie on which node, as move_pages(2) tells; None where nobody may ask."""
    page = os.sysconf("SC_PAGESIZE")
    start, count = a.ctypes.data, a.nbytes // page
    assert start % page == 0
    bytes_of = np.asarray(a).view(np.uint8).reshape(-1)
    bytes_of[::page] += 0  # this process has them mapped
    pages = (ctypes.c_void_p * count)(*range(start, start + count * page, page))
    status = (ctypes.c_int * count)()
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 279, "aarch64": 239}[os.uname().machine]
    if libc.syscall(number, 0, ctypes.c_ulong(count), pages, None, status, 0) != 0:
        return None
    return Counter(status)


def test_nodes():
    found = shmem.numa_nodes()
    assert found and shmem.numa_nearest() in NODES
    for node in found:
        assert 0 < node.available <= node.nbytes
    assert f"NUMA: {len(found)} node" in shmem.info()


@pytest.mark.parametrize("node", ["nearest", "interleave", *NODES])
def test_place(node):
    one = shmem.zeros(1)
    shmem.reclaim()  # its own words are in the heap from the first time on
    before = shmem.heap_info()[1]
    with shmem.Space(2 * MIB + 1, node) as space:
        assert space and shmem.heap_info()[1] == before + 4 * MIB
        assert space.info() == (4 * MIB, 0, 4 * MIB)
        want = shmem.numa_nearest() if node == "nearest" and len(NODES) == 1 else node
        assert node == "nearest" or space.node == want
        a = shmem.empty(4 * MIB // 8, np.int64, space=space)
        me, n = shmem.my_pe(), shmem.n_pes()
        shmem.put(a, np.full(a.size, me), (me + 1) % n)  # a peer touches the pages first
        shmem.barrier_all()
        assert (a == (me - 1) % n).all()
        found = nodes_of(a)
        if found is not None:
            nodes = NODES if node == "interleave" else [space.node]
            assert sorted(found) == sorted(nodes)
            assert max(found.values()) - min(found.values()) <= 1
        with pytest.raises(errors.NoMemoryError, match="space"):
            shmem.zeros(1, space=space)
        with pytest.raises(errors.ArgumentError, match="in use"):
            space.destroy()
        shmem.free(a)
    assert not space
    assert shmem.heap_info()[1] == before
    shmem.free(one)


def test_every_constructor():
    space = shmem.Space(2 * MIB)
    made = [
        shmem.empty(3, space=space),
        shmem.zeros(3, space=space),
        shmem.ones(3, space=space),
        shmem.full(3, 7, space=space),
        shmem.array([1.0, 2.0, 3.0], space=space),
        shmem.new_array(3, space=space),
    ]
    memory = shmem.alloc(3, 8, space=space)
    low = min(a.ctypes.data for a in made)
    assert space.info()[1] >= 7 * 24
    assert all(low <= a.ctypes.data < low + 2 * MIB for a in made)
    assert all(shmem.is_symmetric(a) for a in made)
    np.testing.assert_array_equal(np.stack(made[1:5]), [[0] * 3, [1] * 3, [7] * 3, [1, 2, 3]])
    del made, memory  # dropped on all PEs: destroy frees them
    space.destroy()


def test_dropped_arrays_make_room():
    with shmem.Space(2 * MIB) as space:
        for _ in range(4):  # two do not fit
            a = shmem.empty(MIB + 8, np.uint8, space=space)
            del a


def test_refused():
    space = shmem.Space(1)
    used = shmem.heap_info()[1]
    argument = errors.ArgumentError
    for node, text in ((1023, "no NUMA node"), (-1, "node -1"), (1 << 40, "node 1099"), ("far", "'far'")):
        with pytest.raises(argument, match=text):
            shmem.Space(MIB, node)
    with pytest.raises(argument, match="0 bytes"):
        shmem.Space(0)
    with pytest.raises(argument, match="-1 bytes"):
        shmem.Space(-1)
    with pytest.raises(errors.NoMemoryError, match="SHMEM_SYMMETRIC_SIZE"):
        shmem.Space(1 << 45)
    with pytest.raises(argument, match="host memory"):
        shmem.zeros(1, device="cuda", space=space)
    assert shmem.heap_info()[1] == used
    space.destroy()
    for use in (space.destroy, space.info, lambda: space.node, lambda: shmem.zeros(1, space=space)):
        with pytest.raises(argument, match="no memory space"):
            use()


@pytest.mark.skipif(shmem.n_pes() < 2, reason="one PE agrees with itself")
def test_disagreement():
    with pytest.raises(errors.MismatchError, match="space_create"):
        shmem.Space(2 * MIB if shmem.my_pe() else 4 * MIB)
    with shmem.Space(2 * MIB) as space, pytest.raises(errors.MismatchError, match="in space"):
        shmem.zeros(8, space=space if shmem.my_pe() else None)
