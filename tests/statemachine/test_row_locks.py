"""Row locks: all or none, re-entrant for a transaction, fair, and free of deadlocks."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from statemachine.memory_store import MemoryStore
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.transactions.row_locks import (
    KeyPart,
    RowLock,
    RowLocks,
    Wait,
    holder_of,
    lock_name,
)
from statemachine.write_buffer import WriteBuffer

NOW_MS = 1_000


def row(key: KeyPart = 1, *, exclusive: bool = True, table: str = "t") -> RowLock:
    return RowLock("db", table, (key,), exclusive)


def shared(key: KeyPart = 1) -> RowLock:
    return row(key, exclusive=False)


class Table:
    """Row locks, and the tickets of whoever waits."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.writes = WriteBuffer(self.store)
        self.locks = RowLocks(MachineState(), self.writes)
        self._tickets = 0

    def take(self, xid: str, *wanted: RowLock, branch_id: int = 1) -> bool:
        if self.locks.conflict(xid, wanted) is not None:
            return False
        self.locks.take(xid, branch_id, wanted, NOW_MS)
        return True

    def wait(self, xid: str, *wanted: RowLock) -> Position:
        self._tickets += 1
        ticket = Position(self._tickets, 0)
        self.locks.enqueue(ticket, Wait(xid, wanted))
        self.writes.flush()
        return ticket

    def release(self, xid: str, branch_id: int = 1) -> list[str]:
        """Return who is granted by it, in order."""
        return self.grant(self.locks.release(xid, branch_id))

    def grant(self, names: Iterable[bytes]) -> list[str]:
        granted: list[str] = []
        for ticket, wait in self.locks.grantable(list(names)):
            self.locks.take(wait.xid, 1, wait.locks, NOW_MS)
            self.locks.withdraw(ticket)
            granted.append(wait.xid)
        self.writes.flush()
        return granted

    def withdraw(self, ticket: Position) -> list[str]:
        wait = self.locks.withdraw(ticket)
        return self.grant([lock_name(lock) for lock in wait.locks])


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.mark.parametrize(
    ("held", "wanted", "granted"),
    [
        (row(), row(), False),
        (row(), shared(), False),
        (shared(), row(), False),
        (shared(), shared(), True),
        (row(1), row(2), True),
        (row(1), row("1"), True),
        (row(table="t"), row(table="u"), True),
    ],
)
def test_what_excludes_what(table: Table, held: RowLock, wanted: RowLock, granted: bool) -> None:
    assert table.take("a", held)
    assert table.take("b", wanted) is granted


def test_all_rows_or_none(table: Table) -> None:
    table.take("a", row(2))
    assert not table.take("b", row(1), row(2), row(3))
    assert table.take("c", row(1), row(3))


def test_branches_of_one_transaction_do_not_hinder_each_other(table: Table) -> None:
    assert table.take("a", row(), branch_id=1)
    assert table.take("a", row(), branch_id=2)
    table.release("a", 1)
    assert not table.take("b", row())
    table.release("a", 2)
    assert table.take("b", row())


def test_an_only_sharer_upgrades_and_one_of_two_does_not(table: Table) -> None:
    table.take("a", shared())
    assert table.take("a", row())
    assert not table.take("b", shared())
    table.take("c", shared(2))
    table.take("d", shared(2))
    assert not table.take("c", row(2))


def test_a_repeated_request_changes_nothing(table: Table) -> None:
    for _ in range(3):
        assert table.take("a", row(), shared(), row())
    held = holder_of(table.writes, row(), "b")
    assert held is not None
    assert (held.xid, held.branch_id, held.exclusive, held.since_ms) == ("a", 1, True, NOW_MS)
    table.release("a")
    assert holder_of(table.writes, row(), "b") is None


def test_waiters_are_granted_in_the_order_in_which_they_came(table: Table) -> None:
    table.take("a", row())
    for xid in "bcd":
        table.wait(xid, row())
    assert table.release("a") == ["b"]
    assert table.release("b") == ["c"]
    assert table.release("c") == ["d"]


def test_sharers_at_the_head_are_granted_together_and_no_further(table: Table) -> None:
    table.take("a", row())
    for xid in "bc":
        table.wait(xid, shared())
    table.wait("d", row())
    table.wait("e", shared())
    assert table.release("a") == ["b", "c"]
    assert table.release("b") == []
    assert table.release("c") == ["d"]
    assert table.release("d") == ["e"]


def test_nobody_overtakes_a_waiter(table: Table) -> None:
    table.take("a", shared())
    ticket = table.wait("b", row())
    assert not table.take("c", shared())
    assert table.take("a", shared(), branch_id=2), "a holder does not wait for its waiters"
    assert table.withdraw(ticket) == []
    assert table.take("c", shared())


def test_a_waiter_for_two_rows_keeps_its_place_in_both_queues(table: Table) -> None:
    table.take("a", row(1))
    table.take("b", row(2))
    table.wait("c", row(1), row(2))
    table.wait("d", row(1))
    assert table.release("a") == []
    assert not table.take("e", row(1))
    assert table.release("b") == ["c"]
    assert table.release("c") == ["d"]


def test_a_withdrawn_wait_lets_the_others_pass(table: Table) -> None:
    table.take("a", shared(1))
    table.take("b", row(2))
    ticket = table.wait("c", row(1), row(2))
    table.wait("d", shared(1))
    assert table.withdraw(ticket) == ["d"]


