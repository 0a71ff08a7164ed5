"""Coroutines of a node under virtual time: just so much of an event loop as they need."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, cast

from tests.simulation.world import Process, ProcessStopped, Violation, World

T = TypeVar("T")


class SimulatedLoop:
    """The loop of one incarnation: callbacks are events of the world, and die with the process.

    It has the methods of `asyncio.AbstractEventLoop` that tasks, futures and timeouts call, and no
    other. The world makes it the running loop while it runs anything of its process.
    """

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._fatal: Violation | ProcessStopped | None = None
        """What a task ended with that no task may keep for itself."""
        self._tasks: dict[asyncio.Task[Any], tuple[Coroutine[Any, Any, Any], ...]] = {}
        """Those of a dead process stay where they are, and nothing of them is cleaned up."""

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    # --- tasks and futures

    def create_task(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]:
        watched = self._watched(coroutine)
        task = asyncio.Task(watched, loop=self.as_loop, name=name)
        # Nobody brings a coroutine to its end whose process has died.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks[task] = (watched, coroutine)
        task.add_done_callback(self._tasks.pop)
        return task

    def abandon(self) -> None:
        """Nothing runs here any more: what has not begun will not, and nobody is to wonder."""
        for coroutines in self._tasks.values():
            for coroutine in coroutines:
                if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                    coroutine.close()

    async def _watched(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await coroutine
        except (Violation, ProcessStopped) as fatal:
            self._fatal = fatal
            raise

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.as_loop)

    # --- callbacks

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self._call_after(0.0, callback, args, context)

    def call_later(
        self,
        delay_s: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return self._call_after(delay_s / self._process.drift, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return self.call_later(max(0.0, when - self.time()), callback, *args, context=context)

    def time(self) -> float:
        return self._world.monotonic(self._process)

    def _call_after(
        self,
        virtual_s: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self.as_loop, context)

        def run() -> None:
            if not handle.cancelled():
                handle._run()
            fatal, self._fatal = self._fatal, None
            if fatal is not None:
                raise fatal

        self._world.at_node(self._process, virtual_s, run)
        return handle

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "never retrieved" in context["message"]:
            return  # nobody was waiting any more; what is fatal was raised when it happened
        error = context.get("exception")
        if isinstance(error, (Violation, ProcessStopped)):
            raise error
        raise Violation(f"{self._process.name}: {context}")
