"""Executions: who owns them, what their owners may say, and what is left of them."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.change_log import read_changes
from statemachine.changes import ExecutionChanged
from statemachine.commands import (
    AcceptExecution,
    AdvanceExecution,
    AnyCommand,
    ClaimExecution,
    FinishExecution,
    Progress,
    RenewExecutions,
)
from statemachine.execution_rows import (
    GREATEST_OPEN,
    ExecutionRow,
    business_data,
    get_execution,
    open_executions,
    parse_transaction_id,
    transaction_id,
    xid_of,
)
from statemachine.outcomes import (
    Applied,
    ExecutionAccepted,
    ExecutionMoved,
    ExecutionsRenewed,
    Outcome,
    Position,
    RejectionCode,
)
from statemachine.timers import TimerKind
from statemachine.timestamps import clock, get_event
from tests.statemachine.building import Log, code, result

LEASE_MS = 10_000
FIRST = Position(1, 0)


def accept(
    owner: str = "n1",
    *,
    follows: bool = False,
    room: int = 1,
    service: str = "XA",
    business_type: str = "BATCH_UPDATE",
    data: bytes = b"{}",
    lease_ms: int = LEASE_MS,
) -> AcceptExecution:
    return AcceptExecution(
        service=service,
        business_type=business_type,
        business_data=data,
        asynchronous=True,
        owner=owner,
        follows=follows,
        room=room,
        lease_ms=lease_ms,
    )


def claim(epoch: int, owner: str = "n2", at: Position = FIRST) -> ClaimExecution:
    return ClaimExecution(execution=at, epoch=epoch, owner=owner, lease_ms=LEASE_MS)


def advance(
    epoch: int = 1,
    jta_status: str = "ACTIVE",
    *,
    xid: str = "",
    progress: Progress | None = None,
    answer: bytes | None = None,
    at: Position = FIRST,
) -> AdvanceExecution:
    return AdvanceExecution(
        execution=at,
        epoch=epoch,
        jta_status=jta_status,
        xid=xid,
        progress=progress,
        result=answer,
        lease_ms=LEASE_MS,
    )


def finish(
    epoch: int = 1,
    status: str = "SUCCESS",
    *,
    jta_status: str = "COMMITTED",
    error: str = "",
    keep_ms: int = 60_000,
    at: Position = FIRST,
) -> FinishExecution:
    return FinishExecution(
        execution=at,
        epoch=epoch,
        status=status,
        jta_status=jta_status,
        error=error,
        failures=b"",
        keep_ms=keep_ms,
    )


def renew(*executions: tuple[Position, int], owner: str = "n1") -> RenewExecutions:
    return RenewExecutions(owner=owner, executions=executions, lease_ms=LEASE_MS)


def epoch_after(outcome: Outcome) -> int:
    moved = result(outcome)
    assert isinstance(moved, ExecutionMoved)
    return moved.epoch


def stored(log: Log, at: Position = FIRST) -> ExecutionRow:
    row = get_execution(log.store, at)
    assert row is not None
    return row


def leases(log: Log) -> list[bytes]:
    """Return the timers of executions."""
    kinds = (TimerKind.EXECUTION_LEASE, TimerKind.EXECUTION_RETENTION)
    return [key for key, _ in log.rows(keys.TIMER) if keys.timer_of(key)[1] in kinds]


@pytest.fixture
def log() -> Log:
    """A log with one execution, which n1 owns."""
    log = Log()
    assert isinstance(log.do(accept(data=b'{"a":1}')), Applied)
    return log


def test_an_execution_has_a_timestamp_event_of_its_own() -> None:
    log = Log()
    accepted = result(log.do(accept(service="JTA")))
    assert isinstance(accepted, ExecutionAccepted)
    name = transaction_id("JTA", FIRST)
    assert parse_transaction_id(name) == ("JTA", FIRST)
    event = get_event(log.store, name.removeprefix("jta-"))
    assert event is not None
    assert (event.event_type, event.lamport_timestamp) == ("JTA_TRANSACTION", 1)
    assert (clock(log.store, "n1"), accepted.lamport_timestamp) == (1, 1)
    assert business_data(log.store, FIRST) == b"{}"
    assert stored(log).owner == "n1"


@pytest.mark.parametrize("text", ["", "xa-", "xa-1", "tx-" + "0" * 24, "0" * 24, "XA-" + "0" * 24])
def test_other_texts_name_no_execution(text: str) -> None:
    assert parse_transaction_id(text) is None


@pytest.mark.parametrize(
    "command",
    [
        accept(service="AT"),
        accept(business_type=""),
        accept(business_type="b" * 129),
        accept(owner=""),
        accept(data=b""),
        accept(lease_ms=1),
        accept(follows=True),
    ],
)
def test_what_cannot_be_accepted_leaves_no_trace(command: AnyCommand) -> None:
    log = Log()
    assert code(log.do(command)) is RejectionCode.INVALID_COMMAND
    assert not [row for row in log.store.items() if row[0][:1] in b"JeLN"]


def test_its_owner_takes_it_to_its_end(log: Log) -> None:
    log.do(advance(xid="x1"))
    log.do(advance(jta_status="", progress=Progress(3, 2, 9, 1)))
    log.do(advance(jta_status="PREPARING", answer=b'{"n":1}'))
    log.do(advance(jta_status="COMMITTING"))
    assert epoch_after(log.do(finish())) == 1
    row = stored(log)
    assert (row.status, row.jta_status, row.xid, row.result) == (
        "SUCCESS",
        "COMMITTED",
        "x1",
        b'{"n":1}',
    )
    assert row.progress == Progress(3, 2, 9, 1)
    assert [step.jta_status for step in row.timeline] == [
        "",
        "ACTIVE",
        "PREPARING",
        "COMMITTING",
        "COMMITTED",
    ]
    assert business_data(log.store, FIRST) == b""
    assert open_executions(log.store) == []


def test_what_did_not_succeed_has_no_result(log: Log) -> None:
    log.do(advance(answer=b"{}"))
    log.do(finish(status="ROLLBACK", jta_status="ROLLED_BACK", error="Out of stock."))
    assert (stored(log).result, stored(log).error) == (b"", "Out of stock.")


def test_watchers_are_told_of_each_status_and_of_no_progress(log: Log) -> None:
    log.do(advance(xid="x1"))
    log.do(advance(jta_status="", progress=Progress(1, 1, 1, 1)))
    log.do(finish())
    told = [
        change
        for each in read_changes(log.store, Position(0, 0), limit=100)
        for change in each.changes
        if isinstance(change, ExecutionChanged)
    ]
    assert [(change.status, change.jta_status, change.xid) for change in told] == [
        ("ACCEPTED", "", xid_of("XA", FIRST, 1)),
        ("RUNNING", "ACTIVE", "x1"),
        ("SUCCESS", "COMMITTED", "x1"),
    ]


def test_a_lease_that_is_not_renewed_frees_it_for_others(log: Log) -> None:
    assert code(log.do(claim(1))) is RejectionCode.EXECUTION_TAKEN_OVER
    log.wait(LEASE_MS)
    log.fire_due()
    row = stored(log)
    assert (row.owner, row.epoch) == ("", 2)
    assert code(log.do(advance(1))) is RejectionCode.EXECUTION_TAKEN_OVER
    assert code(log.do(advance(2))) is RejectionCode.EXECUTION_TAKEN_OVER
    assert epoch_after(log.do(claim(2))) == 3
    assert code(log.do(claim(2, owner="n3"))) is RejectionCode.EXECUTION_TAKEN_OVER
    assert code(log.do(finish(1))) is RejectionCode.EXECUTION_TAKEN_OVER
    assert epoch_after(log.do(advance(3))) == 3
    assert stored(log).attempts == 2


def test_its_owner_may_claim_it_again_when_its_process_has_died(log: Log) -> None:
    assert epoch_after(log.do(claim(1, owner="n1"))) == 2
    assert code(log.do(advance(1))) is RejectionCode.EXECUTION_TAKEN_OVER


def test_a_renewed_lease_lasts(log: Log) -> None:
    for _ in range(5):
        log.wait(LEASE_MS - 1)
        renewed = result(log.do(renew((FIRST, 1))))
        assert renewed == ExecutionsRenewed(lost=())
        log.fire_due()
    assert stored(log).owner == "n1"
    assert len(leases(log)) == 1


def test_whoever_renews_hears_what_is_not_his_any_more(log: Log) -> None:
    log.do(accept())
    other = Position(2, 0)
    log.do(finish(at=other))
    renewed = result(log.do(renew((other, 1), (FIRST, 1), (FIRST, 2), (Position(9, 9), 1))))
    assert renewed == ExecutionsRenewed(lost=(0, 2, 3))
    assert result(log.do(renew((FIRST, 1), owner="n2"))) == ExecutionsRenewed(lost=(0,))


def test_an_execution_that_has_ended_is_forgotten_after_its_time(log: Log) -> None:
    log.do(finish(keep_ms=5_000))
    log.wait(4_999)
    log.fire_due()
    assert code(log.do(claim(1))) is RejectionCode.EXECUTION_TAKEN_OVER
    log.wait(1)
    log.fire_due()
    assert code(log.do(claim(1))) is RejectionCode.EXECUTION_NOT_FOUND
    assert log.rows(b"J") == []
    assert leases(log) == []


@pytest.mark.parametrize(
    "command",
    [
        advance(jta_status="DONE"),
        advance(xid="x" * 129),
        advance(progress=Progress(-1, 0, 0, 0)),
        advance(answer=b"1" * (256 * 1024 + 1)),
        finish(status="RUNNING"),
        finish(jta_status=""),
        finish(error="e" * 2_001),
        finish(keep_ms=0),
        claim(1, owner=""),
        RenewExecutions(owner="n1", executions=((FIRST, 1),) * 2_001, lease_ms=LEASE_MS),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(log: Log, command: AnyCommand) -> None:
    before = log.rows(b"J")
    assert code(log.do(command)) is RejectionCode.INVALID_COMMAND
    assert log.rows(b"J") == before


@pytest.mark.parametrize(
    "at", [Position(-1, 0), Position(1, -1), Position(2**63, 0), Position(1, 2**32)]
)
def test_positions_that_are_none_name_no_execution(log: Log, at: Position) -> None:
    assert code(log.do(claim(1, at=at))) is RejectionCode.EXECUTION_NOT_FOUND


def test_those_of_one_request_follow_each_other_and_are_accepted_together() -> None:
    log = Log()
    log.send(accept(room=3), accept(follows=True, room=2), accept(follows=True, room=1))
    assert [row.follows for _, row in open_executions(log.store)] == [
        None,
        Position(1, 0),
        Position(1, 1),
    ]


def test_no_more_are_accepted_than_can_be_under_way_and_of_a_request_all_or_none() -> None:
    log = Log()
    log.send(*(accept() for _ in range(GREATEST_OPEN - 2)))
    rejected = log.send(accept(room=3), accept(follows=True, room=2), accept(follows=True))
    assert code(rejected.outcomes[0]) is RejectionCode.TOO_MANY_EXECUTIONS
    assert not any(isinstance(outcome, Applied) for outcome in rejected.outcomes)
    assert clock(log.store, "n1") == GREATEST_OPEN - 2
    log.send(accept(room=2), accept(follows=True))
    assert code(log.do(accept())) is RejectionCode.TOO_MANY_EXECUTIONS
    log.do(finish())
    assert isinstance(log.do(accept()), Applied)


def test_the_timeline_is_bounded_and_keeps_the_last_step(log: Log) -> None:
    epoch = 1
    for _ in range(70):
        epoch = epoch_after(log.do(claim(epoch, owner="n1")))
    log.do(finish(epoch))
    timeline = stored(log).timeline
    assert len(timeline) == 64
    assert timeline[-1].status == "SUCCESS"
