"""The replicated state as the engine uses it: LMDB, with copies that come and go."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, Final

from node.consensus.state import IncomingCopy, StateCopy
from node.state_copy import StateCopy as CopyFile
from node.storage import LmdbStorage, StorageError, verify_copy

_OUTGOING: Final = "outgoing.copy"
_INCOMING: Final = "incoming.copy"


class FileCopy:
    """A copy held for peers, read in slices."""

    def __init__(self, copy: CopyFile) -> None:
        self.index = copy.applied_index
        self.size = copy.size_bytes
        self.sha256 = copy.sha256
        self._path = copy.path
        self._descriptor = os.open(copy.path, os.O_RDONLY)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def discard(self) -> None:
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


class IncomingFile:
    """A copy under way to this node."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self._loop = loop
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)

    def finish(self, on_done: Callable[[bytes | Exception], None]) -> None:
        def finished(future: asyncio.Future[bytes]) -> None:
            error = future.exception()
            if error is None:
                on_done(future.result())
            else:
                on_done(error if isinstance(error, Exception) else StorageError(str(error)))

        self._loop.run_in_executor(None, self._finish).add_done_callback(finished)

    def _finish(self) -> bytes:
        """Every row is checked too: the sender's file may carry damage that its hash covers."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        verify_copy(self.path)
        return self._digest.digest()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class StateFiles(LmdbStorage):
    """`node.consensus.state.StateStorage` in a directory."""

    loop: asyncio.AbstractEventLoop

    def copy(self, on_done: Callable[[StateCopy | Exception], None]) -> None:
        def finished(future: Future[CopyFile]) -> None:
            self.loop.call_soon_threadsafe(lambda: on_done(_result(future)))

        try:
            self.start_copy(self._directory / _OUTGOING).add_done_callback(finished)
        except StorageError as error:
            failure = error
            self.loop.call_soon(lambda: on_done(failure))

    def receive_copy(self) -> IncomingCopy:
        return IncomingFile(self._directory / _INCOMING, self.loop)

    def install_copy(self, incoming: IncomingCopy) -> None:
        assert isinstance(incoming, IncomingFile)
        self.install(incoming.path)


def _result(future: Future[CopyFile]) -> StateCopy | Exception:
    error = future.exception()
    if error is not None:
        return error if isinstance(error, Exception) else StorageError(str(error))
    return FileCopy(future.result())
