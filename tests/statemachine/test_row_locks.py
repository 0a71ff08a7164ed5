"""Row locks: all or none, re-entrant for a transaction, and fair."""

from __future__ import annotations

import pytest

from statemachine.transactions.row_locks import RowLock, holder_of, lock_name
from tests.statemachine.lock_table import NOW_MS, Table, row, shared


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


@pytest.mark.parametrize(
    "given_back", [(1,), (2,), (3,), (1, 2), (2, 3), (2, 1), (3, 2), (1, 3), (3, 1)], ids=str
)
def test_what_is_given_back_in_any_order_hides_nothing_that_is_still_held(
    table: Table, given_back: tuple[int, ...]
) -> None:
    for number in (1, 2, 3):
        table.take("a", row(number))
    for number in given_back:
        assert table.locks.give_back("a", 1, [row(number)])
        table.writes.flush()
    table.take("a", row(4))
    held = [number for number in (1, 2, 3, 4) if number not in given_back]
    assert [lock_name(row(number)) for number in held] == list(table.locks.names_held("a"))
    assert [lock_name(row(number)) for number in held] == table.locks.release("a", 1)
    assert list(table.locks.names_held("a")) == []
    assert table.take("b", row(1), row(2), row(3), row(4))


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
