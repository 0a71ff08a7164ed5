"""The writes of one entry, gathered before the store sees them.

So a row that many commands change is written once, the digest covers exactly what reaches the
store, and an entry that cannot be applied leaves the store as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from statemachine.store import Store

_ABSENT: Final = object()
_KIND_BYTES: Final = 2


class WriteBuffer:
    """A `Store` over another one, which it changes only in `flush`."""

    __slots__ = ("_kinds", "_sorted", "_store", "pending")

    def __init__(self, store: Store) -> None:
        self._store = store
        self.pending: dict[bytes, bytes | None] = {}
        """New values, None for a deleted row, in the order in which rows were first touched."""
        self._kinds: dict[bytes, list[bytes]] = {}
        """The keys that were touched, by what they begin with: few are of the kind of a scan."""
        self._sorted = 0
        """How many of them stand in their kind by now: most entries scan nothing."""

    def get(self, key: bytes) -> bytes | None:
        found = self.pending.get(key, _ABSENT)
        if found is _ABSENT:
            return self._store.get(key)
        assert found is None or isinstance(found, bytes)
        return found

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        touched = [key for key in self._touched(start, stop) if start <= key < stop]
        # Every touched row may stand in the store's page and drop out of it.
        stored = self._store.scan(start, stop, limit=limit + len(touched), reverse=reverse)
        if not touched:
            return stored
        pending = self.pending
        merged: dict[bytes, bytes | None] = dict(stored)
        merged.update((key, pending[key]) for key in touched)
        page = [(key, merged[key]) for key in sorted(merged, reverse=reverse)]
        return [(key, value) for key, value in page if value is not None][:limit]

    def _touched(self, start: bytes, stop: bytes) -> Iterable[bytes]:
        """Return touched keys, among them all from `start` to `stop`."""
        for key in islice(self.pending, self._sorted, None):
            self._kinds.setdefault(key[:_KIND_BYTES], []).append(key)
        self._sorted = len(self.pending)
        kind = start[:_KIND_BYTES]
        if len(kind) == _KIND_BYTES and stop <= kind[:-1] + bytes((min(kind[-1] + 1, 255),)):
            return self._kinds.get(kind, ())
        return self.pending

    def put(self, key: bytes, value: bytes) -> None:
        self.pending[key] = value

    def delete(self, key: bytes) -> None:
        self.pending[key] = None

    def flush(self) -> None:
        """Hand everything to the store and begin anew."""
        self._store.write(self.pending)
        self.pending = {}
        self._kinds = {}
        self._sorted = 0
