"""Virtual time: one heap of events, one source of chance, and the node whose turn it is.

The library reads its clock and its chance from module attributes; both are pointed at the world
while it runs. Every event belongs to one incarnation of one node, or to none; a paused node's
events wait, a dead one's are dropped.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import pysyncobj.syncobj as library


class Violation(BaseException):
    """A promise was broken. Not an Exception: no code under test may catch a finding."""


class ProcessStopped(BaseException):
    """A simulated process ended itself."""


@dataclass(slots=True)
class Process:
    """The life of one node: its incarnation, and its clocks."""

    name: str
    incarnation: int = 0
    up: bool = False
    paused: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)
    monotonic_offset_s: float = 0.0
    drift: float = 1.0
    wall_offset_ms: int = 0
    loop: asyncio.AbstractEventLoop | None = None
    """Where coroutines of this incarnation run."""


class _LibraryRandom:
    def __init__(self, world: World) -> None:
        self._world = world

    def random(self) -> float:
        return self._world.rng.random()


class World:
    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.events = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._current: Process | None = None
        self.on_process_stopped: Callable[[Process, str], None] = lambda _process, _reason: None
        library.monotonicTime = self._library_time
        library.random = _LibraryRandom(self)

    def _library_time(self) -> float:
        return self.monotonic(self._current) if self._current is not None else self.now

    def monotonic(self, process: Process) -> float:
        return process.monotonic_offset_s + self.now * process.drift

    def at(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` after a virtual delay, on nobody's behalf."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._order, callback))

    def at_node(self, process: Process, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` as `process`, unless that incarnation is gone by then."""
        incarnation = process.incarnation
        self.at(delay_s, lambda: self._run_as(process, incarnation, callback))

    def _run_as(self, process: Process, incarnation: int, callback: Callable[[], None]) -> None:
        if not process.up or process.incarnation != incarnation:
            return
        if process.paused:
            process.held.append(lambda: self._run_as(process, incarnation, callback))
            return
        self.run_now(process, callback)

    def run_now(self, process: Process, callback: Callable[[], None]) -> None:
        """Run `callback` as `process`, which is up."""
        before, self._current = self._current, process
        loop_before = asyncio._get_running_loop()
        asyncio._set_running_loop(process.loop)
        try:
            callback()
        except ProcessStopped as stopped:
            self.on_process_stopped(process, str(stopped))
        finally:
            asyncio._set_running_loop(loop_before)
            self._current = before

    def resume(self, process: Process) -> None:
        process.paused = False
        held, process.held = process.held, []
        for callback in held:
            self.at(0.0, callback)

    def run_until(self, until: float, condition: Callable[[], bool] | None = None) -> bool:
        """Run events until the time comes, or the condition holds. True when it held."""
        while self._heap and self._heap[0][0] <= until:
            at, _, callback = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            self.events += 1
            callback()
            if condition is not None and condition():
                return True
        self.now = max(self.now, until)
        return condition is not None and condition()


@dataclass(slots=True)
class _Timer:
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class SimulatedRuntime:
    """One incarnation's view of the world."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def monotonic(self) -> float:
        return self._world.monotonic(self._process)

    def wall_ms(self) -> int:
        return int(1_700_000_000_000 + self._world.now * 1000) + self._process.wall_offset_ms

    def random(self) -> float:
        return self._world.rng.random()

    def random_bytes(self, count: int) -> bytes:
        return self._world.rng.randbytes(count)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._world.at_node(self._process, self._world.rng.random() * 0.0002, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer()

        def fire() -> None:
            if not timer.cancelled:
                callback()

        self._world.at_node(self._process, delay_s / self._process.drift, fire)
        return timer

    def stop(self, reason: str) -> NoReturn:
        raise ProcessStopped(reason)
