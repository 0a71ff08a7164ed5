"""Branches of global transactions: registered with their rows, reported, withdrawn."""

from __future__ import annotations

from statemachine import keys
from statemachine.commands import (
    SetTransactionRetention,
)
from statemachine.outcomes import (
    Applied,
    BranchRegistered,
    Rejected,
    RejectionCode,
    RowLockHolder,
)
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions, row, status


def test_a_branch_has_its_rows_or_is_not_registered() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    mine = log.branch(row(1), row(2))
    refused = log.register(row(3), row(2), xid="y")
    assert code(refused) is RejectionCode.LOCK_CONFLICT
    assert isinstance(refused, Rejected)
    assert refused.retryable is True
    assert isinstance(refused.holder, RowLockHolder)
    assert (refused.holder.xid, refused.holder.branch_id) == ("x", mine)
    assert log.branches("y") == []
    assert isinstance(log.register(row(3), xid="y"), Applied)


def test_a_waiting_branch_is_registered_when_its_rows_are_free() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    pending = log.register(row(1), xid="y", wait_ms=10_000)
    assert log.settled(pending) is None
    log.commit("x")
    granted = log.settled(pending)
    assert granted is not None
    assert isinstance(result(granted), BranchRegistered)
    assert log.statuses("y") == ["REGISTERED"]
    assert code(log.register(row(1), xid="x")) is RejectionCode.TRANSACTION_NOT_ACTIVE


def test_a_wait_for_rows_ends_in_time_and_says_who_has_them() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    pending = log.register(row(1), xid="y", wait_ms=1_000)
    log.wait(1_000)
    log.fire_due()
    refused = log.settled(pending)
    assert isinstance(refused, Rejected)
    assert refused.code is RejectionCode.LOCK_CONFLICT
    assert isinstance(refused.holder, RowLockHolder)
    assert log.rows(keys.ROW_LOCK_QUEUE) == []


def test_a_wait_for_a_row_that_is_rolling_back_is_hopeless_without_waiting() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    log.roll_back("x")
    refused = log.register(row(1), xid="y")
    assert isinstance(refused, Rejected)
    assert refused.retryable is False


def test_of_a_deadlock_the_youngest_is_refused() -> None:
    log = Transactions()
    for xid in "xy":
        log.begin(xid)
        log.branch(row(ord(xid)), xid=xid)
    old = log.register(row(ord("y")), xid="x", wait_ms=10_000)
    assert code(log.register(row(ord("x")), xid="y", wait_ms=10_000)) is RejectionCode.DEADLOCK
    assert log.settled(old) is None
    log.roll_back("y")
    log.told(log.branches("y")[0].branch_id, xid="y")
    granted = log.settled(old)
    assert granted is not None
    assert isinstance(result(granted), BranchRegistered)


def test_a_younger_waiter_is_refused_when_an_older_closes_the_cycle() -> None:
    log = Transactions()
    for xid in "xy":
        log.begin(xid)
        log.branch(row(ord(xid)), xid=xid)
    young = log.register(row(ord("x")), xid="y", wait_ms=10_000)
    old = log.register(row(ord("y")), xid="x", wait_ms=10_000)
    refused = log.settled(young)
    assert refused is not None
    assert code(refused) is RejectionCode.DEADLOCK
    assert log.settled(old) is None


def test_nobody_waits_behind_what_the_same_transaction_waits_for() -> None:
    log = Transactions()
    for xid in "xyz":
        log.begin(xid)
    log.branch(row(1))
    reader = log.register(row(1, exclusive=False), xid="z", wait_ms=10_000)
    alone = log.register(row(1), xid="y", wait_ms=10_000)
    behind = log.register(row(1, exclusive=False), xid="y", wait_ms=10_000)
    log.commit("x")
    for pending in (reader, behind):
        granted = log.settled(pending)
        assert granted is not None
        assert isinstance(result(granted), BranchRegistered)
    assert log.settled(alone) is None
    log.roll_back("y")
    refused = log.settled(alone)
    assert refused is not None
    assert code(refused) is RejectionCode.TRANSACTION_NOT_ACTIVE


def test_a_withdrawn_branch_gives_its_rows_back_and_never_counted() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    branch = log.branch(row(1), done=False)
    log.report(branch, "PHASE_ONE_FAILED")
    log.report(branch, "WITHDRAWN")
    assert isinstance(log.register(row(1), xid="y"), Applied)
    assert status(log.commit()) == "COMMITTED"


def test_reports_are_repeated_without_harm_and_never_taken_back() -> None:
    log = Transactions()
    log.begin()
    branch = log.branch()
    assert isinstance(log.report(branch), Applied)
    assert code(log.report(branch, "PHASE_ONE_FAILED")) is RejectionCode.BRANCH_STATUS_FIXED
    assert code(log.report(99)) is RejectionCode.BRANCH_NOT_FOUND
    assert code(log.report(branch, "nonsense")) is RejectionCode.INVALID_COMMAND
    assert code(log.report(branch, xid="z")) is RejectionCode.TRANSACTION_NOT_FOUND


def test_a_compensation_that_is_registered_after_the_decision_is_called_for() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="TCC")
    log.roll_back()
    log.told(1, "RETRY")
    log.register(mode="SAGA")
    assert log.calls() == [(2, "ROLLBACK")]
    assert log.row().due_ms == 0


def test_rows_for_a_compensation_come_too_late_when_its_transaction_has_ended() -> None:
    log = Transactions()
    log.do(SetTransactionRetention(retention_ms=0, summary_retention_ms=0))
    log.begin("x")
    log.begin("y")
    log.branch(row(1), xid="y")
    branch = log.branch(mode="TCC")
    log.roll_back()
    waiting = log.register(row(1), mode="SAGA", wait_ms=60_000)
    log.told(branch)
    log.fire_due()
    log.commit("y")
    late = log.settled(waiting)
    assert late is not None
    assert code(late) is RejectionCode.TRANSACTION_NOT_FOUND
    assert log.rows(keys.ROW_LOCK) == []
