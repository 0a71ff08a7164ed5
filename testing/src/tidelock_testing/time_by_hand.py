"""Time that passes by itself, and faster when a test wants it to."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from node.consensus.runtime import AsyncioRuntime


class AdvancingRuntime(AsyncioRuntime):
    """The runtime of a node whose clocks can be put forward."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, lambda: time.time_ns() // 1_000_000 + self._ahead_ms)
        self._ahead_ms = 0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_ms / 1000

    def advance(self, ms: int) -> None:
        """Put the clocks forward. What is due by them is for whoever calls."""
        self._ahead_ms += ms

    def stop(self, reason: str) -> NoReturn:
        """Nothing ends somebody else's process: what fails is an error in the coordinator."""
        raise AssertionError(reason)
