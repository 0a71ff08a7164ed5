"""Places of which there are only so many, given out in the order in which they were asked for.

Who blocks and who awaits wait in one queue, on the application's own loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from typing import Final

from tidelock.calls import Calls


class Places:
    """A number of places."""

    def __init__(self, count: int) -> None:
        self._lock: Final = threading.Lock()
        self._free = count
        self._waiting: Final[deque[Future[None]]] = deque()

    async def take(self, calls: Calls, wait_ms: int) -> bool:
        """Take a place; False when none became free in time.

        Raises: ClientClosedError
        """
        turn: Future[None] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.append(turn)
        try:
            await calls(lambda _: _within(turn, wait_ms))
        except TimeoutError:
            return not self._gives_up(turn)
        except BaseException:
            if not self._gives_up(turn):
                self.give_back()
            raise
        return True

    def _gives_up(self, turn: Future[None]) -> bool:
        """Leave the queue. False: a place was given out to this turn already."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return True
            return False

    def give_back(self) -> None:
        """Give a place to who has waited longest."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            turn = self._waiting.popleft()
        turn.set_result(None)


async def _within(turn: Future[None], wait_ms: int) -> None:
    async with asyncio.timeout(wait_ms / 1_000):
        # Whoever gives up leaves the queue: the turn itself is never cancelled.
        await asyncio.shield(asyncio.wrap_future(turn))
