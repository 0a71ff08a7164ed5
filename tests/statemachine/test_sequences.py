"""Sequences: every number once, from 1, none left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine import keys
from statemachine.commands import AdvanceSequence
from statemachine.outcomes import Outcome, RejectionCode, SequenceAdvanced
from statemachine.sequences import GREATEST_COUNT, GREATEST_NUMBER, last_number
from tests.statemachine.building import Log, code, key, result


def take(name: str = "invoices", count: int = 1) -> AdvanceSequence:
    return AdvanceSequence(name=name, count=count)


def taken(outcome: Outcome) -> tuple[int, int]:
    found = result(outcome)
    assert isinstance(found, SequenceAdvanced)
    return found.first, found.last


def test_a_sequence_begins_at_1_and_leaves_nothing_out() -> None:
    log = Log()
    assert [taken(log.do(take())) for _ in range(3)] == [(1, 1), (2, 2), (3, 3)]
    assert taken(log.do(take(count=GREATEST_COUNT))) == (4, GREATEST_COUNT + 3)
    assert taken(log.do(take())) == (GREATEST_COUNT + 4, GREATEST_COUNT + 4)
    assert last_number(log.store, "invoices") == GREATEST_COUNT + 4


def test_the_commands_of_one_request_follow_each_other() -> None:
    log = Log()
    outcomes = log.send(take(), take(count=5), take()).outcomes
    assert [taken(outcome) for outcome in outcomes] == [(1, 1), (2, 6), (7, 7)]


def test_a_repeated_key_takes_nothing_more() -> None:
    log = Log()
    first = log.send(take(count=4), idempotency=key())
    again = log.send(take(count=4), idempotency=key())
    assert again.replayed
    assert again.outcomes == first.outcomes
    assert last_number(log.store, "invoices") == 4


def test_a_sequence_that_was_never_used_stands_at_0() -> None:
    log = Log()
    assert last_number(log.store, "invoices") == 0
    assert last_number(log.store, "n" * 10_000) == 0


@pytest.mark.parametrize("name", ["", "n" * 480, "é" * 240, "\0" * 240])
def test_a_name_that_no_key_can_hold_is_refused(name: str) -> None:
    assert code(Log().do(take(name))) is RejectionCode.INVALID_COMMAND


@pytest.mark.parametrize("count", [0, -1, GREATEST_COUNT + 1, 2**63])
def test_a_count_out_of_range_takes_nothing(count: int) -> None:
    log = Log()
    assert code(log.do(take(count=count))) is RejectionCode.INVALID_COMMAND
    assert last_number(log.store, "invoices") == 0


def test_the_last_number_is_given_and_nothing_after_it() -> None:
    log = Log()
    log.store.put(b"Qinvoices\0", keys.pack_number(GREATEST_NUMBER - 2))
    assert code(log.do(take(count=3))) is RejectionCode.SEQUENCE_EXHAUSTED
    assert taken(log.do(take(count=2))) == (GREATEST_NUMBER - 1, GREATEST_NUMBER)
    assert code(log.do(take())) is RejectionCode.SEQUENCE_EXHAUSTED
    assert last_number(log.store, "invoices") == GREATEST_NUMBER


@given(st.lists(st.tuples(st.sampled_from(["a", "a\0", "b"]), st.integers(0, 5)), max_size=30))
def test_sequences_do_not_touch_each_other(draws: list[tuple[str, int]]) -> None:
    log = Log()
    given: dict[str, list[int]] = {"a": [], "a\0": [], "b": []}
    for name, count in draws:
        outcome = log.do(take(name, count))
        if count:
            first, last = taken(outcome)
            given[name] += range(first, last + 1)
    for numbers in given.values():
        assert numbers == list(range(1, len(numbers) + 1))
