"""Setup and query, the end of a job, and the ways a process may leave it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import pyshmem as shmem
from pyshmem import errors


def test_queries():
    assert 0 <= shmem.my_pe() < shmem.n_pes()
    assert shmem.info_get_version() == (shmem.MAJOR_VERSION, shmem.MINOR_VERSION) == (1, 6)
    assert shmem.info_get_name() == shmem.VENDOR_STRING
    assert "libshmem" in shmem.VENDOR_STRING
    assert shmem.initialized()
    assert shmem.query_thread() is shmem.THREAD.MULTIPLE
    assert shmem.bootstrap_name()
    assert f"PE {shmem.my_pe()} of {shmem.n_pes()}" in shmem.info()
    assert [shmem.pe_accessible(pe) for pe in (-1, 0, shmem.n_pes())] == [False, True, False]
    for level in (1, 0, 2):
        shmem.pcontrol(level)


def test_init_nests():
    shmem.init()
    assert shmem.init_thread(shmem.THREAD.SINGLE) is shmem.THREAD.MULTIPLE
    shmem.finalize()
    shmem.finalize()
    assert shmem.initialized()
    shmem.barrier_all()


def test_init_refuses_what_is_no_communicator():
    with pytest.raises(TypeError, match="int object is not an mpi4py communicator"):
        shmem.init(3)

    class Comm:
        def __init__(self, rank: int, size: int) -> None:
            self.rank, self.size = rank, size

        def Get_rank(self) -> int:
            return self.rank

        def Get_size(self) -> int:
            return self.size

        def bcast(self, value: object, root: int = 0) -> object:
            return value

    n = shmem.n_pes()
    with pytest.raises(ValueError, match=f"already initialized as PE {shmem.my_pe()} of {n}.* of {n + 1}"):
        shmem.init(Comm(0, n + 1))
    shmem.init(Comm(shmem.my_pe(), n))  # the same job: counted
    shmem.finalize()
    assert shmem.initialized()


def test_rc_knows_its_options():
    shmem.rc(initialize=True)
    assert shmem.rc.finalize is None
    with pytest.raises(TypeError, match="nonsense"):
        shmem.rc.nonsense = 1
    with pytest.raises(TypeError, match="nonsense"):
        shmem.rc(nonsense=1)


def test_exceptions_come_from_the_table():
    names = {cls.__name__ for cls in errors.CLASSES.values()}
    assert {"ArgumentError", "PEError", "AddressError", "NoMemoryError", "PeerDeadError"} <= names
    for code, cls in errors.CLASSES.items():
        assert cls.code == code < 0
        assert issubclass(cls, shmem.ShmemError)
        assert str(cls("the text")) == "the text"
        assert getattr(errors, cls.__name__) is cls
    assert issubclass(errors.PEError, IndexError)
    assert issubclass(errors.TimeoutError, TimeoutError)
    assert issubclass(errors.PeerDeadError, ConnectionError)
    assert issubclass(errors.NoMemoryError, MemoryError)
    with pytest.raises(AttributeError, match="NoSuchError"):
        _ = errors.NoSuchError
    with pytest.raises(errors.ArgumentError):
        errors.check(shmem.lib.SHMEMX_ERR_ARGUMENT)
    errors.check(0)


def test_all_public_names_are_documented():
    for name in shmem.__all__:
        thing = getattr(shmem, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__doc__, name


# ---- other jobs --------------------------------------------------------------------------------------------

_AROUND = """
import numpy as np, pyshmem as shmem
from pyshmem import errors
def must(kind, function, *arguments):
    try:
        function(*arguments)
    except kind as error:
        return str(error)
    raise SystemExit(f"no {kind.__name__} from {function.__name__}")
