"""What an application's wishes to end its work in a block come to."""

from __future__ import annotations

from tidelock.lcn.part import LcnPart
from tidelock.sql.session import rollback_to, savepoint


class Lent:
    """What a block's wishes to end its work come to. Implements `Lender`."""

    def __init__(self, part: LcnPart) -> None:
        self._part = part
        self._point = part.savepoint
        self.is_over = False

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
