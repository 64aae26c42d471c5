"""Programs as shmem4py's users write them, with only the import changed: no init, no finalize."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

import pyshmem as shmem

RING = """
mype, npes = shmem.my_pe(), shmem.n_pes()
right = (mype + 1) % npes
src = np.full(3, mype, dtype='i')
dst = shmem.zeros(3, dtype='i')
shmem.put(dst, src, right)
shmem.barrier_all()
assert (dst == (mype - 1) % npes).all()
back = np.empty(1, dtype='i')
shmem.get(back, dst, right, size=1)
assert back[0] == mype
"""

COUNTER = """
counter = shmem.array(0, dtype='q')
ticket = shmem.atomic_fetch_inc(counter, 0)
assert 0 <= ticket < shmem.n_pes()
shmem.barrier_all()
if shmem.my_pe() == 0:
    assert counter == shmem.n_pes()
shmem.free(counter)
"""

LOCKED_SUM = """
lock = shmem.Lock()
total = shmem.array([0], dtype='l')
mine = np.array([0], dtype='l')
with lock:
    shmem.get(mine, total, 0)
    mine += shmem.my_pe() + 1
    shmem.put(total, mine, 0)
    shmem.quiet()
shmem.barrier_all()
shmem.get(mine, total, 0)
assert mine[0] == sum(range(shmem.n_pes() + 1))
lock.destroy()
handle = shmem.new_lock()
shmem.set_lock(handle); shmem.clear_lock(handle)
while shmem.test_lock(handle): pass
shmem.clear_lock(handle); shmem.del_lock(handle)
"""

REDUCTIONS = """
me, n = shmem.my_pe(), shmem.n_pes()
a = shmem.full(4, me + 1.5)
b = shmem.empty(4)
for op in (shmem.OP_MAX, shmem.OP.MIN, 'sum', shmem.OP_PROD):
    shmem.reduce(b, a, op)
    values = np.arange(n) + 1.5
    assert np.allclose(b, getattr(values, str(op))())
