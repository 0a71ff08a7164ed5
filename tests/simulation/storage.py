"""Replicated state in memory, durable up to the last checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgpack

from node.consensus.state import IncomingCopy, StateCopy
from statemachine.memory_store import MemoryStore
from statemachine.state import load_state
from tests.simulation.world import Process, World

_CHECKPOINT_INTERVAL_S = 0.05


@dataclass(slots=True)
class StateMedium:
    """What survives the process."""

    durable: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Copy:
    index: int
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.data).digest()

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def discard(self) -> None:
        return


@dataclass(slots=True)
class _Incoming:
    world: World
    process: Process
    parts: list[bytes] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        self.parts.append(data)

    def finish(self, on_done: Callable[[bytes | Exception], None]) -> None:
        digest = hashlib.sha256(b"".join(self.parts)).digest()
        delay_s = 0.01 + self.world.rng.random() * 0.2
        self.world.at_node(self.process, delay_s, lambda: on_done(digest))

    def discard(self) -> None:
        self.parts.clear()


class SimulatedStorage:
    """`node.consensus.state.StateStorage` over a `MemoryStore`."""

    def __init__(self, world: World, process: Process, medium: StateMedium) -> None:
        self._world = world
        self._process = process
        self._medium = medium
        self._load()
        self.fill_ratio = 0.0

    def _load(self) -> None:
        self._live = MemoryStore()
        for key, value in self._medium.durable.items():
            self._live.put(key, value)
        self.get = self._live.get
        self.scan = self._live.scan
        self._changed: dict[bytes, bytes | None] = {}
        self._committed_at = self._world.now
        self.durable_index = load_state(self._live).applied_index
        self._in_entry = False

    @property
    def rows(self) -> MemoryStore:
        """Everything that it holds now."""
        return self._live

    def put(self, key: bytes, value: bytes) -> None:
        self._in_entry = True
        self._live.put(key, value)
        self._changed[key] = value

    def delete(self, key: bytes) -> None:
        self._in_entry = True
        self._live.delete(key)
        self._changed[key] = None

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)

    def end_entry(self) -> None:
        self._in_entry = False

    def checkpoint(self, *, force: bool = False) -> bool:
        assert not self._in_entry, "a checkpoint inside an entry"
        if not self._changed:
            return False
        if not force and self._world.now - self._committed_at < _CHECKPOINT_INTERVAL_S:
            return False
        for key, value in self._changed.items():
            if value is None:
                self._medium.durable.pop(key, None)
            else:
                self._medium.durable[key] = value
        self._changed.clear()
        self._committed_at = self._world.now
        self.durable_index = load_state(self._live).applied_index
        return True

    def range_digest(
        self, start: bytes, stop: bytes, limit_bytes: int
    ) -> tuple[bytes, bytes | None]:
        digest = hashlib.blake2b(digest_size=16)
        walked = 0
        for key, value in self._live.scan(start, stop, limit=1_000_000):
            if walked >= limit_bytes:
                return digest.digest(), key
            digest.update(b"%d %d " % (len(key), len(value)) + key + value)
            walked += len(key) + len(value)
        return digest.digest(), None

    def copy(self, on_done: Callable[[StateCopy | Exception], None]) -> None:
        self.checkpoint(force=True)
        copy = _Copy(self.durable_index, msgpack.packb(sorted(self._medium.durable.items())))
        self._world.at_node(
            self._process, 0.01 + self._world.rng.random() * 0.2, lambda: on_done(copy)
        )

    def receive_copy(self) -> IncomingCopy:
        return _Incoming(self._world, self._process)

    def install_copy(self, incoming: IncomingCopy) -> None:
        assert isinstance(incoming, _Incoming)
        rows = msgpack.unpackb(b"".join(incoming.parts), use_list=False)
        self._medium.durable.clear()
        self._medium.durable.update(rows)
        self._load()
