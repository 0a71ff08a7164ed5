"""Row keys sort as what they stand for, and none belongs to two things."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from statemachine import keys
from statemachine.event_ids import format_event_id, parse_event_id
from statemachine.outcomes import Position

# Names full of what is hard: the terminator, its escape, what sorts around them.
names = st.text(st.sampled_from("\0\x01a\x7f\xff￿😀"), max_size=6)
numbers = st.integers(0, keys.GREATEST_NUMBER)
positions = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(names, names)
def test_terminated_names_sort_by_code_point(first: str, second: str) -> None:
    assert (keys.terminated(first) < keys.terminated(second)) == (first < second)


@given(names, numbers, names, numbers)
def test_rows_of_one_name_never_lie_between_those_of_another(
    first: str, number: int, second: str, other: int
) -> None:
    assume(first != second)
    key = keys.terminated(first) + keys.pack_number(number)
    lowest = keys.terminated(second) + keys.pack_number(0)
    greatest = keys.terminated(second) + keys.pack_number(other)
    assert key != greatest
    assert not lowest <= key <= greatest


@given(names)
def test_a_name_is_found_again_in_its_key(name: str) -> None:
    assert keys.name_of(keys.terminated(name)) == name


@given(numbers, st.integers(0, 255), st.binary(max_size=5))
def test_a_timer_is_found_again_in_its_key(due_ms: int, kind: int, timer_id: bytes) -> None:
    assert keys.timer_of(keys.timer(due_ms, kind, timer_id)) == (due_ms, kind, timer_id)


@given(numbers, numbers, st.binary(max_size=5))
def test_a_timer_lies_below_the_limit_exactly_when_it_is_due(
    due_ms: int, now_ms: int, timer_id: bytes
) -> None:
    assert (keys.timer(due_ms, 255, timer_id) < keys.timers_after(now_ms)) == (due_ms <= now_ms)


@given(positions, positions)
def test_event_ids_sort_as_positions_and_have_one_width(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    assert (format_event_id(*first) < format_event_id(*second)) == (first < second)
    assert (keys.pack_event(*first) < keys.pack_event(*second)) == (first < second)
    assert len(format_event_id(*first)) == 24


@given(positions)
def test_a_position_is_found_again_in_its_event_id(position: tuple[int, int]) -> None:
    assert parse_event_id(format_event_id(*position)) == Position(*position)
    assert keys.unpack_event(keys.pack_event(*position)) == position


def test_what_is_no_event_id_names_no_position() -> None:
    for text in ("", "0" * 23, "0" * 25, "0" * 23 + "g", "A" * 24, "0" * 23 + "\n", "٣" * 24):
        assert parse_event_id(text) is None


def test_no_kind_of_row_begins_like_another() -> None:
    prefixes = {
        name: value
        for name, value in vars(keys).items()
        if name.isupper() and isinstance(value, bytes)
    }
    for name, prefix in prefixes.items():
        alike = [other for other in prefixes if prefixes[other].startswith(prefix)]
        assert alike == [name]
