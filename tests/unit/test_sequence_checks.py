"""Each rule of sequences is broken once in a history, and found."""

from __future__ import annotations

from dataclasses import replace

from scripts.tidelock_scripts.chaos.sequence_checks import Take, check_sequences


def take(first: int | None, count: int, begun: int, ended: int | None, name: str = "s") -> Take:
    return Take(name, count, begun, ended, first)


def found(*takes: Take) -> set[str]:
    return {violation.rule for violation in check_sequences(takes)}


ONE = take(1, 1, 0, 10)
TEN = take(2, 10, 5, 20)
NEXT = take(12, 1, 30, 40)
LOST = take(None, 10, 5, None)


def test_numbers_that_follow_each_other_are_as_promised() -> None:
    assert found(ONE, TEN, NEXT, take(1, 5, 0, 10, "other")) == set()


def test_a_number_that_is_given_twice_is_found() -> None:
    assert "no number twice" in found(ONE, TEN, take(11, 1, 30, 40))


def test_a_number_that_is_left_out_is_found() -> None:
    assert found(ONE, TEN, take(13, 1, 30, 40)) == {"linearizable by search"}


def test_numbers_of_a_call_that_was_never_told_may_be_missing_as_a_whole() -> None:
    assert found(ONE, LOST, NEXT) == set()
    assert found(ONE, LOST, take(2, 1, 30, 40)) == set()
    assert found(ONE, LOST, take(7, 1, 30, 40)) == {"linearizable by search"}
    # It began only after they were missing.
    assert found(ONE, replace(LOST, begun_ns=50), NEXT) == {"linearizable by search"}


def test_numbers_against_real_time_are_found() -> None:
    assert found(replace(ONE, begun_ns=50, ended_ns=60), TEN) == {"linearizable by search"}


def test_many_calls_that_were_never_told_are_decided_all_the_same() -> None:
    lost = [take(None, 1, number, None) for number in range(40)]
    known = [take(1 + 2 * number, 1, 100 * number, 100 * number + 1) for number in range(20)]
    assert found(*lost, *known) == set()


def test_small_calls_that_were_never_told_are_not_tried_where_only_great_ones_fit() -> None:
    """Seed 1234: two of ten calls for 1,000 numbers were missing beside fourteen small ones."""
    small = [take(None, count, 0, None) for count in (1, 2, 10) * 5]
    great = [take(None, 1_000, 0, None) for _ in range(10)]
    known = [take(1, 1, 0, 10), take(2_002, 1, 30, 40), take(3_003, 1, 50, 60)]
    assert found(*small, *great, *known) == set()
    assert found(*small, *great, *known, take(3_500, 1, 70, 80)) == {"linearizable by search"}
