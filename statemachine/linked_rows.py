"""Lists as rows: append at the end, take out anywhere, at a price that no length changes.

Each row names its neighbours, so that an operation reads and writes at most three rows by their
keys. Scanning for the next row instead would look at everything that the entry has written so far.

A list lies under a prefix of its own. The names of its rows are numbers or positions, packed as in
`statemachine.keys`, that rise from row to row: so a reader of the state may scan it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer


class Ends(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the owner of a list keeps of it."""

    first: bytes = b""
    """The name of the first row, empty when there is none."""
    last: bytes = b""
    count: int = 0


EMPTY: Final = Ends()


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    previous: bytes
    next: bytes
    content: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(_Row)


def append(writes: WriteBuffer, prefix: bytes, ends: Ends, name: bytes, content: bytes) -> Ends:
    """Add a row at the end; return the new ends."""
    if ends.last:
        last = _get(writes, prefix, ends.last)
        writes.put(prefix + ends.last, _encode(_Row(last.previous, name, last.content)))
    writes.put(prefix + name, _encode(_Row(ends.last, b"", content)))
    return Ends(ends.first or name, name, ends.count + 1)


def replace(writes: WriteBuffer, prefix: bytes, name: bytes, content: bytes) -> None:
    """Change what a row holds, in its place."""
    row = _get(writes, prefix, name)
    writes.put(prefix + name, _encode(_Row(row.previous, row.next, content)))


def remove(writes: WriteBuffer, prefix: bytes, ends: Ends, name: bytes) -> Ends:
    """Take a row out; return the new ends."""
    row = _get(writes, prefix, name)
    writes.delete(prefix + name)
    if row.previous:
        before = _get(writes, prefix, row.previous)
        writes.put(prefix + row.previous, _encode(_Row(before.previous, row.next, before.content)))
    if row.next:
        after = _get(writes, prefix, row.next)
        writes.put(prefix + row.next, _encode(_Row(row.previous, after.next, after.content)))
    return Ends(
        ends.first if row.previous else row.next,
        ends.last if row.next else row.previous,
        ends.count - 1,
    )


def get(reader: Reader, prefix: bytes, name: bytes) -> bytes | None:
    """Return what a row holds, None when there is no such row."""
    row = reader.get(prefix + name)
    return None if row is None else _rows.decode(row).content


def scan(reader: Reader, prefix: bytes, *, limit: int) -> list[tuple[bytes, bytes]]:
    """Return names and contents of the first at most `limit` rows, in order."""
    # Names begin below 0x80; above it, rows of another list may lie whose prefix extends this one.
    rows = reader.scan(prefix, prefix + b"\x80", limit=limit)
    return [(key[len(prefix) :], _rows.decode(value).content) for key, value in rows]


def _get(writes: WriteBuffer, prefix: bytes, name: bytes) -> _Row:
    row = writes.get(prefix + name)
    assert row is not None, "a list names only rows that it has"
    return _rows.decode(row)
