"""A disk in memory that remembers every effect, so that a crash can be put anywhere among them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from node.consensus.disk import OnDone


class Write(NamedTuple):
    """Bytes appended to a file, which is created by the first of them."""

    name: str
    data: bytes


class Sync(NamedTuple):
    name: str


class Truncate(NamedTuple):
    name: str
    length: int


class Remove(NamedTuple):
    name: str


Effect = Write | Sync | Truncate | Remove
Files = dict[str, bytes]


class FaultyDisk:
    """A `node.consensus.disk.Disk`. Appends wait in `waiting` until `complete` is called."""

    def __init__(self, files: Files | None = None) -> None:
        self.initial = dict(files or {})
        self.files = {name: bytearray(data) for name, data in self.initial.items()}
        self.effects: list[Effect] = []
        self.waiting: list[tuple[str, bytes, OnDone]] = []
        self.error: OSError | None = None
        self.reads = 0
        self.quick = False

    def names(self) -> list[str]:
        return sorted(self.files)

    def size(self, name: str) -> int:
        return len(self.files[name])

    def read(self, name: str) -> bytes:
        return bytes(self.files[name])

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        self.reads += 1
        return bytes(self.files[name][offset : offset + length])

    def append(self, name: str, data: bytes, on_done: OnDone) -> None:
        self.waiting.append((name, data, on_done))

    def append_now(self, name: str, data: bytes) -> None:
        delayed = [(earlier, bytes_, on_done) for earlier, bytes_, on_done in self.waiting]
        for earlier, bytes_, _ in delayed:
            self._append(earlier, bytes_)
        # Their reports still come later, as from a loop.
        self.waiting = [("", b"", on_done) for _, _, on_done in delayed]
        self._append(name, data)
        if self.error is not None:
            raise self.error

    def complete(self) -> None:
        """Carry out the oldest waiting append and report it."""
        name, data, on_done = self.waiting.pop(0)
        if name:
            self._append(name, data)
        on_done(self.error)

    def fail(self) -> None:
        """From now on nothing can be written."""
        self.error = OSError(errno.EIO, "injected")

    def rewrite(self, name: str, offset: int) -> None:
        assert 0 <= offset <= len(self.files[name])
        self.effects.append(Sync(name))

    def truncate(self, name: str, length: int) -> None:
        del self.files[name][length:]
        self.effects.append(Truncate(name, length))

    def remove(self, name: str) -> None:
        del self.files[name]
        self.effects.append(Remove(name))

    def close(self) -> None:
        """Nothing is held."""

    def contents(self) -> Files:
        return {name: bytes(data) for name, data in self.files.items()}

    def _append(self, name: str, data: bytes) -> None:
        if self.error is None:
            self.files.setdefault(name, bytearray()).extend(data)
            self.effects += [Write(name, data), Sync(name)]

    def crash_points(self) -> range:
        """Numbers of effects after which a crash may come."""
        return range(len(self.effects) + 1)

    def after_crash(self, point: int) -> Iterator[Files]:
        """Yield what may be on the disk when the process dies after `point` effects.

        A write that was not synced may have lost any of its end. A removal may have been undone,
        unless a later sync of a file created after it made the directory durable.
        """
        files = {name: bytearray(data) for name, data in self.initial.items()}
        removed: Files = {}
        unsynced: tuple[str, int] | None = None
        for effect in self.effects[:point]:
            match effect:
                case Write(name, data):
                    created = name not in files
                    unsynced = (name, -1 if created else len(files[name]))
                    files.setdefault(name, bytearray()).extend(data)
                case Sync(name):
                    if unsynced is not None and unsynced[1] < 0:
                        removed.clear()
                    unsynced = None
                case Truncate(name, length):
                    del files[name][length:]
                case Remove(name):
                    removed[name] = bytes(files.pop(name))
        certain = {name: bytes(data) for name, data in files.items()}
        images = [certain]
        if unsynced is not None:
            name, length = unsynced
            whole = certain[name]
            images = [
                {**certain, name: whole[:kept]} for kept in range(max(length, 0), len(whole) + 1)
            ]
            if length < 0:
                images.append({other: certain[other] for other in certain if other != name})
        for image in images:
            yield image
            for name, data in removed.items():
                yield {**image, name: data}
            if len(removed) > 1:
                yield {**image, **removed}
