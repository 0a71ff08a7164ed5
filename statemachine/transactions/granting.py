"""Gives rows that have become free to whoever waits for them, and lets nobody wait in a circle.

One thing leads to the next: who is given rows may be what others wait for, who is refused leaves
its place to others. So what is to be done stands in a list, which is worked off one by one, however
long such a chain becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from statemachine.outcomes import Rejected
from statemachine.positions import Position
from statemachine.transactions.deadlocks import TOO_MANY_WAIT, Deadlocks, deadlock
from statemachine.transactions.row_locks import RowLocks, Wait

Settle = Callable[[Position, Wait, Rejected | None, int], None]
"""Answers who waited at a ticket, at a place in the log: refused, or, with None, given its rows,
which are to be taken then. The ticket stands in no queue any more."""


class Granting:
    """What follows when rows become free, or a transaction changes that waits for some."""

    __slots__ = ("_busy", "_deadlocks", "_freed", "_locks", "_settle", "_unsettled", "_youngest")

    def __init__(
        self,
        locks: RowLocks,
        deadlocks: Deadlocks,
        settle: Settle,
        youngest: Callable[[Sequence[str]], str],
    ) -> None:
        self._locks = locks
        self._deadlocks = deadlocks
        self._settle = settle
        self._youngest = youngest
        self._freed: list[bytes] = []
        self._unsettled: dict[str, None] = {}
        """Transactions whose waits are to be looked at."""
        self._busy = False

    def free(self, names: Sequence[bytes], place: int) -> None:
        """Give rows whose holders or waiters have become fewer to whoever comes next."""
        self._freed += names
        self._work(place)

    def look_at(self, xid: str, place: int) -> None:
        """Look at a transaction that was given what others wait for; or lost a hold or a place.

        Others of its own waits may be over with it, and it may have closed a circle.
        """
        self._unsettled[xid] = None
        self._work(place)

    def refuse(self, xid: str, place: int, outcome: Rejected | None = None) -> None:
        """End all waits of a transaction; without `outcome`, because they are a deadlock.

        Others come after that, not one by one: the end of the first may be what lets the second be
        granted.
        """
        names: list[bytes] = []
        for ticket in self._locks.tickets_of(xid):
            wait = self._locks.wait(ticket)
            conflict = self._locks.conflict(xid, wait.locks, ticket)
            self._locks.withdraw(ticket)
            names += self._locks.names_of(wait)
            lock = wait.locks[0] if conflict is None else conflict.lock
            self._settle(ticket, wait, outcome or deadlock(lock), place)
        self.free(names, place)

    def _work(self, place: int) -> None:
        if self._busy:
            return
        self._busy = True
        while self._freed or self._unsettled:
            if self._freed:
                names, self._freed = self._freed, []
                for ticket, wait in self._locks.grantable(names):
                    self._grant(ticket, wait, place)
            else:
                xid = next(iter(self._unsettled))
                del self._unsettled[xid]
                self._look(xid, place)
        self._busy = False

    def _grant(self, ticket: Position, wait: Wait, place: int) -> None:
        self._locks.withdraw(ticket)
        self._settle(ticket, wait, None, place)

    def _look(self, xid: str, place: int) -> None:
        tickets = self._locks.tickets_of(xid)
        for ticket in tickets:
            wait = self._locks.wait(ticket)
            if self._locks.conflict(xid, wait.locks, ticket) is None:
                self._grant(ticket, wait, place)
                self._unsettled[xid] = None
                return
        circle = self._deadlocks.circle(xid) if tickets else []
        if circle is None:
            self.refuse(xid, place, TOO_MANY_WAIT)
        elif circle:
            self.refuse(self._youngest(circle), place)
            self._unsettled[xid] = None
