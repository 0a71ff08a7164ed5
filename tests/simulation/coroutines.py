"""Coroutines of a node under virtual time: just so much of an event loop as they need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, cast

from tests.simulation.world import Process, Violation, World

T = TypeVar("T")


class SimulatedLoop:
    """The loop of one process: callbacks are events of the world, and die with the process.

    It has the methods of `asyncio.AbstractEventLoop` that tasks and futures call, and no other.
    """

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._loop = cast(asyncio.AbstractEventLoop, self)

    def inside(self, callback: Callable[[], object]) -> None:
        """Call something that asks for the running loop."""
        asyncio._set_running_loop(self._loop)
        try:
            callback()
        finally:
            asyncio._set_running_loop(None)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.Task(coroutine, loop=self._loop)
        # Nobody brings a coroutine to its end whose process has died.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)

        def run() -> None:
            if not handle.cancelled():
                self.inside(handle._run)

        self._world.at_node(self._process, 0.0, run)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise Violation(f"{self._process.name}: {context}")
