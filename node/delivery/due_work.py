"""Which transactions a leader should look at, and when: a queue, and the index of what is due.

The index is read once, from its beginning, as far as time has come. From then on the state says
what was changed, and the index is read only where it goes on: the rows that time reaches. So no
look passes again over what is being called already.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from statemachine.keys import GREATEST_NUMBER
from statemachine.store import Reader
from statemachine.transactions.rows import due_globals

PAGE: Final = 500

GREATEST_QUEUED: Final = 50_000
"""What is queued beyond it is forgotten, and found again in the index when the queue is empty."""

_BEGINNING: Final = (0, "")


class DueWork:
    """Belongs to one term of one leader. Times are in elapsed milliseconds."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._queue: dict[str, None] = {}
        self._read_upto = _BEGINNING
        """All that is due up to here was queued once, or noted since."""
        self._later: list[tuple[int, str]] = []
        """A heap: when to look again at those of which a part is to wait."""
        self._forgot = False
        self._read_at_ms = -1

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, xids: Iterable[str]) -> None:
        """Look at these soon. One that is queued already is looked at once."""
        for xid in xids:
            if len(self._queue) >= GREATEST_QUEUED and xid not in self._queue:
                self._forgot = True
                return
            self._queue[xid] = None

    def look_everywhere(self) -> None:
        """Read the index from its beginning again: something may be due that was not noted."""
        self._forgot = True

    def add_later(self, due_ms: int, xid: str) -> None:
        """Look at this one at a time of its own."""
        if len(self._later) >= GREATEST_QUEUED:
            self._later.clear()
            self._forgot = True
        heapq.heappush(self._later, (due_ms, xid))

    def next(self, elapsed_ms: int) -> str | None:
        """Take what to look at next; None when nothing is due."""
        while self._later and self._later[0][0] <= elapsed_ms:
            self._queue[heapq.heappop(self._later)[1]] = None
        if not self._queue or elapsed_ms > self._read_at_ms:
            self._read(elapsed_ms)
        if not self._queue:
            return None
        xid = next(iter(self._queue))
        del self._queue[xid]
        return xid

    def _read(self, elapsed_ms: int) -> None:
        self._read_at_ms = elapsed_ms
        if self._forgot and not self._queue:
            self._forgot = False
            self._read_upto = _BEGINNING
        if len(self._queue) >= GREATEST_QUEUED:
            return
        found = due_globals(self._reader, self._read_upto, elapsed_ms, limit=PAGE)
        self._queue.update((xid, None) for _, xid in found)
        if found:
            self._read_upto = found[-1]

    def next_due_ms(self) -> int | None:
        """Return when something will be due though nothing changes; None: never."""
        times = [due_ms for due_ms, _ in self._later[:1]]
        times += [due_ms for due_ms, _ in self._after()]
        return min(times, default=None)

    def _after(self) -> list[tuple[int, str]]:
        return due_globals(self._reader, self._read_upto, GREATEST_NUMBER - 1, limit=1)
