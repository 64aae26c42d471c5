"""Kernels for GPUs in Numba's simulator, without a GPU: numba_simulator.py in jobs of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.npes(1)

RunPes = Callable[..., "subprocess.CompletedProcess[str]"]
_CASES = Path(__file__).with_name("numba_simulator.py")

_LATE = """
import time
import numpy as np
from numba import cuda
import pyshmem as shmem
from pyshmem import device
from pyshmem.device import numba as sim

@cuda.jit
def wait(sig, out):
    i = cuda.threadIdx.x
    out[i] = sim.signal_wait_until(sim.block, sig, sim.ge, 7)
    out[i] += 10 * sim.wait_until(sim.warp, sig, sim.eq, 1)

@cuda.jit
def meet(out):
    out[cuda.threadIdx.x] = sim.barrier(sim.block, sim.world)

def late(text):
    try:
        device.synchronize()
    except TimeoutError as error:
        assert text in str(error), error
        assert isinstance(error, shmem.errors.TimeoutError)
        device.check()  # reported once
        return
    raise AssertionError("the deadline was not reported")

sig, out = shmem.full(1, 3, "uint64"), np.full(40, -1)
wait[1, 40](sig, out)
assert out.tolist() == [0] * 40, out  # for every thread, and the kernel went on
late(f"in a kernel, block (0, 0, 0), thread (0, 0, 0): PE {shmem.my_pe()}: shmem_signal_wait_until: ")

if shmem.n_pes() > 1:
    shmem.barrier_all()
    if shmem.my_pe() == 0:
        meet[1, 2](out)
        assert out.tolist() == [0] * 2 + [0] * 38
        late("barrier")
        print("late")
    else:
        time.sleep(60)
print("done")
shmem.global_exit(0)
"""


@pytest.mark.parametrize("n", [1, 2, 4])
def test_kernels_in_the_simulator(run_pes: RunPes, n: int) -> None:
    arguments = ["-q", "--color=no", "-p", "no:cacheprovider", str(_CASES)]
    done = run_pes(
        n, f"import pytest, sys; sys.exit(pytest.main({arguments!r}))",
        timeout=120, NUMBA_ENABLE_CUDASIM="1", SHMEM_TIMEOUT="60",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("n", [1, 2])
def test_deadline(run_pes: RunPes, n: int) -> None:
    done = run_pes(n, _LATE, NUMBA_ENABLE_CUDASIM="1", SHMEM_TIMEOUT="0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done" in done.stdout and ("late" in done.stdout) == (n == 2)


def test_both_cores_have_all_that_the_calls_use() -> None:
    from pyshmem.device import _numba_core, numba

    assert numba.core is _numba_core
    used = set(re.findall(r"\bcore\.(\w+)", Path(numba.__file__).read_text()))
    assert len(used) > 40 and {name for name in used if not hasattr(_numba_core, name)} == set()
