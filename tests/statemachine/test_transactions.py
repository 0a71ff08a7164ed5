"""Global transactions: begun, decided once, driven to their end."""

from __future__ import annotations

from statemachine.outcomes import (
    Applied,
    GlobalAnswered,
    RejectionCode,
)
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions, row, status


def test_an_xid_is_made_or_given_and_never_used_twice() -> None:
    log = Transactions()
    first, second = (result(log.begin("")) for _ in range(2))
    assert [first, second] == [
        GlobalAnswered(xid="n1:1", status="BEGIN", reason=""),
        GlobalAnswered(xid="n1:2", status="BEGIN", reason=""),
    ]
    assert status(log.begin("mine")) == "BEGIN"
    assert code(log.begin("mine")) is RejectionCode.TRANSACTION_EXISTS
    for unusable in ("", " ", "a b", "ä", "x" * 65, "a/b"):
        if unusable:
            assert code(log.begin(unusable)) is RejectionCode.INVALID_COMMAND


def test_a_commit_is_driven_to_every_branch_and_waited_for() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="TCC")
    log.branch(mode="XA")
    pending = log.commit(wait_ms=10_000)
    assert log.calls() == [(1, "COMMIT"), (2, "COMMIT")]
    assert log.is_due()
    log.told(1)
    assert log.settled(pending) is None
    log.told(2)
    assert log.row().status == "COMMITTED"
    settled = log.settled(pending)
    assert settled is not None
    assert status(settled) == "COMMITTED"
    assert not log.is_due()


def test_a_wait_for_the_end_tells_where_it_stands_when_its_time_is_over() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="TCC")
    pending = log.commit(wait_ms=1_000)
    log.wait(1_000)
    log.fire_due()
    settled = log.settled(pending)
    assert settled is not None
    assert status(settled) == "COMMITTING"
    assert log.row().waiting == ()
    log.told(1)
    assert log.row().status == "COMMITTED"


def test_branches_of_at_are_committed_for_the_caller_at_once() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1))
    assert status(log.commit("x", wait_ms=10_000)) == "ASYNC_COMMITTING"
    assert isinstance(log.register(row(1), xid="y"), Applied), "its rows are free at the decision"
    log.told(1)
    assert log.row("x").status == "COMMITTED"


def test_rows_of_other_modes_are_locked_until_the_branch_has_committed() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1), mode="XA")
    log.commit("x")
    assert code(log.register(row(1), xid="y")) is RejectionCode.LOCK_CONFLICT
    log.told(1)
    assert isinstance(log.register(row(1), xid="y"), Applied)


def test_a_rollback_goes_backwards_and_stops_at_a_branch_that_cannot_yet() -> None:
    log = Transactions()
    log.begin()
    for _ in range(3):
        log.branch()
    log.roll_back()
    assert log.calls() == [(3, "ROLLBACK")]
    log.told(3, "RETRY")
    assert log.row().status == "ROLLBACK_RETRYING"
    assert log.calls() == [(3, "ROLLBACK")]
    log.told(3)
    log.told(2)
    log.told(1)
    assert log.row().status == "ROLLED_BACK"


def test_tries_are_cancelled_side_by_side() -> None:
    log = Transactions()
    log.begin()
    for _ in range(2):
        log.branch(mode="TCC")
    log.roll_back()
    assert log.calls() == [(1, "ROLLBACK"), (2, "ROLLBACK")]


def test_a_failed_branch_turns_the_commit_into_a_rollback() -> None:
    log = Transactions()
    log.begin()
    log.report(log.branch(done=False), "PHASE_ONE_FAILED")
    assert code(log.commit()) is RejectionCode.BRANCH_FAILED
    assert log.row().status == "ROLLING_BACK"


def test_a_branch_that_has_not_reported_keeps_the_commit_back() -> None:
    log = Transactions()
    log.begin()
    branch = log.branch(done=False)
    assert code(log.commit()) is RejectionCode.BRANCH_UNFINISHED
    assert log.row().status == "BEGIN"
    log.report(branch)
    assert status(log.commit()) == "ASYNC_COMMITTING"


