"""Exceptions: one class for each row of libshmem's table of errors, made from that table at import.

`ShmemError` is the base of all and a RuntimeError. The class of a row is named after it and derives also from
the Python exception that the table names, so that both ``except pyshmem.ShmemError`` and ``except
IndexError`` catch a PE number that is out of range:

========================  ====================  ===========================================
class                     also a                when
========================  ====================  ===========================================
``ArgumentError``         ValueError            a count, stride, size, operator... is wrong
``NotInitializedError``   RuntimeError          before init or after finalize
``PEError``               IndexError            no such PE
``AddressError``          ValueError            not symmetric memory, or freed
``NoMemoryError``         MemoryError           the symmetric heap is full
``TimeoutError``          TimeoutError          SHMEM_TIMEOUT expired
``PeerDeadError``         ConnectionError       another PE died
========================  ====================  ===========================================

The rest follow the same rule (`CLASSES` has all, by code). A wrong dtype or a wrong kind of object is a plain
TypeError, as everywhere in Python.
"""

from __future__ import annotations

import builtins
from typing import Any, NoReturn

from ._core import ffi, lib

__all__ = ["CLASSES", "ShmemError", "check", "fail"]


class ShmemError(RuntimeError):
    """Base of the errors of libshmem and pyshmem.

    Attributes
    ----------
    code : int
        The library's error number (negative), 0 if it has none.
    name : str
        Its name in the table, for example ``"PE"``.
    """

    code: int = 0
    name: str = ""


def _text(cdata: object) -> str:
    return str(ffi.string(cdata).decode(errors="replace"))


def _class_name(name: str) -> str:
    return "".join(word if word == "PE" else word.capitalize() for word in name.split("_")) + "Error"


def _from_table() -> dict[int, type[ShmemError]]:
    classes: dict[int, type[ShmemError]] = {}
    value, name, base = ffi.new("int *"), ffi.new("char **"), ffi.new("char **")
    index = 0
    while lib.shmemx_error_info(index, value, name, base) == 0:
        index += 1
        if value[0] == 0:
            continue
        python_base = getattr(builtins, _text(base[0]))
        bases = (ShmemError,) if python_base is RuntimeError else (ShmemError, python_base)
        members = {
            "__module__": __name__,
            "__doc__": _text(lib.shmemx_strerror(value[0])).capitalize() + ".",
            # KeyError and OSError format their arguments in ways of their own; the text is the message.
            "__str__": Exception.__str__,
            "code": value[0],
            "name": _text(name[0]),
        }
        classes[value[0]] = type(_class_name(_text(name[0])), bases, members)
    return classes


CLASSES: dict[int, type[ShmemError]] = _from_table()
"""Exception class of every error code."""

_BY_NAME = {cls.__name__: cls for cls in CLASSES.values()}


def __getattr__(name: str) -> type[ShmemError]:
    try:
        return _BY_NAME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return [*__all__, *_BY_NAME]


_interrupts: list[BaseException] = []  # what signal handlers raised while C was waiting


def _keep(_: Any, error: BaseException, __: Any) -> None:
    _interrupts.append(error)


@ffi.def_extern(error=1, onerror=_keep)  # type: ignore[untyped-decorator]
def pyshmem_pending() -> int:
    """Asked by calls that wait in C; entering it lets Python run its signal handlers, which may raise."""
    return 0


lib.shmemx_set_interrupt(lib.pyshmem_pending)


def fail(code: int) -> NoReturn:
    """Raises the exception of a negative error code, with the text of this thread's last failure.

    After a signal whose handler raised, that exception: KeyboardInterrupt for Ctrl-C.
    """
    if code == lib.SHMEMX_ERR_INTERRUPTED and _interrupts:
        raise _interrupts.pop()
    text = _text(lib.shmemx_last_error()) or _text(lib.shmemx_strerror(code))
    raise CLASSES.get(code, ShmemError)(text)


def check(code: int) -> None:
    """Raises if `code`, the result of a call of the core, is an error."""
    if code:
        fail(code)


# From here on a failure is raised; it need not also be printed.
lib.shmemx_log_errors(0)
