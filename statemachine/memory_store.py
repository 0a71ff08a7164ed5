"""A `Store` in memory, for simulations and tests."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from typing import Final

GREATEST_KEY_BYTES: Final = 500


class MemoryStore:
    """A dict and the sorted list of its keys.

    It refuses keys that LMDB would refuse, so that a test finds them first. A new key costs a
    binary search and a shift of the list: meant for up to some hundred thousand rows.
    """

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self.replace(pairs)

    def replace(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Hold exactly `pairs` from now on, as after the installation of a snapshot."""
        self._values = dict(pairs)
        self._keys = sorted(self._values)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return everything, in key order: equal states give equal lists."""
        values = self._values
        return [(key, values[key]) for key in self._keys]

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: bytes) -> bytes | None:
        _require_key(key)
        return self._values.get(key)

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        _require_key(start)
        _require_key(stop)
        if limit <= 0 or stop <= start:
            return []
        first = bisect_left(self._keys, start)
        end = bisect_left(self._keys, stop)
        if reverse:
            page = self._keys[max(first, end - limit) : end]
            page.reverse()
        else:
            page = self._keys[first : min(end, first + limit)]
        values = self._values
        return [(key, values[key]) for key in page]

    def put(self, key: bytes, value: bytes) -> None:
        _require_key(key)
        if key not in self._values:
            insort(self._keys, key)
        self._values[key] = value

    def delete(self, key: bytes) -> None:
        _require_key(key)
        if self._values.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]


def _require_key(key: bytes) -> None:
    if not 1 <= len(key) <= GREATEST_KEY_BYTES:
        raise ValueError(f"a key has 1 to {GREATEST_KEY_BYTES} bytes, got {len(key)}")
