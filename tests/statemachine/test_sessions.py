"""A unit is applied at most once, its outcome is answered until it is settled."""

from __future__ import annotations

import pytest

from statemachine.codec import encode_entry, encode_unit
from statemachine.machine import Machine
from statemachine.outcomes import RejectionCode, RequestOutcome, TimersFired, UnitOutcome
from statemachine.sessions import GREATEST_LIFETIME_MS, IDLE_MS, WINDOW
from statemachine.timestamps import clock
from tests.statemachine.building import (
    OTHER_SESSION,
    SESSION,
    Log,
    code,
    record,
    recorded,
    result,
)


def lamports(outcomes: tuple[RequestOutcome, ...]) -> list[int]:
    return [recorded(o).lamport_timestamp for request in outcomes for o in request.outcomes]


def test_a_repeated_unit_answers_as_before_and_does_nothing() -> None:
    log = Log()
    requests = [log.request(record("a"), record("b")), log.request(record("a"))]
    first = log.unit(1, requests)
    log.unit(2, [log.request(record("a"))])
    rows = [row for row in log.store.items() if row[0] != b"M"]
    assert log.unit(1, requests) == first
    assert [row for row in log.store.items() if row[0] != b"M"] == rows


def test_a_unit_twice_in_one_entry_is_applied_once() -> None:
    log = Log()
    unit = log.encode_unit(1, [log.request(record("a"))], SESSION, 1)
    first, second = log.units(unit, unit)
    assert first == second
    assert clock(log.store, "a") == 1


def test_units_of_a_session_may_arrive_in_any_order() -> None:
    log = Log()
    for sequence in (3, 1, 2):
        log.unit(sequence, [log.request(record("a"))])
    assert clock(log.store, "a") == 3
    assert lamports(log.unit(1, [])) == [2]


def test_sequences_of_two_sessions_are_different_things() -> None:
    log = Log()
    log.unit(1, [log.request(record("a"))], session=SESSION)
    log.unit(1, [log.request(record("a"))], session=OTHER_SESSION)
    assert clock(log.store, "a") == 2


def test_outcomes_below_the_watermark_are_forgotten_and_their_units_never_applied_again() -> None:
    log = Log()
    for sequence in (1, 2, 3):
        log.unit(sequence, [log.request(record("a"))])
    log.unit(4, [log.request(record("a"))], watermark=3)
    kept = [key[-1] for key, _ in log.rows(b"U")]
    assert kept == [3, 4]
    assert log.unit(2, [log.request(record("a"))]) == ()
    assert clock(log.store, "a") == 4


def test_an_unknown_unit_below_its_own_watermark_is_settled() -> None:
    log = Log()
    assert log.unit(1, [log.request(record("a"))], watermark=2) == ()
    assert log.rows(b"S") == []
    assert clock(log.store, "a") == 0


def test_an_older_watermark_does_not_bring_outcomes_back() -> None:
    log = Log()
    log.unit(5, [log.request(record("a"))], watermark=5)
    log.unit(6, [log.request(record("a"))], watermark=1)
    assert log.unit(4, [log.request(record("a"))], watermark=1) == ()


def test_a_unit_within_the_window_is_applied_and_one_above_it_is_rejected() -> None:
    log = Log()
    log.unit(1, [log.request(record("a"))])
    log.unit(WINDOW, [log.request(record("a"))])
    rows = log.rows(b"S") + log.rows(b"U")
    (outcome,) = log.unit(WINDOW + 1, [log.request(record("a"), record("a"))])
    assert [code(each) for each in outcome.outcomes] == [RejectionCode.SESSION_WINDOW_EXCEEDED] * 2
    assert log.rows(b"S") + log.rows(b"U") == rows
    assert lamports(log.unit(WINDOW + 1, [log.request(record("a"))], watermark=2)) == [3]


def test_a_session_keeps_no_more_outcomes_than_its_window() -> None:
    log = Log()
    for sequence in range(1, 3 * WINDOW):
        watermark = max(1, sequence - WINDOW + 1)
        log.unit(sequence, [], watermark=watermark)
    assert len(log.rows(b"U")) == WINDOW
    log.unit(5 * WINDOW, [], watermark=5 * WINDOW)
    assert len(log.rows(b"U")) == 1


@pytest.mark.parametrize(
    ("session", "sequence", "watermark"),
    [
        (b"", 1, 1),
        (SESSION + b"x", 1, 1),
        (SESSION[:-1], 1, 1),
        (SESSION, 0, 0),
        (SESSION, -1, -5),
        (SESSION, 1, -1),
        (SESSION, 2**63, 2**63),
        (SESSION, 2**64 - 1, 1),
        (SESSION, 1, 2**64 - 1),
    ],
)
def test_a_unit_that_cannot_be_is_rejected_and_leaves_no_trace(
    session: bytes, sequence: int, watermark: int
) -> None:
    log = Log()
    (outcome,) = log.unit(
        sequence, [log.request(record("a"))], session=session, watermark=watermark
    )
    assert code(outcome.outcomes[0]) is RejectionCode.INVALID_COMMAND
    assert [key for key, _ in log.store.items()] == [b"M"]


