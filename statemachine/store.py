"""The ordered key-value interface that holds all replicated state.

A node keeps it in LMDB (`node.storage`), simulations and unit tests in memory (`MemoryStore`).
Scans return finite pages, never live iterators: a page stays valid whatever is written next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Reader(Protocol):
    """Reads of one consistent state."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, or None.

        Raises:
            DamagedStateError: the stored value fails its checksum.
        """

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Return at most `limit` pairs with `start <= key < stop`, in key order.

        With `reverse` the page begins at the greatest key below `stop` and descends.
        """


class Store(Reader, Protocol):
    """Writes as well. Only `statemachine.machine` holds one; queries take a `Reader`."""

    def put(self, key: bytes, value: bytes) -> None:
        """Store `value` at `key`, replacing what was there. Keys are 1 to 500 bytes."""

    def delete(self, key: bytes) -> None:
        """Remove `key`; nothing happens when it is absent."""

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Put every value and delete every key whose value is None: an entry's writes at once."""


class DamagedStateError(Exception):
    """A stored value does not match its checksum. The node must rebuild its state from a peer."""