def test_a_decision_is_repeated_without_harm_and_never_reversed() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    assert [status(log.commit()) for _ in range(2)] == ["COMMITTING", "COMMITTING"]
    assert code(log.roll_back()) is RejectionCode.TRANSACTION_DECIDED
    log.told(1)
    assert status(log.commit()) == "COMMITTED"
    assert code(log.roll_back()) is RejectionCode.TRANSACTION_DECIDED


def test_what_nobody_decides_in_time_is_rolled_back() -> None:
    log = Transactions()
    log.begin(timeout_ms=1_000)
    log.branch()
    log.wait(1_000)
    log.fire_due()
    assert log.row().status == "TIMEOUT_ROLLING_BACK"
    assert status(log.commit()) == "TIMEOUT_ROLLING_BACK"
    log.told(1)
    assert log.row().status == "TIMEOUT_ROLLED_BACK"


def test_a_commit_after_the_timeout_rolls_back_though_the_timer_was_late() -> None:
    log = Transactions()
    log.begin(timeout_ms=1_000)
    log.wait(1_000)
    assert status(log.commit()) == "TIMEOUT_ROLLED_BACK"


def test_reports_may_come_with_the_commit() -> None:
    log = Transactions()
    log.begin()
    first, second = log.branch(mode="XA", done=False), log.branch(mode="XA", done=False)
    assert code(log.commit(done=(first,))) is RejectionCode.BRANCH_UNFINISHED
    assert status(log.commit(done=(first, second))) == "COMMITTING"
    assert [log.branches()[each - 1].did_phase_one for each in (first, second)] == [True, True]
    assert status(log.commit(done=(first, second))) == "COMMITTING", "asked again, the same"


def test_reports_that_come_with_a_rollback_say_that_there_is_something_to_undo() -> None:
    log = Transactions()
    log.begin()
    done, unknown = log.branch(done=False), log.branch(done=False)
    log.roll_back(done=(done,))
    assert [log.branches()[each - 1].did_phase_one for each in (done, unknown)] == [True, False]


def test_a_report_that_comes_with_the_decision_changes_no_earlier_one() -> None:
    log = Transactions()
    log.begin()
    failed = log.branch(done=False)
    log.report(failed, "PHASE_ONE_FAILED")
    assert code(log.commit(done=(failed,))) is RejectionCode.BRANCH_FAILED
    assert log.row().status == "ROLLING_BACK"


def test_a_report_that_comes_with_a_late_decision_is_refused_as_late_reports_are() -> None:
    log = Transactions()
    log.begin()
    known, late = log.branch(done=False), log.branch(done=False)
    log.roll_back(done=(known,))
    assert status(log.roll_back(done=(known,))) == "ROLLING_BACK", "asked again, the same"
    assert code(log.roll_back(done=(known, late))) is RejectionCode.TRANSACTION_NOT_ACTIVE
    assert code(log.commit(done=(late,))) is RejectionCode.TRANSACTION_DECIDED


def test_a_late_report_is_refused_though_a_timeout_answers_every_decision() -> None:
    log = Transactions()
    log.begin(timeout_ms=1_000)
    late = log.branch(done=False)
    log.wait(1_000)
    log.fire_due()
    assert status(log.commit()).startswith("TIMEOUT_")
    assert code(log.commit(done=(late,))) is RejectionCode.TRANSACTION_NOT_ACTIVE


def test_a_decision_that_names_no_branch_of_its_transaction_is_refused_as_a_whole() -> None:
    log = Transactions()
    log.begin()
    branch = log.branch(done=False)
    assert code(log.commit(done=(branch, 99))) is RejectionCode.BRANCH_NOT_FOUND
    assert log.row().status == "BEGIN"
    assert not log.branches()[branch - 1].did_phase_one


def test_a_decided_transaction_does_not_time_out() -> None:
    log = Transactions()
    log.begin(timeout_ms=1_000)
    log.branch(mode="XA")
    log.commit()
    log.wait(1_000)
    log.fire_due()
    assert log.row().status == "COMMITTING"
