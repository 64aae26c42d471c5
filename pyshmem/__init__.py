"""pyshmem: OpenSHMEM for Python.

    import numpy as np
    import pyshmem as shmem

    me, n = shmem.my_pe(), shmem.n_pes()
    a = shmem.zeros(1, dtype=np.int64)                    # symmetric: every PE has one
    shmem.put(a, np.array([me]), (me + 1) % n)            # into the neighbour's
    shmem.barrier_all()
    print(f"PE {me} of {n}: from {a[0]}")

Started as ``mpirun -n 4 python program.py``. Names, arguments and meaning are those of shmem4py, so its
programs run with the import changed.
"""

# ruff: noqa: F401, F403
# mypy: implicit-reexport
from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import (
    amo,
    buffer,
    coll,
    ctx,
    errors,
    heap,
    lock,
    nonblocking,
    order,
    rma,
    setup,
    signal,
    space,
    symmetric,
    team,
    types,
)
from . import sync as _sync  # the name itself is the function
from ._core import ffi, lib
from .amo import *
from .buffer import *
from .coll import *
from .ctx import *
from .errors import ShmemError
from .heap import *
from .lock import *
from .nonblocking import *
from .order import *
from .rma import *
from .setup import *
from .signal import *
from .space import *
from .symmetric import *
from .sync import *
from .team import *
from .types import *

try:
    __version__ = version("sushmem")
except PackageNotFoundError:  # run from a source tree
    __version__ = "0"

__all__ = [
    "ShmemError",
    *amo.__all__,
    *buffer.__all__,
    *coll.__all__,
    *ctx.__all__,
    *heap.__all__,
    *lock.__all__,
    *nonblocking.__all__,
    *order.__all__,
    *rma.__all__,
    *setup.__all__,
    *signal.__all__,
    *space.__all__,
    *symmetric.__all__,
    *_sync.__all__,
    *types.__all__,
    *team.__all__,
]

# Imported when first named, as pyshmem.moe and so on: programs that use none of them start faster.
_ON_DEMAND = ("device", "moe", "numba_cpu", "quant", "router")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_DEMAND})
