"""What a node runs, claims and renews of executions, by the state alone."""

from __future__ import annotations

import pytest

from node.services.agenda import Agenda
from statemachine.commands import AcceptExecution, AdvanceExecution, FinishExecution
from statemachine.outcomes import Position
from tests.statemachine.building import Log

FIRST = Position(1, 0)


def accept(
    owner: str = "n1", *, follows: bool = False, asynchronous: bool = True
) -> AcceptExecution:
    return AcceptExecution(
        service="XA",
        business_type="BATCH_UPDATE",
        business_data=b'{"a":1}',
        asynchronous=asynchronous,
        owner=owner,
        follows=follows,
        room=1,
        lease_ms=1_000,
    )


def begin(log: Log, at: Position = FIRST, epoch: int = 1) -> None:
    log.do(
        AdvanceExecution(
            execution=at,
            epoch=epoch,
            jta_status="ACTIVE",
            xid="x1",
            progress=None,
            result=b'{"created":null}',
            lease_ms=1_000,
        )
    )


def finish(log: Log, at: Position = FIRST, epoch: int = 1) -> None:
    log.do(
        FinishExecution(
            execution=at,
            epoch=epoch,
            status="SUCCESS",
            jta_status="COMMITTED",
            error="",
            failures=b"",
            keep_ms=60_000,
        )
    )


@pytest.fixture
def log() -> Log:
    return Log()


def agenda(log: Log, node_id: str = "n1", *, concurrency: int = 4) -> Agenda:
    return Agenda(node_id, log.store, concurrency=concurrency, lease_ms=1_000)


def test_what_was_accepted_here_is_run_here_and_nowhere_else(log: Log) -> None:
    log.do(accept("n1"))
    ((position, run),), claims = agenda(log).step(0.0)
    assert (position, run.epoch, run.attempt, run.begun_xid) == (FIRST, 1, 1, "")
    assert bytes(run.business_data) == b'{"a":1}'
    assert claims == []
    assert agenda(log, "n2").step(0.0) == ([], [])


def test_no_more_are_run_than_there_are_threads(log: Log) -> None:
    log.send(*(accept() for _ in range(5)))
    mine = agenda(log, concurrency=2)
    runs, _ = mine.step(0.0)
    assert len(runs) == 2
    mine.running.update((position, run.epoch) for position, run in runs)
    assert mine.step(0.0) == ([], [])


def test_one_that_follows_another_waits_for_its_end(log: Log) -> None:
    log.send(accept(), accept(follows=True))
    mine = agenda(log)
    runs, _ = mine.step(0.0)
    assert [position for position, _ in runs] == [FIRST]
    finish(log)
    runs, _ = mine.step(0.0)
    assert [position for position, _ in runs] == [Position(1, 1)]


def test_what_nobody_owns_is_claimed_and_run_once_it_is(log: Log) -> None:
    log.do(accept("n1"))
    begin(log)
    log.wait(1_000)
    log.fire_due()
    mine = agenda(log, "n2")
    runs, (claim,) = mine.step(0.0)
    assert runs == []
    log.do(claim)
    mine.claimed[FIRST] = 3
    ((_, run),), _ = mine.step(0.0)
    assert (run.epoch, run.attempt, run.begun_xid, run.may_run_again) == (3, 2, "x1", True)
    assert bytes(run.notes) == b'{"created":null}'


def test_what_a_dead_worker_had_begun_is_claimed_anew_before_it_is_run(log: Log) -> None:
    log.do(accept("n1"))
    mine = agenda(log)
    ((position, run),), _ = mine.step(0.0)
    mine.running[position] = run.epoch
    begin(log)
    mine.worker_died()
    runs, (claim,) = mine.step(0.0)
    assert (runs, claim.epoch) == ([], 1)


def test_what_the_worker_left_is_taken_up_later(log: Log) -> None:
    log.do(accept())
    begin(log)
    mine = agenda(log)
    mine.waits_until[FIRST] = 5.0
    assert mine.step(4.0) == ([], [])
    assert mine.next_wake_s(4.0) == 1.0
    _, (claim,) = mine.step(5.0)
    assert claim.execution == FIRST
    finish(log)
    mine.step(6.0)
    assert mine.next_wake_s(6.0) is None


def test_all_that_is_owned_is_renewed_those_that_wait_as_well(log: Log) -> None:
    assert agenda(log).renewal() is None
    log.send(accept("n1"), accept("n1"), accept("n2"))
    renewal = agenda(log).renewal()
    assert renewal is not None
    assert renewal.executions == ((FIRST, 1), (Position(1, 1), 1))
