"""The group's connection in the hands of a block, or of a framework's local transaction."""

from __future__ import annotations

from typing import Any, Self

from tidelock.calls import Calls
from tidelock.lcn.errors import LcnMisuseError
from tidelock.lcn.part import Desk, LcnPart, part_of
from tidelock.sql.session import rollback_to, savepoint
from tidelock.transaction.context import current_xid
from tidelock.units.unit import Unit, current_unit


class Lent:
    """What somebody does with it, from the beginning to the end. Implements `Lender`."""

    def __init__(self, part: LcnPart, *, is_own: bool) -> None:
        """For `begin`."""
        self._part = part
        self._point = part.savepoint
        self.unit = part.unit
        """To which the work belongs."""
        self.is_own = is_own
        """It is a unit of its own, which joins when it ends."""
        self.is_over = False
        self.is_lost = False
        """What it stood on was undone while it was under way."""

    @classmethod
    async def begin(cls, desk: Desk, calls: Calls, user: object) -> Self:
        """Begin to work, within a transaction. `user` is the task or thread.

        Raises: what `part_of` raises.
        """
        xid = current_xid() or ""
        unit = current_unit() or desk.at_work(xid, user)
        part = await part_of(desk, calls, unit or Unit(None, xid=xid), user)
        lent = cls(part, is_own=unit is None)
        try:
            if not lent.is_own:
                await lent.mark()
        except BaseException:
            part.held.in_use.give_back()
            raise
        part.held.lent.append(lent)
        return lent

    @property
    def connection(self) -> Any:
        """The group's, as its source has made it."""
        return self._part.held.made.connection

    async def end(self, calls: Calls, *, failed: bool) -> None:
        """Undo what was done since the beginning; or let it count, and join if it is a unit.

        Raises:
            LcnMisuseError: others that began later are not over yet, or an earlier one has undone
                what this stood on.
            What joining raises.
        """
        held = self._part.held
        self.is_over = True
        later = held.lent[held.lent.index(self) + 1 :]
        held.lent.remove(self)
        held.in_use.give_back()
        wrong = not failed and (self.is_lost or (self.is_own and later))
        if failed or wrong:
            for each in later:
                each.is_lost = True
        if self.is_own:
            await self.unit.end(calls, failed=failed or bool(wrong))
        elif failed and not self.is_lost:
            try:
                await self.rollback()
            except Exception:
                # What was done can no longer be told apart from the rest of the unit.
                self.unit.set_rollback_only()
        if wrong:
            raise LcnMisuseError(
                f"of two local transactions of {held.xid} on one database, which share the group's "
                "one connection, the one that began first ended before the other: end the later "
                "one first. Neither counts"
            )

    async def mark(self) -> None:
        """Keep what was done until now from what `rollback` undoes."""
        name = self._part.held.name()
        await savepoint(self._part.session, name)
        self._point = name

    async def commit(self) -> None:
        """As `mark`: it is committed with the group."""
        await self.mark()

    async def rollback(self) -> None:
        """Undo what was done since the block began, or `commit`."""
        await rollback_to(self._part.session, self._point)

    async def close(self) -> None:
        """Nothing: it is closed when the group has ended."""
