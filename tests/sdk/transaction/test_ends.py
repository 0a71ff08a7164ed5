"""What the end of a block says of its transaction, and what may go wrong there."""

from __future__ import annotations

import pytest

import tidelock
from tests.sdk.transaction.branching import branch
from tidelock import (
    TransactionRolledBackError,
    TransactionTimedOutError,
)
from tidelock.errors import BranchFailedError, BranchUnfinishedError
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidelock_application")]


def test_a_block_that_lasts_too_long_is_rolled_back(coordinator: Coordinator) -> None:
    with pytest.raises(TransactionTimedOutError) as caught, tidelock.transaction() as transaction:
        coordinator.advance(60_001)
    assert caught.value.xid == transaction.xid
    assert caught.value.status == transaction.status == "TIMEOUT_ROLLED_BACK"
    assert isinstance(caught.value, TransactionRolledBackError)


async def test_a_failed_branch_makes_the_commit_a_rollback(coordinator: Coordinator) -> None:
    with pytest.raises(TransactionRolledBackError) as caught:
        async with tidelock.transaction() as transaction:
            branch(coordinator, transaction.xid, "PHASE_ONE_FAILED")
    assert isinstance(caught.value.__cause__, BranchFailedError)
    coordinator.assert_clean()
    assert coordinator.transaction(transaction.xid).status == "ROLLED_BACK"


def test_a_branch_that_never_reports_is_rolled_back_in_the_end(
    coordinator: Coordinator, in_a_hurry: None
) -> None:
    def run() -> None:
        with tidelock.transaction(timeout_ms=600, end_wait_ms=100) as transaction:
            branch(coordinator, transaction.xid, "")

    with pytest.raises(TransactionTimedOutError) as caught:
        run()
    assert isinstance(caught.value.__cause__, BranchUnfinishedError)
    coordinator.assert_clean()


def test_a_commit_whose_answer_is_lost_is_asked_for_again(coordinator: Coordinator) -> None:
    with tidelock.transaction() as transaction:
        coordinator.fail_next("commit", "lost")
    assert transaction.status == "COMMITTED"
    assert coordinator.requests("commit") > 1


def test_a_commit_that_nobody_confirms_is_unknown_and_names_its_transaction(
    coordinator: Coordinator, in_a_hurry: None
) -> None:
    with (
        coordinator.failing("commit", "lost"),
        pytest.raises(tidelock.TransactionOutcomeUnknownError) as caught,
        tidelock.transaction(timeout_ms=300, end_wait_ms=0) as transaction,
    ):
        pass
    assert caught.value.xid == transaction.xid
    assert isinstance(caught.value, tidelock.OutcomeUnknownError)
    assert coordinator.transaction(transaction.xid).status == "COMMITTED"


def test_a_rollback_that_nobody_confirms_hides_no_exception(
    coordinator: Coordinator, in_a_hurry: None
) -> None:
    def fail() -> None:
        with tidelock.transaction(end_wait_ms=0):
            raise LookupError("no stock")

    with coordinator.failing("rollback"), pytest.raises(LookupError) as caught:
        fail()
    (note,) = caught.value.__notes__
    assert "not confirmed" in note
    coordinator.advance(60_001)
    coordinator.assert_clean()


def test_what_an_operator_or_another_client_decided_is_told(coordinator: Coordinator) -> None:
    with pytest.raises(TransactionRolledBackError), tidelock.transaction() as transaction:
        coordinator.client.run(lambda client: client.transactions.rollback(transaction.xid))


def test_a_rollback_of_what_is_committed_is_never_reported_as_one(
    coordinator: Coordinator,
) -> None:
    def fail() -> None:
        with tidelock.transaction() as transaction:
            coordinator.client.run(lambda client: client.transactions.commit(transaction.xid))
            raise LookupError("too late")

    with pytest.raises(tidelock.RollbackFailedError, match="committed by somebody else") as caught:
        fail()
    assert isinstance(caught.value.__cause__, LookupError)


def test_when_nobody_can_begin_it_the_block_is_not_entered(coordinator: Coordinator) -> None:
    with (
        coordinator.application(timeout_ms=200) as application,
        coordinator.failing("begin"),
        pytest.raises(tidelock.TidelockError),
        tidelock.transaction(application=application),
    ):
        pytest.fail("entered")
    assert coordinator.transactions() == []


def test_an_exception_that_does_not_roll_back_commits_and_comes_out() -> None:
    with (
        pytest.raises(LookupError),
        tidelock.transaction(no_rollback_for=LookupError) as transaction,
    ):
        raise LookupError
    assert transaction.status == "COMMITTED"


def test_a_commit_that_fails_after_such_an_exception_names_it_as_its_cause(
    coordinator: Coordinator,
) -> None:
    def run() -> None:
        with tidelock.transaction(no_rollback_for=LookupError):
            coordinator.advance(60_001)
            raise LookupError("harmless")

    with pytest.raises(TransactionTimedOutError) as caught:
        run()
    assert isinstance(caught.value.__cause__, LookupError)
