"""A commit waits until every branch has said how its work ended."""

from __future__ import annotations

import pytest

from statemachine.commands import CancelWait, OperateGlobal
from statemachine.outcomes import Applied, GlobalAnswered, Outcome, Pending, Rejected, RejectionCode
from statemachine.transactions import committing
from statemachine.transactions.rows import Calls
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions, row, status, step

WAIT_MS = 5_000


@pytest.fixture
def log() -> Transactions:
    log = Transactions()
    log.begin(timeout_ms=60_000)
    return log


def settled(log: Transactions, pending: Outcome) -> Outcome:
    found = log.settled(pending)
    assert found is not None
    return found


def test_without_waiting_it_is_refused_and_nothing_is_decided(log: Transactions) -> None:
    log.branch(done=False)
    assert code(log.commit()) is RejectionCode.BRANCH_UNFINISHED
    assert log.row().status == "BEGIN"


def test_a_step_of_a_saga_is_waited_for_unless_its_compensation_stands_for_itself(
    log: Transactions,
) -> None:
    log.branch(mode="SAGA", done=False, calls=Calls(rollback="http://shop/undo"))
    step = log.branch(mode="SAGA", done=False)
    assert code(log.commit()) is RejectionCode.BRANCH_UNFINISHED
    log.report(step)
    assert status(log.commit()) == "COMMITTING"


def test_the_last_report_commits(log: Transactions) -> None:
    first, second = log.branch(done=False), log.branch(done=False)
    pending = log.commit(wait_ms=WAIT_MS)
    log.report(first)
    assert log.settled(pending) is None
    log.report(second)
    assert status(settled(log, pending)) == "ASYNC_COMMITTING"


@pytest.mark.parametrize("said", ["PHASE_ONE_READ_ONLY", "WITHDRAWN"])
def test_a_branch_that_leaves_is_not_waited_for(log: Transactions, said: str) -> None:
    branch = log.branch(row(1), done=False)
    pending = log.commit(wait_ms=WAIT_MS)
    log.report(branch, said)
    assert status(settled(log, pending)) == "COMMITTED"


def test_it_goes_on_to_wait_for_the_end(log: Transactions) -> None:
    branch = log.branch(mode="XA", done=False)
    pending = log.commit(wait_ms=WAIT_MS)
    log.report(branch)
    assert log.row().status == "COMMITTING"
    assert log.settled(pending) is None
    log.told(branch)
    assert status(settled(log, pending)) == "COMMITTED"


def test_a_failed_branch_rolls_back_and_the_committer_hears_of_it(log: Transactions) -> None:
    branch = log.branch(mode="XA", done=False)
    pending = log.commit(wait_ms=WAIT_MS)
    log.report(branch, "PHASE_ONE_FAILED")
    assert code(settled(log, pending)) is RejectionCode.BRANCH_FAILED
    assert log.row().status == "ROLLING_BACK"


def test_a_rollback_by_another_is_told_to_the_committer(log: Transactions) -> None:
    log.branch(done=False)
    pending = log.commit(wait_ms=WAIT_MS)
    log.roll_back()
    assert code(settled(log, pending)) is RejectionCode.TRANSACTION_DECIDED


def test_the_timeout_rolls_back_and_the_committer_is_told_the_end_of_it(
    log: Transactions,
) -> None:
    branch = log.branch(done=False)
    pending = log.commit(wait_ms=100_000)
    log.wait(60_000)
    log.fire_due()
    assert log.settled(pending) is None
    log.told(branch)
    assert status(settled(log, pending)) == "TIMEOUT_ROLLED_BACK"


def test_a_report_after_the_timeout_commits_nothing(log: Transactions) -> None:
    branch = log.branch(done=False)
    log.commit(wait_ms=100_000)
    log.wait(60_000)
    log.report(branch)
    assert log.row().status == "TIMEOUT_ROLLING_BACK"


@pytest.mark.parametrize("cancelled", [True, False])
def test_the_wait_ends_in_time_and_names_the_branch(log: Transactions, cancelled: bool) -> None:
    branch = log.branch(done=False)
    pending = log.commit(wait_ms=WAIT_MS)
    assert isinstance(pending, Pending)
    if cancelled:
        log.do(CancelWait(ticket=pending.ticket))
    else:
        log.wait(WAIT_MS)
        log.fire_due()
    refused = settled(log, pending)
    assert isinstance(refused, Rejected)
    assert refused.code is RejectionCode.BRANCH_UNFINISHED
    assert f"Branch {branch} " in refused.detail
    log.report(branch)
    assert log.row().status == "BEGIN"
    assert log.row().committing == ()


def test_several_may_wait_and_all_are_told(log: Transactions) -> None:
    branch = log.branch(done=False)
    pending = [log.commit(wait_ms=WAIT_MS) for _ in range(3)]
    log.report(branch)
    assert {status(settled(log, each)) for each in pending} == {"ASYNC_COMMITTING"}


def test_no_more_wait_than_may(log: Transactions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committing, "GREATEST_WAITING", 1)
    log.branch(done=False)
    assert isinstance(log.commit(wait_ms=WAIT_MS), Pending)
    assert code(log.commit(wait_ms=WAIT_MS)) is RejectionCode.BRANCH_UNFINISHED


def test_what_the_cluster_runs_is_not_committed_by_a_client() -> None:
    log = Transactions()
    log.saga(step("a"))
    assert code(log.commit()) is RejectionCode.OPERATION_NOT_POSSIBLE
    assert code(log.register()) is RejectionCode.TRANSACTION_NOT_ACTIVE
    log.roll_back()
    assert log.row().status == "ROLLING_BACK"


def test_what_an_operator_has_put_aside_answers_both(log: Transactions) -> None:
    branch = log.branch(mode="XA")
    log.commit()
    log.told(branch, "FAILED")
    for action in ("FORGET", "RETRY_NOW"):
        operated = log.do(OperateGlobal(xid="x", action=action, reason="", principal="o"))
        assert isinstance(operated, Applied) == (action == "FORGET")
    answers = {result(log.commit()), result(log.roll_back())}
    assert answers == {GlobalAnswered(xid="x", status="FINISHED", reason="")}
