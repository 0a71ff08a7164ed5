"""Timers fire when they are due, once, and only those that stand."""

from __future__ import annotations

import pytest

from statemachine.commands import FireTimers
from statemachine.outcomes import RejectionCode, TimersFired
from statemachine.timers import GREATEST_FIRING, TimerKind, due_timers, next_due_ms
from tests.statemachine.building import Log, code, key, record, result

HOUR_MS = 3_600_000
EXPIRY = int(TimerKind.IDEMPOTENCY_EXPIRY)


def log_with_keys(*ttls_ms: int) -> Log:
    """A log that remembers keys "0", "1"… for so long, each longer than a request may wait."""
    log = Log()
    for number, ttl_ms in enumerate(ttls_ms):
        log.send(record("a"), idempotency=key(str(number), ttl_ms=ttl_ms))
    return log


def test_what_is_due_comes_in_order_and_in_pages() -> None:
    log = log_with_keys(9_000, 7_000, 8_000, 7_000)
    due = due_timers(log.store, 8_000)
    assert due == (
        (7_000, EXPIRY, b"p\x001"),
        (7_000, EXPIRY, b"p\x003"),
        (8_000, EXPIRY, b"p\x002"),
    )
    assert due_timers(log.store, 8_000, limit=2) == due[:2]
    assert due_timers(log.store, 6_999) == ()
    assert next_due_ms(log.store) == 7_000
    assert next_due_ms(Log().store) is None


def test_firing_does_what_is_due_and_nothing_twice() -> None:
    log = log_with_keys(7_000, 8_000, 9_000)
    log.wait(8_000)
    due = due_timers(log.store, 8_000)
    assert result(log.do(FireTimers(timers=due))) == TimersFired(fired=2)
    assert log.machine.idempotency_count == 1
    assert result(log.do(FireTimers(timers=due))) == TimersFired(fired=0)
    assert log.machine.idempotency_count == 1


def test_a_timer_named_twice_fires_once() -> None:
    log = log_with_keys(7_000)
    log.wait(7_000)
    due = due_timers(log.store, 7_000)
    assert result(log.do(FireTimers(timers=due * 3))) == TimersFired(fired=1)


@pytest.mark.parametrize(
    "timer",
    [
        (7_001, EXPIRY, b"p\x000"),
        (6_999, EXPIRY, b"p\x000"),
        (7_000, int(TimerKind.SESSION_EXPIRY), b"p\x000"),
        (7_000, 0, b"p\x000"),
        (7_000, 255, b"p\x000"),
        (7_000, 256, b"p\x000"),
        (7_000, -1, b"p\x000"),
        (7_000, 2**64 - 1, b"p\x000"),
        (7_000, EXPIRY, b"p\x001"),
        (7_000, EXPIRY, b""),
        (7_000, EXPIRY, b"x" * 5_000),
        (-1, EXPIRY, b"p\x000"),
        (-(2**63), EXPIRY, b"p\x000"),
        (2**64 - 1, EXPIRY, b"p\x000"),
    ],
)
def test_a_timer_that_does_not_stand_is_passed_over(timer: tuple[int, int, bytes]) -> None:
    log = log_with_keys(7_000)
    log.wait(7_000)
    assert result(log.do(FireTimers(timers=(timer,)))) == TimersFired(fired=0)
    assert log.machine.idempotency_count == 1


def test_a_timer_that_is_not_due_yet_is_passed_over() -> None:
    log = log_with_keys(7_000)
    log.wait(6_999)
    timers = ((7_000, EXPIRY, b"p\x000"),)
    assert result(log.do(FireTimers(timers=timers))) == TimersFired(fired=0)
    log.wait(1)
    assert result(log.do(FireTimers(timers=timers))) == TimersFired(fired=1)


def test_only_so_many_timers_fit_one_command() -> None:
    log = log_with_keys(7_000)
    log.wait(7_000)
    timer = (7_000, EXPIRY, b"p\x000")
    too_many = FireTimers(timers=(timer,) * (GREATEST_FIRING + 1))
    assert code(log.do(too_many)) is RejectionCode.INVALID_COMMAND
    assert log.machine.idempotency_count == 1
    most = FireTimers(timers=(timer,) * GREATEST_FIRING)
    assert result(log.do(most)) == TimersFired(fired=1)
