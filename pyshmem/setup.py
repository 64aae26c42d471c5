"""Setup and query: init, finalize, who am I, how to end.

Importing pyshmem initializes nothing. A program calls `init`, or nothing at all: then the first call that
needs the job (`my_pe`, `n_pes`, an allocation, a barrier, a team or context) initializes it, so that programs
written for shmem4py, which initializes when imported, run unchanged. Initialization is collective: all PEs
must reach that call. ``pyshmem.rc.initialize = False`` switches this off. After `finalize` only `init` starts
again.

At the normal end of the interpreter a job that is still initialized is finalized, which waits for the other
PEs. After an unhandled exception it is abandoned instead, without waiting: the process ends with Python's
status 1, the launcher sees it, and PEs that wait for this one are told. ``sys.exit(n)`` is a normal end; to
end all PEs at once use `global_exit`.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from ._core import ffi, lib
from .errors import CLASSES, ShmemError, check
from .types import THREAD, THREAD_MULTIPLE

__all__ = [
    "MAJOR_VERSION",
    "MINOR_VERSION",
    "VENDOR_STRING",
    "Rc",
    "bootstrap_name",
    "finalize",
    "global_exit",
    "info",
    "info_get_name",
    "info_get_version",
    "init",
    "init_thread",
    "initialized",
    "my_pe",
    "n_pes",
    "pcontrol",
    "pe_accessible",
    "query_thread",
    "rc",
]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_NotInitializedError = CLASSES[lib.SHMEMX_ERR_NOT_INITIALIZED]

_my_pe: Callable[[], int] = lib.shmem_my_pe
_n_pes: Callable[[], int] = lib.shmem_n_pes


class Rc:
    """Options of automatic initialization and finalization; change them before the first call.

    Attributes
    ----------
    initialize : bool
        Whether the first call that needs the job initializes it (default True).
    threads, thread_level : bool, str
        Accepted for shmem4py's sake: the library always provides THREAD_MULTIPLE.
    finalize : bool or None
        Whether the end of the interpreter finalizes; None (default) is True.
    """

    initialize: bool = True
    threads: bool = False
    thread_level: str = "multiple"
    finalize: bool | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(Rc, name):
            raise TypeError(f"rc has no option {name!r}")
        super().__setattr__(name, value)

    def __call__(self, **options: Any) -> None:
        """Sets several options at once."""
        for name, value in options.items():
            setattr(self, name, value)


rc = Rc()


class _State:
    __slots__ = ("automatic", "ended", "held", "pid", "ready", "unhandled")

    def __init__(self) -> None:
        self.ready = False  # between init and the last finalize
        self.automatic = False  # initialized by a first use: an init() that follows takes that over
        self.ended = False  # finalized, and not initialized since
        self.unhandled = False  # an exception ends this process
        self.pid = 0  # who initialized: a forked child is not a PE
        self.held: set[Any] = set()  # blocks of the heap whose memory Python objects still show


state = _State()
_lock = threading.RLock()
# What the heap and the contexts do when the job ends; called once the library has ended it.
after_finalize: list[Callable[[], None]] = []


# ---- init --------------------------------------------------------------------------------------------------


def _mpi_world() -> Any:
    """MPI.COMM_WORLD where MPI already runs and the launcher's own ways must be left to it, else None.

    PMI-1 is one connection a process (PMI_FD), which MPI owns once it is initialized. PMIx counts its users,
    and a job of one process needs nobody.
    """
    module = sys.modules.get("mpi4py.MPI")
    if module is None or os.environ.get("SHMEM_BOOTSTRAP", "auto") not in ("", "auto"):
        return None
    if not module.Is_initialized() or module.Is_finalized() or module.COMM_WORLD.Get_size() == 1:
        return None
    return None if "PMIX_NAMESPACE" in os.environ else module.COMM_WORLD


def _init_comm(comm: Any) -> None:
    uid = ffi.new("shmemx_uniqueid_t *")
    made: tuple[int, str, bytes] | None = None
    if comm.Get_rank() == 0:
        code = lib.shmemx_get_uniqueid(uid)
        text = ffi.string(lib.shmemx_last_error()).decode(errors="replace") if code else ""
        made = (code, text, bytes(ffi.buffer(uid)))
    code, text, data = comm.bcast(made, root=0)
    if code:
        raise CLASSES[code](text)
    ffi.buffer(uid)[:] = data
    check(lib.shmemx_init_uid(comm.Get_rank(), comm.Get_size(), uid))


def _check_comm(comm: Any) -> None:
    for name in ("Get_rank", "Get_size", "bcast"):
        if not callable(getattr(comm, name, None)):
            raise TypeError(
                f"init: {type(comm).__name__} object is not an mpi4py communicator: it has no {name}"
            )
    if not comm:
        raise _ArgumentError("init: the communicator is COMM_NULL: this process is not a member")
    if getattr(comm, "is_inter", False):
        raise _ArgumentError(
            "init: an intercommunicator has two groups; merge it or hand over an intracommunicator"
        )


def _start(comm: Any) -> None:
    if comm is not None:
        _check_comm(comm)
    if _c_initialized():
        if comm is not None and (comm.Get_rank(), comm.Get_size()) != (_my_pe(), _n_pes()):
            raise _ArgumentError(
                f"init: already initialized as PE {_my_pe()} of {_n_pes()}, the communicator has rank "
                f"{comm.Get_rank()} of {comm.Get_size()}; finalize first"
            )
        if state.ready and state.automatic:
            state.automatic = False
        else:
            check(lib.shmemx_init())  # counted, nobody waits
    else:
        comm = _mpi_world() if comm is None else comm
        if comm is None:
            check(lib.shmemx_init())
        else:
            _init_comm(comm)
    _watch_exceptions()
    state.ready, state.ended, state.pid = True, False, os.getpid()


def ensure() -> None:
    """Initializes on first use, or raises NotInitializedError; called where ``state.ready`` is False."""
    with _lock:
        if state.ready:
            return
        if not _c_initialized():
            if state.ended:
                raise _NotInitializedError("pyshmem was finalized; init() starts a new job")
            if not rc.initialize:
                raise _NotInitializedError("call init() first: rc.initialize is False")
            _start(None)
            state.automatic = True
        state.ready = True


def init(comm: Any = None) -> None:
    """Joins the job. Collective over the PEs that take part.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Its processes become the PEs, in the order of their ranks; it may be a part of the world. Without it,
        the PEs are found as `pyshmem info` describes: PMIx, PMI-1, torchrun's variables, or one process
        alone. When mpi4py runs MPI on PMI-1, COMM_WORLD is taken by itself, because that channel belongs to
        MPI.

    Raises
    ------
    ShmemError
        The PEs cannot be found, or the heap not be mapped.
    ArgumentError
        Already initialized with another rank or size.

    Notes
    -----
    Calls nest: each needs its own `finalize`. After the last one, init starts a new job.
    """
    with _lock:
        _start(comm)


def init_thread(requested: THREAD = THREAD_MULTIPLE, comm: Any = None) -> THREAD:
    """As `init`; returns the level of thread support, which is always THREAD_MULTIPLE."""
    THREAD(requested)
    init(comm)
    return THREAD_MULTIPLE


def query_thread() -> THREAD:
    """The level of thread support: THREAD_MULTIPLE."""
    return THREAD_MULTIPLE


def _c_initialized() -> bool:
    flag = ffi.new("int *")
    lib.shmem_query_initialized(flag)
    return bool(flag[0])


def initialized() -> bool:
    """Whether the job runs: True between init and the last finalize."""
    return _c_initialized()


# ---- the end -----------------------------------------------------------------------------------------------


def finalize() -> None:
    """Ends the job: a barrier with quiet, then all symmetric memory is gone. Collective.

    Symmetric arrays that are still held stay readable, as zeros; passing one to pyshmem raises AddressError.

    Raises
    ------
    NotInitializedError
        There is no job.
    PeerDeadError, TimeoutError
        Another PE does not come. The job is over for this PE all the same.
    """
    with _lock:
        # Arrays that outlive the job must stay readable; the price is the heap's address space.
        lib.shmemx_keep_mapping(1 if state.held else 0)
        try:
            check(lib.shmemx_finalize())
        finally:
            if not _c_initialized():
                _ended()


def _ended() -> None:
    state.ended = state.ended or state.ready
    state.ready = state.automatic = False
    for forget in after_finalize:
        forget()


def global_exit(status: int = 0) -> NoReturn:
    """Ends every PE of the job with `status`. Any PE may call it; it does not return.

    Standard output and error are flushed; handlers of atexit do not run.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    lib.shmem_global_exit(int(status))
    raise SystemExit(status)  # not reached


