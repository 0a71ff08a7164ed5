"""Deadlocks of row locks: every circle is found when it closes, and nothing else taken for one."""

from __future__ import annotations

import pytest

from statemachine.commands import UnlockRows
from statemachine.outcomes import Applied, Outcome, Pending, Rejected, RejectionCode
from statemachine.transactions import deadlocks
from tests.statemachine.building import code
from tests.statemachine.lock_table import Table, row, shared
from tests.statemachine.test_branch_locks import Branches
from tests.statemachine.test_branch_locks import row as named
from tests.statemachine.test_branch_locks import shared as named_shared
from tests.statemachine.transacting import row as row_of


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_circle_of_waits_is_found_and_a_queue_is_none(table: Table) -> None:
    for number, xid in enumerate("abc", 1):
        table.take(xid, row(number))
    circle = table.deadlocks.circle
    assert circle("b", [row(1)]) == []
    table.wait("b", row(1))
    assert circle("c", [row(2)]) == []
    table.wait("c", row(2))
    assert circle("d", [row(3)]) == []
    assert circle("a", [row(3)]) == ["a", "c", "b"]
    assert circle("a", [row(9), row(2)]) == ["a", "b"]


def test_two_sharers_that_both_want_the_row_for_themselves_are_a_circle(table: Table) -> None:
    table.take("a", shared())
    table.take("b", shared())
    table.wait("a", row())
    assert table.deadlocks.circle("b", [row()]) == ["b", "a"]


def test_waiting_behind_a_waiter_can_close_a_circle(table: Table) -> None:
    table.take("a", shared(1))
    table.take("b", row(2))
    table.wait("b", row(1))
    # The row is only shared, but b came first and waits for it: so would a for b, who waits for a.
    assert table.deadlocks.circle("c", [shared(1)]) == []
    table.take("c", row(3))
    table.wait("c", shared(1))
    assert table.deadlocks.circle("b", [row(3)]) == ["b", "c"]


def test_a_sharer_that_wants_the_row_for_itself_does_not_wait_for_those_who_wait_for_it(
    table: Table,
) -> None:
    table.take("a", shared())
    table.take("b", shared())
    table.wait("c", row())
    assert table.deadlocks.circle("a", [row()]) == []
    table.wait("a", row())
    assert table.release("b") == ["a"]


def test_who_stands_in_a_queue_twice_waits_for_nobody_between(table: Table) -> None:
    table.take("a", row())
    table.wait("b", shared())
    table.wait("c", row())
    assert table.deadlocks.circle("b", [row()]) == []
    table.wait("b", row())
    assert table.release("a") == ["b", "b"]


def test_who_stands_in_a_queue_twice_passes_those_before_once_it_has_the_row(table: Table) -> None:
    table.take("b", row(1))
    table.take("c", row(2))
    table.wait("e", row(1), shared(2))
    table.wait("b", shared(2))
    # It will share the row, whoever stands before it, and may then have it for itself.
    assert table.deadlocks.circle("b", [row(2)]) == []
    table.wait("b", row(2))
    assert table.release("c") == ["b", "b"]


def test_a_circle_that_closes_when_somebody_shares_a_row_is_found_then(table: Table) -> None:
    table.take("d", row(2))
    table.take("c", row(3))
    table.wait("e", shared(3))
    table.wait("e", row(2))
    table.wait("d", shared(3))
    assert table.deadlocks.circle("d", [row(3)]) == []
    table.wait("d", row(3))
    assert table.release("c") == ["e", "d"]
    assert ("e", False) in table.answered


def test_a_waiter_behind_one_that_overtakes_waits_for_those_before_as_well(table: Table) -> None:
    table.take("a", shared(1))
    table.take("b", shared(1))
    table.take("d", row(2), row(3))
    table.take("e", row(4))
    table.wait("e", shared(1), row(2))
    # It has the row already, so it waits for b alone, and not for e before it.
    table.wait("a", row(1))
    table.wait("d", row(1))
    assert table.deadlocks.circle("e", [row(3)]) == ["e", "d"]
    assert table.deadlocks.circle("d", [row(4)]) == ["d", "e"]


# --- what happens at the bounds of the search


def chain(table: Table, length: int) -> None:
    """Let each of `x0`, `x1`, … wait for the one before it."""
    table.take("x0", row(0))
    for number in range(1, length):
        table.take(f"x{number}", row(number))
        table.wait(f"x{number}", row(number - 1))


def test_a_circle_of_any_length_within_the_bound_is_found(table: Table) -> None:
    chain(table, deadlocks.GREATEST_SEARCHED)
    last = deadlocks.GREATEST_SEARCHED - 1
    circle = table.deadlocks.circle("x0", [row(last)])
    assert circle == ["x0", *(f"x{number}" for number in range(last, 0, -1))]


def test_a_crowd_on_one_side_hides_nothing(table: Table) -> None:
    """Many wait for the row that is wanted, few for the one who wants it: or the other way."""
    table.take("holder", row(1))
    for number in range(2 * deadlocks.GREATEST_SEARCHED):
        table.wait(f"w{number}", row(1))
    table.take("a", row(2))
    table.wait("b", row(2))
    assert table.deadlocks.circle("a", [row(1)]) == []
    table.take("c", row(3))
    assert table.deadlocks.circle("holder", [row(3)]) == []
    table.wait("c", row(1))
    assert table.deadlocks.circle("holder", [row(3)]) == ["holder", "c"]


