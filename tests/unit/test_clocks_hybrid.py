"""The hybrid logical clock: the steps and theorems of Kulkarni et al. 2014, and its own bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.histories import Happening, happened_before, histories
from tidelock.clocks import (
    ClockError,
    ClockOverflowError,
    ClockSkewError,
    ClockValueError,
    HybridClock,
    HybridTimestamp,
)

GREATEST_WALL_MS = 2**46 - 1
GREATEST_LOGICAL = 2**18 - 1
UNBOUNDED_SKEW_MS = GREATEST_WALL_MS

timestamps = st.builds(
    HybridTimestamp, st.integers(0, GREATEST_WALL_MS), st.integers(0, GREATEST_LOGICAL)
)
# Few values, so that equal parts, the interesting case, come up all the time.
close_walls = st.integers(10, 14)
close_timestamps = st.builds(HybridTimestamp, close_walls, st.integers(0, 3))


def clock_at(wall_ms: int, logical: int, *, max_skew_ms: int = UNBOUNDED_SKEW_MS) -> HybridClock:
    return HybridClock(HybridTimestamp(wall_ms, logical), max_skew_ms)


def replay(history: list[Happening], max_skew_ms: int) -> list[HybridTimestamp]:
    clocks: dict[int, HybridClock] = {}
    stamps: list[HybridTimestamp] = []
    for event in history:
        clock = clocks.get(event.process, HybridClock(max_skew_ms=max_skew_ms))
        if event.received_from is None:
            clock = clock.tick(event.physical_ms)
        else:
            clock = clock.receive(stamps[event.received_from], event.physical_ms)
        clocks[event.process] = clock
        stamps.append(clock.latest)
    return stamps


# The algorithm, against the paper's own formulation.


def published_tick(local: HybridTimestamp, physical_ms: int) -> HybridTimestamp:
    wall_ms = max(local.wall_ms, physical_ms)
    return HybridTimestamp(wall_ms, local.logical + 1 if wall_ms == local.wall_ms else 0)


def published_receive(
    local: HybridTimestamp, message: HybridTimestamp, physical_ms: int
) -> HybridTimestamp:
    wall_ms = max(local.wall_ms, message.wall_ms, physical_ms)
    if wall_ms == local.wall_ms == message.wall_ms:
        logical = max(local.logical, message.logical) + 1
    elif wall_ms == local.wall_ms:
        logical = local.logical + 1
    elif wall_ms == message.wall_ms:
        logical = message.logical + 1
    else:
        logical = 0
    return HybridTimestamp(wall_ms, logical)


@given(close_timestamps, close_walls)
def test_a_tick_is_the_published_step(local: HybridTimestamp, physical_ms: int) -> None:
    assert HybridClock(local).tick(physical_ms).latest == published_tick(local, physical_ms)


@given(close_timestamps, close_timestamps, close_walls)
def test_a_receipt_is_the_published_step(
    local: HybridTimestamp, message: HybridTimestamp, physical_ms: int
) -> None:
    after = HybridClock(local).receive(message, physical_ms).latest
    assert after == published_receive(local, message, physical_ms)


# The theorems.


@given(histories())
def test_what_happened_before_has_the_smaller_timestamp(history: list[Happening]) -> None:
    stamps = replay(history, UNBOUNDED_SKEW_MS)
    for later, causes in enumerate(happened_before(history)):
        assert all(stamps[earlier] < stamps[later] for earlier in causes)


@given(histories())
def test_the_wall_time_is_the_greatest_physical_time_the_event_knows_of(
    history: list[Happening],
) -> None:
    stamps = replay(history, UNBOUNDED_SKEW_MS)
    for index, causes in enumerate(happened_before(history)):
        known = [history[cause].physical_ms for cause in causes | {index}]
        assert stamps[index].wall_ms == max(known)


@given(histories(greatest_skew_ms=200))
def test_the_wall_time_stays_as_close_to_true_time_as_the_physical_clocks_do(
    history: list[Happening],
) -> None:
    """With clocks within 200 ms of true time, a message is never more than 400 ms ahead of its
    receiver: such a bound refuses nothing, and hybrid time is off by no more either.
    """
    stamps = replay(history, max_skew_ms=400)
    for stamp, event in zip(stamps, history, strict=True):
        assert 0 <= stamp.wall_ms - event.physical_ms <= 400


@given(histories())
def test_a_counter_is_no_greater_than_the_events_that_share_its_wall_time(
    history: list[Happening],
) -> None:
    stamps = replay(history, UNBOUNDED_SKEW_MS)
    for index, causes in enumerate(happened_before(history)):
        sharing = [cause for cause in causes if stamps[cause].wall_ms == stamps[index].wall_ms]
        assert stamps[index].logical <= len(sharing)


# Overflow of the counter.


def test_a_full_counter_carries_into_the_milliseconds() -> None:
    full = clock_at(1_000, GREATEST_LOGICAL)
    assert full.tick(1_000).latest == HybridTimestamp(1_001, 0)
    assert full.tick(5).latest == HybridTimestamp(1_001, 0)
    assert clock_at(0, 0).receive(full.latest, 1_000).latest == HybridTimestamp(1_001, 0)


def test_physical_time_that_has_moved_on_needs_no_carry() -> None:
    full = clock_at(1_000, GREATEST_LOGICAL)
    assert full.tick(1_001).latest == HybridTimestamp(1_001, 0)
    assert full.tick(1_002).latest == HybridTimestamp(1_002, 0)


def test_a_clock_that_carried_goes_on_counting_until_physical_time_catches_up() -> None:
    carried = clock_at(1_000, GREATEST_LOGICAL).tick(1_000)
    assert carried.tick(1_000).latest == HybridTimestamp(1_001, 1)
    assert carried.tick(1_001).latest == HybridTimestamp(1_001, 1)
    assert carried.tick(1_002).latest == HybridTimestamp(1_002, 0)


@given(timestamps, timestamps, st.integers(0, GREATEST_WALL_MS))
def test_every_step_gives_a_greater_timestamp_whatever_physical_time_does(
    local: HybridTimestamp, message: HybridTimestamp, physical_ms: int
) -> None:
    clock = HybridClock(local, UNBOUNDED_SKEW_MS)
    last = HybridTimestamp(GREATEST_WALL_MS, GREATEST_LOGICAL)
    if local != last:
        assert clock.tick(physical_ms).latest > local
        assert clock.tick(physical_ms).latest.wall_ms >= physical_ms
    if last not in (local, message):
        received = clock.receive(message, physical_ms).latest
        assert received > max(local, message)
        assert received.wall_ms >= physical_ms


def test_nothing_follows_the_last_timestamp() -> None:
    last = clock_at(GREATEST_WALL_MS, GREATEST_LOGICAL)
    with pytest.raises(ClockOverflowError, match="no hybrid timestamp follows"):
        last.tick(0)
    with pytest.raises(ClockOverflowError):
        clock_at(0, 0).receive(last.latest, GREATEST_WALL_MS)


# Skew.


def test_a_timestamp_at_the_bound_is_taken_and_one_beyond_it_refused() -> None:
    clock = clock_at(1_000, 0, max_skew_ms=500)
    assert clock.receive(HybridTimestamp(1_500, 7), 1_000).latest == HybridTimestamp(1_500, 8)
    with pytest.raises(ClockSkewError, match="501 ms ahead of physical time") as refusal:
        clock.receive(HybridTimestamp(1_501, 0), 1_000)
    assert (refusal.value.ahead_ms, refusal.value.max_skew_ms) == (501, 500)
    assert isinstance(refusal.value, ClockError)


def test_a_refused_timestamp_leaves_no_trace() -> None:
    clock = clock_at(1_000, 3, max_skew_ms=500)
    with pytest.raises(ClockSkewError):
        clock.receive(HybridTimestamp(9_000, 0), 1_000)
    assert clock.tick(1_000).latest == HybridTimestamp(1_000, 4)


def test_a_timestamp_from_the_past_is_never_a_skew() -> None:
    clock = clock_at(1_000, 0, max_skew_ms=0)
    assert clock.receive(HybridTimestamp(1, 0), 1_000).latest == HybridTimestamp(1_000, 1)


def test_a_clock_whose_physical_time_went_back_keeps_counting() -> None:
    clock = clock_at(100_000, 0, max_skew_ms=0)
    assert clock.tick(1).latest == HybridTimestamp(100_000, 1)
    assert clock.receive(HybridTimestamp(1, 9), 1).latest == HybridTimestamp(100_000, 1)


def test_the_bound_stays_with_the_clock_from_step_to_step() -> None:
    stepped = clock_at(1_000, 0, max_skew_ms=7).tick(2_000)
    stepped = stepped.receive(HybridTimestamp(2_000, 0), 2_000)
    assert stepped.max_skew_ms == 7


# Values and their encoding.


@given(timestamps)
def test_decode_undoes_encode(timestamp: HybridTimestamp) -> None:
    assert HybridTimestamp.decode(timestamp.encode()) == timestamp


@given(st.integers(0, 2**64 - 1))
def test_encode_undoes_decode(encoded: int) -> None:
    assert HybridTimestamp.decode(encoded).encode() == encoded


@given(st.lists(timestamps | close_timestamps))
def test_encoded_timestamps_sort_as_the_timestamps_do(unsorted: list[HybridTimestamp]) -> None:
    encoded = [timestamp.encode() for timestamp in sorted(unsorted)]
    assert encoded == sorted(encoded)


def test_the_encoding_is_46_bits_of_milliseconds_above_18_of_counter() -> None:
    assert HybridTimestamp(1, 0).encode() == 1 << 18
    assert HybridTimestamp(0, GREATEST_LOGICAL).encode() == (1 << 18) - 1
    assert HybridTimestamp(GREATEST_WALL_MS, GREATEST_LOGICAL).encode() == (1 << 64) - 1
    assert HybridTimestamp(1_700_000_000_123, 5).encode() == 445_644_800_032_243_717


@pytest.mark.parametrize("value", [-1, 2**46, True, 1.0, "1", None])
def test_a_wall_time_out_of_range_is_refused_by_name(value: int) -> None:
    with pytest.raises(ClockValueError, match="wall_ms must be an integer from 0 to"):
        HybridTimestamp(value, 0)


@pytest.mark.parametrize("value", [-1, 2**18, False, 0.0, "0", None])
def test_a_counter_out_of_range_is_refused_by_name(value: int) -> None:
    with pytest.raises(ClockValueError, match="logical must be an integer from 0 to 262143"):
        HybridTimestamp(0, value)


@pytest.mark.parametrize("value", [-1, 2**64, 1.5])
def test_an_encoded_value_out_of_range_is_refused_by_name(value: int) -> None:
    with pytest.raises(ClockValueError, match="encoded must be an integer from 0 to"):
        HybridTimestamp.decode(value)


@pytest.mark.parametrize("value", [-1, 2**46, 0.5])
def test_a_physical_time_out_of_range_is_refused_by_name(value: int) -> None:
    with pytest.raises(ClockValueError, match="physical_ms must be an integer from 0 to"):
        HybridClock().tick(value)
    with pytest.raises(ClockValueError, match="physical_ms must be an integer from 0 to"):
        HybridClock().receive(HybridTimestamp(), value)


def test_a_clock_refuses_a_bound_or_a_past_that_is_none() -> None:
    with pytest.raises(ClockValueError, match="max_skew_ms must be an integer from 0 to"):
        HybridClock(max_skew_ms=-1)
    with pytest.raises(ClockValueError, match="latest must be a HybridTimestamp"):
        HybridClock(5)  # type: ignore[arg-type]