_previous_hook: Callable[[type[BaseException], BaseException, TracebackType | None], Any] | None = None


def _hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    state.unhandled = True
    (_previous_hook or sys.__excepthook__)(kind, value, traceback)


def _watch_exceptions() -> None:
    global _previous_hook
    if _previous_hook is None:
        _previous_hook, sys.excepthook = sys.excepthook, _hook


def _failing() -> bool:
    """Whether an unhandled exception ends the interpreter."""
    if hasattr(sys, "ps1") or sys.flags.interactive or "IPython" in sys.modules:
        return False  # errors at a prompt do not end it
    # Where somebody replaced our hook, the interpreter's own note remains.
    return state.unhandled or (sys.excepthook is not _hook and getattr(sys, "last_value", None) is not None)


def _at_exit() -> None:
    if not state.ready or state.pid != os.getpid() or not _c_initialized():
        return
    if _failing():
        lib.shmemx_abandon()
        _ended()
        return
    if rc.finalize is False:
        return
    try:
        while _c_initialized():
            finalize()
    except ShmemError as error:
        print(f"pyshmem: at exit: {error}", file=sys.stderr)
        if _c_initialized():
            lib.shmemx_abandon()


atexit.register(_at_exit)


# ---- queries -----------------------------------------------------------------------------------------------


