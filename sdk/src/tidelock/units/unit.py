"""One call of a function within a global transaction, and what it has done there.

A unit joins its group when the function returns: only then does anything that it did count. When
it raises, what it did is undone on the spot and never joins, so a caller who catches the exception
may go on, and commit the rest. A unit within another one joins with it, and is undone with it.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final, Protocol

from tidelock.calls import Calls
from tidelock.transaction.context import current_xid

_log: Final = logging.getLogger("tidelock.units")

GREATEST_ID_BYTES: Final = 200


class UnitType(enum.StrEnum):
    """What becomes of the SQL of a unit."""

    LCN = "LCN"
    """Its connection is held open until the group is decided."""
    TXC = "TXC"
    """It is committed at once, and undone by images of its rows."""
    TCC = "TCC"
    """It is a Try; Confirm or Cancel follow."""


class Part(Protocol):
    """What a unit has done in one place, undecided."""

    async def register(self, calls: Calls) -> None:
        """Take it into the group, if it is not in it yet.

        Raises: what the client raises; `leave` follows.
        """
        ...

    async def report(self, calls: Calls) -> None:
        """Say that it is done. It is never undone by the unit afterwards.

        Raises: what the client and the driver raise.
        """
        ...

    async def leave(self, calls: Calls) -> None:
        """Undo it, as if it had never been."""
        ...

    async def spoil(self, calls: Calls, error: BaseException) -> None:
        """Undo it, and keep the group from being committed."""
        ...


class Unit:
    """One call. It is current in its context only."""

    def __init__(
        self,
        kind: UnitType | None,
        *,
        xid: str = "",
        unit_id: str = "",
        call: int = 0,
        outer: Unit | None = None,
    ) -> None:
        """For this package, and for modes."""
        self.type: Final = kind
        """None: a block of a mode's own, outside of decorated functions."""
        self.xid: Final = xid
        """The group; empty when the function runs without one."""
        self.unit_id: Final = unit_id
        """The function's module and name, unless it was given."""
        self.call: Final = call
        """Which call of the function this is, in this process, from 1."""
        self.outer: Final = outer
        self.parts: list[Part] = []
        self._rollback_only = False

    def __repr__(self) -> str:
        return f"<Unit {self.unit_id or 'without name'} #{self.call} of {self.xid or 'no group'}>"

    @property
    def root(self) -> Unit:
        """The outermost unit of the group in this call chain."""
        return self if self.outer is None else self.outer.root

    @property
    def application_data(self) -> dict[str, Any] | None:
        """What branches of it carry besides its id."""
        return {"call": self.call} if self.call else None

    @property
    def rollback_only(self) -> bool:
        """Whether it will be undone when the function returns."""
        return self._rollback_only

    def set_rollback_only(self) -> None:
        """Have this unit undone when its function returns; the group goes on without it.

        For the whole group: `tidelock.current_transaction().set_rollback_only()`.
        """
        self._rollback_only = True

    def add(self, part: Part) -> None:
        """Note what was done. For modes."""
        self.parts.append(part)

    async def end(self, calls: Calls, *, failed: bool) -> None:
        """Join, hand over to the unit around it, or undo everything.

        Raises: what kept a part from joining; then nothing of the unit counts, and unless the group
            is gone it cannot be committed.
        """
        parts, self.parts = self.parts, []
        if failed or self._rollback_only:
            await _undo(parts, lambda part: part.leave(calls))
        elif self.outer is not None:
            self.outer.parts += parts
        else:
            await _join(parts, calls)


async def _join(parts: list[Part], calls: Calls) -> None:
    """All or nothing: nothing is said to be done before everything is registered."""
    try:
        for part in parts:
            await part.register(calls)
    except BaseException:
        await _undo(parts, lambda part: part.leave(calls))
        raise
    # What came last stands on top of what came first.
    left = list(parts)
    while left:
        part = left.pop()
        try:
            await part.report(calls)
        except BaseException as error:
            await _spoil(left, calls, error)
            raise


async def _spoil(parts: list[Part], calls: Calls, why: BaseException) -> None:
    await _undo(parts, lambda part: part.spoil(calls, why))


async def _undo(parts: list[Part], undo: Callable[[Part], Awaitable[None]]) -> None:
    for part in reversed(parts):
        try:
            await undo(part)
        except Exception:
            # Without its report the group cannot be committed.
            _log.exception("a part of a unit could not be undone at once")


_current: Final[ContextVar[Unit | None]] = ContextVar("tidelock-unit", default=None)


def current_unit() -> Unit | None:
    """Return the unit that the running code belongs to, if it does to one of its transaction."""
    unit = _current.get()
    if unit is None or unit.xid != (current_xid() or ""):
        return None
    return unit


def bind(unit: Unit) -> Token[Unit | None]:
    """Make a unit the current one, until `unbind`."""
    return _current.set(unit)


def unbind(token: Token[Unit | None]) -> None:
    """Make the unit current that was before."""
    _current.reset(token)


@contextmanager
def within(unit: Unit) -> Iterator[None]:
    """Make a unit the current one for the time of a block."""
    token = bind(unit)
    try:
        yield
    finally:
        unbind(token)
