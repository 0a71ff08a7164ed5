"""The Lamport clock: its two rules, its bounds, and the Clock Condition of the 1978 paper."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.histories import Happening, happened_before, histories
from tidelock.clocks import ClockError, ClockOverflowError, ClockValueError, LamportClock

times = st.integers(0, LamportClock.GREATEST)
times_with_a_successor = st.integers(0, LamportClock.GREATEST - 1)
not_times = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=LamportClock.GREATEST + 1),
    st.sampled_from([True, False, 1.0, "1", None]),
)


def test_a_new_clock_stands_at_zero_and_its_first_event_is_one() -> None:
    assert LamportClock().time == 0
    assert LamportClock().tick().time == 1


@pytest.mark.parametrize(
    ("local", "received", "after"),
    [(0, 0, 1), (5, 3, 6), (3, 5, 6), (5, 5, 6), (0, 100, 101)],
)
def test_a_receipt_is_later_than_the_local_and_the_received_time(
    local: int, received: int, after: int
) -> None:
    assert LamportClock(local).receive(received) == LamportClock(after)


@given(times_with_a_successor)
def test_a_tick_adds_exactly_one(time: int) -> None:
    assert LamportClock(time).tick().time == time + 1


@given(times_with_a_successor, times_with_a_successor)
def test_a_receipt_is_one_above_the_maximum(local: int, received: int) -> None:
    assert LamportClock(local).receive(received).time == max(local, received) + 1


def test_a_step_leaves_the_clock_it_was_taken_from_as_it_was() -> None:
    clock = LamportClock(7)
    clock.tick()
    clock.receive(100)
    assert clock == LamportClock(7)
    with pytest.raises(FrozenInstanceError):
        clock.time = 8  # type: ignore[misc]


@given(histories())
def test_what_happened_before_has_the_smaller_time(history: list[Happening]) -> None:
    clocks: dict[int, LamportClock] = {}
    times: list[int] = []
    for event in history:
        clock = clocks.get(event.process, LamportClock())
        if event.received_from is None:
            clock = clock.tick()
        else:
            clock = clock.receive(times[event.received_from])
        clocks[event.process] = clock
        times.append(clock.time)

    for later, causes in enumerate(happened_before(history)):
        assert all(times[earlier] < times[later] for earlier in causes)


@given(histories())
def test_a_time_is_the_length_of_the_longest_chain_of_causes(history: list[Happening]) -> None:
    """Steps add no more than causality asks for: the clock is the least one that is consistent."""
    clocks: dict[int, LamportClock] = {}
    times: list[int] = []
    longest: list[int] = []
    for event, causes in zip(history, happened_before(history), strict=True):
        clock = clocks.get(event.process, LamportClock())
        if event.received_from is None:
            clock = clock.tick()
        else:
            clock = clock.receive(times[event.received_from])
        clocks[event.process] = clock
        times.append(clock.time)
        longest.append(1 + max((longest[cause] for cause in causes), default=0))

    assert times == longest


@given(not_times)
def test_a_clock_refuses_what_is_no_time_and_names_the_field(value: int) -> None:
    with pytest.raises(ClockValueError, match="time must be an integer from 0 to"):
        LamportClock(value)


@given(times, not_times)
def test_a_receipt_refuses_what_is_no_time_and_names_the_field(local: int, value: int) -> None:
    with pytest.raises(ClockValueError, match="received must be an integer from 0 to"):
        LamportClock(local).receive(value)


def test_the_last_time_is_reached_and_nothing_follows_it() -> None:
    last = LamportClock(2**63 - 2).tick()
    assert last.time == 2**63 - 1
    with pytest.raises(ClockOverflowError, match="no Lamport time follows 9223372036854775807"):
        last.tick()
    with pytest.raises(ClockOverflowError):
        last.receive(0)
    with pytest.raises(ClockOverflowError):
        LamportClock().receive(2**63 - 1)


def test_every_refusal_is_a_clock_error_and_the_builtin_it_resembles() -> None:
    assert issubclass(ClockValueError, ClockError)
    assert issubclass(ClockValueError, ValueError)
    assert issubclass(ClockOverflowError, ClockError)
    assert issubclass(ClockOverflowError, OverflowError)


@given(st.lists(times))
def test_clocks_sort_by_time(values: list[int]) -> None:
    clocks = sorted(LamportClock(value) for value in values)
    assert [clock.time for clock in clocks] == sorted(values)
