"""Undo rows of committed branches, deleted in the background and many at once.

What is lost with the process, or cannot be deleted now, goes by the coordinator's `clean`, which
comes soon after for all of them. Of two statements that delete the same rows a database may end
one as a deadlock, so there is one at a time; and what was just deleted is not looked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

Branch = tuple[str, int]

GREATEST_WAITING: Final = 50_000
GREATEST_BATCH: Final = 400
_FIRST_PAUSE_S: Final = 0.02
_PAUSE_S: Final = 0.2
"""Between batches, while there is more to come: each is a local transaction of its own."""

_log = logging.getLogger(__name__)


class Deletions:
    """What is to be deleted in one database. It lives on one loop."""

    def __init__(self, delete: Callable[[Sequence[Branch]], Awaitable[None]]) -> None:
        self._delete = delete
        self._waiting: dict[Branch, None] = {}
        self._deleted: dict[Branch, None] = {}
        """Of which `clean` has not come yet, the last deleted last."""
        self.alone: Final = asyncio.Lock()
        """Held by what deletes."""
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many branches wait."""
        return len(self._waiting)

    def add(self, branch: Branch) -> None:
        """Have a branch's rows deleted soon. When too many wait, it is left to `clean`."""
        if len(self._waiting) < GREATEST_WAITING:
            self._waiting[branch] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def clean(
        self, branches: Sequence[Branch], clean: Callable[[Sequence[Branch]], Awaitable[None]]
    ) -> None:
        """Have what was not deleted already cleaned now.

        Raises: what `clean` raises.
        """
        async with self.alone:
            left = [each for each in branches if each not in self._deleted]
            if left:
                await clean(left)
            for each in branches:
                self._deleted.pop(each, None)
                self._waiting.pop(each, None)

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._waiting:
            # Others may be committed by then, which go with the same statement.
            full = len(self._waiting) >= GREATEST_BATCH
            await asyncio.sleep(0 if full else pause_s)
            pause_s = _PAUSE_S
            async with self.alone:
                await self._work_off(list(self._waiting)[:GREATEST_BATCH])

    async def _work_off(self, batch: Sequence[Branch]) -> None:
        if not batch:
            return
        try:
            await self._delete(batch)
        except Exception as error:
            _log.warning("%d undo rows are left to be cleaned later: %s", len(batch), error)
        else:
            self._deleted.update(dict.fromkeys(batch))
            while len(self._deleted) > GREATEST_WAITING:
                del self._deleted[next(iter(self._deleted))]
        for branch in batch:
            self._waiting.pop(branch, None)
