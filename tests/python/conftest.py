"""How the tests run: the same pytest in every PE of a job, or alone as one PE.

    python -m pytest tests/python
    mpirun -n 4 python -m pytest tests/python

PEs other than 0 print nothing unless they fail. A job of several PEs stops at its first failure, because
the PE that failed is out of step with the others; it leaves without finalize and the launcher ends the job.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The installed package is tested: `python -m pytest` puts the source tree first, which has no _core.
_ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != _ROOT]

import pytest  # noqa: E402
from _pytest._io import TerminalWriter  # noqa: E402
from hypothesis import settings  # noqa: E402

if TYPE_CHECKING:
    from types import ModuleType


def _from_launcher(*names: str, default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), default)


PE = _from_launcher("OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", "PMIX_RANK", default=0)
NPES = _from_launcher("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE", default=1)

# All PEs must draw the same examples, and a slow machine is no failure.
settings.register_profile("pes", derandomize=True, deadline=None, database=None)
settings.load_profile("pes")

_text = io.StringIO()  # what a PE other than 0 would have printed
_failed = False


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if NPES > 1:
        config.option.maxfail = 1
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if PE != 0 and reporter is not None:
        reporter._tw = TerminalWriter(_text)


def _has_gpu() -> bool:
    """Whether the CUDA driver is there and counts at least one device."""
    import ctypes

    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _wants_this_size(item: pytest.Item) -> bool:
    for mark in item.iter_markers("npes"):
        allowed = range(mark.kwargs.get("min", 1), mark.kwargs.get("max", NPES) + 1)
        if NPES not in (mark.args or allowed):
            return False
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu = any(item.get_closest_marker("gpu") for item in items) and _has_gpu()
    kept = [item for item in items if _wants_this_size(item) and (gpu or not item.get_closest_marker("gpu"))]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def pytest_sessionfinish(exitstatus: int) -> None:
    global _failed
    _failed = exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def pytest_unconfigure() -> None:
    if not _failed:
        return
    if PE != 0:
        print(f"---- PE {PE} of {NPES}\n{_text.getvalue()}", file=sys.stderr)
    if NPES > 1:
        # The others may wait for us: no handler at exit may start to wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


@pytest.fixture(scope="session", autouse=True)
def job(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """pyshmem, initialized once for all tests and finalized when they have passed."""
    import pyshmem

    pyshmem.init()
    yield pyshmem
    if not (NPES > 1 and request.session.testsfailed):
        pyshmem.finalize()


@pytest.fixture(scope="session")
def nvrtc() -> Any:
    """The `Nvrtc` of tests/device/compile.py: from pip's nvidia-cuda-nvrtc or the system."""
    path = _ROOT / "tests" / "device" / "compile.py"
    spec = importlib.util.spec_from_file_location("device_compile", path)
    assert spec is not None and spec.loader is not None
    compiler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compiler)
    lib = compiler.find_nvrtc()
    assert lib is not None, "no NVRTC: pip install nvidia-cuda-nvrtc"
    return compiler.Nvrtc(lib)


@pytest.fixture(scope="session")
def quick(nvrtc: Any) -> list[str]:
    """Options of NVRTC for code that is not run: a third of the time, from 12.9 on."""
    option = "--Ofast-compile=max"
    return [option] if nvrtc.compile("", "empty.cu", [option])[0] else []


RunPes = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_pes() -> RunPes:
    """run_pes(n, code, timeout=60, **environment): runs Python code in a job of n new PEs, returns the
    finished process with its output. Only in tests marked npes(1): a launcher inside a launched process
    would find the outer job's variables."""
    launcher = shutil.which(
        "mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if launcher is None:
        pytest.fail("no mpirun beside this Python nor on PATH; pip install '.[mpi]'")
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    flags = ["--oversubscribe", "--bind-to", "none"] if "Open MPI" in version else []
    foreign = ("PMIX_", "PMI_", "OMPI_COMM", "PRTE_", "HYDI_")
    base = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}

    def run(
        n: int, code: str, *, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        assert NPES == 1, "mark this test npes(1)"
        command = [launcher, *flags, "-n", str(n), sys.executable, "-c", code]
        with subprocess.Popen(
            command, env={**base, **environment}, cwd="/", text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.terminate()  # the launcher ends its processes; killed, it could not
                try:
                    out, err = process.communicate(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    out, err = process.communicate()
                pytest.fail(f"{n} PEs still ran after {timeout} s\nstdout:\n{out}\nstderr:\n{err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run
