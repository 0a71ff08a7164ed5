"""Files that hold a copy of the state: writing one, and putting one in the state's place.

Both end in a synced rename, so that after a crash a name shows either a whole file or none.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

_READ_BYTES: Final = 1 << 20

_SYNC_BYTES: Final = 4 << 20
"""Written between two syncs. Synced at once at its end, a large file would hold up every other
sync on the disk, above all those of the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCopy:
    """A finished copy of the state: one file, complete and synced."""

    path: Path
    size_bytes: int
    sha256: bytes
    """Of the whole file."""
    applied_index: int
    """Of the last entry that the copy contains."""


class CopyCancelledError(Exception):
    """The storage was closed, wiped or replaced while the copy was being written."""


class CopyWriter:
    """Writes one copy at a time, in two threads joined by a pipe.

    The pipe is there for its receiving end: it paces the writing, syncs in small pieces, digests
    on the way, and can stop the sender, which knows no other way to be stopped.
    """

    def __init__(self, *, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="state-copy")
        self._cancelled = threading.Event()
        self._copy: Future[StateCopy] | None = None

    @property
    def in_progress(self) -> bool:
        return self._copy is not None and not self._copy.done()

    def start(
        self, send: Callable[[int], None], applied_index: Callable[[Path], int], target: Path
    ) -> Future[StateCopy]:
        """Write to `target` what `send` writes to the file descriptor that it is given.

        Args:
            applied_index: opens the written file and returns the index that it finds there.
        """
        assert not self.in_progress
        self._cancelled.clear()
        self._copy = self._threads.submit(self._write, send, applied_index, target)
        return self._copy

    def cancel(self) -> None:
        """Stop the copy in progress, if any, and wait until its threads have let go."""
        if self._copy is not None:
            self._cancelled.set()
            self._copy.exception()
            self._copy = None

    def close(self) -> None:
        self.cancel()
        self._threads.shutdown()

    def _write(
        self, send: Callable[[int], None], applied_index: Callable[[Path], int], target: Path
    ) -> StateCopy:
        part = target.with_name(target.name + ".part")
        try:
            size_bytes, digest = self._transfer(send, part)
            index = applied_index(part)
            replace_durably(part, target)
        finally:
            part.unlink(missing_ok=True)
        return StateCopy(path=target, size_bytes=size_bytes, sha256=digest, applied_index=index)

    def _transfer(self, send: Callable[[int], None], part: Path) -> tuple[int, bytes]:
        reading, writing = os.pipe()
        sent = self._threads.submit(_send_and_close, send, writing)
        try:
            received = self._receive(reading, part)
        finally:
            # A sender that still writes is woken by an error. It reads the state, so it must be
            # out before the state may be closed.
            os.close(reading)
            failure = sent.exception()
        if failure is not None:
            raise failure
        return received

    def _receive(self, reading: int, part: Path) -> tuple[int, bytes]:
        digest = sha256()
        size = unsynced = 0
        started = time.monotonic()
        writing = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(writing, "wb", buffering=0) as file:
            while block := os.read(reading, _READ_BYTES):
                digest.update(block)
                size += len(block)
                unsynced += len(block)
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) :]
                if unsynced >= _SYNC_BYTES:
                    os.fdatasync(writing)
                    unsynced = 0
                    ahead_s = started + size / self._bytes_per_s - time.monotonic()
                    if self._cancelled.wait(max(0.0, ahead_s)):
                        raise CopyCancelledError("the copy of the state was cancelled")
        return size, digest.digest()


def replace_durably(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`; a crash leaves one or the other there."""
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    source.replace(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _send_and_close(send: Callable[[int], None], writing: int) -> None:
    try:
        send(writing)
    finally:
        os.close(writing)
