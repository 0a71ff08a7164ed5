"""A wait ends once: by its turn, by being cancelled, or at its deadline; then it is forgotten."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.change_log import ChangeLog, read_changes
from statemachine.commands import CancelWait
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
from tests.statemachine.building import Log, code, result


def open_ticket(log: Log, wait_ms: int) -> Position:
    """Begin a wait, as a command of the entry applied last would."""
    state = load_state(log.store)
    writes = WriteBuffer(log.store)
    tickets = Tickets(state, writes, ChangeLog(state, writes))
    pending = tickets.open(0, TicketKind.LOCK, b"name", wait_ms)
    writes.flush()
    return pending.ticket


@pytest.fixture
def log() -> Log:
    log = Log()
    log.tick()
    return log


def outcome_code(log: Log, ticket: Position) -> RejectionCode:
    found = get_ticket(log.store, ticket)
    assert found is not None
    assert found.outcome is not None
    return code(found.outcome)


def test_a_cancelled_wait_has_an_outcome_and_watchers_of_the_ticket_are_told(log: Log) -> None:
    ticket = open_ticket(log, 1_000)
    assert result(log.do(CancelWait(ticket=ticket))) == WaitCancelled(cancelled=True)
    assert outcome_code(log, ticket) is RejectionCode.WAIT_CANCELLED
    (recorded,) = read_changes(log.store, Position(0, 0), limit=10)
    assert recorded.settled == (ticket,)
    assert recorded.changes == ()


def test_a_wait_that_has_ended_is_not_ended_again(log: Log) -> None:
    ticket = open_ticket(log, 1_000)
    log.do(CancelWait(ticket=ticket))
    assert result(log.do(CancelWait(ticket=ticket))) == WaitCancelled(cancelled=False)
    assert len(read_changes(log.store, Position(0, 0), limit=10)) == 1


def test_a_wait_ends_at_its_deadline_and_not_before(log: Log) -> None:
    ticket = open_ticket(log, 1_000)
    log.wait(999)
    log.fire_due()
    found = get_ticket(log.store, ticket)
    assert found is not None
    assert found.outcome is None
    log.wait(1)
    log.fire_due()
    assert outcome_code(log, ticket) is RejectionCode.WAIT_CANCELLED


def test_an_ended_wait_is_kept_for_a_while_and_leaves_nothing_behind(log: Log) -> None:
    ticket = open_ticket(log, 1_000)
    log.do(CancelWait(ticket=ticket))
    log.wait(LEAST_KEPT_MS - 1)
    log.fire_due()
    assert get_ticket(log.store, ticket) is not None
    log.wait(1)
    log.fire_due()
    assert get_ticket(log.store, ticket) is None
    assert log.rows(keys.TICKET) == []
    assert code(log.do(CancelWait(ticket=ticket))) is RejectionCode.TICKET_NOT_FOUND


@pytest.mark.parametrize("ticket", [Position(-1, 0), Position(2**63, 0), Position(1, 2**32)])
def test_a_ticket_that_cannot_be_is_not_found(log: Log, ticket: Position) -> None:
    assert code(log.do(CancelWait(ticket=ticket))) is RejectionCode.TICKET_NOT_FOUND


def test_a_wait_is_bounded(log: Log) -> None:
    ticket = open_ticket(log, 2**60)
    found = get_ticket(log.store, ticket)
    assert found is not None
    assert found.deadline_ms == GREATEST_WAIT_MS
