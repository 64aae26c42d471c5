"""Ordering: fence, quiet and pe_quiet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import setup
from ._core import ffi, lib
from .errors import fail

if TYPE_CHECKING:
    from .ctx import Ctx

__all__ = ["fence", "pe_quiet", "quiet"]

_DEFAULT = ffi.cast("shmem_ctx_t", lib.SHMEMX_CTX_DEFAULT)
_DEFAULT_KEY: int = lib.SHMEMX_CTX_DEFAULT
_fence, _quiet = lib.shmemx_fence, lib.shmemx_quiet

# Arguments of nonblocking calls, by context: the transport may use their memory until quiet, so they must not
# be collected before. Calls append; quiet of the context empties its list.
in_flight: dict[int, list[Any]] = {}
setup.after_finalize.append(in_flight.clear)


def hold(ctx: Ctx | None, *arguments: Any) -> None:
    """Keeps the arguments of a nonblocking call alive until the context is quiet."""
    in_flight.setdefault(_DEFAULT_KEY if ctx is None else ctx.key, []).append(arguments)


def take_all() -> list[Any]:
    """What all contexts hold; a barrier takes it before, and drops it when it has completed them."""
    return [in_flight.pop(key, None) for key in list(in_flight)]


def fence(ctx: Ctx | None = None) -> None:
    """Orders delivery: to each PE, puts, atomics and signals before it arrive before those after it.

    Parameters
    ----------
    ctx : Ctx, optional
        The context whose operations are ordered; the default context without it.
    """
    code = _fence(_DEFAULT if ctx is None else ctx.ob_ctx)
    if code:
        fail(code)


def quiet(ctx: Ctx | None = None) -> None:
    """Waits until this PE's puts, atomics, signals and nonblocking calls are complete, on all PEs.

    Parameters
    ----------
    ctx : Ctx, optional
        The context whose operations complete; the default context without it.
    """
    # Taken before, dropped after: what another thread issues meanwhile is the next quiet's.
    done = in_flight.pop(_DEFAULT_KEY if ctx is None else ctx.key, None) if in_flight else None
    code = _quiet(_DEFAULT if ctx is None else ctx.ob_ctx)
    del done
    if code:
        fail(code)


def pe_quiet(pes: int | Sequence[int], ctx: Ctx | None = None) -> None:
    """Waits until this PE's operations to those PEs are complete, whatever others are still on their way.

    Parameters
    ----------
    pes : int or sequence of int
        Whose operations complete; numbers of the context's team.
    ctx : Ctx, optional
        The context whose operations complete; the default context without it.
    """
    numbers = [pes] if isinstance(pes, int) else list(pes)
    # Arguments of nonblocking calls stay held until quiet: the list does not say to which PE they went.
    code = lib.shmemx_quiet_pes(_DEFAULT if ctx is None else ctx.ob_ctx, numbers, len(numbers))
    if code:
        fail(code)