flags = shmem.array([1 << me], dtype='L')
shmem.or_reduce(flags, flags)
assert flags[0] == (1 << n) - 1
source = shmem.array([11, 12, 13, 14])
gathered = shmem.full(n * (n + 1) // 2, -1)
shmem.barrier_all()
shmem.collect(gathered, source, 1, team=shmem.TEAM_WORLD)
assert (gathered[:n] == 11).all()
table = shmem.zeros((n, 2), dtype='i4')
shmem.fcollect(table, shmem.array([me, -me], dtype='i4'))
assert table[:, 0].tolist() == list(range(n))
out = shmem.zeros((n, 2), dtype='i4')
shmem.alltoall(out, table)
assert (out == me * np.array([1, -1])).all()
shmem.broadcast(out, table, n - 1, size=2)
"""

FLAGS = """
me, n = shmem.my_pe(), shmem.n_pes()
sig = shmem.new_signal()
data = shmem.zeros(5)
shmem.put_signal(data, np.full(5, float(me)), (me + 1) % n, sig, 1, shmem.SIGNAL_ADD)
assert shmem.signal_wait_until(sig, shmem.CMP_GE, 1) == 1
assert data[0] == (me - 1) % n and shmem.signal_fetch(sig) == 1
flags = shmem.zeros(n, dtype='i')
for pe in range(n):
    shmem.atomic_set(flags[me:me+1], me + 1, pe)
shmem.wait_until_all(flags, shmem.CMP.NE, 0)
assert shmem.test_all_vector(flags, 'eq', list(range(1, n + 1)))
assert shmem.test_any(flags, '>', n) is None
assert sorted(shmem.wait_until_some(flags, '>=', 1)) == list(range(n))
peer = shmem.ptr(flags, (me + 1) % n)
assert peer is None or peer.tolist() == list(range(1, n + 1))
shmem.del_signal(sig)
"""

TEAMS = """
world = shmem.TEAM_WORLD
even = world.split_strided(0, 2)
if even:
    assert even.my_pe() == shmem.my_pe() // 2 and even.translate_pe() == shmem.my_pe()
    ctx = even.create_ctx(shmem.CTX_SERIALIZED)
    ctx.quiet(); ctx.fence(); ctx.destroy()
    even.sync(); even.destroy()
with shmem.Ctx.create(team=shmem.Team(world)) as ctx:
    a = shmem.zeros(2); shmem.put(a, np.ones(2), 0, ctx=ctx); shmem.quiet(ctx)
mem = shmem.alloc(4, 8, align=64)
b = shmem.fromalloc(mem, (2, 2), float, 'F'); b[:] = 1
shmem.free(mem)
c = shmem.new_array((2, 3), 'f', clear=False); shmem.del_array(c)
"""

PROGRAMS = {
    name.lower(): value for name, value in globals().items() if name.isupper() and isinstance(value, str)
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    exec(compile(PROGRAMS[name], name, "exec"), {"shmem": shmem, "np": np})
    shmem.barrier_all()


@pytest.mark.npes(1)
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_of_its_own(run_pes, name):
    """Automatic initialization, arrays left over at the end, finalization by the interpreter."""
    code = f"import numpy as np, pyshmem as shmem\n{PROGRAMS[name]}\nprint('end')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/", capture_output=True)
    done = run_pes(3, code)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["end"] * 3, "")


SIGNATURES = {
    "init": "", "init_thread": "requested", "finalize": "", "global_exit": "status", "my_pe": "", "n_pes": "",
    "pe_accessible": "pe", "addr_accessible": "addr pe", "ptr": "target pe", "query_thread": "",
    "pcontrol": "level",
    "alloc": "count size align hints clear", "free": "mem", "fromalloc": "mem shape dtype order",
    "new_array": "shape dtype order align hints clear", "array": "obj dtype order align hints",
    "empty": "shape dtype order align hints", "zeros": "shape dtype order align hints",
    "ones": "shape dtype order align hints", "full": "shape fill_value dtype order align hints",
    "put": "target source pe size ctx", "get": "target source pe size ctx",
    "put_nbi": "target source pe size ctx",
    "get_nbi": "target source pe size ctx", "iput": "target source pe tst sst size ctx",
    "iget": "target source pe tst sst size ctx", "atomic_set": "target value pe ctx",
    "atomic_inc": "target pe ctx",
    "atomic_fetch": "source pe ctx", "atomic_compare_swap": "target cond value pe ctx",
    "atomic_fetch_add": "target value pe ctx", "atomic_fetch_nbi": "fetch source pe ctx",
    "atomic_compare_swap_nbi": "fetch target cond value pe ctx",
    "atomic_fetch_inc_nbi": "fetch target pe ctx",
    "atomic_op": "target value op pe ctx", "atomic_fetch_op": "target value op pe ctx",
    "atomic_fetch_op_nbi": "fetch target value op pe ctx", "new_signal": "", "del_signal": "signal",
    "signal_fetch": "signal", "put_signal": "target source pe signal value sigop size ctx",
    "put_signal_nbi": "target source pe signal value sigop size ctx", "signal_wait_until": "signal cmp value",
    "sync": "team", "broadcast": "target source root size team", "collect": "target source size team",
    "fcollect": "target source size team", "alltoall": "target source size team",
    "alltoalls": "target source tst sst size team", "reduce": "target source op size team",
    "sum_reduce": "target source size team", "wait_until": "ivar cmp value",
    "wait_until_all": "ivars cmp value status", "wait_until_some_vector": "ivars cmp values status",
    "test": "ivar cmp value", "test_any": "ivars cmp value status", "fence": "ctx", "quiet": "ctx",
    "set_lock": "lock", "test_lock": "lock", "clear_lock": "lock", "del_lock": "lock",
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_have_their_names_and_order(name):
    """Ours may have more at the end."""
    want = SIGNATURES[name].split()
    assert list(inspect.signature(getattr(shmem, name)).parameters)[: len(want)] == want


def test_classes_and_constants():
    assert list(inspect.signature(shmem.Team.split_strided).parameters)[1:] == [
        "start",
        "stride",
        "size",
        "config",
        "kwargs",
    ]
    assert list(inspect.signature(shmem.Ctx.create).parameters) == ["options", "team"]
    assert list(inspect.signature(shmem.Lock.acquire).parameters) == ["self", "blocking"]
    for enum in (shmem.THREAD, shmem.CTX, shmem.MALLOC, shmem.AMO, shmem.SIGNAL, shmem.OP, shmem.CMP):
        for item in enum:
            assert getattr(shmem, f"{enum.__name__}_{item.name}") is item
    for name in ("TEAM_WORLD", "TEAM_SHARED", "TEAM_INVALID", "CTX_DEFAULT", "CTX_INVALID", "ffi", "lib"):
        assert hasattr(shmem, name)
    assert str(shmem.OP.SUM) == shmem.OP_SUM == "sum"
    assert shmem.CMP.EQ == shmem.lib.SHMEM_CMP_EQ
