"""What the driver of a node has called for a transaction, and what it reports."""

from __future__ import annotations

from statemachine.commands import (
    LockRows,
    OperateGlobal,
    ReportCalls,
    ReportedCall,
)
from statemachine.outcomes import (
    Applied,
    CallsReported,
    RejectionCode,
)
from statemachine.transactions.driving import GREATEST_RESULT_BYTES
from statemachine.transactions.due import GREATEST_NOTED
from statemachine.transactions.rows import (
    due_globals,
)
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions, row, status, step


def test_a_call_that_did_not_succeed_is_made_again_after_a_growing_pause() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    pauses = []
    for _ in range(8):
        log.told(1, "RETRY")
        pauses.append(log.branches()[0].due_ms - log.elapsed_ms)
    assert pauses == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]
    log.told(1, "ONGOING")
    assert log.branches()[0].attempts == 8


def test_reports_of_an_old_leader_and_of_calls_that_nobody_wants_change_nothing() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.branch(mode="XA")
    log.commit()
    assert code(log.told(1, term=7)) is RejectionCode.EPOCH_STALE
    assert result(log.told(1)) == CallsReported(taken=1)
    late = ReportedCall(
        xid="x",
        branch_id=1,
        operation="COMMIT",
        verdict="FAILED",
        result=b"",
        failure_type="",
        failure_message="",
        jitter_permille=0,
    )
    for reported in (late, ReportedCall("x", 2, "ROLLBACK", "DONE", b"", "", "", 0)):
        assert result(log.do(ReportCalls(epoch=1, calls=(reported,)))) == CallsReported(taken=0)
    assert log.statuses() == ["PHASE_TWO_COMMITTED", "PHASE_ONE_DONE"]


def test_a_branch_that_never_will_leaves_the_transaction_failed_and_operable() -> None:
    log = Transactions()
    log.begin("x")
    log.begin("y")
    log.branch(row(1), mode="XA")
    log.branch(mode="XA")
    log.roll_back()
    log.told(2)
    log.told(1, "FAILED")
    assert log.row().status == "ROLLBACK_FAILED"
    assert code(log.register(row(1), xid="y")) is RejectionCode.LOCK_CONFLICT
    act = OperateGlobal(xid="x", action="RETRY_NOW", reason="mended", principal="ops")
    assert status(log.do(act)) == "ROLLBACK_RETRYING"
    log.told(1, "FAILED")
    wrong = OperateGlobal(xid="x", action="FORCE_COMMIT", reason="", principal="ops")
    assert code(log.do(wrong)) is RejectionCode.OPERATION_NOT_POSSIBLE
    force = OperateGlobal(xid="x", action="FORCE_ROLLBACK", reason="by hand", principal="ops")
    assert status(log.do(force)) == "ROLLED_BACK"
    assert isinstance(log.register(row(1), xid="y"), Applied)


def test_stopped_retries_go_on_when_an_operator_wants() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    log.do(OperateGlobal(xid="x", action="STOP_RETRY", reason="", principal="ops"))
    assert not log.is_due()
    log.do(OperateGlobal(xid="x", action="START_RETRY", reason="", principal="ops"))
    assert log.is_due()


def test_what_did_not_succeed_counts_once_however_often_it_is_reported() -> None:
    log = Transactions()
    log.saga(step("a"))
    first = ReportedCall("x", 1, "FORWARD", "RETRY", b"", "TIMEOUT", "no answer", 0, attempts=0)
    assert result(log.do(ReportCalls(epoch=1, calls=(first, first)))) == CallsReported(taken=1)
    assert result(log.do(ReportCalls(epoch=1, calls=(first,)))) == CallsReported(taken=0)
    assert log.branches()[0].attempts == 1


def test_a_decision_is_carried_out_at_once_though_a_step_was_to_wait() -> None:
    log = Transactions()
    log.saga(step("a"), timeout_ms=100)
    log.told("a", "RETRY")
    assert log.branches()[0].due_ms > 0
    log.wait(100)
    log.fire_due()
    assert log.row().status == "TIMEOUT_ROLLING_BACK"
    assert (log.row().due_ms, log.branches()[0].attempts) == (0, 0)


def test_a_result_that_is_too_large_is_left_out_and_said_to_be() -> None:
    log = Transactions()
    log.saga(step("a"), step("b", 0))
    large = b'"' + b"x" * GREATEST_RESULT_BYTES + b'"'
    done = ReportedCall("x", 1, "FORWARD", "DONE", large, "", "", 0)
    result(log.do(ReportCalls(epoch=1, calls=(done,))))
    branch = log.branches()[0]
    assert (branch.status, branch.result) == ("PHASE_ONE_DONE", b"")
    assert branch.failure is not None
    assert branch.failure.type == "RESULT_TOO_LARGE"


def test_a_verdict_that_nobody_knows_changes_nothing() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    odd = ReportedCall("x", 1, "COMMIT", "PERHAPS", b"", "", "", 0)
    log.do(ReportCalls(epoch=1, calls=(odd,)))
    assert log.statuses() == ["PHASE_ONE_DONE"]


def test_the_index_of_what_is_due_is_read_on_from_where_one_was() -> None:
    log = Transactions()
    for xid in ("b", "a", "c"):
        log.saga(step("s"), xid=xid)
    log.told("s", "RETRY", xid="a")
    due_ms = log.row("a").due_ms
    assert due_globals(log.store, (0, ""), 0, limit=10) == [(0, "b"), (0, "c")]
    assert due_globals(log.store, (0, "b"), due_ms, limit=10) == [(0, "c"), (due_ms, "a")]
    assert due_globals(log.store, (0, "b"), due_ms, limit=1) == [(0, "c")]
    assert due_globals(log.store, (due_ms, "a"), due_ms, limit=10) == []


def test_a_driver_is_told_of_what_entries_left_it_to_do() -> None:
    log = Transactions()
    notes = log.machine.due_transactions
    assert notes.take() is None  # at first only the index tells
    assert notes.take() == []
    log.saga(step("s"))
    log.begin("y")
    assert notes.take() == ["x"]
    log.told("s")
    assert not notes
    for number in range(GREATEST_NOTED + 1):
        notes.note(str(number))
    assert notes.take() is None
    assert notes.take() == []


def test_how_a_step_ends_is_learnt_from_its_call_alone() -> None:
    log = Transactions()
    log.saga(step("a"))
    assert code(log.report(1)) is RejectionCode.BRANCH_STATUS_FIXED
    rows = LockRows(xid="x", branch_id=1, locks=(row(1),), wait_ms=0)
    assert code(log.do(rows)) is RejectionCode.BRANCH_STATUS_FIXED
    assert code(log.register(mode="SAGA")) is RejectionCode.TRANSACTION_NOT_ACTIVE
    assert log.statuses() == ["REGISTERED"]