def test_a_cycle_of_waits_is_found_and_a_queue_is_none(table: Table) -> None:
    table.take("a", row(1))
    table.take("b", row(2))
    table.take("c", row(3))
    assert table.locks.cycle("b", [row(1)]) == []
    table.wait("b", row(1))
    assert table.locks.cycle("c", [row(2)]) == []
    table.wait("c", row(2))
    assert table.locks.cycle("d", [row(3)]) == []
    assert table.locks.cycle("a", [row(3)]) == ["a", "c", "b"]
    assert table.locks.cycle("a", [row(9), row(2)]) == ["a", "b"]


def test_two_sharers_that_both_want_to_upgrade_are_a_cycle(table: Table) -> None:
    table.take("a", shared())
    table.take("b", shared())
    table.wait("a", row())
    assert table.locks.cycle("b", [row()]) == ["b", "a"]


def test_waiting_behind_a_waiter_can_close_a_cycle(table: Table) -> None:
    table.take("a", shared(1))
    table.take("b", row(2))
    table.wait("b", row(1))
    # The row is only shared, but b came first and waits for it: so would a for b, who waits for a.
    assert table.locks.cycle("c", [shared(1)]) == []
    table.take("c", row(3))
    table.wait("c", shared(1))
    assert table.locks.cycle("b", [row(3)]) == ["b", "c"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row(1), row("1")),
        (row(True), row(1)),
        (row(None), row(0)),
        (RowLock("db", "t", ("a", "b"), True), RowLock("db", "t", ("ab",), True)),
        (RowLock("db", "t", ("a,b",), True), RowLock("db", "t", ("a", "b"), True)),
        (RowLock("d", "bt", (1,), True), RowLock("db", "t", (1,), True)),
        (row("x" * 300), row("x" * 301)),
        (RowLock("d" * 300, "t", (1,), True), RowLock("d" * 301, "t", (1,), True)),
    ],
)
def test_different_rows_have_different_names(one: RowLock, other: RowLock) -> None:
    names = [lock_name(one), lock_name(other)]
    assert not names[0].startswith(names[1])
    assert not names[1].startswith(names[0])
    assert all(len(name) <= 300 for name in names)


XIDS = st.sampled_from("abcd")
ROWS = st.lists(
    st.builds(
        lambda key, exclusive: row(key, exclusive=exclusive), st.integers(1, 3), st.booleans()
    ),
    min_size=1,
    max_size=3,
)


class RowLocksAgainstTheirRules(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.table = Table()
        self.held: dict[tuple[str, int], bool] = {}
        self.waiting: dict[Position, Wait] = {}

    def got(self, xid: str, wanted: Iterable[RowLock]) -> None:
        for lock in wanted:
            key = (xid, int(str(lock.key[0])))
            self.held[key] = self.held.get(key, False) or lock.exclusive

    def grant(self, names: list[bytes]) -> None:
        for ticket, wait in self.table.locks.grantable(names):
            self.table.locks.take(wait.xid, 1, wait.locks, NOW_MS)
            self.table.locks.withdraw(ticket)
            del self.waiting[ticket]
            self.got(wait.xid, wait.locks)

    @rule(xid=XIDS, wanted=ROWS)
    def ask(self, xid: str, wanted: list[RowLock]) -> None:
        if len(self.table.locks.tickets_of(xid)) > 1:
            return
        if self.table.take(xid, *wanted):
            self.got(xid, wanted)
        elif not self.table.locks.cycle(xid, wanted):
            ticket = self.table.wait(xid, *wanted)
            self.waiting[ticket] = Wait(xid, tuple(wanted))

    @rule(xid=XIDS)
    def end(self, xid: str) -> None:
        names: list[bytes] = []
        for ticket in self.table.locks.tickets_of(xid):
            names += self.table.locks.names_of(self.table.locks.withdraw(ticket))
            del self.waiting[ticket]
        self.grant(names)
        released = self.table.locks.release(xid, 1)
        self.held = {key: held for key, held in self.held.items() if key[0] != xid}
        self.grant(released)
        self.table.writes.flush()

    @invariant()
    def exclusive_means_alone(self) -> None:
        for (xid, key), exclusive in self.held.items():
            if exclusive:
                assert {other for other, at in self.held if at == key} == {xid}

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Whoever waits is kept from a row by a holder, or by somebody that came earlier."""
        for ticket, wait in self.waiting.items():
            assert any(self.is_hindered(ticket, wait, lock) for lock in wait.locks)

    def is_hindered(self, ticket: Position, wait: Wait, lock: RowLock) -> bool:
        key = int(str(lock.key[0]))
        held = [(xid, e) for (xid, at), e in self.held.items() if at == key and xid != wait.xid]
        earlier = [
            other.exclusive
            for at, each in self.waiting.items()
            for other in each.locks
            if at < ticket and each.xid != wait.xid and other.key == lock.key
        ]
        return any(e or lock.exclusive for _, e in held) or any(
            e or lock.exclusive for e in earlier
        )

    @invariant()
    def no_cycle_of_waits_exists(self) -> None:
        for ticket, wait in self.waiting.items():
            assert not self.table.locks.cycle(wait.xid, []), ticket

    def teardown(self) -> None:
        for xid in "abcd":
            self.end(xid)
        assert not self.waiting
        assert list(self.table.store.items()) == []


TestRowLocksAgainstTheirRules = RowLocksAgainstTheirRules.TestCase
TestRowLocksAgainstTheirRules.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None
)
