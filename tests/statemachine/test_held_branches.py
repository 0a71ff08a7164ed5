"""Branches that stand on a channel session: refused without one, and lost with it."""

from __future__ import annotations

import pytest

from statemachine.outcomes import Applied, RejectionCode
from statemachine.transactions import held_branches
from statemachine.transactions.rows import Calls
from tests.statemachine.building import code
from tests.statemachine.channels import GRACE_MS, Channels
from tests.statemachine.transacting import URL, row, status

# --- registering


@pytest.mark.parametrize("mode", ["LCN", "XA"])
def test_a_branch_needs_a_session_that_is_there(mode: str) -> None:
    log = Channels()
    log.begin()
    ended = log.open()
    log.leave(ended)
    assert code(log.join(0, mode=mode)) is RejectionCode.INVALID_COMMAND
    assert code(log.join(ended, mode=mode)) is RejectionCode.CHANNEL_SESSION_ENDED
    assert code(log.join(2**62, mode=mode)) is RejectionCode.CHANNEL_SESSION_ENDED
    assert code(log.join(-1, mode=mode)) is RejectionCode.CHANNEL_SESSION_ENDED
    assert log.branches() == []
    waiting = log.open()
    log.detach((waiting, 1))
    assert isinstance(log.join(waiting, mode=mode), Applied)


def test_a_branch_that_is_called_over_http_needs_no_session() -> None:
    log = Channels()
    log.begin()
    by_http = Calls(commit=URL, rollback=URL)
    assert isinstance(log.join(0, mode="XA", calls=by_http), Applied)
    half = Calls(commit=URL)
    assert code(log.join(0, mode="XA", calls=half)) is RejectionCode.INVALID_COMMAND
    assert code(log.join(0, mode="LCN", calls=by_http)) is RejectionCode.INVALID_COMMAND


@pytest.mark.parametrize("mode", ["AT", "TCC", "TXC"])
def test_other_branches_can_do_without(mode: str) -> None:
    log = Channels()
    log.begin()
    assert isinstance(log.join(0, mode=mode), Applied)
    assert isinstance(log.join(77, mode=mode), Applied)


def test_a_branch_that_waits_for_rows_is_refused_when_its_session_ends_first() -> None:
    log = Channels()
    log.begin("x")
    log.begin("y")
    log.begin("z")
    log.branch(row(1), row(2), xid="x")
    session = log.open()
    pending = log.join(session, row(1), row(2), xid="y", wait_ms=60_000)
    behind = log.register(row(2), xid="z", wait_ms=60_000)
    log.leave(session)
    log.commit("x")
    refused = log.settled(pending)
    assert refused is not None
    assert code(refused) is RejectionCode.CHANNEL_SESSION_ENDED
    assert log.branches("y") == []
    assert isinstance(log.settled(behind), Applied)


# --- before the decision


@pytest.mark.parametrize("reported", [False, True])
def test_a_group_rolls_back_when_a_session_ends_before_the_decision(reported: bool) -> None:
    log = Channels()
    log.begin()
    session, other = log.open(), log.open()
    if reported:
        log.held(session, row(1))
    else:
        log.join(session, row(1))
    log.held(other)
    log.detach((session, 1))
    log.let_pass(GRACE_MS)
    assert log.row().status == "ROLLING_BACK"
    assert "session" in log.row().reason
    # The connection that held it is closed: there is nobody to tell.
    assert log.statuses()[0] == "PHASE_TWO_ROLLED_BACK"
    assert [operation for _, operation in log.calls()] == ["ROLLBACK"]
    log.told(log.branches()[1].branch_id)
    assert log.row().status == "ROLLED_BACK"
    assert code(log.commit()) is RejectionCode.TRANSACTION_DECIDED


def test_rows_of_a_lost_branch_are_free() -> None:
    log = Channels()
    log.begin("x")
    log.begin("y")
    session = log.open()
    log.held(session, row(1))
    pending = log.register(row(1), xid="y", wait_ms=60_000)
    log.leave(session)
    assert log.row("x").status == "ROLLED_BACK"
    assert isinstance(log.settled(pending), Applied)


def test_a_commit_is_refused_though_the_lost_branches_are_not_done_with_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_branches, "LOST_AT_ONCE", 1)
    log = Channels()
    session = log.open()
    for xid in ("x", "y"):
        log.begin(xid)
        log.held(session, xid=xid)
    log.leave(session)
    assert [log.row(xid).status for xid in ("x", "y")] == ["ROLLED_BACK", "BEGIN"]
    assert code(log.commit("y")) is RejectionCode.BRANCH_FAILED
    assert log.row("y").status == "ROLLING_BACK"
    log.fire_due()
    assert log.row("y").status == "ROLLED_BACK"
    log.fire_due()
    assert log.rows(b"Xjb") == []


def test_a_branch_that_changed_nothing_or_was_withdrawn_does_not_count() -> None:
    log = Channels()
    log.begin()
    session = log.open()
    for how in ("PHASE_ONE_READ_ONLY", "WITHDRAWN"):
        log.join(session)
        log.report(log.branches()[-1].branch_id, how)
    log.leave(session)
    assert log.row().status == "BEGIN"
    assert status(log.commit()) == "COMMITTED"


def test_an_xa_branch_outlives_its_session() -> None:
    log = Channels()
    log.begin()
    session = log.open()
    log.held(session, mode="XA")
    log.leave(session)
    assert log.row().status == "BEGIN"
    assert status(log.commit()) == "COMMITTING"


# --- after the decision


def test_a_branch_that_is_lost_after_the_decision_has_failed_and_says_so() -> None:
    log = Channels()
    log.begin()
    session, other = log.open(), log.open()
    lost = log.held(session)
    log.held(other)
    log.commit()
    log.leave(session)
    assert log.row().status == "COMMITTING"
    log.told(log.branches()[1].branch_id)
    assert log.row().status == "COMMIT_FAILED"
    assert log.statuses() == ["PHASE_TWO_COMMIT_FAILED_UNRETRYABLE", "PHASE_TWO_COMMITTED"]
    failure = log.branches()[0].failure
    assert failure is not None
    assert failure.type == "CHANNEL_SESSION_ENDED"
    assert lost == log.branches()[0].branch_id


def test_a_branch_that_said_it_was_committed_is() -> None:
    log = Channels()
    log.begin()
    session = log.open()
    branch = log.held(session)
    log.commit()
    log.told(branch)
    log.leave(session)
    assert log.row().status == "COMMITTED"
    assert log.rows(b"Xjb") == []


def test_a_branch_that_is_lost_while_rolling_back_is_rolled_back() -> None:
    log = Channels()
    log.begin()
    session = log.open()
    log.held(session)
    log.roll_back()
    log.leave(session)
    assert log.row().status == "ROLLED_BACK"


def test_what_an_operator_has_ended_is_left_alone() -> None:
    log = Channels()
    log.begin()
    session = log.open()
    branch = log.held(session)
    log.commit()
    log.told(branch, "FAILED")
    assert log.row().status == "COMMIT_FAILED"
    log.leave(session)
    assert log.row().status == "COMMIT_FAILED"
    assert log.statuses() == ["PHASE_TWO_COMMIT_FAILED_UNRETRYABLE"]
