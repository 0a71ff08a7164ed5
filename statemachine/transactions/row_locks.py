"""Global row locks: which global transaction holds which rows, and who waits for them.

A lock belongs to a branch and counts for its whole transaction: what one branch holds hinders no
other branch of it. Exclusive excludes all others, shared excludes exclusive; an only holder may
upgrade. A request names all its rows at once and gets all of them or none.

Who cannot have its rows may wait. Waiters stand in a queue for each row, in the order in which they
came, and are granted when all their rows are free and nobody that came earlier wants one of them;
so nobody starves. Who waits in a circle is found by `deadlocks`.

Rows of the state, after `keys.ROW_LOCK` and its likes:

    row lock      lock            -> who holds it, and how many wait for it
    owner         xid\0  branch  number -> locks that a branch took together; without gaps from 0
    queue         lock  ticket    -> whether it is wanted exclusively, and the xid that wants it
    wait          ticket          -> what it waits for
    waiting xid   xid\0  ticket   -> nothing
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from statemachine import keys
from statemachine.paging import NOT_OURS, InvalidCursorError
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer

GREATEST_HOLDERS: Final = 1_000
"""How many branches may share a row."""

GREATEST_QUEUE: Final = 10_000
"""How many may wait for one row."""

GREATEST_HELD: Final = 5_000_000
"""How many rows may be locked at once, each counted for each branch that shares it."""

GREATEST_TAKINGS: Final = 10_000
"""How often one branch may take rows."""

_GREATEST_PLAIN_BYTES: Final = 200
"""A longer lock key is stored as its digest: keys of the state are short."""

_SHARED: Final = b"\x00"
_EXCLUSIVE: Final = b"\x01"
_PLAIN: Final = b"\x00"
_DIGESTED: Final = b"\x01"
_TICKET_BYTES: Final = 12
_NUMBER_BYTES: Final = 8
_FIRST: Final = keys.pack_number(0)
_SECOND: Final = keys.pack_number(1)
_PLACE: Final = struct.Struct(">I")
_GREATEST_PAGE: Final = 1_000

KeyPart = int | str | bool | None
"""A part of a primary key. Other types are texts that the resource manager made of them, tagged."""


class RowLock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A row that is wanted."""

    resource_id: str
    table: str
    key: tuple[KeyPart, ...]
    exclusive: bool