def test_a_request_is_done_up_to_its_expiry_and_not_after() -> None:
    log = Log()
    log.wait(100)
    assert lamports((log.send(record("a"), expires_at_ms=100),)) == [1]
    outcome = log.send(record("a"), record("b"), expires_at_ms=99)
    assert [code(each) for each in outcome.outcomes] == [RejectionCode.REQUEST_EXPIRED] * 2
    assert clock(log.store, "a") == 1


def test_a_repeated_unit_answers_as_before_even_when_it_would_have_expired() -> None:
    log = Log()
    requests = [log.request(record("a"))]
    first = log.unit(1, requests)
    log.wait(60_000)
    assert log.unit(1, requests) == first


def test_a_request_that_would_live_too_long_is_rejected() -> None:
    log = Log()
    assert lamports((log.send(record("a"), expires_at_ms=GREATEST_LIFETIME_MS),)) == [1]
    for expires_at_ms in (GREATEST_LIFETIME_MS + 1, 2**64 - 1):
        outcome = log.send(record("a"), expires_at_ms=expires_at_ms)
        assert code(outcome.outcomes[0]) is RejectionCode.INVALID_COMMAND


def test_an_idle_session_is_forgotten_with_its_outcomes() -> None:
    log = Log()
    log.unit(1, [log.request(record("a"))])
    log.wait(IDLE_MS)
    assert result(log.fire_due()) == TimersFired(fired=1)
    assert not [row for row in log.rows(b"S") + log.rows(b"U") if row[0][1:17] == SESSION]
    assert len(log.rows(b"T")) == 1  # that of the session which fired the timer


def test_a_session_in_use_is_kept_and_looked_at_again_later() -> None:
    log = Log()
    requests = [log.request(record("a"))]
    first = log.unit(1, requests)
    log.wait(IDLE_MS - 1)
    log.unit(2, [])
    log.wait(1)
    log.fire_due()
    assert log.unit(1, requests) == first
    # The repetition was no use of it.
    log.wait(IDLE_MS - 1)
    log.fire_due()
    assert log.machine.outcome_of(SESSION, 1) is None


def test_a_session_can_fire_its_own_timer_and_stays() -> None:
    log = Log()
    log.do(record("a"))
    log.wait(IDLE_MS)
    assert result(log.fire_due()) == TimersFired(fired=1)
    assert len(log.rows(b"S")) == 1
    log.do(record("a"))
    assert len(log.rows(b"T")) == 1


@pytest.mark.parametrize("lifetime_ms", [0, 5_000, IDLE_MS, IDLE_MS + 1, GREATEST_LIFETIME_MS])
def test_a_late_copy_never_applies_twice_whenever_it_comes(lifetime_ms: int) -> None:
    """Forgetting a session must not make room for a late copy of one of its units."""
    moments = {lifetime_ms + shift for shift in (-1, 0, 1)} | {IDLE_MS - 1, IDLE_MS, IDLE_MS + 1}
    for wait_ms in sorted(moment for moment in moments if moment >= 0):
        log = Log()
        requests = [log.request(record("a"), expires_at_ms=lifetime_ms)]
        log.unit(1, requests)
        log.wait(wait_ms)
        log.fire_due()
        log.unit(1, requests)
        assert clock(log.store, "a") == 1, wait_ms


def test_the_outcome_of_a_unit_can_be_looked_up_until_it_is_settled() -> None:
    log = Log()
    outcomes = log.unit(2, [log.request(record("a"))])
    found = UnitOutcome(SESSION, 2, outcomes)
    assert log.machine.outcome_of(SESSION, 2) == found
    assert Machine(log.store).outcome_of(SESSION, 2) == found
    assert log.machine.outcome_of(SESSION, 1) is None
    assert log.machine.outcome_of(SESSION, 3) is None
    assert log.machine.outcome_of(OTHER_SESSION, 2) is None
    assert log.machine.outcome_of(b"short", 2) is None
    log.unit(3, [], watermark=3)
    assert log.machine.outcome_of(SESSION, 2) == UnitOutcome(SESSION, 2, ())


def test_each_unit_of_an_entry_has_its_outcome_in_order() -> None:
    log = Log()
    units = [encode_unit(SESSION, sequence, 1, []) for sequence in (2, 1)]
    found = log.append(encode_entry(log.wall_ms, log.elapsed_ms, units))
    assert [(each.session, each.sequence) for each in found] == [(SESSION, 2), (SESSION, 1)]
