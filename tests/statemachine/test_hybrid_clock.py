"""The hybrid clock: one value for events, ticks and receipts, as the clock of the SDK."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.commands import ObserveHybridTime, TickHybridClock
from statemachine.outcomes import HybridClockTicked, Outcome, RejectionCode
from tests.statemachine.building import START_MS, Log, code, record, recorded, result
from tidelock.clocks import ClockSkewError, HybridClock, HybridTimestamp

SKEW_MS = 500
GREATEST = 2**63 - 1


def observe(timestamp: int, max_skew_ms: int = SKEW_MS) -> ObserveHybridTime:
    return ObserveHybridTime(timestamp=timestamp, max_skew_ms=max_skew_ms)


def ticked(outcome: Outcome) -> int:
    found = result(outcome)
    assert isinstance(found, HybridClockTicked)
    return found.hlc


def test_a_tick_gives_the_time_of_its_entry_and_counts_within_a_millisecond() -> None:
    log = Log()
    assert [ticked(log.do(TickHybridClock())) for _ in range(3)] == [
        (START_MS << 18) + count for count in range(3)
    ]
    log.wait(1)
    assert ticked(log.do(TickHybridClock())) == START_MS + 1 << 18


def test_events_ticks_and_receipts_form_one_order() -> None:
    log = Log()
    given = [
        recorded(log.do(record())).hlc,
        ticked(log.do(TickHybridClock())),
        ticked(log.do(observe(START_MS + 7 << 18))),
        recorded(log.do(record())).hlc,
        ticked(log.do(observe(5))),
        ticked(log.do(TickHybridClock())),
    ]
    assert given == sorted(set(given))
    assert log.machine.hlc == given[-1]


@pytest.mark.parametrize(
    ("received", "given"),
    [
        (0, START_MS << 18),
        ((START_MS << 18) - 1, START_MS << 18),
        (START_MS << 18, (START_MS << 18) + 1),
        ((START_MS << 18) + 9, (START_MS << 18) + 10),
        (START_MS + SKEW_MS << 18, (START_MS + SKEW_MS << 18) + 1),
        ((START_MS + 1 << 18) - 1, START_MS + 1 << 18),
    ],
)
def test_what_is_observed_is_overtaken(received: int, given: int) -> None:
    log = Log()
    assert ticked(log.do(observe(received))) == given


@pytest.mark.parametrize("received", [START_MS + SKEW_MS + 1 << 18, GREATEST, 2**64 - 1])
def test_what_comes_from_too_far_in_the_future_is_refused(received: int) -> None:
    log = Log()
    outcome = log.do(observe(received))
    assert code(outcome) is RejectionCode.CLOCK_SKEW_TOO_LARGE
    assert f"{(received >> 18) - START_MS} ms ahead" in outcome.detail  # type: ignore[union-attr]
    assert log.machine.hlc == 0


def test_the_bound_is_the_command_s() -> None:
    log = Log()
    ahead = START_MS + 10_000 << 18
    assert code(log.do(observe(ahead, 9_999))) is RejectionCode.CLOCK_SKEW_TOO_LARGE
    assert ticked(log.do(observe(ahead, 10_000))) == ahead + 1


def test_a_negative_timestamp_is_refused() -> None:
    assert code(Log().do(observe(-1))) is RejectionCode.INVALID_COMMAND


def test_at_the_end_of_time_the_clock_stands() -> None:
    log = Log()
    assert ticked(log.do(observe(GREATEST - 2, 2**45))) == GREATEST - 1
    assert ticked(log.do(TickHybridClock())) == GREATEST
    for command in (TickHybridClock(), observe(3), observe(GREATEST, 2**45), record()):
        assert code(log.do(command)) is RejectionCode.CLOCK_OVERFLOW
    assert log.machine.hlc == GREATEST


steps = st.lists(
    st.tuples(
        st.sampled_from([-5, 0, 0, 1, 100]),
        st.none() | st.tuples(st.integers(-700, 700), st.integers(0, 2**18 - 1)),
    ),
    max_size=30,
)


@given(steps)
def test_the_clock_moves_as_that_of_the_sdk(
    history: list[tuple[int, tuple[int, int] | None]],
) -> None:
    log = Log()
    clock = HybridClock(max_skew_ms=SKEW_MS)
    greatest_ms = 0
    for passed_ms, message in history:
        log.wall_ms += passed_ms
        greatest_ms = max(greatest_ms, log.wall_ms)
        if message is None:
            clock = clock.tick(greatest_ms)
            assert ticked(log.do(TickHybridClock())) == clock.latest.encode()
            continue
        received = HybridTimestamp(greatest_ms + message[0], message[1])
        outcome = log.do(observe(received.encode()))
        try:
            clock = clock.receive(received, greatest_ms)
        except ClockSkewError:
            assert code(outcome) is RejectionCode.CLOCK_SKEW_TOO_LARGE
        else:
            assert ticked(outcome) == clock.latest.encode()
