"""MPI and libshmem in one process, initialized and finalized in any order, from C and from Python."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyshmem

BIN = Path(sys.executable).parent
MPICC = shutil.which("mpicc", path=str(BIN))
MPIRUN = shutil.which("mpirun", path=str(BIN))
# Under MPICH the process manager is out of reach once MPI has been finalized: the last one is refused there.
LATE = "mxMsxS"
ORDERS = ["msxSM", "msxMxS", "smxSM", "smxMxS", "mxsxSxM", "sxmxMxS", "sxSmxM", "msxSsxSM", LATE]
FOREIGN = ("PMIX_", "PMI_", "OMPI_COMM", "PRTE_", "HYDI_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
pytestmark = [
    pytest.mark.npes(1),
    pytest.mark.skipif(MPIRUN is None, reason="no mpirun beside this Python: pip install '.[mpi]'"),
]


def _mpich() -> bool:
    assert MPIRUN is not None
    return "HYDRA" in subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, check=True).stdout


def _check(program: list[str], order: str, n: int = 2) -> None:
    done = _run([*program, order], n)
    if order == LATE and _mpich():
        assert done.returncode != 0 and "MPI has the connection to the process manager" in done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr
    said = sorted(re.findall(r"PE -?\d+ of \d+: (?:ok|wrong|ranks differ)", done.stdout))
    assert said == [f"PE {pe} of {n}: ok" for pe in range(n)]


def _run(program: list[str], n: int, **more: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    env |= {"SHMEM_SYMMETRIC_SIZE": "16M", "SHMEM_TIMEOUT": "30", "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **more}  # fmt: skip
    assert MPIRUN is not None
    flags = [] if _mpich() else ["--oversubscribe", "--bind-to", "none"]
    for _ in range(3):
        done = subprocess.run(
            [MPIRUN, *flags, "-n", str(n), *program],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        # Open MPI 5.0's MPI_Init crashes, rarely, when another rank is so far ahead that its first message
        # comes before MPI_COMM_WORLD is known to ob1 (open-mpi/ompi#11438, #13559): nothing of ours is in it.
        if not all(name in done.stderr for name in ("mca_pml_ob1_recv_frag_callback_match", "ompi_mpi_init")):
            break
    return done


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mpi_order.c, compiled with the mpicc of this environment."""
    if MPICC is None:
        pytest.skip("no mpicc beside this Python")
    package = Path(pyshmem.__file__).parent
    made = tmp_path_factory.mktemp("mpi") / "mpi_order"
    source = Path(__file__).with_name("mpi_order.c")
    subprocess.run(
        [MPICC, "-Wall", "-Wextra", str(source), "-o", str(made), f"-I{package / 'include'}",
         f"-L{package / 'lib'}", f"-Wl,-rpath,{package / 'lib'}", f"-Wl,-rpath,{BIN.parent / 'lib'}",
         "-l:libshmem.so.0", "-ldl", "-rdynamic"],
        check=True,
    )  # fmt: skip
    return made


@pytest.mark.parametrize("order", ORDERS)
def test_c(program: Path, order: str) -> None:
    _check([str(program)], order)


OPEN_MPI = pytest.mark.skipif(
    MPIRUN is not None and _mpich(), reason="under MPICH nobody can start after MPI_Finalize"
)


@OPEN_MPI
@pytest.mark.parametrize(("n", "late"), [(2, 0), (3, 2), (8, 5)])
def test_a_rank_that_is_late_in_mpi_finalize(program: Path, n: int, late: int) -> None:
    done = _run([str(program), LATE], n, MPI_ORDER_LATE=str(late))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == [f"PE {pe} of {n}: ok" for pe in range(n)]


@OPEN_MPI
@pytest.mark.parametrize("absent", [0, 1])
def test_a_rank_that_ends_after_mpi_finalize(program: Path, absent: int) -> None:
    done = _run([str(program), LATE], 3, MPI_ORDER_ABSENT=str(absent), SHMEM_TIMEOUT="2")
    assert done.returncode != 0
    assert f"PE {absent} of 3 did not arrive" in done.stderr, done.stderr


PYTHON = """
import sys
import numpy as np
import mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
import pyshmem as shmem

me, n, ok = -1, 0, True
for step in sys.argv[1]:
    if step == "m":
        MPI.Init()
    elif step == "s":
        shmem.init()
        me, n = shmem.my_pe(), shmem.n_pes()
    elif step == "S":
        shmem.finalize()
    elif step == "M":
        MPI.Finalize()
    elif shmem.initialized():
        box = shmem.zeros(1, dtype=np.int64)
        shmem.put(box, np.array([7 + me]), (me + 1) % n)
        shmem.barrier_all()
        ok = ok and int(box[0]) == 7 + (me - 1) % n
        shmem.free(box)
    if step == "x" and MPI.Is_initialized() and not MPI.Is_finalized():
        rank = MPI.COMM_WORLD.rank
        ok = ok and MPI.COMM_WORLD.allreduce(1) == MPI.COMM_WORLD.size and me in (-1, rank)
print(f"PE {me} of {n}: {'ok' if ok else 'wrong'}", flush=True)
"""


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="no mpi4py")
@pytest.mark.parametrize("order", ORDERS)
def test_python(tmp_path: Path, order: str) -> None:
    script = tmp_path / "order.py"
    script.write_text(PYTHON)
    _check([sys.executable, str(script)], order)
