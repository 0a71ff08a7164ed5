"""A wait ends once: by its turn, by being cancelled, or at its deadline; then it is forgotten."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.change_log import ChangeLog, read_changes
from statemachine.commands import CancelWait
from statemachine.locks import GREATEST_TTL_MS
from statemachine.outcomes import (
    Position,
    RejectionCode,
    WaitCancelled,
)
from statemachine.state import load_state
from statemachine.tickets import (
    GREATEST_WAIT_MS,
    LEAST_KEPT_MS,
    TicketKind,
    Tickets,
    get_ticket,
)
from statemachine.write_buffer import WriteBuffer
from tests.statemachine.building import Log, acquire, code, result, ticket


def open_ticket(log: Log, wait_ms: int) -> Position:
    """Begin a wait, for a lock that somebody has."""
    log.do(acquire("l", "holder", ttl_ms=GREATEST_TTL_MS))
    return ticket(log.do(acquire("l", "waiter", wait_ms=wait_ms)))


@pytest.fixture
def log() -> Log:
    log = Log()
    log.tick()
    return log


def outcome_code(log: Log, waiting: Position) -> RejectionCode:
    found = get_ticket(log.store, waiting)
    assert found is not None
    assert found.outcome is not None
    return code(found.outcome)


def test_a_cancelled_wait_has_an_outcome_and_watchers_of_the_ticket_are_told(log: Log) -> None:
    waiting = open_ticket(log, 1_000)
    assert result(log.do(CancelWait(ticket=waiting))) == WaitCancelled(cancelled=True)
    assert outcome_code(log, waiting) is RejectionCode.LOCK_HELD
    (recorded,) = read_changes(log.store, waiting, limit=10)
    assert recorded.settled == (waiting,)
    assert recorded.changes == ()


def test_a_wait_that_has_ended_is_not_ended_again(log: Log) -> None:
    waiting = open_ticket(log, 1_000)
    log.do(CancelWait(ticket=waiting))
    assert result(log.do(CancelWait(ticket=waiting))) == WaitCancelled(cancelled=False)
    assert len(read_changes(log.store, waiting, limit=10)) == 1


def test_a_wait_ends_at_its_deadline_and_not_before(log: Log) -> None:
    waiting = open_ticket(log, 1_000)
    log.wait(999)
    log.fire_due()
    found = get_ticket(log.store, waiting)
    assert found is not None
    assert found.outcome is None
    log.wait(1)
    log.fire_due()
    assert outcome_code(log, waiting) is RejectionCode.LOCK_HELD


def test_an_ended_wait_is_kept_for_a_while_and_leaves_nothing_behind(log: Log) -> None:
    waiting = open_ticket(log, 1_000)
    log.do(CancelWait(ticket=waiting))
    log.wait(LEAST_KEPT_MS - 1)
    log.fire_due()
    assert get_ticket(log.store, waiting) is not None
    log.wait(1)
    log.fire_due()
    assert get_ticket(log.store, waiting) is None
    assert log.rows(keys.TICKET) == []
    assert code(log.do(CancelWait(ticket=waiting))) is RejectionCode.TICKET_NOT_FOUND


@pytest.mark.parametrize("waiting", [Position(-1, 0), Position(2**63, 0), Position(1, 2**32)])
def test_a_ticket_that_cannot_be_is_not_found(log: Log, waiting: Position) -> None:
    assert code(log.do(CancelWait(ticket=waiting))) is RejectionCode.TICKET_NOT_FOUND


def test_a_wait_is_bounded(log: Log) -> None:
    state = load_state(log.store)
    writes = WriteBuffer(log.store)
    tickets = Tickets(state, writes, ChangeLog(state, writes))
    pending = tickets.open(0, TicketKind.LOCK, b"name", 2**60)
    writes.flush()
    found = get_ticket(log.store, pending.ticket)
    assert found is not None
    assert found.deadline_ms == GREATEST_WAIT_MS
