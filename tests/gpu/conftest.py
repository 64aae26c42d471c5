"""GPU tests run as those of tests/python do: the same pytest in every PE; tests/gpu/run.sh starts them.

    python -m pytest tests/gpu
    mpirun -n 2 python -m pytest tests/gpu

Everything here has the marker `gpu`: without a GPU it is collected and deselected, so nothing at the top of a
module may need one. Output, the end after a failure, and the choice by number of PEs are tests/python's.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_HERE = Path(__file__).resolve().parent
_FILE = _HERE.parent / "python" / "conftest.py"


def _common() -> tuple[ModuleType, bool]:
    """tests/python's conftest, and whether pytest has it already because both folders are run."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(_FILE):
            return module, True
    spec = importlib.util.spec_from_file_location("tests_python_conftest", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module, False


_common_module, _known = _common()
job, run_pes = _common_module.job, _common_module.run_pes
if not _known:
    pytest_configure = _common_module.pytest_configure
    pytest_sessionfinish = _common_module.pytest_sessionfinish
    pytest_unconfigure = _common_module.pytest_unconfigure


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("gpu")
    _common_module.pytest_collection_modifyitems(config, items)


@pytest.fixture(scope="session")
def cp(job: ModuleType) -> ModuleType:
    """CuPy, on the device of this PE's GPU heap."""
    import cupy

    job.free(job.zeros(1, device="cuda"))
    return cupy


@pytest.fixture(scope="session")
def device(cp: ModuleType) -> ModuleType:
    import pyshmem.device

    return pyshmem.device


@pytest.fixture(scope="session")
def around(job: ModuleType) -> tuple[int, int, int, int]:
    """(me, number of PEs, next, previous)."""
    me, n = job.my_pe(), job.n_pes()
    return me, n, (me + 1) % n, (me - 1) % n


@pytest.fixture
def own_stream(job: ModuleType) -> Iterator[None]:
    """PyTorch's work goes to a stream of its own. In the default one a copy to the host behind a kernel that
    waits for a NIC's path keeps back the copies by which that path moves bytes between a machine's GPUs."""
    import torch

    with torch.cuda.stream(torch.cuda.Stream()):
        yield


class Meet:
    """Ends what this PE's kernels do, raises what they reported, and waits for the other PEs."""

    def __init__(self, job: Any, cp: Any, device: Any) -> None:
        self._job, self._cp, self._device = job, cp, device

    def __call__(self) -> None:
        self._cp.cuda.runtime.deviceSynchronize()
        self._device.check()
        self._job.barrier_all()


@pytest.fixture(scope="session")
def meet(job: ModuleType, cp: ModuleType, device: ModuleType) -> Meet:
    return Meet(job, cp, device)


@pytest.fixture
def closing(cp: ModuleType, meet: Meet) -> Iterator[Callable[[Any], Any]]:
    """Takes objects that have close(), which is collective, and closes them at the end."""
    taken: list[Any] = []

    def take(thing: Any) -> Any:
        taken.append(thing)
        return thing

    yield take
    meet()
    for thing in taken:
        thing.close()


@pytest.fixture
def make(closing: Callable[[Any], Any]) -> Callable[..., Any]:
    """Makes an ExpertParallel on GPUs of a shape: tokens, hidden, experts, topk."""
    from pyshmem.moe import ExpertParallel

    def build(shape: tuple[int, int, int, int], **options: Any) -> Any:
        tokens, hidden, experts, topk = shape
        return closing(ExpertParallel(experts, hidden, topk, tokens, device="cuda", **options))

    return build
