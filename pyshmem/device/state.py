"""What kernels know of the job: fetched from the library, and copied into every module that holds a copy.

A module's copy is its symbol ``shmem_device_state`` (struct shmemx_device_state of device/state.h). It is
filled when the module is loaded, and once more when a later job has opened its GPU heap.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import setup
from .._core import ffi, lib
from ..errors import CLASSES
from ..errors import check as check_code
from ..setup import ensure
from ..setup import state as job

if TYPE_CHECKING:
    from ..team import Team

SYMBOL = "shmem_device_state"
POSTS = 2  # SHMEMX_DEVICE_POSTS of the record's flags: some PE is reached by ibgda
NIC_PROXY = 1  # SHMEMX_NIC_PROXY

WAYS = np.dtype(
    [
        ("path", np.uint32),
        ("mapped_first", np.int32),
        *((name, np.uint32) for name in ("mapped", "qps")),
        *((name, np.uint64) for name in ("qp", "ring")),
        *((name, np.uint32) for name in ("rings", "depth")),
        *((name, np.uint64) for name in ("slots", "slots_stride")),
        *((name, np.uint32) for name in ("atomics", "reserved")),
    ]
)
"""struct shmemx_device_ways."""

LAYOUT = np.dtype(
    [
        *((name, np.int32) for name in ("version", "me", "npes", "flags")),
        *(
            (name, np.uint64)
            for name in ("heap", "stride", "bytes", "mailbox", "timeout_ns", "internal", "teams")
        ),
        *((name, np.uint32) for name in ("nteams", "reserved")),
        *((name, np.uint64) for name in ("copy", "bases", "world_sync", "world_packets")),
        *((name, np.uint64) for name in ("world_slot_bytes", "claim", "nic", "self")),
        ("ways", WAYS),
    ]
)
"""struct shmemx_device_state; tests compare it with the header."""

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_NotInitializedError = CLASSES[lib.SHMEMX_ERR_NOT_INITIALIZED]

_WORLD = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)

_epoch = 0  # counts the jobs of this process
# By key, what copies the state into one loaded module; called again for a later job.
_fillers: dict[Any, Callable[[], None]] = {}

simulated = False  # kernels run in Numba's simulator: they have ended when their launch returns
_note: Exception | None = None  # what they have reported; the mailbox of kernels without a GPU


def _next_job() -> None:
    global _epoch, _note
    _epoch += 1
    _note = None


setup.after_finalize.append(_next_job)


def epoch() -> int:
    """A number that changes when the job ends: a state copied before is stale."""
    return _epoch


def current(call: str) -> Any:
    """The state of this PE as a record of `LAYOUT`. Local, so the GPU heap must be open."""
    if not job.ready:
        ensure()
    if lib.shmemx_device() < 0:
        raise _NotInitializedError(
            f'{call}: there is no GPU heap yet; the first allocation with device="cuda" opens it, on all PEs'
        )
    record = np.zeros((), LAYOUT)
    check_code(lib.shmemx_device_state(ffi.from_buffer(record.reshape(1)), LAYOUT.itemsize))
    return record


def some_unmapped(call: str) -> bool:
    """Whether kernels reach some PE's GPU memory through a NIC's path alone. Local; the heap must be open."""
    return bool(current(call)["nic"])


def on_load(key: Any, fill: Callable[[], None]) -> None:
    """Calls `fill` now, and again after a later job's first allocation of GPU memory."""
    fill()
    _fillers[key] = fill


def on_unload(key: Any) -> None:
    _fillers.pop(key, None)


def heap_opened() -> None:
    """The first GPU allocation of a job has been made: modules loaded in an earlier job learn of it."""
    for fill in list(_fillers.values()):
        fill()


def include_dir() -> Path:
    """The folder of ``shmem_device.h``: the installed package's, or that of a source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "include", package.parent / "libshmem" / "include"):
        if (folder / "shmem_device.h").is_file():
            return folder
    raise FileNotFoundError(
        f"shmem_device.h is neither in {package / 'include'} nor in a source tree around it"
    )


def check() -> None:
    """Raises what a kernel or a stream-ordered call of this PE has reported since the last check.

    Kernels do not trap: a wait that met its deadline (SHMEM_TIMEOUT), an address or PE that a kernel compiled
    with ``-DSHMEM_DEVICE_CHECKS`` refused, leaves a note, which this raises once. It does not wait for the
    kernel; `synchronize` does.

    Raises
    ------
    TimeoutError, PEError, AddressError, ArgumentError
        With the call, block, thread and address in the kernel.
    """
    global _note
    if _note is not None:
        error, _note = _note, None
        raise error
    check_code(lib.shmemx_stream_check())


def recover(team: Team | None = None) -> None:
    """Makes the queue pairs that kernels post to themselves (SHMEM_GPU_NIC=ibgda) work again after an error.

    Collective over `team` (all PEs by default); no kernel of a member that communicates may run meanwhile.
    For an error whose cause is gone: a wrong address, memory that was freed, a link that was down. First ask
    `check` (or `synchronize`), which raises what the error was.

    Of what kernels have posted from one member to another since a quiet of theirs to that PE last returned
    true, each operation may have happened or be lost; nothing of it happens after this call. On return every
    member's kernels may post to every other member. Where kernels reach the members in other ways there is
    nothing to do.

    Raises
    ------
    PeerDeadError
        A PE that has ended stays so.
    pyshmem.errors.SystemError
        A NIC refuses; the queue pairs then fail as before.
    TeamError
        This PE has no such team.
    """
    check_code(lib.shmemx_gpu_nic_recover(_WORLD if team is None else team.ob_team))


def note(error: Exception) -> None:
    """Leaves what a simulated kernel reports to `check`: the first error only, as the mailbox does."""
    global _note
    _note = _note or error


def synchronize(stream: Any = None) -> None:
    """Waits until `stream` (as in `pyshmem.device.stream`) has done all it holds, then checks as `check`."""
    from .stream import handle_of, wait_for

    if not simulated:
        wait_for(handle_of(stream, "synchronize"))
    check()


# ---- the driver: what no array package hands out -----------------------------------------------------------


@cache
def driver() -> ctypes.CDLL:
    """libcuda, which is loaded already wherever there is a GPU heap."""
    return ctypes.CDLL("libcuda.so.1")


def _driver_check(code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        driver().cuGetErrorName(code, ctypes.byref(text))
        raise RuntimeError(f"{what}: {(text.value or b'CUDA error').decode()} ({code})")


def fill_symbol(handle: int, is_library: bool, call: str) -> None:
    """Copies the state into the symbol of a loaded module, given by its CUmodule or CUlibrary."""
    address, size = ctypes.c_uint64(), ctypes.c_size_t()
    find = driver().cuLibraryGetGlobal if is_library else driver().cuModuleGetGlobal_v2
    name = SYMBOL.encode()
    _driver_check(
        find(ctypes.byref(address), ctypes.byref(size), ctypes.c_void_p(handle), name), f"{call}: {SYMBOL}"
    )
    write_state(address.value, size.value, call)


def write_state(address: int, size: int, call: str) -> None:
    """Copies the state to a module's symbol at that device address; complete when it returns."""
    record = current(call)
    if size != LAYOUT.itemsize:
        raise _ArgumentError(
            f"{call}: the module's {SYMBOL} has {size} bytes, this library's {LAYOUT.itemsize}: "
            "the headers it was compiled with belong to another version"
        )
    data = record.tobytes()
    _driver_check(driver().cuMemcpyHtoD_v2(ctypes.c_uint64(address), data, ctypes.c_size_t(len(data))), call)
