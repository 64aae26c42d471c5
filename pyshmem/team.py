"""Teams: subsets of the PEs with numbers of their own, for collectives and contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._core import ffi, lib
from .ctx import Ctx
from .errors import CLASSES, check, fail
from .heap import ptr
from .order import take_all
from .setup import ensure, state
from .types import Array, CData

__all__ = ["TEAM_INVALID", "TEAM_SHARED", "TEAM_WORLD", "Team"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_TYPE = ffi.typeof("shmem_team_t")
_INVALID = ffi.cast(_TYPE, lib.SHMEMX_TEAM_INVALID)
_FIXED = (lib.SHMEMX_TEAM_INVALID, lib.SHMEMX_TEAM_WORLD, lib.SHMEMX_TEAM_SHARED)


def _config(config: Mapping[str, int] | None, more: Mapping[str, int], call: str) -> tuple[CData, int]:
    """The configuration as the C structure and the mask of what is set in it."""
    made, mask = ffi.new("shmem_team_config_t *"), 0
    for name, value in {**(config or {}), **more}.items():
        if name.lower() != "num_contexts":
            raise _ArgumentError(f"{call}: {name!r} is no parameter of a team; there is num_contexts")
        if value < 0:
            raise _ArgumentError(f"{call}: num_contexts is {value}")
        made.num_contexts = value
        mask |= lib.SHMEM_TEAM_NUM_CONTEXTS
    return made, mask


class Team:
    """A team of PEs; functions take it as ``team=``.

    ``Team(other)`` is another name for the same team, ``Team()`` is invalid; `split_strided` and `split_2d`
    make new ones. As a context manager it is destroyed at the end of the block. It is false when invalid or
    destroyed, and on PEs that are not members.
    """

    __slots__ = ("key", "ob_team")

    ob_team: CData
    key: int

    def __init__(self, team: Team | CData | None = None) -> None:
        if team is None:
            self._set(_INVALID)
        elif isinstance(team, Team):
            self._set(team.ob_team)
        elif isinstance(team, ffi.CData) and ffi.typeof(team) is _TYPE:
            self._set(team)
        else:
            raise TypeError(f"Team: {team!r} is neither a Team nor a handle of type shmem_team_t")

    def _set(self, handle: CData) -> None:
        self.ob_team = handle
        self.key = int(ffi.cast("uintptr_t", handle))

    def _valid(self, call: str) -> CData:
        """The handle, after a check that gives errors where C returns -1."""
        if not state.ready:
            ensure()
        check(lib.shmem_team_get_config(self.ob_team, 0, ffi.new("shmem_team_config_t *")))
        return self.ob_team

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Team) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # destroy changes what it equals

    def __bool__(self) -> bool:
        return bool(self.key != lib.SHMEMX_TEAM_INVALID)

    def __repr__(self) -> str:
        return (
            f"<Team {dict(zip(_FIXED, ('INVALID', 'WORLD', 'SHARED'), strict=True)).get(self.key, self.key)}>"
        )

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *args: object) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Ends the team and its contexts. Collective over the team. World, shared and invalid teams stay."""
        if self is TEAM_WORLD or self is TEAM_SHARED or self is TEAM_INVALID:
            return
        handle, key = self.ob_team, self.key
        self._set(_INVALID)
        if key not in _FIXED:
            check(lib.shmemx_team_destroy(handle))

    def split_strided(
        self,
        start: int = 0,
        stride: int = 1,
        size: int | None = None,
        config: Mapping[str, int] | None = None,
        **kwargs: int,
    ) -> Team:
        """Makes a team of members start, start + stride, ... Collective over this team.

        Parameters
        ----------
        start, stride : int
            First member and distance to the next, in numbers of this team; the stride may be negative.
        size : int, optional
            How many; by default as many as there are.
        config, **kwargs
            ``num_contexts``: how many contexts will be made.

        Returns
        -------
        Team
            Invalid (false) on PEs that are not members.
        """
        handle = self._valid("split_strided")
        if size is None:
            npes = lib.shmem_team_n_pes(handle)
            size = 1 if stride == 0 else len(range(start, npes if stride > 0 else -1, stride))
        made = ffi.new("shmem_team_t *")
        settings, mask = _config(config, kwargs, "split_strided")
        check(lib.shmem_team_split_strided(handle, start, stride, size, settings, mask, made))
        return Team(made[0])

    def split_2d(
        self, xrange: int, xconfig: Mapping[str, int] | None = None, yconfig: Mapping[str, int] | None = None
    ) -> tuple[Team, Team]:
        """Arranges the members in rows of `xrange`. Collective over this team.

        Returns
        -------
        (Team, Team)
            This PE's row (x) and its column (y).
        """
        handle = self._valid("split_2d")
        x, y = ffi.new("shmem_team_t *"), ffi.new("shmem_team_t *")
        xsettings, xmask = _config(xconfig, {}, "split_2d")
        ysettings, ymask = _config(yconfig, {}, "split_2d")
        check(lib.shmem_team_split_2d(handle, xrange, xsettings, xmask, x, ysettings, ymask, y))
        return Team(x[0]), Team(y[0])

    def get_config(self) -> dict[str, int]:
        """The team's configuration: ``{"num_contexts": n}``."""
        if not state.ready:
            ensure()
        made = ffi.new("shmem_team_config_t *")
        check(lib.shmem_team_get_config(self.ob_team, lib.SHMEM_TEAM_NUM_CONTEXTS, made))
        return {"num_contexts": made.num_contexts}

    def my_pe(self) -> int:
        """This PE's number in the team. TeamError if it is not a member."""
        if not state.ready:
            ensure()
        number: int = lib.shmem_team_my_pe(self.ob_team)
        if number < 0:
            self._valid("my_pe")
            raise CLASSES[lib.SHMEMX_ERR_TEAM]("my_pe: this PE is not a member of the team")
        return number

    def n_pes(self) -> int:
        """How many members the team has."""
        if not state.ready:
            ensure()
        number: int = lib.shmem_team_n_pes(self.ob_team)
        if number < 0:
            self._valid("n_pes")
            raise CLASSES[lib.SHMEMX_ERR_TEAM]("n_pes: the team is invalid")
        return number

    def translate_pe(self, pe: int | None = None, team: Team | None = None) -> int:
        """The number in `team` (default: world) of member `pe` (default: this PE) of this team.

        Raises
        ------
        PEError
            No such member, or it is not in the other team.
        """
        handle = self._valid("translate_pe")
        here: int = lib.shmem_team_my_pe(handle) if pe is None else pe
        there = (TEAM_WORLD if team is None else team)._valid("translate_pe")
        number: int = lib.shmem_team_translate_pe(handle, here, there)
        if number < 0:
            raise CLASSES[lib.SHMEMX_ERR_PE](
                f"translate_pe: PE {here} of a team of {self.n_pes()} is not in the other team"
            )
        return number

    def ptr(self, target: Array | Any, pe: int) -> Array | None:
        """As `ptr`, with the number of a member: its copy of `target` as an array, or None."""
        return ptr(target, self.translate_pe(pe))

    def create_ctx(self, options: int = 0) -> Ctx:
        """A context whose PEs are the members; see `Ctx.create`."""
        return Ctx.create(options, self)

    def sync(self) -> None:
        """Waits until every member has called. Collective over the team; completes no puts."""
        if not state.ready:
            ensure()
        check(lib.shmemx_sync(self.ob_team))

    def barrier(self) -> None:
        """`quiet` of all contexts, then `sync`. Collective over the team."""
        if not state.ready:
            ensure()
        done = take_all()
        code = lib.shmemx_barrier(self.ob_team)
        del done
        if code:
            fail(code)


TEAM_WORLD = Team(ffi.cast(_TYPE, lib.SHMEMX_TEAM_WORLD))
TEAM_SHARED = Team(ffi.cast(_TYPE, lib.SHMEMX_TEAM_SHARED))
TEAM_INVALID = Team()
