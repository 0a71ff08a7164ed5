"""What a client still says to the cluster when nobody waits for it any more.

Who is cancelled leaves at once; that its place in a queue is free is said in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from tidelock.errors import TidelockError

GREATEST_COUNT: Final = 10_000
"""Further ones are left unsaid: waits and leases end by themselves."""

AT_ONCE: Final = 64

FAREWELL_TIMEOUT_MS: Final = 10_000
"""How long somebody who has gone is said to have gone."""

PATIENCE_S: Final = 2.0
"""How long a client that is closed waits for them."""


class Farewells:
    """Those that are under way."""

    def __init__(self) -> None:
        self._saying: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(AT_ONCE)

    def say(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do it soon. What it raises of this client's errors is of no consequence."""
        if len(self._saying) >= GREATEST_COUNT:
            return
        task = asyncio.create_task(self._say(work))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def _say(self, work: Callable[[], Awaitable[object]]) -> None:
        async with self._turn:
            with contextlib.suppress(TidelockError):
                await work()

    async def finish(self) -> None:
        """Wait for all, then end those that take too long."""
        if self._saying:
            await asyncio.wait(self._saying, timeout=PATIENCE_S)
        left = list(self._saying)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
