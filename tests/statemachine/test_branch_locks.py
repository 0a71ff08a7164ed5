"""More rows for a branch, statement by statement; and registrations of which nobody heard."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.commands import AbandonBranch, LockRows, UnlockRows
from statemachine.outcomes import (
    Applied,
    BranchAbandoned,
    BranchRegistered,
    Outcome,
    Pending,
    Position,
    Rejected,
    RejectionCode,
    RowsLocked,
    RowsUnlocked,
)
from statemachine.transactions import locking, row_locks
from statemachine.transactions.row_locks import RowLock, holder_of
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions
from tests.statemachine.transacting import row as row_of


def row(key: int, *, exclusive: bool = True) -> RowLock:
    """A row as a client names it: its resource is the branch's."""
    return RowLock("", "t", (key,), exclusive)


def shared(key: int) -> RowLock:
    return row(key, exclusive=False)


class Branches(Transactions):
    def lock(self, branch_id: int, *locks: RowLock, xid: str = "x", wait_ms: int = 0) -> Outcome:
        return self.do(LockRows(xid=xid, branch_id=branch_id, locks=locks, wait_ms=wait_ms))

    def unlock(self, branch_id: int, *locks: RowLock, xid: str = "x") -> Outcome:
        return self.do(UnlockRows(xid=xid, branch_id=branch_id, locks=locks))

    def abandon(self, registration: Position, xid: str = "x") -> bool:
        abandoned = result(self.do(AbandonBranch(xid=xid, registration=registration)))
        assert isinstance(abandoned, BranchAbandoned)
        return abandoned.abandoned

    def is_free(self, key: int) -> bool:
        return holder_of(self.store, row_of(key), "another") is None


def unlocked(outcome: Outcome) -> int:
    given_back = result(outcome)
    assert isinstance(given_back, RowsUnlocked)
    return given_back.unlocked


@pytest.fixture
def log() -> Branches:
    log = Branches()
    for xid in "xy":
        log.begin(xid)
    return log


def test_rows_are_taken_one_by_one_and_end_with_the_branch(log: Branches) -> None:
    branch = log.branch(row_of(1), mode="TXC", done=False)
    for key in (2, 3, 2):
        assert result(log.lock(branch, row(key))) == RowsLocked(xid="x", branch_id=branch)
    assert log.machine.row_lock_count == 3
    assert code(log.register(row_of(3), xid="y")) is RejectionCode.LOCK_CONFLICT
    log.report(branch)
    log.commit()
    assert log.rows(keys.ROW_LOCK) == log.rows(keys.ROW_LOCK_OWNER) == []
    assert log.machine.row_lock_count == 0


def test_all_rows_or_none_are_taken(log: Branches) -> None:
    log.branch(row_of(2), xid="y")
    branch = log.branch(done=False)
    assert code(log.lock(branch, row(1), row(2))) is RejectionCode.LOCK_CONFLICT
    assert log.is_free(1)


def test_a_branch_waits_for_rows_and_is_given_them(log: Branches) -> None:
    log.branch(row_of(1), xid="y")
    branch = log.branch(done=False)
    pending = log.lock(branch, row(1), wait_ms=1_000)
    log.commit("y")
    granted = log.settled(pending)
    assert granted is not None
    assert result(granted) == RowsLocked(xid="x", branch_id=branch)


def waits_twice(log: Branches) -> tuple[Outcome, Outcome]:
    """Let x wait for two rows, and with another request to share the first of them."""
    log.begin("z")
    log.branch(row_of(1), xid="y")
    shared = row_of(1, exclusive=False)
    log.register(shared, xid="z", wait_ms=1_000)
    return (
        log.register(row_of(1), row_of(2), wait_ms=1_000),
        log.register(shared, wait_ms=1_000),
    )


def test_what_a_transaction_wants_besides_does_not_wait_for_itself(log: Branches) -> None:
    both, one = waits_twice(log)
    log.commit("y")
    assert log.settled(both) is None
    assert isinstance(log.settled(one), Applied)
    log.roll_back()
    assert isinstance(log.settled(both), Rejected)


