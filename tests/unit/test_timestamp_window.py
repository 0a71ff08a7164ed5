"""What a leader may give out of what it has reserved: in a row, rising, not behind the clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.consensus.pauses import Pauses
from node.consensus.timestamp_window import GREATEST_WANTED, LEAST_SPAN, TimestampWindow

NOW_MS = 1_700_000_000_000
NOW = NOW_MS << 18
LENGTH_MS = 3_000
LENGTH = LENGTH_MS << 18
GREATEST = 2**63 - 1


def window(after: int | None = None, upto: int | None = None) -> TimestampWindow:
    made = TimestampWindow(LENGTH_MS)
    if after is not None and upto is not None:
        made.grant(after, upto)
    return made


def test_a_window_without_a_reservation_gives_nothing() -> None:
    assert window().take(1, NOW_MS) is None
    assert not window().holds(1, NOW_MS)
    assert window().is_low(NOW_MS)


def test_timestamps_follow_the_clock_and_each_other() -> None:
    made = window(0, NOW + LENGTH)
    assert made.take(1, NOW_MS) == NOW
    assert made.take(5, NOW_MS) == NOW + 1
    assert made.take(1, NOW_MS) == NOW + 6
    assert made.take(1, NOW_MS + 1) == NOW + (1 << 18)


def test_a_counter_that_is_full_carries_into_the_milliseconds() -> None:
    made = window(0, NOW + LENGTH)
    assert made.take(1 << 18, NOW_MS) == NOW
    assert made.take(1, NOW_MS) == NOW_MS + 1 << 18


@pytest.mark.parametrize("wall_ms", [NOW_MS - 60_000, 0, -1, 2**45, 2**70])
def test_a_clock_that_runs_backwards_or_mad_does_not_matter(wall_ms: int) -> None:
    made = window(NOW, NOW + LENGTH)
    assert made.take(3, wall_ms) == NOW + 1
    assert made.take(1, wall_ms) == NOW + 4


def test_the_last_timestamp_is_given_and_none_beyond() -> None:
    made = window(NOW, NOW + 10)
    assert made.holds(10, NOW_MS)
    assert not made.holds(11, NOW_MS)
    assert made.take(11, NOW_MS) is None
    assert made.take(10, NOW_MS) == NOW + 1
    assert made.take(1, NOW_MS) is None


def test_what_the_clock_has_passed_is_not_given() -> None:
    assert window(NOW, NOW + 10).take(1, NOW_MS + 1) is None


def test_reservations_that_continue_each_other_are_one() -> None:
    made = window(NOW, NOW + 10)
    made.grant(NOW + 10, NOW + 20)
    assert made.take(20, NOW_MS) == NOW + 1


def test_what_was_reserved_meanwhile_and_never_granted_is_left_out() -> None:
    made = window(NOW, NOW + 10)
    made.grant(NOW + 15, NOW + 20)
    assert made.take(1, NOW_MS) == NOW + 16


def test_another_term_begins_without_anything() -> None:
    made = window(NOW, NOW + 10)
    made.clear()
    assert made.take(1, NOW_MS) is None
    made.grant(NOW + 10, NOW + 20)
    assert made.take(1, NOW_MS) == NOW + 11


# How far to reserve


def test_a_reservation_reaches_a_while_beyond_the_clock() -> None:
    assert window().wanted_upto(NOW_MS, 1, 0) == NOW + LENGTH


def test_a_reservation_beyond_the_clock_is_short() -> None:
    ahead = NOW + LENGTH
    assert window().wanted_upto(NOW_MS, 0, ahead) == ahead + 1 + LEAST_SPAN
    assert window(0, ahead).wanted_upto(NOW_MS, 0, ahead) == NOW + LENGTH


def test_a_reservation_has_room_for_all_who_wait_within_reason() -> None:
    ahead = NOW + LENGTH
    assert window().wanted_upto(NOW_MS, 70_000_000, ahead) == ahead + 1 + LEAST_SPAN + 70_000_000
    assert window().wanted_upto(NOW_MS, 10**12, ahead) == ahead + 1 + LEAST_SPAN + GREATEST_WANTED


def test_leaders_that_follow_each_other_at_once_drive_the_timestamps_ahead_slowly() -> None:
    reserved = 0
    for _ in range(200):
        reserved = window().wanted_upto(NOW_MS, 1, reserved)
    assert (reserved >> 18) - NOW_MS < LENGTH_MS + 200 * 51


def test_half_of_a_window_is_enough_and_less_is_low() -> None:
    made = window(0, NOW + LENGTH)
    assert not made.is_low(NOW_MS)
    assert not made.is_low(NOW_MS + LENGTH_MS // 2)
    assert made.is_low(NOW_MS + LENGTH_MS // 2 + 1)


def test_half_of_a_window_beyond_the_clock_is_enough_too() -> None:
    ahead = NOW + LENGTH
    made = window(ahead, ahead + LEAST_SPAN)
    assert not made.is_low(NOW_MS)
    assert made.take(LEAST_SPAN // 2 + 2, NOW_MS) == ahead + 1
    assert made.is_low(NOW_MS)


def test_there_is_nothing_to_reserve_beyond_the_greatest_timestamp() -> None:
    assert window().wanted_upto(NOW_MS, 1, GREATEST - 5) == GREATEST


takes = st.lists(
    st.tuples(
        st.integers(1, 1 << 20),
        st.integers(-2_000, 2_000),
        st.sampled_from(["take", "take", "take", "another leader", "a grant is lost"]),
    ),
    max_size=60,
)


@given(takes)
def test_whatever_comes_timestamps_rise_and_a_new_reservation_helps(
    history: list[tuple[int, int, str]],
) -> None:
    made = window()
    wall_ms, reserved, last = NOW_MS, 0, 0
    for count, passed_ms, what in history:
        wall_ms += passed_ms
        if what == "another leader":
            made.clear()
        elif what == "a grant is lost":
            reserved = max(reserved, made.wanted_upto(wall_ms, count, reserved))
        first = made.take(count, wall_ms)
        if first is None:
            upto = made.wanted_upto(wall_ms, count, reserved)
            assert upto > reserved
            made.grant(reserved, upto)
            reserved = upto
            first = made.take(count, wall_ms)
        assert first is not None
        assert first > last
        assert first >= wall_ms << 18
        last = first + count - 1
        assert last <= reserved


# Pauses


def test_what_was_asked_before_a_pause_is_told_from_what_was_asked_after_it() -> None:
    pauses = Pauses(0.15, 100.0)
    assert not pauses.ran(100.1)
    assert not pauses.came_after(100.05, 100.2)
    assert pauses.ran(105.0)
    assert pauses.came_after(104.9, 105.0)
    assert not pauses.came_after(105.0, 105.0)
    assert not pauses.ran(105.1)
    assert pauses.came_after(104.9, 105.1)


def test_who_has_just_woken_up_knows_it_before_the_loop_runs() -> None:
    pauses = Pauses(0.15, 100.0)
    assert pauses.came_after(99.9, 105.0)
    assert pauses.came_after(100.0, 100.16)
    assert not pauses.came_after(100.0, 100.14)