def test_between_two_crowds_nobody_can_tell(table: Table) -> None:
    for key, holder in ((1, "a"), (2, "b")):
        table.take(holder, row(key))
        for number in range(deadlocks.GREATEST_SEARCHED):
            table.wait(f"{holder}{number}", row(key))
    assert table.deadlocks.circle("a", [row(2)]) is None


@pytest.fixture
def log() -> Branches:
    log = Branches()
    for xid in "xyz":
        log.begin(xid)
    return log


def refused(outcome: Outcome) -> RejectionCode:
    assert isinstance(outcome, Rejected)
    return outcome.code


def test_who_cannot_be_told_whether_its_wait_is_a_deadlock_does_not_wait(
    log: Branches, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = log.branch(row_of(1), done=False), log.branch(row_of(2), xid="y", done=False)
    pending = log.lock(mine, named(2), wait_ms=60_000)
    monkeypatch.setattr(deadlocks, "GREATEST_READ", 0)
    answered = log.lock(other, named(1), xid="y", wait_ms=60_000)
    assert code(answered) is RejectionCode.LOCK_QUEUE_FULL
    assert isinstance(answered, Rejected)
    assert answered.retryable
    log.report(other, xid="y")
    log.commit("y")
    assert isinstance(log.settled(pending), Applied)


def test_nobody_waits_longer_than_it_said(log: Branches) -> None:
    log.branch(row_of(1), xid="y")
    pending = log.lock(log.branch(done=False), named(1), wait_ms=500)
    log.wait(500)
    log.fire_due()
    ended = log.settled(pending)
    assert ended is not None
    assert refused(ended) is RejectionCode.LOCK_CONFLICT


# --- who is refused


def test_the_youngest_of_a_circle_is_refused_and_told_which_row_it_waited_for(
    log: Branches,
) -> None:
    mine, other = log.branch(row_of(1), done=False), log.branch(row_of(2), xid="y", done=False)
    pending = log.lock(other, named(1), xid="y", wait_ms=60_000)
    assert isinstance(log.lock(mine, named(2), wait_ms=60_000), Pending)
    answered = log.settled(pending)
    assert isinstance(answered, Rejected)
    assert answered.code is RejectionCode.DEADLOCK
    assert "row [1] of t" in answered.detail


def test_of_two_circles_that_one_wait_closes_both_are_broken(log: Branches) -> None:
    mine = log.branch(row_of(1), row_of(2), done=False)
    waiting = []
    for number, xid in enumerate("yz", 1):
        branch = log.branch(mode="TXC", xid=xid, done=False)
        log.lock(branch, named_shared(3), xid=xid)
        waiting.append(log.lock(branch, named(number), xid=xid, wait_ms=60_000))
    assert isinstance(log.lock(mine, named(3), wait_ms=60_000), Pending)
    for pending in waiting:
        answered = log.settled(pending)
        assert answered is not None
        assert refused(answered) is RejectionCode.DEADLOCK


def test_a_row_that_is_free_once_the_youngest_waits_no_more_is_given_at_once(
    log: Branches,
) -> None:
    mine = log.branch(row_of(1), mode="TXC", done=False)
    first = log.branch(mode="TXC", xid="y", done=False)
    log.lock(first, named_shared(2), xid="y")
    last = log.branch(mode="TXC", xid="z", done=False)
    pending = log.lock(last, named(2), named(1), xid="z", wait_ms=60_000)
    # z waits for x's row, and x would wait for z, who stands before it: z began last.
    locked = log.lock(mine, named_shared(2), wait_ms=60_000)
    assert isinstance(locked, Applied)
    answered = log.settled(pending)
    assert answered is not None
    assert refused(answered) is RejectionCode.DEADLOCK


def test_a_circle_that_closes_without_a_new_wait_is_broken_too(log: Branches) -> None:
    """x gets for itself alone what it shared, while y waits for more than that row."""
    mine = log.branch(mode="TXC", done=False)
    log.lock(mine, named_shared(1))
    held = log.branch(row_of(2), xid="z", done=False)
    other = log.branch(row_of(3), mode="TXC", xid="y", done=False)
    waiting = [log.lock(other, named_shared(1), named(2), xid="y", wait_ms=60_000)]
    waiting.append(log.lock(mine, named(3), wait_ms=60_000))
    assert [log.settled(each) for each in waiting] == [None, None]
    assert isinstance(log.lock(mine, named(1)), Applied)
    log.do(UnlockRows(xid="z", branch_id=held, locks=(named(2),)))
    answered = log.settled(waiting[0])
    assert answered is not None
    assert refused(answered) is RejectionCode.DEADLOCK
    assert log.settled(waiting[1]) is None
    log.roll_back("y")
    log.told(other, xid="y")
    assert isinstance(log.settled(waiting[1]), Applied)
