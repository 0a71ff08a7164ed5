"""Row locks under any sequence of requests: their rules hold, and nobody waits in a circle.

What a deadlock is, is said here without a graph: some wait for rows that they would not get though
everybody else ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from statemachine.outcomes import Rejected
from statemachine.positions import Position
from statemachine.transactions import deadlocks
from statemachine.transactions.granting import Granting
from statemachine.transactions.row_locks import RowLock, Wait, lock_name
from tests.statemachine.lock_table import NOW_MS, Table, row

EVERYBODY = "abcde"
XIDS = st.sampled_from(EVERYBODY)
ROWS = st.lists(
    st.builds(
        lambda key, exclusive: row(key, exclusive=exclusive), st.integers(1, 3), st.booleans()
    ),
    min_size=1,
    max_size=3,
)
GREATEST_WAITS = 2
ENOUGH = deadlocks.GREATEST_READ


def deadlocked(table: Table) -> list[str]:
    """Return who could not have all its rows though everybody ended who is not returned."""
    left = [xid for xid in EVERYBODY if table.locks.tickets_of(xid)]
    while free := next((xid for xid in left if gets_all(table, xid, left)), None):
        left.remove(free)
    return left


def gets_all(table: Table, xid: str, left: Sequence[str]) -> bool:
    """Whether a transaction would get all that it waits for if only those in `left` were there."""
    locks = Table(table).locks
    for other in EVERYBODY:
        if other not in left:
            for ticket in locks.tickets_of(other):
                locks.withdraw(ticket)
            locks.release(other, 1)
    while given := next(
        (
            ticket
            for ticket in locks.tickets_of(xid)
            if locks.conflict(xid, locks.wait(ticket).locks, ticket) is None
        ),
        None,
    ):
        locks.take(xid, 1, locks.withdraw(given).locks, NOW_MS)
    return not locks.tickets_of(xid)


def waiting_too(table: Table, xid: str, wanted: Sequence[RowLock]) -> Table:
    """Return what the table would be if `xid` waited as well."""
    table = Table(table)
    table.wait(xid, *wanted)
    return table


class Followed(Table):
    """Keeps in its own words who holds and who waits for what."""

    def __init__(self) -> None:
        super().__init__()
        self.grants = Granting(self.locks, self.deadlocks, self.settle, self.victim)
        self.held: dict[tuple[str, int], set[bool]] = {}
        """By transaction and key: whether it got the row shared, exclusively, or one by one."""
        self.waiting: dict[Position, Wait] = {}

    def victim(self, circle: Sequence[str]) -> str:
        assert set(circle) <= set(deadlocked(self))
        return max(circle)

    def got(self, xid: str, wanted: Sequence[RowLock]) -> None:
        for lock in wanted:
            modes = self.held.setdefault((xid, key_of(lock)), set())
            if True not in modes:
                modes.add(lock.exclusive)

    def settle(
        self, ticket: Position, wait: Wait, refused: Rejected | None, place: int = 0
    ) -> None:
        del self.waiting[ticket]
        if refused is None:
            self.got(wait.xid, wait.locks)
        super().settle(ticket, wait, refused, place)


class RowLocksAgainstTheirRules(RuleBasedStateMachine):
    @initialize(reads=st.one_of(st.just(ENOUGH), st.integers(0, 12)))
    def begin(self, reads: int) -> None:
        """A search of few reads says less often what it found, and never what is not so."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(deadlocks, "GREATEST_READ", reads)
        self.is_exact = reads == ENOUGH
        self.table = Followed()
        self.was_changed = False

    # --- what is asked

    @rule(xid=XIDS, wanted=ROWS)
    def ask(self, xid: str, wanted: list[RowLock]) -> None:
        table = self.table
        if len(table.locks.tickets_of(xid)) >= GREATEST_WAITS:
            return
        if table.locks.conflict(xid, wanted) is None:
            table.got(xid, wanted)
            if table.locks.take(xid, 1, wanted, NOW_MS):
                table.grants.look_at(xid, 0)
            self.was_changed = True
            return
        circle = table.deadlocks.circle(xid, wanted)
        if circle:
            assert circle[0] == xid
            assert set(circle) <= set(deadlocked(waiting_too(table, xid, wanted)))
        elif circle is None:
            assert not self.is_exact
        else:
            ticket = table.wait(xid, *wanted)
            table.waiting[ticket] = Wait(xid, tuple(wanted))
            self.was_changed = True

    @rule(xid=XIDS)
    def end(self, xid: str) -> None:
        table = self.table
        while tickets := table.locks.tickets_of(xid):
            del table.waiting[tickets[0]]
            table.withdraw(tickets[0])
        table.held = {key: held for key, held in table.held.items() if key[0] != xid}
        table.release(xid)
        self.was_changed = True

    @precondition(lambda self: self.table.held)
    @rule(xid=XIDS, wanted=ROWS)
    def give_back(self, xid: str, wanted: list[RowLock]) -> None:
        """What was got in two steps is given back in two."""
        table = self.table
        expected: dict[bytes, None] = {}
        for lock in wanted:
            key = (xid, key_of(lock))
            modes = table.held.get(key, set())
            if lock.exclusive in modes:
                modes.remove(lock.exclusive)
                expected[lock_name(lock)] = None
                if not modes:
                    del table.held[key]
        changed = table.locks.give_back(xid, 1, wanted)
        assert changed == list(expected)
        table.grants.free(changed, 0)
        table.grants.look_at(xid, 0)
        self.was_changed = True

    @precondition(lambda self: self.table.waiting)
    @rule(which=st.integers(0, 9))
    def give_up(self, which: int) -> None:
        table = self.table
        ticket = list(table.waiting)[which % len(table.waiting)]
        del table.waiting[ticket]
        table.withdraw(ticket)
        self.was_changed = True

    # --- what always holds

    @invariant()
    def exclusive_means_alone(self) -> None:
        for (xid, key), modes in self.table.held.items():
            if True in modes:
                assert {other for other, at in self.table.held if at == key} == {xid}

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Whoever waits is kept from a row by a holder, or by somebody that came earlier."""
        for ticket, wait in self.table.waiting.items():
            assert any(self.is_hindered(ticket, wait, lock) for lock in wait.locks)

    def is_hindered(self, ticket: Position, wait: Wait, lock: RowLock) -> bool:
        key = key_of(lock)
        held = [
            True in modes
            for (xid, at), modes in self.table.held.items()
            if at == key and xid != wait.xid
        ]
        earlier = [
            other.exclusive
            for at, each in self.table.waiting.items()
            for other in each.locks
            if at < ticket and each.xid != wait.xid and other.key == lock.key
        ]
        return any(exclusive or lock.exclusive for exclusive in (*held, *earlier))

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        if self.was_changed and self.table.waiting:
            assert deadlocked(self.table) == []
        self.was_changed = False

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        for xid in EVERYBODY:
            self.end(xid)
        self.table.writes.flush()
        self.patch.undo()
        assert not self.table.waiting
        assert list(self.table.store.items()) == []


def key_of(lock: RowLock) -> int:
    return int(str(lock.key[0]))


TestRowLocksAgainstTheirRules = RowLocksAgainstTheirRules.TestCase
TestRowLocksAgainstTheirRules.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    # To make a failure smaller takes minutes: the test would end at its limit, and show none.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