"""


@pytest.mark.npes(1)
def test_import_initializes_nothing_and_first_use_does():
    code = _AROUND + (
        "assert not shmem.initialized() and 'not initialized' in shmem.info()\n"
        "assert shmem.bootstrap_name() == ''\n"
        "assert shmem.my_pe() == 0 and shmem.initialized()\n"
        "shmem.init(); shmem.finalize(); assert not shmem.initialized()\n"  # init took the automatic one over
        "assert 'was finalized' in must(errors.NotInitializedError, shmem.my_pe)\n"
        "must(errors.NotInitializedError, shmem.finalize)\n"
        "must(errors.NotInitializedError, shmem.zeros, 3)\n"
        "shmem.init(); assert shmem.n_pes() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
    code = (
        _AROUND + "shmem.rc.initialize = False\nassert 'rc.initialize' in must(RuntimeError, shmem.n_pes)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


@pytest.mark.npes(1)
def test_arrays_outlive_the_job(run_pes):
    code = _AROUND + (
        "a, b = shmem.ones(1000), shmem.zeros(1000)\n"
        "there = shmem.ptr(a, (shmem.my_pe() + 1) % shmem.n_pes())\n"
        "view = a[3:7]; shmem.put(view, np.ones(4), 0); signal = shmem.new_signal(); lock = shmem.Lock()\n"
        "word = shmem.zeros(1, np.int64); shmem.atomic_inc(word, 0)\n"
        "shmem.finalize()\n"
        "assert a.sum() == 0 and view.tolist() == [0.0] * 4 and there.sum() == 0\n"
        "a[0] = 5\n"
        "for call in ('shmem.put(a, b, 0)', 'shmem.put(view, np.ones(4), 0)', 'shmem.get(a, b, 0)',\n"
        "             'shmem.atomic_fetch_add(word, 1, 0)', 'shmem.wait_until(word, \"==\", 0)',\n"
        "             'shmem.signal_fetch(signal)', 'lock.acquire()', 'shmem.sum_reduce(a, b)',\n"
        "             'shmem.free(a)'):\n"
        "    text = must(errors.AddressError, eval, call)\n"
        "    assert 'finalized' in text, text\n"
        "shmem.init()\n"
        "c = shmem.full(1000, 3.0); shmem.put(c, np.ones(1000), 0); shmem.barrier_all()\n"
        "must(errors.AddressError, shmem.put, a, b, 0)\n"
        "assert c[5] == (1 if shmem.my_pe() == 0 else 3) and a[0] == 5 and not shmem.is_symmetric(a)\n"
        "print('good')\n"
    )
    for n in (1, 2):
        done = run_pes(n, code)
        assert (done.returncode, done.stdout.split()) == (0, ["good"] * n), done.stderr


@pytest.mark.npes(1)
def test_jobs_one_after_another(run_pes):
    code = (
        "import numpy as np, pyshmem as shmem\n"
        "for i in range(4):\n"
        "    shmem.init()\n"
        "    me, n = shmem.my_pe(), shmem.n_pes()\n"
        "    a = shmem.zeros(1, np.int64)\n"
        "    shmem.atomic_add(a, me + i, (me + 1) % n); shmem.barrier_all()\n"
        "    assert a[0] == (me - 1) % n + i\n"
        "    shmem.finalize()\n"
    )
    done = run_pes(3, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.npes(1)
def test_unhandled_exception_ends_the_job(run_pes):
    code = (
        "import pyshmem as shmem\n"
        "me = shmem.my_pe()\n"
        "if me == 1: raise ValueError('PE 1 gives up')\n"
        "shmem.barrier_all(); shmem.barrier_all()\n"
    )
    done = run_pes(3, code)
    assert done.returncode != 0
    assert "ValueError: PE 1 gives up" in done.stderr
    done = run_pes(1, "import pyshmem as shmem\nshmem.my_pe()\nraise ValueError('alone')")
    assert done.returncode == 1
    done = run_pes(  # a hook that does not call ours
        2,
        "import sys, pyshmem as shmem\nme = shmem.my_pe()\n"
        "sys.excepthook = lambda *a: print('mine', file=sys.stderr)\n"
        "if me == 1: raise ValueError\nshmem.barrier_all(); shmem.barrier_all()\n",
    )
    assert done.returncode != 0
    assert "mine" in done.stderr


@pytest.mark.npes(1)
def test_normal_end_finalizes(run_pes):
    code = (
        "import pyshmem as shmem, time\n"
        "a = shmem.zeros(4)\n"
        "if shmem.my_pe() == 1: time.sleep(0.5)\n"
        "print('end', flush=True)\n"
    )
    done = run_pes(3, code)
    assert (done.returncode, done.stdout.count("end"), done.stderr) == (0, 3, "")


@pytest.mark.npes(1)
def test_global_exit(run_pes):
    done = run_pes(
        3, "import pyshmem as s\nif s.my_pe() == 2: print('last words'); s.global_exit(7)\ns.barrier_all()"
    )
    assert done.returncode == 7
    assert "last words" in done.stdout


@pytest.mark.npes(1)
def test_forked_child_is_no_pe(run_pes):
    code = (
        "import os, sys, pyshmem as shmem\n"
        "a = shmem.zeros(4)\n"
        "if os.fork() == 0: sys.exit(0)\n"
        "os.wait(); shmem.barrier_all(); print('parent')\n"
    )
    done = run_pes(2, code)
    assert (done.returncode, done.stdout.split()) == (0, ["parent"] * 2), done.stderr


@pytest.mark.npes(1)
@pytest.mark.parametrize("call", ["init(comm)", "init_thread(comm=comm)"])
def test_init_from_a_communicator(run_pes, call):
    code = (
        "from mpi4py import MPI\n"
        "import numpy as np, pyshmem as shmem\n"
        "world = MPI.COMM_WORLD\n"
        "comm = world.Split(world.rank % 2, -world.rank)\n"  # a part of the world, in another order
        f"shmem.{call}\n"
        "assert (shmem.my_pe(), shmem.n_pes()) == (comm.rank, comm.size)\n"
        "a = shmem.zeros(comm.size, np.int64)\n"
        "for pe in range(comm.size): shmem.put(a[comm.rank:comm.rank + 1], np.array([world.rank]), pe)\n"
        "shmem.barrier_all()\n"
        "assert a.tolist() == comm.allgather(world.rank)\n"
        "shmem.finalize()\n"
        "print('good')\n"
    )
    done = run_pes(5, code)
    assert (done.returncode, done.stdout.split()) == (0, ["good"] * 5), done.stderr


@pytest.mark.npes(1)
def test_beside_mpi_without_a_communicator(run_pes):
    code = (
        "from mpi4py import MPI\n"
        "import pyshmem as shmem\n"
        "shmem.init()\n"
        "assert (shmem.my_pe(), shmem.n_pes()) == (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)\n"
        "MPI.COMM_WORLD.Barrier(); shmem.barrier_all(); print('good')\n"
    )
    done = run_pes(3, code)
    assert (done.returncode, done.stdout.split()) == (0, ["good"] * 3), done.stderr


@pytest.mark.npes(1)
def test_null_and_inter_communicators_are_refused():
    code = _AROUND + (
        "from mpi4py import MPI\n"
        "assert 'COMM_NULL' in must(errors.ArgumentError, shmem.init, MPI.COMM_NULL)\n"
        "assert not shmem.initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_modules_on_demand():
    """import pyshmem is enough to name them; what does not exist is an AttributeError."""
    assert shmem.moe.ExpertParallel and shmem.quant.quantize_int8 and shmem.router.Router
    assert {"moe", "quant", "router", "device"} <= set(dir(shmem))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        shmem.nothing  # noqa: B018
