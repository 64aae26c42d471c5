"""Communication contexts: independent streams of operations, each with its own fence and quiet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import order
from ._core import ffi, lib
from .errors import check
from .setup import ensure, state
from .types import CData

if TYPE_CHECKING:
    from .team import Team

__all__ = ["CTX_DEFAULT", "CTX_INVALID", "Ctx"]

_TYPE = ffi.typeof("shmem_ctx_t")
_INVALID = ffi.cast(_TYPE, lib.SHMEMX_CTX_INVALID)


class Ctx:
    """A communication context; functions take it as ``ctx=``, with PE numbers of the context's team.

    ``Ctx(other)`` is another name for the same context, ``Ctx()`` is invalid; `Ctx.create` makes one. As a
    context manager it is destroyed at the end of the block. It is false when invalid or destroyed.
    """

    __slots__ = ("key", "ob_ctx")

    ob_ctx: CData
    key: int

    def __init__(self, ctx: Ctx | CData | None = None) -> None:
        if ctx is None:
            self._set(_INVALID)
        elif isinstance(ctx, Ctx):
            self._set(ctx.ob_ctx)
        elif isinstance(ctx, ffi.CData) and ffi.typeof(ctx) is _TYPE:
            self._set(ctx)
        else:
            raise TypeError(f"Ctx: {ctx!r} is neither a Ctx nor a handle of type shmem_ctx_t")

    def _set(self, handle: CData) -> None:
        self.ob_ctx = handle
        self.key = int(ffi.cast("uintptr_t", handle))

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Ctx) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # destroy changes what it equals

    def __bool__(self) -> bool:
        return bool(self.key != lib.SHMEMX_CTX_INVALID)

    def __repr__(self) -> str:
        names = {lib.SHMEMX_CTX_INVALID: "INVALID", lib.SHMEMX_CTX_DEFAULT: "DEFAULT"}
        return f"<Ctx {names.get(self.key, self.key)}>"

    def __enter__(self) -> Ctx:
        return self

    def __exit__(self, *args: object) -> None:
        self.destroy()

    @staticmethod
    def create(options: int = 0, team: Team | None = None) -> Ctx:
        """Makes a context. Local.

        Parameters
        ----------
        options : int
            Flags of `CTX`, or-ed.
        team : Team, optional
            Its members are the PEs that the context reaches; by default all.

        Raises
        ------
        LimitError, TeamError, ArgumentError
            Too many contexts, no such team, unknown options.
        """
        if not state.ready:
            ensure()
        made = ffi.new("shmem_ctx_t *")
        if team is None:
            check(lib.shmem_ctx_create(options, made))
        else:
            check(lib.shmem_team_create_ctx(team.ob_team, options, made))
        return Ctx(made[0])

    def destroy(self) -> None:
        """Completes the context's operations and ends it. The default context and an invalid one stay as they
        are.
        """
        if self is CTX_DEFAULT or self is CTX_INVALID:
            return
        handle, key = self.ob_ctx, self.key
        self._set(_INVALID)
        if key not in (lib.SHMEMX_CTX_DEFAULT, lib.SHMEMX_CTX_INVALID):
            check(lib.shmemx_ctx_destroy(handle))
            order.in_flight.pop(key, None)

    def get_team(self) -> Team:
        """The team whose members this context reaches."""
        from .team import Team

        if not state.ready:
            ensure()
        team = ffi.new("shmem_team_t *")
        check(lib.shmem_ctx_get_team(self.ob_ctx, team))
        return Team(team[0])

    def fence(self) -> None:
        """Orders the context's operations, as `pyshmem.fence`."""
        order.fence(self)

    def quiet(self) -> None:
        """Completes the context's operations, as `pyshmem.quiet`."""
        order.quiet(self)


CTX_DEFAULT = Ctx(ffi.cast(_TYPE, lib.SHMEMX_CTX_DEFAULT))
CTX_INVALID = Ctx()