def test_all_waits_of_what_is_decided_end(log: Branches) -> None:
    waits = waits_twice(log)
    log.roll_back()
    for pending in waits:
        refused = log.settled(pending)
        assert refused is not None
        assert code(refused) is RejectionCode.TRANSACTION_NOT_ACTIVE
    log.commit("y")
    assert log.rows(keys.ROW_LOCK_WAIT) == []


def test_rows_since_a_savepoint_are_given_back_and_go_to_who_waits(log: Branches) -> None:
    branch = log.branch(row_of(1), mode="TXC", done=False)
    log.lock(branch, row(2), row(3))
    pending = log.register(row_of(3), xid="y", wait_ms=1_000)
    given_back = result(log.unlock(branch, row(3), row(9)))
    assert given_back == RowsUnlocked(xid="x", branch_id=branch, unlocked=1)
    assert isinstance(log.settled(pending), Applied)
    assert [log.is_free(key) for key in (1, 2, 3)] == [False, False, False]
    log.unlock(branch, row(2), row(1))
    assert [log.is_free(key) for key in (1, 2, 3)] == [True, True, False]


def test_what_became_exclusive_since_a_savepoint_is_shared_again_and_sharers_come_in(
    log: Branches,
) -> None:
    branch = log.branch(mode="TXC", done=False)
    log.lock(branch, shared(1))
    log.lock(branch, row(1))
    other = log.branch(xid="y", mode="TXC", done=False)
    pending = log.lock(other, shared(1), xid="y", wait_ms=1_000)
    assert unlocked(log.unlock(branch, row(1))) == 1
    assert isinstance(log.settled(pending), Applied)
    assert log.machine.row_lock_count == 2
    assert unlocked(log.unlock(branch, row(1))) == 0, "to say it again is no harm"
    assert code(log.lock(other, row(1), xid="y")) is RejectionCode.LOCK_CONFLICT
    assert unlocked(log.unlock(branch, shared(1))) == 1
    assert isinstance(log.lock(other, row(1), xid="y"), Applied)


@pytest.mark.parametrize("given_back", [[shared(1), row(1)], [row(1), shared(1)]])
def test_what_was_shared_and_made_exclusive_since_the_savepoint_is_free_again(
    log: Branches, given_back: list[RowLock]
) -> None:
    branch = log.branch(mode="TXC", done=False)
    log.lock(branch, shared(1))
    log.lock(branch, row(1))
    assert unlocked(log.unlock(branch, *given_back)) == 1
    assert log.rows(keys.ROW_LOCK) == log.rows(keys.ROW_LOCK_OWNER) == []
    assert log.machine.row_lock_count == 0


def test_what_was_asked_for_again_is_not_given_back_in_the_other_mode(log: Branches) -> None:
    branch = log.branch(row_of(1), mode="TXC", done=False)
    log.lock(branch, shared(1))
    assert unlocked(log.unlock(branch, shared(1))) == 0
    held = holder_of(log.store, row_of(1), "another")
    assert held is not None
    assert held.exclusive


def test_another_branch_keeps_what_it_took_itself(log: Branches) -> None:
    first, second = (log.branch(mode="TXC", done=False) for _ in range(2))
    log.lock(first, shared(1))
    log.lock(second, row(1))
    assert unlocked(log.unlock(first, row(1))) == 0
    assert unlocked(log.unlock(first, shared(1))) == 1
    assert code(log.register(row_of(1), xid="y")) is RejectionCode.LOCK_CONFLICT


def test_only_a_branch_whose_work_goes_on_takes_rows_or_gives_them_back(log: Branches) -> None:
    branch = log.branch(row_of(1))
    for refused in (log.lock(branch, row(2)), log.unlock(branch, row(1))):
        assert code(refused) is RejectionCode.BRANCH_STATUS_FIXED
    for refused in (log.lock(branch + 9, row(2)), log.unlock(branch + 9, row(1))):
        assert code(refused) is RejectionCode.BRANCH_NOT_FOUND
    for refused in (log.lock(1, row(2), xid="z"), log.unlock(1, row(1), xid="z")):
        assert code(refused) is RejectionCode.TRANSACTION_NOT_FOUND
    log.commit()
    for refused in (log.lock(branch, row(2)), log.unlock(branch, row(1))):
        assert code(refused) is RejectionCode.TRANSACTION_NOT_ACTIVE


