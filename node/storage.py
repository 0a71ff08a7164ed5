"""The replicated state in LMDB, behind the state machine's `Store` interface.

One write transaction stays open across entries. Their writes gather in a dict and reach LMDB before
the commit, before a scan, or when there are many: so a row that several entries write is sealed and
stored once, and one that comes and goes between two commits hardly touches the tree. They go in key
order, because a sorted `putmulti` costs 0.6 us a row and single puts 1.0 us. `checkpoint` commits,
with sync, at most every 50 ms; what is not yet committed here is still in the journal and is
applied again after a crash. A commit therefore only ever happens between entries, and the state on
disk is always the one after some whole entry. Rows written since the last commit stay in memory
until the next, where most reads find theirs.

All methods belong to the one thread that opened the storage, since an LMDB write transaction does.
The exception is the copy made for a snapshot, which runs in threads of its own. Found with LMDB
0.9.36: a compacting copy holds neither the GIL (longest pause of the loop 0.6 ms while 450 MB were
copied) nor the writer, and commits beside it are safe, because it reads the last committed state
like any reader. They share the disk with it, though: unpaced it delayed single commits by up to
240 ms, so it is written through a pipe, at a limited rate and synced in small pieces. Two things
are *not* safe beside it and are kept apart here: changing the size of the map, which would unmap
the pages under the copying thread, and closing the environment. A copy that does not compact waits
for the open write transaction for ever, so there is none.

Every stored value ends with the CRC32 of its key and value (`node.sealed_rows`). A flip inside a
key makes its row unreachable, which `scrub_step` finds. LMDB's own page structure has no checksum:
of 3,000 single flips anywhere in a file, 733 were found by a scrub, 2 crashed the process, 1 hid
rows without a trace, and the others fell on free space. Hidden rows are found by comparing
`range_digest` between nodes.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Self

import lmdb

from node.sealed_rows import digest_slice, key_prefix, read_page, seal_all, unseal
from node.state_copy import CopyWriter, StateCopy, replace_durably, sync_directory
from statemachine.state import load_state
from statemachine.store import DamagedStateError, Reader

DATA_FILE: Final = "state.mdb"
LOCK_FILE: Final = "state.mdb-lock"

_MIN_ROOM_BYTES: Final = 256 << 20
"""Free map kept ahead of the writer at each checkpoint; address space, not disk."""

_GREATEST_GATHERED_ROWS: Final = 2_048
"""More do not wait for the commit: the loop stands still while they are handed over, about 4 ms."""

_LMDB_META_PAGES: Final = 2

_FILL_AGE_S: Final = 1.0


class StorageError(Exception):
    """LMDB or the operating system refused an operation on the state."""


class StorageFullError(StorageError):
    """The map has reached its greatest size, or the disk is full, in the middle of a write.

    Fatal: the open transaction is lost, so the process stops and applies the journal again once
    there is room. `LmdbStorage.fill_ratio` warns long before.
    """


class LmdbStorage:
    """State of one node: a `statemachine.store.Store` with checkpoints, copies and installation.

    Made by `open`. After a `StorageError` of a write or commit, or a `DamagedStateError`, nothing
    but `close`, `wipe` or `install` may follow.
    """

    def __init__(
        self,
        directory: Path,
        *,
        map_size_bytes: int,
        max_map_size_bytes: int,
        checkpoint_interval_ms: int,
        max_uncommitted_bytes: int,
        max_uncommitted_rows: int,
        copy_bytes_per_s: int,
        clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._first_map_bytes = min(map_size_bytes, max_map_size_bytes)
        self._max_map_bytes = max_map_size_bytes
        self._interval_s = checkpoint_interval_ms / 1000
        self._max_uncommitted_bytes = max_uncommitted_bytes
        self._max_uncommitted_rows = max_uncommitted_rows
        self._clock = clock
        self._copies = CopyWriter(bytes_per_s=copy_bytes_per_s)
        self._pending: dict[bytes, bytes | None] = {}
        """What LMDB has not been told of yet, None for a deleted row."""
        self._fill_ratio = 0.0
        self._fill_measured_at = -math.inf
        self._closed = False
        self._open_environment()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        map_size_bytes: int = 1 << 30,
        max_map_size_bytes: int = 64 << 30,
        checkpoint_interval_ms: int = 50,
        max_uncommitted_bytes: int = 8 << 20,
        max_uncommitted_rows: int = 1 << 13,
        copy_bytes_per_s: int = 200_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Open the state in `directory`, or create an empty one.

        Args:
            map_size_bytes: first size of the map. It grows at checkpoints.
            max_map_size_bytes: the most that the state may ever take on disk.
            max_uncommitted_bytes, max_uncommitted_rows: a checkpoint is due at either of them,
                however recent the last one. They bound the memory that LMDB holds in dirty pages
                (a row may dirty a page of 4 KiB) and how long a commit takes.
            copy_bytes_per_s: the rate at which copies are written.
            clock: monotonic seconds.

        Raises:
            DamagedStateError: the file is not an LMDB environment, or its first rows are damaged.
                `erase_state` removes it.
            UnsupportedStateError: a newer version of the program wrote it.
            StorageError: the operating system refuses.
        """
        return cls(
            directory,
            map_size_bytes=map_size_bytes,
            max_map_size_bytes=max_map_size_bytes,
            checkpoint_interval_ms=checkpoint_interval_ms,
            max_uncommitted_bytes=max_uncommitted_bytes,
            max_uncommitted_rows=max_uncommitted_rows,
            copy_bytes_per_s=copy_bytes_per_s,
            clock=clock,
        )

    # Reads and writes of the state machine.

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, the current entry's own writes included."""
        if key in self._recent:
            return self._recent[key]
        try:
            stored = self._get(key)
        except lmdb.Error as error:
            raise _as_ours(error, f"reading the row at {key_prefix(key)}") from error
        return None if stored is None else unseal(key, stored)

    def put(self, key: bytes, value: bytes) -> None:
        """Store `value` at `key`."""
        self.write({key: value})

    def delete(self, key: bytes) -> None:
        """Remove `key` if it is there."""
        self.write({key: None})

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Take writes of the current entry, all at once."""
        self._in_entry = True
        self._pending.update(changes)
        self._recent.update(changes)
        self._uncommitted_bytes += sum([len(value) for value in changes.values() if value])

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Return a page of rows in `[start, stop)`, the current entry's own writes included."""
        self._flush()
        try:
            return read_page(self._cursor, start, stop, limit, reverse)
        except lmdb.Error as error:
            raise _as_ours(error, f"scanning from {key_prefix(start)}") from error

    def end_entry(self) -> None:
        """Mark the end of an entry: what was written so far may be committed.

        Raises:
            StorageFullError: there is no room; nothing since the last commit will be committed.
        """
        self._in_entry = False
        if len(self._pending) >= _GREATEST_GATHERED_ROWS:
            self._flush()

    # Durability.

    @property
    def durable_index(self) -> int:
        """The applied index of the last synced commit: what a crash cannot take back."""
        return self._durable_index

    @property
    def has_uncommitted(self) -> bool:
        """Whether entries ended since the last commit."""
        return bool(self._recent)

    def checkpoint(self, force: bool = False) -> bool:
        """Commit with sync when it is due, and say whether it did. Call it after every entry.

        It is due when the last commit is older than the interval, or when too much is uncommitted;
        `force` commits whatever there is. Nothing uncommitted: nothing happens.

        Raises:
            StorageFullError: there is no room; nothing since the last commit was committed.
            StorageError: the commit failed. What became of it is unknown: stop the process.
        """
        assert not self._in_entry, "a checkpoint inside an entry would commit half of it"
        if not self._recent or not (force or self._is_due()):
            return False
        index = _applied_index(self)
        self._flush()
        try:
            self._transaction.commit()
        except lmdb.Error as error:
            raise _as_ours(error, "committing the state") from error
        self._durable_index = index
        self._grow_map()
        self._begin()
        return True

    def _is_due(self) -> bool:
        return (
            len(self._recent) >= self._max_uncommitted_rows
            or self._uncommitted_bytes >= self._max_uncommitted_bytes
            or self._clock() - self._begun_at >= self._interval_s
        )

    # Size.

    @property
    def used_bytes(self) -> int:
        """Bytes in pages that hold rows, at the last checkpoint; free pages of the file not."""
        return self._used_bytes

    @property
    def file_bytes(self) -> int:
        """The length of the data file: the most that was ever in use at once."""
        return self._data_path.stat().st_size

    @property
    def map_bytes(self) -> int:
        """The current size of the map, which grows up to the configured greatest."""
        return self._map_bytes

    @property
    def disk_free_bytes(self) -> int:
        """What the process may still write on the state's file system."""
        figures = os.statvfs(self._directory)
        return figures.f_bavail * figures.f_frsize

    @property
    def fill_ratio(self) -> float:
        """Used bytes as a share of the greatest map, or of what the disk can hold if less.

        Measured once per checkpoint and second, so it may be asked for every request.
        """
        now = self._clock()
        if now >= self._fill_measured_at + _FILL_AGE_S:
            capacity = min(self._max_map_bytes, self.file_bytes + self.disk_free_bytes)
            self._fill_ratio = self._used_bytes / capacity
            self._fill_measured_at = now
        return self._fill_ratio

    # Copies for snapshots, and their installation.

    @property
    def copy_in_progress(self) -> bool:
        """Whether a copy is being written. `install`, `wipe` and `close` cancel it."""
        return self._copies.in_progress

    def start_copy(self, target: Path) -> Future[StateCopy]:
        """Commit, then write a compact copy of the state to the file `target` in a thread.

        The copy is the state of this commit or of one soon after it: its `applied_index` tells.
        The file appears under its name only when it is complete and synced. Writes and
        checkpoints go on meanwhile.

        Raises:
            StorageError: another copy is in progress, or the commit failed. The future raises it
                too, or OSError or CopyCancelledError; these leave the state as it is.
        """
        if self.copy_in_progress:
            raise StorageError("a copy of the state is already being written")
        self.checkpoint(force=True)
        # Beside a copy the map cannot grow, and the copy pins every page of its state.
        self._transaction.abort()
        self._set_map_size(self._max_map_bytes)
        self._begin()
        return self._copies.start(self._send_copy, _applied_index_of_copy, target)

    def install(self, copy_path: Path) -> int:
        """Replace the state by the copy, which is moved away, and return its applied index.

        A crash at any moment leaves either the old state or the new one. Run `verify_copy` on it
        first, in a thread; here it is only checked for being a complete file of this program's.

        Raises:
            DamagedStateError, UnsupportedStateError, StorageError: the copy cannot be used; the
                state is unchanged.
        """
        _applied_index_of_copy(copy_path)
        self._close_environment()
        replace_durably(copy_path, self._data_path)
        self._lock_path.unlink(missing_ok=True)
        self._open_environment()
        return self._durable_index

    def wipe(self) -> None:
        """Forget the whole state, durably, and start with an empty one."""
        self._close_environment()
        erase_state(self._directory)
        self._open_environment()

    def close(self) -> None:
        """Close without committing: the journal has whatever is not. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._close_environment()
        self._copies.close()

    # Checking and comparing.

    def scrub_step(self, start: bytes, limit_bytes: int) -> bytes | None:
        """Verify rows from `start` on, about `limit_bytes` of them: 256 KiB take 3 ms.

        Returns:
            The key to go on from, or None at the end of the state.

        Raises:
            DamagedStateError: a row fails its checksum.
        """
        _, following = self._digest(start, None, limit_bytes)
        return following

    def range_digest(
        self, start: bytes, stop: bytes, limit_bytes: int
    ) -> tuple[bytes, bytes | None]:
        """Digest the rows in `[start, stop)`, about `limit_bytes` of them, for comparing nodes.

        Two nodes with the same rows give the same answer for the same arguments.

        Returns:
            16 bytes of BLAKE2b, and the key to go on from or None at the end of the range.

        Raises:
            DamagedStateError: a row fails its checksum.
        """
        return self._digest(start, stop, limit_bytes)

    def _digest(
        self, start: bytes, stop: bytes | None, limit_bytes: int
    ) -> tuple[bytes, bytes | None]:
        self._flush()
        try:
            return digest_slice(self._cursor, start, stop, limit_bytes)
        except lmdb.Error as error:
            raise _as_ours(error, f"checking from {key_prefix(start)}") from error

    # The environment and its transaction.

    @property
    def _data_path(self) -> Path:
        return self._directory / DATA_FILE

    @property
    def _lock_path(self) -> Path:
        return self._directory / LOCK_FILE

    def _open_environment(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            self._environment = lmdb.open(
                str(self._data_path),
                subdir=False,
                map_size=self._first_map_bytes,
                mode=0o600,
                # One reader at a time: the copy. Everything else reads in the write transaction.
                max_readers=4,
                # Both syncs of a commit are needed: the journal is cut by what is committed here.
                sync=True,
                metasync=True,
                # A writable map would let a stray write damage the file, and makes the file as
                # long as the map.
                writemap=False,
                # Fresh pages are cleared, or the file and its copies would hold bits of the heap.
                meminit=True,
            )
        except lmdb.Error as error:
            raise _as_ours(error, f"opening {self._data_path}") from error
        try:
            sync_directory(self._directory)
            self._lengthen_file()
            self._map_bytes = self._environment.info()["map_size"]
            self._grow_map()
            self._begin()
            self._durable_index = _applied_index(self)
        except BaseException:
            self._environment.close()
            raise

    def _lengthen_file(self) -> None:
        """Make every page that the state may name readable.

        Reading past the end of the file would kill the process. LMDB may leave free pages at the
        end unwritten; when other pages are missing, zeros in their place are recognised as damage.
        """
        least = _least_file_bytes(self._environment)
        if self.file_bytes < least:
            os.truncate(self._data_path, least)

    def _begin(self) -> None:
        self._transaction: lmdb.Transaction[bytes] = self._environment.begin(write=True)
        self._cursor = self._transaction.cursor()
        self._get = self._transaction.get
        self._recent: dict[bytes, bytes | None] = {}
        """What was written since the last commit, which bounds it: most rows that a command reads
        were written by one just before."""
        self._begun_at = self._clock()
        self._in_entry = False
        self._uncommitted_bytes = 0
        figures = self._transaction.stat()
        pages = figures["branch_pages"] + figures["leaf_pages"] + figures["overflow_pages"]
        self._used_bytes = (pages + _LMDB_META_PAGES) * figures["psize"]
        self._fill_measured_at = -math.inf

    def _flush(self) -> None:
        """Hand the gathered writes to the write transaction, in key order."""
        pending = self._pending
        if not pending:
            return
        put: list[tuple[bytes, bytes]] = []
        try:
            for key, value in sorted(pending.items()):
                if value is None:
                    self._transaction.delete(key)
                else:
                    put.append((key, value))
            rows = seal_all(put)
            if rows:
                self._cursor.putmulti(rows)
        except lmdb.Error as error:
            raise _as_ours(error, "writing entries") from error
        pending.clear()

    def _grow_map(self) -> None:
        """Keep as much free map as there are pages in the file: a window may rewrite them all."""
        file_bytes = self.file_bytes
        room = max(_MIN_ROOM_BYTES, file_bytes)
        if self._map_bytes - file_bytes < room:
            # Twice as much as is needed: every change drops the pages that are mapped.
            self._set_map_size(file_bytes + 2 * room)

    def _set_map_size(self, size: int) -> None:
        size = min(size, self._max_map_bytes)
        if size > self._map_bytes:
            self._environment.set_mapsize(size)
            self._map_bytes = size

    def _send_copy(self, writing: int) -> None:
        try:
            self._environment.copyfd(writing, compact=True)
        except lmdb.Error as error:
            raise _as_ours(error, "copying the state") from error

    def _close_environment(self) -> None:
        self._copies.cancel()
        self._pending.clear()
        # A transaction that failed to commit is gone already.
        with contextlib.suppress(lmdb.Error):
            self._transaction.abort()
        self._environment.close()


class _CopyReader:
    """A copy of the state, read in place."""

    def __init__(self, transaction: lmdb.Transaction[bytes]) -> None:
        self._transaction = transaction
        self._cursor = transaction.cursor()

    def get(self, key: bytes) -> bytes | None:
        stored = self._transaction.get(key)
        return None if stored is None else unseal(key, stored)

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        return read_page(self._cursor, start, stop, limit, reverse)


@contextlib.contextmanager
def open_copy(path: Path) -> Iterator[Reader]:
    """Read a copy of the state without changing it. Any thread may.

    Raises:
        DamagedStateError: it is not a complete copy.
        StorageError: the operating system refuses.
    """
    with _copy_transaction(path) as transaction:
        yield _CopyReader(transaction)


def verify_copy(path: Path) -> int:
    """Check every row of a copy and return how many there are: 0.4 s for a million.

    It holds the GIL for most of that time, so in a thread it slows the loop, but does not stop it.

    Raises:
        DamagedStateError: a row fails its checksum, or the file is not a complete copy.
        StorageError: the operating system refuses.
    """
    rows = 0
    with _copy_transaction(path) as transaction:
        for key, stored in transaction.cursor():
            unseal(key, stored)
            rows += 1
        if rows != transaction.stat()["entries"]:
            raise DamagedStateError(f"the copy {path.name} lacks rows")
    return rows


def erase_state(directory: Path) -> None:
    """Remove the state in `directory`, which no storage has open, durably. It may be damaged."""
    (directory / DATA_FILE).unlink(missing_ok=True)
    (directory / LOCK_FILE).unlink(missing_ok=True)
    sync_directory(directory)


@contextlib.contextmanager
def _copy_transaction(path: Path) -> Iterator[lmdb.Transaction[bytes]]:
    try:
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment:
            if path.stat().st_size < _least_file_bytes(environment):
                raise DamagedStateError(f"the copy {path.name} is cut off")
            with environment.begin() as transaction:
                yield transaction
    except lmdb.Error as error:
        raise _as_ours(error, f"reading the copy {path.name}") from error


def _applied_index(state: Reader) -> int:
    return load_state(state).applied_index


def _applied_index_of_copy(path: Path) -> int:
    with open_copy(path) as copy:
        return _applied_index(copy)


def _least_file_bytes(environment: lmdb.Environment) -> int:
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def _as_ours(error: lmdb.Error, doing: str) -> Exception:
    """The error to raise in the other's stead: damage, fullness or refusal, and what was done."""
    match error:
        case (
            lmdb.CorruptedError()
            | lmdb.InvalidError()
            | lmdb.PageNotFoundError()
            | lmdb.VersionMismatchError()
        ):
            return DamagedStateError(f"{doing}: {error}; rebuild this node's state from a peer")
        case lmdb.MapFullError() | lmdb.DiskError():
            return StorageFullError(f"{doing}: {error}; add space, then start the node again")
        case lmdb.Error(code=errno.EIO):
            return StorageError(f"{doing}: {error} (LMDB says so of a short write too: disk full?)")
        case _:
            return StorageError(f"{doing}: {error}")