class Hold(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One branch's share of a lock."""

    xid: str
    branch_id: int
    exclusive: bool
    since_ms: int
    """In wall time."""
    was_shared: bool = False
    """It is exclusive now, and had been shared before."""


class LockRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A lock that is held or wanted, as it is stored."""

    resource_id: str
    table: str
    key: tuple[KeyPart, ...]
    holds: tuple[Hold, ...] = ()
    waiters: int = 0


class Wait(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who waits for rows."""

    xid: str
    locks: tuple[RowLock, ...]
    branch_id: int = 0
    """Whose they will be; 0: of a branch that is registered with them."""
    registration: bytes = b""
    """The branch to be registered, encoded."""


class Queued(NamedTuple):
    """A place in the queue of a row."""

    ticket: Position
    xid: str
    exclusive: bool


class Conflict(msgspec.Struct, frozen=True):
    """Who has, or wanted earlier, a row that was asked for."""

    lock: RowLock
    hold: Hold | None
    """None when nobody holds it and another waits for it."""


_encode: Final = msgspec.msgpack.Encoder().encode
_lock_rows: Final = msgspec.msgpack.Decoder(LockRow)
_waits: Final = msgspec.msgpack.Decoder(Wait)
_names: Final = msgspec.msgpack.Decoder(list[bytes])


def lock_name(lock: RowLock) -> bytes:
    """Return what identifies the row: no name is the beginning of another one.

    The parts are told apart by their types and lengths, never by a separator.
    """
    resource = resource_prefix(lock.resource_id)
    rest = keys.terminated(lock.table) + _encode(lock.key)
    if len(resource) + len(rest) <= _GREATEST_PLAIN_BYTES:
        return resource + _PLAIN + rest
    return resource + _DIGESTED + blake2b(rest, digest_size=32).digest()


def resource_prefix(resource_id: str) -> bytes:
    """Return what the names of a resource's rows begin with."""
    resource = keys.terminated(resource_id)
    if len(resource) > _GREATEST_PLAIN_BYTES:
        return blake2b(resource, digest_size=32).digest().hex().encode() + b"\0"
    return resource


class RowLocks:
    """The row locks of the state."""

    __slots__ = ("_named", "_names", "_rows", "_state", "_writes")

    def __init__(self, state: MachineState, writes: WriteBuffer) -> None:
        self._state = state
        self._writes = writes
        self._named: Sequence[RowLock] = ()
        """The last request whose rows were named, and their names: it is looked at a few times."""
        self._names: list[bytes] = []
        self._rows: dict[bytes, LockRow | None] = {}
        """Rows that the present entry has looked at, as they are now."""

    def end_entry(self) -> None:
        """Let go of what was kept for the commands of one entry."""
        self._rows.clear()
        self._named, self._names = (), []

    # --- taking

    def conflict(
        self, xid: str, locks: Sequence[RowLock], ticket: Position | None = None
    ) -> Conflict | None:
        """Return the first row that `xid` cannot have now, or None when it can have all.

        `ticket` is its place in the queues, when it stands there.
        """
        for name, lock in zip(self._named_as(locks), locks, strict=True):
            found = self._conflict(xid, name, lock, ticket)
            if found is not None:
                return found
        return None

    def _named_as(self, locks: Sequence[RowLock]) -> list[bytes]:
        """Return the names of wanted rows, in their order."""
        if locks is not self._named:
            self._named, self._names = locks, [lock_name(lock) for lock in locks]
        return self._names

    def _conflict(
        self, xid: str, name: bytes, lock: RowLock, ticket: Position | None
    ) -> Conflict | None:
        """`ticket` is the asker's own place in the queue: it counts only whoever stands before."""
        row = self.row(name)
        if row is None:
            return None
        own = False
        for hold in row.holds:
            if hold.xid == xid:
                own = True
            elif hold.exclusive or lock.exclusive:
                return Conflict(lock, hold)
        if own:
            # Waiters behind its own lock wait for it: to queue behind them would be a deadlock.
            return None
        if len(row.holds) >= GREATEST_HOLDERS:
            return Conflict(lock, row.holds[0])
        for waiter in self.queue(name) if row.waiters else ():
            if ticket is not None and waiter.ticket >= ticket:
                break
            if (waiter.exclusive or lock.exclusive) and waiter.xid != xid:
                return Conflict(lock, None)
        return None

    def take(self, xid: str, branch_id: int, locks: Sequence[RowLock], now_ms: int) -> bool:
        """Give the rows to a branch; `conflict` must have found none.

        Returns:
            Whether somebody waits for one of them, perhaps for `xid` only from now on.
        """
        taken: list[bytes] = []
        waited_for = False
        for name, lock in zip(self._named_as(locks), locks, strict=True):
            row = self.row(name)
            if row is None:
                taken.append(name)
                only = (Hold(xid, branch_id, lock.exclusive, now_ms),)
                self._put(name, LockRow(lock.resource_id, lock.table, lock.key, only))
                continue
            mine = _hold_of(row, xid, branch_id)
            if mine is None:
                taken.append(name)
                hold = Hold(xid, branch_id, lock.exclusive, now_ms)
            elif lock.exclusive and not mine.exclusive:
                hold = Hold(xid, branch_id, True, mine.since_ms, was_shared=True)
            else:
                continue
            waited_for = waited_for or row.waiters > 0
            others = tuple(each for each in row.holds if each is not mine)
            self._put(name, msgspec.structs.replace(row, holds=(*others, hold)))
        if taken:
            self._writes.put(self._unused(xid, branch_id), _encode(taken))
            self._state.row_lock_count += len(taken)
        return waited_for

    def refusal(self, xid: str, branch_id: int, locks: Sequence[RowLock]) -> str | None:
        """Return which bound the request would break, None when it may be tried."""
        if self._state.row_lock_count + len(locks) > GREATEST_HELD:
            return f"{GREATEST_HELD} rows are locked, the most there may be."
        last = keys.pack_number(GREATEST_TAKINGS - 1)
        if branch_id and self._writes.get(_owner(xid, branch_id) + last) is not None:
            return f"The branch has taken rows {GREATEST_TAKINGS} times, the most there may be."
        return None

    # --- waiting

    def enqueue(self, ticket: Position, wait: Wait) -> None:
        """Let a request stand in the queue of each of its rows."""
        packed = keys.pack_event(ticket.entry, ticket.place)
        self._writes.put(keys.ROW_LOCK_WAIT + packed, _encode(wait))
        self._writes.put(keys.ROW_LOCK_WAITING_XID + keys.terminated(wait.xid) + packed, b"")
        for name, lock in wanted(wait).items():
            value = (_EXCLUSIVE if lock.exclusive else _SHARED) + wait.xid.encode()
            self._writes.put(keys.ROW_LOCK_QUEUE + name + packed, value)
            row = self.row(name) or _unheld(lock)
            self._put(name, msgspec.structs.replace(row, waiters=row.waiters + 1))
        self._state.row_lock_wait_count += 1

    def queue_is_full(self, locks: Sequence[RowLock]) -> bool:
        """Tell whether one of the rows has as many waiters as there may be."""
        rows = [self.row(name) for name in self._named_as(locks)]
        return any(row is not None and row.waiters >= GREATEST_QUEUE for row in rows)

    def withdraw(self, ticket: Position) -> Wait:
        """Let a request leave its queues, because it was granted or its wait has ended."""
        wait = self.wait(ticket)
        packed = keys.pack_event(ticket.entry, ticket.place)
        self._writes.delete(keys.ROW_LOCK_WAIT + packed)
        self._writes.delete(keys.ROW_LOCK_WAITING_XID + keys.terminated(wait.xid) + packed)
        for name in wanted(wait):
            self._writes.delete(keys.ROW_LOCK_QUEUE + name + packed)
            row = self.row(name)
            assert row is not None, "a row that is waited for has a row"
            self._put(name, msgspec.structs.replace(row, waiters=row.waiters - 1))
        self._state.row_lock_wait_count -= 1
        return wait

    def tickets_of(self, xid: str) -> list[Position]:
        """Return what a transaction waits for, in the order in which it began to."""
        if not self._state.row_lock_wait_count:
            return []
        prefix = keys.ROW_LOCK_WAITING_XID + keys.terminated(xid)
        rows = self._writes.scan(prefix, _after(prefix), limit=_GREATEST_PAGE)
        return [_ticket(key) for key, _ in rows]

    def grantable(self, names: Sequence[bytes]) -> Iterator[tuple[Position, Wait]]:
        """Yield, one after the other, requests that can have all their rows now.

        `names` are the rows whose holders or waiters have become fewer. The caller takes the rows
        of each request and withdraws it before it goes on.
        """
        for name in dict.fromkeys(names) if self._state.row_lock_wait_count else ():
            row = self.row(name)
            if row is None or not row.waiters:
                continue
            after = b""
            while True:
                found = self._next_in_queue(name, after)
                if found is None:
                    break
                ticket = found.ticket
                after = keys.pack_event(ticket.entry, ticket.place) + b"\0"
                wait = self.wait(ticket)
                if self.conflict(wait.xid, wait.locks, ticket) is None:
                    yield ticket, wait
                elif found.exclusive:
                    # Nobody behind it can have this row before it, but who has it already, and
                    # another request of the same transaction.
                    yield from self._passing(name, found)
                    break

    def _passing(self, name: bytes, blocked: Queued) -> Iterator[tuple[Position, Wait]]:
        """Yield requests that can have their rows though they stand behind one that cannot."""
        row = self.row(name)
        holders = [] if row is None else list(dict.fromkeys([hold.xid for hold in row.holds]))
        others = holders if len(holders) == 1 else []
        for xid in dict.fromkeys((blocked.xid, *others)):
            for ticket in self.tickets_of(xid):
                if ticket > blocked.ticket and self.is_waiting(ticket):
                    wait = self.wait(ticket)
                    if name in wanted(wait) and self.conflict(xid, wait.locks, ticket) is None:
                        yield ticket, wait

    def names_of(self, wait: Wait) -> list[bytes]:
        """Return the names of the rows that are waited for."""
        return list(wanted(wait))

    # --- giving back

    def release(self, xid: str, branch_id: int) -> list[bytes]:
        """Take all rows from a branch; return their names."""
        released: list[bytes] = []
        for key, names in self._owned(xid, branch_id):
            self._writes.delete(key)
            released += names
        for name in released:
            self._drop(name, xid, branch_id)
        return released

    def give_back(self, xid: str, branch_id: int, locks: Sequence[RowLock]) -> list[bytes]:
        """Undo requests of a branch, as far as it holds what they brought; return the rows' names.

        What had been shared before it became exclusive is shared again. What is held in another
        mode than the one that is named was not brought by such a request, and stays; so to say it
        again changes nothing.
        """
        changed: dict[bytes, None] = {}
        dropped: dict[bytes, None] = {}
        for lock in locks:
            name = lock_name(lock)
            row = self.row(name)
            mine = None if row is None else _hold_of(row, xid, branch_id)
            if row is None or mine is None:
                continue
            if lock.exclusive != mine.exclusive and not mine.was_shared:
                continue
            changed[name] = None
            if not mine.was_shared:
                dropped[name] = None
                self._drop(name, xid, branch_id)
                continue
            left = msgspec.structs.replace(mine, exclusive=not lock.exclusive, was_shared=False)
            others = tuple(each for each in row.holds if each is not mine)
            self._put(name, msgspec.structs.replace(row, holds=(*others, left)))
        if dropped:
            self._disown(xid, branch_id, dropped)
        return list(changed)

    def _disown(self, xid: str, branch_id: int, dropped: Container[bytes]) -> None:
        """Take names from the rows that say what a branch holds."""
        left = [
            (key, names, [name for name in names if name not in dropped])
            for key, names in self._owned(xid, branch_id)
        ]
        # An empty row before one that is not stays, so that there are no gaps.
        while left and not left[-1][2]:
            self._writes.delete(left.pop()[0])
        for key, names, kept in left:
            if len(kept) < len(names):
                self._writes.put(key, _encode(kept))

    def _drop(self, name: bytes, xid: str, branch_id: int) -> None:
        row = self.row(name)
        assert row is not None, "what an owner's row names is held"
        self._state.row_lock_count -= 1
        if len(row.holds) == 1 and not row.waiters:
            self._rows[name] = None
            self._writes.delete(keys.ROW_LOCK + name)
            return
        holds = tuple(h for h in row.holds if (h.xid, h.branch_id) != (xid, branch_id))
        self._put(name, msgspec.structs.replace(row, holds=holds))

    # --- rows

    def row(self, name: bytes) -> LockRow | None:
        """Return who holds a row, and how many wait for it."""
        rows = self._rows
        if name in rows:
            return rows[name]
        stored = self._writes.get(keys.ROW_LOCK + name)
        row = rows[name] = None if stored is None else _lock_rows.decode(stored)
        return row

    def _put(self, name: bytes, row: LockRow) -> None:
        if row.holds or row.waiters:
            self._rows[name] = row
            self._writes.put(keys.ROW_LOCK + name, _encode(row))
        else:
            self._rows[name] = None
            self._writes.delete(keys.ROW_LOCK + name)

    def _owned(self, xid: str, branch_id: int) -> list[tuple[bytes, list[bytes]]]:
        """Return key and names of each row that says what the branch holds."""
        prefix = _owner(xid, branch_id)
        first = self._writes.get(prefix + _FIRST)
        if first is None:
            return []
        # Most branches take rows once. A scan costs some times as much as two reads.
        if self._writes.get(prefix + _SECOND) is None:
            return [(prefix + _FIRST, _names.decode(first))]
        rows = self._writes.scan(prefix, prefix + b"\x80", limit=GREATEST_TAKINGS)
        return [(key, _names.decode(names)) for key, names in rows]

    def _unused(self, xid: str, branch_id: int) -> bytes:
        """Return the key of a row that may say what the branch takes now.

        Each taking has a row of its own: a branch that takes rows one by one, statement by
        statement, would write one row of all of them again and again.
        """
        prefix = _owner(xid, branch_id)
        for unused in (prefix + _FIRST, prefix + _SECOND):
            if self._writes.get(unused) is None:
                return unused
        ((last, _),) = self._writes.scan(prefix, prefix + b"\x80", limit=1, reverse=True)
        return prefix + keys.pack_number(int.from_bytes(last[len(prefix) :]) + 1)

    def wait(self, ticket: Position) -> Wait:
        """Return what is waited for."""
        row = self._writes.get(_wait_key(ticket))
        assert row is not None, "whoever stands in a queue waits"
        return _waits.decode(row)

    def is_waiting(self, ticket: Position) -> bool:
        """Whether the request of a ticket still waits."""
        return self._writes.get(_wait_key(ticket)) is not None

    def queue(self, name: bytes) -> Iterator[Queued]:
        """Yield whoever waits for a row, the first one first."""
        after = b""
        while found := self._next_in_queue(name, after):
            yield found
            after = keys.pack_event(found.ticket.entry, found.ticket.place) + b"\0"

    def queue_before(self, name: bytes, ticket: Position | None) -> Iterator[Queued]:
        """Yield whoever stands before a ticket, or all, the last one first."""
        prefix = keys.ROW_LOCK_QUEUE + name
        stop = _after(prefix)
        if ticket is not None:
            stop = prefix + keys.pack_event(ticket.entry, ticket.place)
        while rows := self._writes.scan(prefix, stop, limit=1, reverse=True):
            stop = rows[0][0]
            yield _queued(*rows[0])

    def _next_in_queue(self, name: bytes, after: bytes) -> Queued | None:
        prefix = keys.ROW_LOCK_QUEUE + name
        rows = self._writes.scan(prefix + after, _after(prefix), limit=1)
        return _queued(*rows[0]) if rows else None

    def names_held(self, xid: str) -> Iterator[bytes]:
        """Yield the names of all rows that a transaction holds, twice when two branches do."""
        return (name for _, name in rows_held(self._writes, xid, None))


def holder_of(reader: Reader, lock: RowLock, xid: str) -> Hold | None:
    """Return who would keep `xid` from the row at this moment, or None."""
    row = reader.get(keys.ROW_LOCK + lock_name(lock))
    if row is None:
        return None
    for hold in _lock_rows.decode(row).holds:
        if hold.xid != xid and (hold.exclusive or lock.exclusive):
            return hold
    return None


def get_lock_row(reader: Reader, key: bytes) -> LockRow | None:
    """Return who holds the row that is stored at a key, and how many wait for it."""
    row = reader.get(key)
    return None if row is None else _lock_rows.decode(row)


def rows_held(reader: Reader, xid: str, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows that a transaction holds, each with a place from which to go on.

    A row that two branches hold comes twice.
    """
    prefix = keys.ROW_LOCK_OWNER + keys.terminated(xid)
    start, passed = prefix, 0
    if after is not None and len(after) == 2 * _NUMBER_BYTES + _PLACE.size:
        start += after[: 2 * _NUMBER_BYTES]
        (passed,) = _PLACE.unpack(after[2 * _NUMBER_BYTES :])
    elif after is not None:
        raise InvalidCursorError(NOT_OURS)
    while rows := reader.scan(start, _after(prefix), limit=1):
        key, names = rows[0]
        for place, name in enumerate(_names.decode(names), 1):
            if place > passed:
                yield key[len(prefix) :] + _PLACE.pack(place), name
        start, passed = key + b"\0", 0


def _hold_of(row: LockRow, xid: str, branch_id: int) -> Hold | None:
    return next((h for h in row.holds if (h.xid, h.branch_id) == (xid, branch_id)), None)


def _unheld(lock: RowLock) -> LockRow:
    return LockRow(lock.resource_id, lock.table, lock.key)


def wanted(wait: Wait) -> dict[bytes, RowLock]:
    """Return each wanted row once, by name, exclusively when it is wanted so at all."""
    found: dict[bytes, RowLock] = {}
    for lock in wait.locks:
        name = lock_name(lock)
        if name not in found or lock.exclusive:
            found[name] = lock
    return found


def _owner(xid: str, branch_id: int) -> bytes:
    return keys.ROW_LOCK_OWNER + keys.terminated(xid) + keys.pack_number(branch_id)


def _wait_key(ticket: Position) -> bytes:
    return keys.ROW_LOCK_WAIT + keys.pack_event(ticket.entry, ticket.place)


def _queued(key: bytes, value: bytes) -> Queued:
    return Queued(_ticket(key), value[1:].decode(), value[:1] == _EXCLUSIVE)


def _ticket(key: bytes) -> Position:
    """Return the ticket at the end of a key."""
    return Position(*keys.unpack_event(key[-_TICKET_BYTES:]))


def _after(prefix: bytes) -> bytes:
    """Return the first key after all that begin with `prefix`, whatever it ends in."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))
