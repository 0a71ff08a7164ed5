"""A directory of append-only files, and the one thread that makes them durable.

The journal knows files through `Disk` alone, so a simulation can put a disk of its own beneath it.
A disk that has failed once stays failed: after an error nothing is known about what reached the
medium, and a later success would only hide it. The owner stops the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from node.consensus.quick_writes import QuickWrites, processor_wait_s

OnDone = Callable[[OSError | None], None]
Post = Callable[[Callable[[], None]], object]
"""Runs a callable on the loop's thread, from any thread: `loop.call_soon_threadsafe`."""


class Disk(Protocol):
    """Append-only files by name in one directory. All methods are called on the loop's thread.

    What a crash may do, and what users must survive: bytes of an append that was not yet reported
    done may be lost from any offset on; a file it was creating may be missing or empty; a removed
    file may be back.
    """

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""

    def size(self, name: str) -> int:
        """Return the length of a file in bytes."""

    def read(self, name: str) -> bytes:
        """Return a whole file."""

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; fewer when the file ends before."""

    def append(self, name: str, data: bytes, on_done: OnDone) -> None:
        """Append `data` to a file, creating it when absent, and make data and name durable.

        Returns at once. Appends are carried out in the order of the calls, each durable before the
        next begins. `on_done` is called later on the loop's thread, never from within this call,
        with the error, or None. A short write is an error.
        """

    @property
    def quick(self) -> bool:
        """Whether `append_now` would most likely be done before `append` could report it."""

    def append_now(self, name: str, data: bytes) -> None:
        """Append and wait until it is durable; so is then every append submitted before.

        Raises:
            OSError: this append or an earlier one failed.
        """

    def rewrite(self, name: str, offset: int) -> None:
        """Write the bytes from `offset` to the end again in place; make file and name durable.

        Used while loading. A process that was killed, or whose fdatasync failed, may have left
        bytes that can be read and yet were never stored; after a failure the kernel believes them
        clean, so syncing alone would not store them.
        """

    def truncate(self, name: str, length: int) -> None:
        """Cut a file to `length` bytes, durably. Used while loading."""

    def remove(self, name: str) -> None:
        """Remove a file, after every append submitted before. A crash may undo it."""

    def close(self) -> None:
        """Finish what was submitted and release all files."""


class FileDisk:
    """Real files. Appends and removals run in one dedicated thread, reads in the caller's.

    So do appends that the caller waits for while the thread has nothing to do.
    """

    def __init__(self, path: Path, post: Post) -> None:
        """Open the directory `path`, creating it when absent.

        Args:
            path: The directory; nothing else may write to it.
            post: `call_soon_threadsafe` of the loop on which `on_done` is to be called.

        Raises:
            OSError: the directory can be neither opened nor created.
        """
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._post = post
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._readers: dict[str, int] = {}
        self._writers: dict[str, int] = {}
        self._failure: OSError | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._submitted = 0
        self._finished = 0
        self._quick_writes = QuickWrites()
        self._thread = threading.Thread(target=self._work, name="journal-writer", daemon=True)
        self._thread.start()

    def names(self) -> list[str]:
        with os.scandir(self._path) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))

    def size(self, name: str) -> int:
        return os.stat(name, dir_fd=self._directory).st_size

    def read(self, name: str) -> bytes:
        return self.read_at(name, 0, self.size(name))

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        descriptor = self._readers.get(name)
        if descriptor is None:
            descriptor = os.open(name, os.O_RDONLY, dir_fd=self._directory)
            self._readers[name] = descriptor
        return os.pread(descriptor, length, offset)

    def _submit(self, job: Callable[[], None]) -> None:
        self._submitted += 1
        self._jobs.put(job)

    @property
    def _is_idle(self) -> bool:
        """Whether the thread has done all that it was given, so that it touches nothing."""
        return self._finished == self._submitted

    @property
    def quick(self) -> bool:
        return self._is_idle and self._quick_writes.expected(time.monotonic())

    def append(self, name: str, data: bytes, on_done: OnDone) -> None:
        def job() -> None:
            took_s = self._attempt_to_append(name, data)
            self._quick_writes.handed_over(time.monotonic(), took_s)
            error = self._failure
            # The loop may be gone by now; then nobody waits for the answer either.
            with contextlib.suppress(RuntimeError):
                self._post(lambda: on_done(error))

        self._submit(job)

    def append_now(self, name: str, data: bytes) -> None:
        if self._is_idle:
            waiting_s = processor_wait_s()
            took_s = self._attempt_to_append(name, data)
            disk_s = took_s - (processor_wait_s() - waiting_s)
            self._quick_writes.waited(time.monotonic(), disk_s)
        else:
            self._append_behind_others(name, data)
        if self._failure is not None:
            raise self._failure

    def _append_behind_others(self, name: str, data: bytes) -> None:
        done = threading.Event()

        def job() -> None:
            self._attempt_to_append(name, data)
            done.set()

        self._submit(job)
        done.wait()

    def rewrite(self, name: str, offset: int) -> None:
        length = self.size(name) - offset
        data = self.read_at(name, offset, length)
        descriptor = os.open(name, os.O_WRONLY, dir_fd=self._directory)
        try:
            _expect_all(os.pwrite(descriptor, data, offset), len(data), name)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.fsync(self._directory)

    def truncate(self, name: str, length: int) -> None:
        descriptor = os.open(name, os.O_WRONLY, dir_fd=self._directory)
        try:
            os.ftruncate(descriptor, length)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        reader = self._readers.pop(name, None)
        if reader is not None:
            os.close(reader)

        def job() -> None:
            self._attempt(lambda: self._remove(name))

        self._submit(job)

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        for descriptor in (*self._readers.values(), *self._writers.values(), self._directory):
            os.close(descriptor)
        self._readers.clear()
        self._writers.clear()

    # What follows runs in the writer thread, or in the caller's while that one waits for jobs.

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            self._finished += 1

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._failure is None:
            try:
                action()
            except OSError as error:
                self._failure = error

    def _attempt_to_append(self, name: str, data: bytes) -> float:
        """Return how long it took."""
        began = time.monotonic()
        self._attempt(lambda: self._append(name, data))
        return time.monotonic() - began

    def _append(self, name: str, data: bytes) -> None:
        descriptor, created = self._writer(name)
        _expect_all(os.write(descriptor, data), len(data), name)
        if created:
            os.fsync(self._directory)

    def _writer(self, name: str) -> tuple[int, bool]:
        descriptor = self._writers.get(name)
        if descriptor is not None:
            return descriptor, False
        # Files are written one after the other, so the one before is not needed any more.
        for old in self._writers.values():
            os.close(old)
        self._writers.clear()
        # With O_DSYNC a write returns as after fdatasync. One system call means that this thread
        # waits for the interpreter's lock once instead of twice.
        flags = os.O_WRONLY | os.O_APPEND | os.O_DSYNC
        created = False
        try:
            descriptor = os.open(name, flags, dir_fd=self._directory)
        except FileNotFoundError:
            descriptor = os.open(
                name, flags | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=self._directory
            )
            created = True
        self._writers[name] = descriptor
        return descriptor, created

    def _remove(self, name: str) -> None:
        writer = self._writers.pop(name, None)
        if writer is not None:
            os.close(writer)
        os.unlink(name, dir_fd=self._directory)


def _expect_all(written: int, expected: int, name: str) -> None:
    if written != expected:
        raise OSError(errno.EIO, f"short write: {written} of {expected} bytes", name)


class DirectoryLockedError(Exception):
    """Another process uses the data directory."""


class DirectoryLock:
    """A held lock; `release` or the end of the process gives it back."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give the directory back. Calling it again does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_directory(path: Path, holder: str) -> DirectoryLock:
    """Take the data directory `path` for this process alone, creating it when absent.

    `holder` names this process in the error that the next one gets, for example "node n1".

    Raises:
        DirectoryLockedError: another process holds it; the message names that one.
        OSError: the directory or its lock file cannot be opened.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
        os.close(descriptor)
        raise DirectoryLockedError(
            f"data directory {path} is in use by {other}; stop it, or give this node its own"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{holder} (pid {os.getpid()})\n".encode(), 0)
    return DirectoryLock(descriptor)
