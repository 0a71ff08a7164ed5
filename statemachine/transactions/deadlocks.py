"""Deadlocks among row locks: transactions that wait for each other in a circle.

Who waits for whom stands in the rows of the locks, and nothing is kept beside them. A circle is
closed by a transaction that begins to wait; or, while it waits, is given what somebody else waits
for, or loses what let it pass others in a queue. So it is looked for then, and only through that
transaction; detection by path pushing (Knapp, 1987) needs no more than the graph, which is all in
one place here.

There are two ways to look, each exact when it comes to its end and each given up when it becomes
too long, since apply must not stall: along those who wait for the transaction, which are mostly
none, or few; and along those for whom it waits, which are many behind a row that all want. When
both are too long nobody knows, and the transaction must not wait. So no circle is ever left alone,
and all that a crowd costs is a refusal that may be tried again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from statemachine.outcomes import Rejected, RejectionCode
from statemachine.positions import Position
from statemachine.transactions.row_locks import LockRow, RowLock, RowLocks, lock_name, wanted

GREATEST_SEARCHED: Final = 1_000
"""Transactions that are looked at in one direction."""

GREATEST_READ: Final = 5_000
"""Locks, holders and places in queues that are looked at in one direction, those of the request
itself left out."""


TOO_MANY_WAIT: Final = Rejected(
    RejectionCode.LOCK_QUEUE_FULL,
    "So many wait for each other around the rows that nobody can tell in time whether this wait "
    "would be a deadlock. Try again later, or roll back.",
    retryable=True,
)


def deadlock(lock: RowLock) -> Rejected:
    """Return the answer to who must not wait for a row."""
    return Rejected(
        RejectionCode.DEADLOCK,
        "Transactions wait for each other's rows, and this one began last: it would have waited "
        f"for row {list(lock.key)} of {lock.table} in {lock.resource_id}. Roll it back and try "
        "again.",
        retryable=False,
    )


class Deadlocks:
    """The graph of who waits for whom."""

    __slots__ = ("_locks",)

    def __init__(self, locks: RowLocks) -> None:
        self._locks = locks

    def circle(self, xid: str, locks: Sequence[RowLock] = ()) -> list[str] | None:
        """Return the transactions of a circle that a wait of `xid` for `locks` would close.

        Each waits for the next and the last for the first, which is `xid`. Without `locks`: of one
        that its present waits close. Empty when there is none, None when that would take too long
        to tell.
        """
        if not self._may_be_waited_for(xid):
            return []
        try:
            goals = dict.fromkeys(self._goals(xid, locks))
        except _TooLongError:
            return None
        for search in (self._search_behind, self._search_ahead):
            try:
                return search(xid, goals)
            except _TooLongError:
                continue
        return None

    def _may_be_waited_for(self, xid: str) -> bool:
        try:
            return next(self._waiting_for(xid, _Reads(GREATEST_READ)), None) is not None
        except _TooLongError:
            return True

    def _goals(self, xid: str, locks: Sequence[RowLock]) -> Iterator[str]:
        """Yield for whom the transaction waits, or would."""
        reads = _Reads(GREATEST_READ + 2 * len(locks))
        if not locks:
            return self._waited_for(xid, reads)
        return (other for lock in locks for other in self._hinderers(xid, lock, None, reads))

    def _search_behind(self, xid: str, goals: dict[str, None]) -> list[str]:
        """Look for one of the goals among those who wait for `xid`, through whomever."""
        reads = _Reads(GREATEST_READ)
        found = _search([xid], goals, lambda each: self._waiting_for(each, reads))
        if found is None:
            return []
        goal, parents = found
        circle = [xid]
        while goal != xid:
            circle.append(goal)
            goal = parents[goal]
        return circle

    def _search_ahead(self, xid: str, goals: dict[str, None]) -> list[str]:
        """Look for `xid` among those for whom the goals wait, through whomever."""
        reads = _Reads(GREATEST_READ)
        found = _search(list(goals), {xid: None}, lambda each: self._waited_for(each, reads))
        if found is None:
            return []
        at, parents = found
        circle = [at]
        while parents[at] != at:
            at = parents[at]
            circle.append(at)
        return [xid, *reversed(circle[1:])]

    # --- whom a transaction waits for

    def _waited_for(self, xid: str, reads: _Reads) -> Iterator[str]:
        for ticket in self._locks.tickets_of(xid):
            locks = self._locks.wait(ticket).locks
            reads.count(len(locks))
            for lock in locks:
                yield from self._hinderers(xid, lock, ticket, reads)

    def _hinderers(
        self, xid: str, lock: RowLock, ticket: Position | None, reads: _Reads
    ) -> Iterator[str]:
        """Yield who keeps a transaction from a row: holders, and who stands before it.

        Where the transaction stands in the queue already, those before it are told of that place:
        once it has the row for that one, it passes all others. Whoever stands before the last that
        wants the row for itself alone is left out when that one waits for them: to know of it is
        enough.
        """
        name = lock_name(lock)
        row = self._locks.row(name)
        if row is None:
            return
        reads.count(len(row.holds))
        for hold in row.holds:
            if hold.xid != xid and (hold.exclusive or lock.exclusive):
                yield hold.xid
        if not row.waiters or _is_held_by(row, xid):
            return
        if self._stands_before(xid, name, ticket, reads):
            return
        for waiter in self._locks.queue_before(name, ticket):
            reads.count(1)
            if waiter.xid != xid and (waiter.exclusive or lock.exclusive):
                yield waiter.xid
                if (
                    waiter.exclusive
                    and not _is_held_by(row, waiter.xid)
                    and not self._stands_before(waiter.xid, name, waiter.ticket, reads)
                ):
                    return

    def _stands_before(self, xid: str, name: bytes, ticket: Position | None, reads: _Reads) -> bool:
        """Tell whether a transaction stands in a queue before one of its places, or at all."""
        for earlier in self._locks.tickets_of(xid):
            if ticket is not None and earlier >= ticket:
                return False
            wait = self._locks.wait(earlier)
            reads.count(len(wait.locks))
            if name in wanted(wait):
                return True
        return False

    # --- who waits for a transaction

    def _waiting_for(self, xid: str, reads: _Reads) -> Iterator[str]:
        for name in self._locks.names_held(xid):
            reads.count(1)
            row = self._locks.row(name)
            if row is None or not row.waiters:
                continue
            exclusive = any(hold.exclusive for hold in row.holds if hold.xid == xid)
            for waiter in self._locks.queue(name):
                reads.count(1)
                if waiter.xid != xid and (waiter.exclusive or exclusive):
                    yield waiter.xid
        for ticket in self._locks.tickets_of(xid):
            for name, lock in wanted(self._locks.wait(ticket)).items():
                reads.count(1)
                yield from self._behind(xid, name, ticket, lock.exclusive, reads)

    def _behind(
        self, xid: str, name: bytes, ticket: Position, exclusive: bool, reads: _Reads
    ) -> Iterator[str]:
        """Yield who waits for a row until one who stands at `ticket` has had it."""
        row = self._locks.row(name)
        assert row is not None, "a row that is waited for has a row"
        passed: dict[str, None] = {}
        for waiter in self._locks.queue(name):
            reads.count(1)
            if waiter.xid in passed:
                continue
            passed[waiter.xid] = None
            if (
                waiter.ticket > ticket
                and (waiter.exclusive or exclusive)
                and not _is_held_by(row, waiter.xid)
            ):
                yield waiter.xid


class _TooLongError(Exception):
    """A search has looked at more than it may."""


class _Reads:
    """Counts what a search reads."""

    __slots__ = ("_left",)

    def __init__(self, greatest: int) -> None:
        self._left = greatest

    def count(self, number: int) -> None:
        """Raises: _TooLongError"""
        self._left -= number
        if self._left < 0:
            raise _TooLongError


def _search(
    begin: Sequence[str], goals: dict[str, None], next_of: Callable[[str], Iterator[str]]
) -> tuple[str, dict[str, str]] | None:
    """Walk a graph, the nearest first; return a goal, and from where each was come to.

    Where it begins is come to from itself. None when no goal can be reached.

    Raises:
        _TooLongError
    """
    parents = {each: each for each in begin}
    pending = deque(begin)
    while pending:
        at = pending.popleft()
        for each in next_of(at):
            if each in goals and each not in parents:
                parents[each] = at
                return each, parents
            if each not in parents:
                if len(parents) >= GREATEST_SEARCHED:
                    raise _TooLongError
                parents[each] = at
                pending.append(each)
    return None


def _is_held_by(row: LockRow, xid: str) -> bool:
    return any(hold.xid == xid for hold in row.holds)
