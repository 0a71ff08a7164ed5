"""What the engine needs of the world around it: time, scheduling, chance, and a way to stop.

A node passes `AsyncioRuntime`; the simulator passes its own and so decides when everything happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from pysyncobj.monotonic import monotonic as raft_monotonic

logger = logging.getLogger(__name__)

EXIT_BROKEN_INVARIANT = 70
"""Exit code of a process that stopped because going on might break a promise."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Runtime(Protocol):
    def monotonic(self) -> float:
        """Seconds on the clock that PySyncObj judges its deadlines by."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; may jump."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def random_bytes(self, count: int) -> bytes: ...

    def call_soon(self, callback: Callable[[], None]) -> None: ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer: ...

    def stop(self, reason: str) -> NoReturn:
        """End the process now: an invariant is broken and no code after this may run."""


class AsyncioRuntime:
    """The real one, bound to the running loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, wall_ms: Callable[[], int] | None = None
    ) -> None:
        self._loop = loop
        self._wall_ms = wall_ms
        self._random = random.SystemRandom()

    def monotonic(self) -> float:
        return raft_monotonic()

    def wall_ms(self) -> int:
        return self._wall_ms() if self._wall_ms is not None else time.time_ns() // 1_000_000

    def random(self) -> float:
        return self._random.random()

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(delay_s, callback)

    def stop(self, reason: str) -> NoReturn:
        logger.critical("stopping the process: %s", reason)
        logging.shutdown()
        os._exit(EXIT_BROKEN_INVARIANT)