def test_who_waited_when_its_branch_reported_gets_nothing_and_those_behind_come_next(
    log: Branches,
) -> None:
    log.begin("z")
    log.branch(row_of(1), xid="y")
    branch = log.branch(done=False)
    pending = log.lock(branch, row(1), row(2), wait_ms=60_000)
    behind = [log.register(row_of(key), xid="z", wait_ms=60_000) for key in (1, 2)]
    log.report(branch)
    log.commit("y")
    refused = log.settled(pending)
    assert refused is not None
    assert code(refused) is RejectionCode.BRANCH_STATUS_FIXED
    assert all(isinstance(log.settled(each), Applied) for each in behind)
    assert log.rows(keys.ROW_LOCK_QUEUE) == log.rows(keys.ROW_LOCK_WAIT) == []


def test_who_would_close_a_cycle_is_refused(log: Branches) -> None:
    mine, other = log.branch(row_of(1), done=False), log.branch(row_of(2), xid="y", done=False)
    pending = log.lock(mine, row(2), wait_ms=60_000)
    assert isinstance(pending, Pending)
    assert code(log.lock(other, row(1), xid="y", wait_ms=60_000)) is RejectionCode.DEADLOCK


@pytest.mark.parametrize(
    ("place", "limit", "expected"),
    [
        (row_locks, "GREATEST_HELD", RejectionCode.LOCK_TABLE_FULL),
        (row_locks, "GREATEST_TAKINGS", RejectionCode.LOCK_TABLE_FULL),
        (locking, "GREATEST_LOCKS", RejectionCode.INVALID_COMMAND),
    ],
)
def test_rows_and_takings_are_bounded(
    log: Branches,
    place: object,
    limit: str,
    expected: RejectionCode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    branch = log.branch(row_of(1), done=False)
    monkeypatch.setattr(place, limit, 1)
    assert code(log.lock(branch, row(2), row(3))) is expected


def test_waits_of_one_transaction_are_bounded(
    log: Branches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "GREATEST_WAITS", 1)
    log.branch(row_of(1), xid="y")
    assert isinstance(log.register(row_of(1), wait_ms=9), Pending)
    assert code(log.register(row_of(1), wait_ms=9)) is RejectionCode.LOCK_QUEUE_FULL


# --- registrations of which nobody heard


def registration(log: Branches, *locks: RowLock, wait_ms: int = 0) -> tuple[Position, Outcome]:
    outcome = log.register(*locks, wait_ms=wait_ms)
    return log.machine.applied_position, outcome


def test_a_branch_of_which_nobody_heard_is_withdrawn_with_its_rows(log: Branches) -> None:
    position, _ = registration(log, row_of(1))
    assert log.abandon(position)
    assert log.statuses() == ["WITHDRAWN"]
    assert log.is_free(1)
    assert not log.abandon(position)


def test_a_wait_of_which_nobody_hears_is_ended(log: Branches) -> None:
    log.branch(row_of(1), xid="y")
    position, pending = registration(log, row_of(1), wait_ms=60_000)
    assert log.abandon(position)
    assert isinstance(log.settled(pending), Rejected)
    log.commit("y")
    assert log.statuses() == []


def test_a_branch_that_waited_and_was_registered_is_withdrawn(log: Branches) -> None:
    log.branch(row_of(1), xid="y")
    position, pending = registration(log, row_of(1), wait_ms=60_000)
    log.commit("y")
    granted = log.settled(pending)
    assert granted is not None
    assert isinstance(result(granted), BranchRegistered)
    assert not log.abandon(position, xid="y")
    assert log.abandon(position)
    assert log.statuses() == ["WITHDRAWN"]


def test_only_what_nobody_has_used_is_undone(log: Branches) -> None:
    position, _ = registration(log)
    (branch,) = log.branches()
    log.report(branch.branch_id)
    assert not log.abandon(position)
    assert not log.abandon(Position(position.entry, 7))
    waiting = log.commit(wait_ms=9)
    assert isinstance(waiting, Applied)
    missing = log.do(AbandonBranch(xid="z", registration=position))
    assert code(missing) is RejectionCode.TRANSACTION_NOT_FOUND
