"""Lists of transactions, and of the rows that they lock: pages that read no more than they must."""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, paging
from statemachine.store import Reader
from statemachine.transactions.row_locks import LockRow, get_lock_row, resource_prefix, rows_held
from statemachine.transactions.rows import Global, get_branches, get_global

GREATEST_EXAMINED: Final = 1_000
"""How many rows a page looks at before it ends, whatever it found."""

_GREATEST_BRANCHES_EXAMINED: Final = 5_000


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which transactions are asked for; what is None does not matter."""

    status: str | None = None
    mode: str | None = None
    """Of the transaction, as its client said, or of one of its branches."""
    resource_id: str | None = None
    """Of one of its branches."""
    name: str | None = None
    since_ms: int = 0
    """Begun then or later, in wall time."""


def list_globals(
    reader: Reader, wanted: Wanted, *, cursor: str | None, limit: int
) -> tuple[list[Global], str | None]:
    """Return a page, the last one begun first, and the cursor of the next page.

    A page ends early when it has looked at much, so it may be short, even empty, and not the last.

    Raises:
        InvalidCursorError
    """
    stop = keys.stop_of_events(keys.BEGUN)
    if cursor is not None:
        stop = keys.BEGUN + paging.decode_cursor(cursor)
    begun = reader.scan(keys.BEGUN, stop, limit=GREATEST_EXAMINED + 1, reverse=True)
    items: list[Global] = []
    branches = 0
    for count, (_, value) in enumerate(begun):
        full = len(items) == limit or branches > _GREATEST_BRANCHES_EXAMINED
        if full or count == GREATEST_EXAMINED:
            return items, paging.encode_cursor(begun[count - 1][0][len(keys.BEGUN) :])
        row = get_global(reader, value.decode())
        assert row is not None, "the index names only transactions that are kept"
        if row.begun_ms < wanted.since_ms:
            return items, None
        if _is_wanted(row, wanted):
            branches += row.branches
            if _has_wanted_branch(reader, row, wanted):
                items.append(row)
    return items, None


def _is_wanted(row: Global, wanted: Wanted) -> bool:
    return wanted.status in (None, row.status) and wanted.name in (None, row.name)


def _has_wanted_branch(reader: Reader, row: Global, wanted: Wanted) -> bool:
    mode = None if row.mode == wanted.mode else wanted.mode
    if mode is None and wanted.resource_id is None:
        return True
    return any(
        mode in (None, branch.mode) and wanted.resource_id in (None, branch.resource_id)
        for branch in get_branches(reader, row.xid)
    )


def list_rows(
    reader: Reader, *, resource_id: str | None, xid: str | None, cursor: str | None, limit: int
) -> tuple[list[LockRow], str | None]:
    """Return a page of the rows that are locked or waited for, and the cursor of the next page.

    In order of resource, table and key; those of one transaction in the order of their taking. A
    page may be short, even empty, and not the last.

    Raises:
        InvalidCursorError
    """
    after = None if cursor is None else paging.decode_cursor(cursor)
    if xid is not None:
        return _rows_of_xid(reader, xid, resource_id, after, limit)
    prefix, stop = keys.ROW_LOCK, keys.stop_of(keys.ROW_LOCK)
    if resource_id is not None:
        prefix += resource_prefix(resource_id)
        stop = prefix + b"\x02"
    start = prefix if after is None else max(prefix, keys.ROW_LOCK + after + b"\0")
    rows = reader.scan(start, stop, limit=limit + 1)
    found = [row for key, _ in rows[:limit] if (row := get_lock_row(reader, key)) is not None]
    items = [row for row in found if resource_id in (None, row.resource_id)]
    if len(rows) <= limit:
        return items, None
    return items, paging.encode_cursor(rows[limit - 1][0][len(keys.ROW_LOCK) :])


def _rows_of_xid(
    reader: Reader, xid: str, resource_id: str | None, after: bytes | None, limit: int
) -> tuple[list[LockRow], str | None]:
    items: list[LockRow] = []
    last = b""
    for examined, (position, name) in enumerate(rows_held(reader, xid, after)):
        if len(items) == limit or examined == GREATEST_EXAMINED:
            return items, paging.encode_cursor(last)
        last = position
        row = get_lock_row(reader, keys.ROW_LOCK + name)
        assert row is not None, "what an owner's row names is held"
        if resource_id in (None, row.resource_id):
            items.append(row)
    return items, None
