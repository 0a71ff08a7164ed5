"""An acquire is abandoned by its idempotency key, wherever it has got to by then."""

from __future__ import annotations

from statemachine.commands import IdempotencyKey
from statemachine.lock_rows import get_lock
from statemachine.outcomes import LockAbandoned, LockGranted, Outcome, Pending, RejectionCode
from statemachine.tickets import get_ticket
from tests.statemachine.building import (
    Log,
    abandon_acquire,
    acquire,
    code,
    key,
    record,
    release,
    renew,
    result,
)
from tests.statemachine.lock_invariants import assert_locks_intact


def abandoned(outcome: Outcome) -> tuple[bool, bool]:
    """Return whether it waited, and whether it held the lock."""
    found = result(outcome)
    assert isinstance(found, LockAbandoned)
    return found.cancelled, found.released


def ask(log: Log, owner: str, under: IdempotencyKey, wait_ms: int = 0) -> Outcome:
    (outcome,) = log.send(acquire("l", owner, wait_ms=wait_ms), idempotency=under).outcomes
    assert_locks_intact(log.store)
    return outcome


def holder(log: Log) -> str | None:
    holders = get_lock(log.store, "l", limit=9).holders
    return holders[0].owner if holders else None


def test_one_that_waits_leaves_the_queue() -> None:
    log = Log()
    log.do(acquire("l", "a"))
    waiting = ask(log, "b", key(), wait_ms=9_000)
    assert isinstance(waiting, Pending)
    assert abandoned(log.do(abandon_acquire(owner="b"))) == (True, False)
    assert get_lock(log.store, "l", limit=9).waiter_count == 0
    ticket = get_ticket(log.store, waiting.ticket)
    assert ticket is not None
    assert ticket.outcome is not None
    assert code(ticket.outcome) is RejectionCode.LOCK_HELD


def test_what_it_was_granted_goes_to_the_next() -> None:
    log = Log()
    ask(log, "a", key())
    log.do(acquire("l", "b", wait_ms=9_000))
    assert abandoned(log.do(abandon_acquire())) == (False, True)
    assert holder(log) == "b"


def test_what_it_was_granted_after_a_wait_goes_back_too() -> None:
    log = Log()
    log.do(acquire("l", "a"))
    ask(log, "b", key(), wait_ms=9_000)
    log.do(release(1))
    assert holder(log) == "b"
    assert abandoned(log.do(abandon_acquire(owner="b"))) == (False, True)
    assert holder(log) is None


def test_one_that_comes_later_is_refused_however_often_it_comes() -> None:
    log = Log()
    assert abandoned(log.do(abandon_acquire())) == (False, False)
    for _ in range(2):
        assert code(ask(log, "a", key(), wait_ms=9_000)) is RejectionCode.REQUEST_ABANDONED
    assert holder(log) is None
    # Its own new request is another one.
    assert isinstance(result(ask(log, "a", key("k2"))), LockGranted)


def test_another_kind_of_request_under_an_abandoned_key_is_told_that_the_key_is_taken() -> None:
    log = Log()
    log.do(abandon_acquire())
    (outcome,) = log.send(record(), idempotency=key()).outcomes
    assert code(outcome) is RejectionCode.IDEMPOTENCY_KEY_REUSED


def test_to_abandon_twice_does_nothing_more() -> None:
    log = Log()
    ask(log, "a", key())
    log.do(abandon_acquire())
    log.do(acquire("l", "b"))
    assert abandoned(log.do(abandon_acquire())) == (False, False)
    assert holder(log) == "b"


def test_an_owner_that_asked_again_keeps_what_it_has() -> None:
    log = Log()
    ask(log, "a", key())
    log.do(renew(1))
    assert abandoned(log.do(abandon_acquire())) == (False, False)
    assert holder(log) == "a"


def test_requests_of_others_are_left_alone() -> None:
    """Under a key that somebody else's request had, or with another name or owner than it named."""
    log = Log()
    log.do(acquire("l", "a"))
    ask(log, "b", key(), wait_ms=9_000)
    for other in (
        abandon_acquire(owner="c"),
        abandon_acquire(owner="b", name="m"),
        abandon_acquire("other", owner="b"),
        abandon_acquire(owner="b", principal="q"),
    ):
        assert abandoned(log.do(other)) == (False, False)
    assert get_lock(log.store, "l", limit=9).waiter_count == 1
    log.send(record(), idempotency=key("event"))
    assert abandoned(log.do(abandon_acquire("event"))) == (False, False)
    assert log.send(record(), idempotency=key("event")).replayed


def test_an_abandoned_key_is_forgotten_like_any_other() -> None:
    log = Log()
    log.do(abandon_acquire())
    assert log.machine.idempotency_count == 1
    log.wait(3_600_001)
    log.fire_due()
    assert log.machine.idempotency_count == 0


def test_no_request_abandons_what_goes_under_its_own_key() -> None:
    log = Log()
    (outcome,) = log.send(abandon_acquire(), idempotency=key()).outcomes
    assert code(outcome) is RejectionCode.INVALID_COMMAND
    assert log.machine.idempotency_count == 1
    log.wait(3_600_001)
    log.fire_due()
    assert log.machine.idempotency_count == 0


def test_what_cannot_be_a_key_or_a_name_is_refused() -> None:
    log = Log()
    log.send(acquire(), idempotency=key())
    for command in (abandon_acquire("k" * 1_000), abandon_acquire(name="")):
        assert code(log.do(command)) is RejectionCode.INVALID_COMMAND
