"""Files that hold a copy of the state: completing one, and putting one in the state's place.

Both steps are a synced rename, so that after a crash a name shows either a whole file or none.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


class StorageError(Exception):
    """The operating system or LMDB refused an operation on the state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCopy:
    """A finished copy of the state: one file, complete and synced."""

    path: Path
    size_bytes: int
    sha256: bytes
    """Of the whole file."""
    applied_index: int
    """Of the last entry that the copy contains."""


def finish_copy(part: Path, target: Path, applied_index: int) -> StateCopy:
    """Sync a written copy, give it its name, and describe it."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").digest()
        size_bytes = file.tell()
    part.rename(target)
    sync_directory(target.parent)
    return StateCopy(path=target, size_bytes=size_bytes, sha256=digest, applied_index=applied_index)


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