def my_pe() -> int:
    """The number of this PE, 0 to n_pes() - 1."""
    if not state.ready:
        ensure()
    return _my_pe()


def n_pes() -> int:
    """How many PEs the job has."""
    if not state.ready:
        ensure()
    return _n_pes()


def pe_accessible(pe: int) -> bool:
    """Whether `pe` is a PE that this one can reach; False for numbers that are out of range."""
    if not state.ready:
        ensure()
    return bool(lib.shmem_pe_accessible(pe))


def info_get_version() -> tuple[int, int]:
    """Major and minor version of the OpenSHMEM specification that is implemented."""
    major, minor = ffi.new("int *"), ffi.new("int *")
    lib.shmem_info_get_version(major, minor)
    return major[0], minor[0]


def info_get_name() -> str:
    """Name and version of the library."""
    name = ffi.new("char[]", lib.SHMEM_MAX_NAME_LEN)
    lib.shmem_info_get_name(name)
    return str(ffi.string(name).decode())


def info() -> str:
    """Text for people: version, job, bootstraps tried, heap, transports, variables. Works before init too."""
    size = lib.shmemx_info(ffi.NULL, 0) + 1
    while True:
        text = ffi.new("char[]", size)
        needed = lib.shmemx_info(text, size)
        if needed < size:
            return str(ffi.string(text).decode(errors="replace"))
        size = needed + 1


def bootstrap_name() -> str:
    """Name of the bootstrap that found the PEs; ``""`` before init."""
    return str(ffi.string(lib.shmemx_bootstrap_name()).decode())


def pcontrol(level: int = 1) -> None:
    """For profiling tools that interpose shmem_pcontrol; else it does nothing."""
    lib.shmem_pcontrol(ffi.cast("int", level))


MAJOR_VERSION: int = lib.SHMEM_MAJOR_VERSION
MINOR_VERSION: int = lib.SHMEM_MINOR_VERSION
VENDOR_STRING: str = info_get_name()
