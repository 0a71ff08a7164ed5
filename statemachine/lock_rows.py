"""Rows of locks, and what queries read from them.

A lock that is held or waited for has a row; a free one has none, but for a short while after its
release. Who holds it alone stands in that row. Those who share it have rows of their own, in the
order of their tokens, and one each by which the owner is found. Those who wait are rows in the
order of their positions.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, linked_rows, paging
from statemachine.linked_rows import EMPTY, Ends
from statemachine.outcomes import LockHolder
from statemachine.positions import Position
from statemachine.state import load_state
from statemachine.store import Reader

EXCLUSIVE: Final = "EXCLUSIVE"
SHARED: Final = "SHARED"

GREATEST_NAME_BYTES: Final = 128
"""Of a lock and of an owner, in UTF-8."""

GREATEST_EXAMINED: Final = 1_000
"""How many locks a page of the list looks at before it ends, whatever it found."""


class Hold(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A lease."""

    owner: str
    shared: bool
    token: int
    ttl_ms: int
    """What a renewal adds to the time of the renewal."""
    expires_ms: int
    """In elapsed time: from this millisecond on it is over."""
    unheard: Position | None
    """The acquire that got it, until the owner is known to rely on it: it asked again."""


class Waiter(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One who waits; named by the position of its acquire, which is also its ticket."""

    owner: str
    shared: bool
    ttl_ms: int


class Released(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last release since the last grant: a retry of it finds out that it was done."""

    owner: str
    token: int
    forgotten_ms: int
    """In elapsed time: from this millisecond on nobody remembers it."""


class LockRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A lock's own row."""

    exclusive: Hold | None = None
    shared: Ends = EMPTY
    queue: Ends = EMPTY
    released: Released | None = None
    timer_ms: int = 0
    """When its timer is due, in elapsed time, 0 when it has none. That is never later than the end
    of what it is for, the exclusive hold and the release, and often earlier: then it is moved."""

    @property
    def held(self) -> bool:
        return self.exclusive is not None or self.shared.count > 0


_encode: Final = msgspec.msgpack.Encoder().encode
_locks: Final = msgspec.msgpack.Decoder(LockRow)
_holds: Final = msgspec.msgpack.Decoder(Hold)
_waiters: Final = msgspec.msgpack.Decoder(Waiter)

encode_lock: Final = _encode
encode_hold: Final = _encode
encode_waiter: Final = _encode
decode_lock: Final = _locks.decode
decode_hold: Final = _holds.decode
decode_waiter: Final = _waiters.decode


class LockStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A lock as a query returns it."""

    name: str
    holders: tuple[LockHolder, ...]
    """In the order of their grants; a part of them when there are many."""
    holder_count: int
    waiters: tuple[Waiter, ...] = ()
    """In the order of their turns; a part of them when there are many."""
    waiter_count: int


def key_of(name: str) -> bytes | None:
    """Return the name as it stands in keys, None for one that no lock can have."""
    return keys.terminated(name) if is_name(name) else None


def is_name(name: str) -> bool:
    """Tell whether a lock, or an owner, can be called so."""
    return 0 < len(name) <= GREATEST_NAME_BYTES and len(name.encode()) <= GREATEST_NAME_BYTES


def mode_of(held: Hold | Waiter) -> str:
    return SHARED if held.shared else EXCLUSIVE


def longest_hold(reader: Reader, lock_key: bytes, row: LockRow) -> Hold | None:
    """Return the hold that was granted first."""
    if row.exclusive is not None:
        return row.exclusive
    return hold_with(reader, lock_key, row.shared.first) if row.shared.count else None


def hold_with(reader: Reader, lock_key: bytes, packed_token: bytes) -> Hold | None:
    """Return the shared hold with a token."""
    content = linked_rows.get(reader, keys.LOCK_SHARED + lock_key, packed_token)
    return None if content is None else decode_hold(content)


def get_lock(reader: Reader, name: str, *, limit: int) -> LockStatus:
    """Return who holds a lock and who waits for it, at most `limit` of each.

    A lock that nobody ever asked for is free like any other.
    """
    lock_key = key_of(name)
    stored = None if lock_key is None else reader.get(keys.LOCK + lock_key)
    if lock_key is None or stored is None:
        return LockStatus(name=name, holders=(), holder_count=0, waiter_count=0)
    row = decode_lock(stored)
    waiting = linked_rows.scan(reader, keys.LOCK_QUEUE + lock_key, limit=limit)
    holds = [] if row.exclusive is None else [row.exclusive]
    holds += [
        decode_hold(content)
        for _, content in linked_rows.scan(reader, keys.LOCK_SHARED + lock_key, limit=limit)
    ]
    return LockStatus(
        name=name,
        holders=_holders(reader, holds),
        holder_count=row.shared.count or len(holds),
        waiters=tuple([decode_waiter(content) for _, content in waiting]),
        waiter_count=row.queue.count,
    )


def list_locks(
    reader: Reader, *, cursor: str | None, limit: int
) -> tuple[list[LockStatus], str | None]:
    """Return a page of the locks that are held, in order of name, and the cursor of the next page.

    Each with the one who has held it longest, and without those who wait. A page that looked at
    `GREATEST_EXAMINED` locks ends there, so it may be short, even empty, and not the last.

    Raises:
        InvalidCursorError
    """
    start = keys.LOCK
    if cursor is not None:
        start += paging.decode_cursor(cursor) + b"\0"
    stored = reader.scan(start, keys.stop_of(keys.LOCK), limit=GREATEST_EXAMINED + 1)
    items: list[LockStatus] = []
    for count, (key, value) in enumerate(stored):
        if count == GREATEST_EXAMINED or len(items) == limit:
            last_examined, _ = stored[count - 1]
            return items, paging.encode_cursor(last_examined[len(keys.LOCK) :])
        row = decode_lock(value)
        lock_key = key[len(keys.LOCK) :]
        hold = longest_hold(reader, lock_key, row)
        if hold is not None:
            items.append(
                LockStatus(
                    name=keys.name_of(lock_key),
                    holders=_holders(reader, [hold]),
                    holder_count=row.shared.count or 1,
                    waiter_count=row.queue.count,
                )
            )
    return items, None


def is_current(reader: Reader, name: str, token: int) -> bool:
    """Tell whether a fencing token is that of a lease of this lock which is not over."""
    lock_key = key_of(name)
    stored = None if lock_key is None else reader.get(keys.LOCK + lock_key)
    if lock_key is None or stored is None or not 0 <= token <= keys.GREATEST_NUMBER:
        return False
    hold = decode_lock(stored).exclusive
    if hold is None:
        hold = hold_with(reader, lock_key, keys.pack_number(token))
    return (
        hold is not None and hold.token == token and hold.expires_ms > load_state(reader).elapsed_ms
    )


def _holders(reader: Reader, holds: list[Hold]) -> tuple[LockHolder, ...]:
    state = load_state(reader)
    return tuple([holder_of(hold, state.wall_ms - state.elapsed_ms) for hold in holds])


def holder_of(hold: Hold, wall_minus_elapsed_ms: int) -> LockHolder:
    return LockHolder(
        owner=hold.owner,
        mode=mode_of(hold),
        fencing_token=hold.token,
        expires_at_ms=hold.expires_ms + wall_minus_elapsed_ms,
    )
