"""Rows that carry a checksum, and reading pages of them with an LMDB cursor.

A stored value is `value | CRC32 of key and value, little endian`. The key is covered too, so that a
row which the disk returns in another's place is found. CRC32 has a property that saves work on
every read: the CRC of any message followed by its own CRC is always the same number, so a stored
value is checked without being taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, Protocol
from zlib import crc32

from statemachine.store import DamagedStateError

SEAL_BYTES: Final = 4

_RESIDUE: Final = 0x2144DF1C

_SHOWN_KEY_BYTES: Final = 8


class RowCursor(Protocol):
    """What is needed of `lmdb.Cursor`."""

    def set_range(self, key: bytes, /) -> bool: ...
    def first(self) -> bool: ...
    def last(self) -> bool: ...
    def prev(self) -> bool: ...
    def iternext(self) -> Iterator[tuple[bytes, bytes]]: ...
    def iterprev(self) -> Iterator[tuple[bytes, bytes]]: ...


def seal_all(rows: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return keys and values as keys and what to store at them."""
    # All at once: a call for each row took as long as its checksum.
    return [
        (key, value + crc32(value, crc32(key)).to_bytes(SEAL_BYTES, "little"))
        for key, value in rows
    ]


def unseal(key: bytes, stored: bytes) -> bytes:
    """Return the value of what is stored at `key`.

    Raises:
        DamagedStateError: it is not what was stored there.
    """
    if crc32(stored, crc32(key)) != _RESIDUE or len(stored) < SEAL_BYTES:
        raise DamagedStateError(
            f"the row at {key_prefix(key)} fails its checksum; "
            "rebuild this node's state from a peer"
        )
    return stored[:-SEAL_BYTES]


def key_prefix(key: bytes) -> str:
    """Name a row in a message without showing what is in it."""
    more = "..." if len(key) > _SHOWN_KEY_BYTES else ""
    return f"key {key[:_SHOWN_KEY_BYTES].hex()}{more}"


def read_page(
    cursor: RowCursor, start: bytes, stop: bytes, limit: int, reverse: bool
) -> list[tuple[bytes, bytes]]:
    """Return a page as `statemachine.store.Reader.scan` describes it."""
    page: list[tuple[bytes, bytes]] = []
    if limit <= 0 or stop <= start:
        return page
    if reverse:
        # Onto the greatest key below `stop`; with nothing at or above it, that is the last key.
        if not (cursor.prev() if cursor.set_range(stop) else cursor.last()):
            return page
        for key, stored in cursor.iterprev():
            if key < start:
                break
            page.append((key, unseal(key, stored)))
            if len(page) == limit:
                break
    elif cursor.set_range(start):
        for key, stored in cursor.iternext():
            if key >= stop:
                break
            page.append((key, unseal(key, stored)))
            if len(page) == limit:
                break
    return page


def digest_slice(
    cursor: RowCursor, start: bytes, stop: bytes | None, limit_bytes: int
) -> tuple[bytes, bytes | None]:
    """Verify and digest rows from `start` to `stop` or the end, until `limit_bytes` are walked.

    Returns:
        16 bytes of BLAKE2b over keys and values, and the key to go on from, or None when done.
    """
    digest = blake2b(digest_size=16)
    walked = 0
    if cursor.set_range(start):
        for key, stored in cursor.iternext():
            if stop is not None and key >= stop:
                break
            if walked >= limit_bytes:
                return digest.digest(), key
            value = unseal(key, stored)
            # With their lengths, so that no other rows run together to the same bytes.
            digest.update(b"%d %d " % (len(key), len(value)) + key + value)
            walked += len(key) + len(stored)
    return digest.digest(), None
