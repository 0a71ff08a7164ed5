"""A disk that forgets what was not synced, tears what it was writing, flips bits, and fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from node.consensus.disk import OnDone
from tests.simulation.world import Process, World


@dataclass(slots=True)
class _InFlight:
    name: str
    data: bytes
    on_done: OnDone


@dataclass(slots=True)
class Files:
    """What survives the process: the medium."""

    durable: dict[str, bytearray] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    """Length of each file before its last synced group: damage below it must be noticed."""


class SimulatedDisk:
    """`node.consensus.disk.Disk` under virtual time. One for each incarnation, on shared files."""

    def __init__(self, world: World, process: Process, files: Files) -> None:
        self._world = world
        self._process = process
        self._files = files
        self._in_flight: list[_InFlight] = []
        self.latency_s: Callable[[], float] = lambda: 0.0001 + self._world.rng.random() * 0.0005
        self.failing: OSError | None = None
        self.quick = False
        """Whether the journal waits for it."""

    def names(self) -> list[str]:
        return sorted(self._files.durable)

    def size(self, name: str) -> int:
        return len(self._files.durable[name]) + sum(
            len(each.data) for each in self._in_flight if each.name == name
        )

    def read(self, name: str) -> bytes:
        written = b"".join(each.data for each in self._in_flight if each.name == name)
        return bytes(self._files.durable.get(name, b"")) + written

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        durable = self._files.durable.get(name, bytearray())
        if offset + length <= len(durable):
            return bytes(durable[offset : offset + length])
        return self.read(name)[offset : offset + length]

    def append(self, name: str, data: bytes, on_done: OnDone) -> None:
        self._in_flight.append(_InFlight(name, data, on_done))
        if len(self._in_flight) == 1:
            self._world.at_node(self._process, self.latency_s(), self._complete)

    def _complete(self) -> None:
        if not self._in_flight:
            return
        if self.failing is not None:
            for each in self._in_flight:
                each.on_done(self.failing)
            return
        done = self._in_flight.pop(0)
        self._store(done)
        if self._in_flight:
            self._world.at_node(self._process, self.latency_s(), self._complete)
        done.on_done(None)

    def _store(self, done: _InFlight) -> None:
        content = self._files.durable.setdefault(done.name, bytearray())
        self._files.settled[done.name] = len(content)
        content += done.data

    def append_now(self, name: str, data: bytes) -> None:
        if self.failing is not None:
            raise self.failing
        for each in self._in_flight:
            self._store(each)
        pending, self._in_flight = self._in_flight, []
        self._store(_InFlight(name, data, lambda _error: None))
        for each in pending:
            self._world.at_node(
                self._process,
                0.0,
                lambda on_done=each.on_done: on_done(None),  # type: ignore[misc]
            )

    def rewrite(self, name: str, offset: int) -> None:
        del name, offset

    def truncate(self, name: str, length: int) -> None:
        del self._files.durable[name][length:]
        self._files.settled[name] = min(self._files.settled.get(name, 0), length)

    def remove(self, name: str) -> None:
        self._files.durable.pop(name, None)
        self._files.settled.pop(name, None)

    def close(self) -> None:
        self._in_flight.clear()

    # --- faults

    def crash(self, *, power_loss: bool) -> None:
        """The process ends: what was being written is there in part, or whole, or not at all."""
        rng = self._world.rng
        for each in self._in_flight:
            if power_loss:
                kept = rng.randrange(len(each.data) + 1)
            else:
                # A killed process leaves its writes in the page cache, if it got to write.
                kept = len(each.data) if rng.random() < 0.5 else 0
            if kept:
                content = self._files.durable.setdefault(each.name, bytearray())
                self._files.settled.setdefault(each.name, len(content))
                content += each.data[:kept]
                if kept < len(each.data):
                    if rng.random() < 0.3:
                        content += bytes(rng.randrange(1, 64))
                    break
            else:
                break
        self._in_flight.clear()

    def fail(self, number: int = errno.EIO) -> None:
        """From now on nothing can be written."""
        self.failing = OSError(number, "simulated")
