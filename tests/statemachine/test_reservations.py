"""Timestamps set aside for leaders: no two get the same, and later leaders get greater ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import Request, ReserveTimestamps
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import Outcome, RejectionCode, TimestampsReserved
from tests.statemachine.building import SESSION, Log, code, result

GREATEST = 2**63 - 1


def reserved(outcome: Outcome) -> tuple[int, int]:
    found = result(outcome)
    assert isinstance(found, TimestampsReserved)
    return found.after, found.upto


def test_reservations_follow_each_other_without_overlap() -> None:
    log = Log()
    given = [reserved(log.do(ReserveTimestamps(term=1, upto=upto))) for upto in (500, 700, 701)]
    assert given == [(0, 500), (500, 700), (700, 701)]
    assert log.machine.reserved_upto == 701


@pytest.mark.parametrize("upto", [-5, 0, 499, 500])
def test_what_is_reserved_already_is_not_reserved_again(upto: int) -> None:
    log = Log()
    log.do(ReserveTimestamps(term=1, upto=500))
    assert reserved(log.do(ReserveTimestamps(term=1, upto=upto))) == (500, 500)


@pytest.mark.parametrize("term", [0, 2])
def test_a_proposal_in_an_entry_of_another_term_reserves_nothing(term: int) -> None:
    """It was made by a leader that is none any more, and reached the log through its successor."""
    log = Log()
    log.do(ReserveTimestamps(term=1, upto=500))
    assert reserved(log.do(ReserveTimestamps(term=term, upto=900))) == (500, 500)
    assert log.machine.reserved_upto == 500


def test_nothing_is_reserved_beyond_the_greatest_timestamp() -> None:
    log = Log()
    assert code(log.do(ReserveTimestamps(term=1, upto=GREATEST + 1))) is (
        RejectionCode.CLOCK_OVERFLOW
    )
    assert reserved(log.do(ReserveTimestamps(term=1, upto=GREATEST))) == (0, GREATEST)


entries = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 1_000)), max_size=30
)


@given(entries)
def test_every_leader_gets_greater_timestamps_than_all_before_it(
    history: list[tuple[int, int, int]],
) -> None:
    machine = Machine(MemoryStore())
    term, greatest = 1, 0
    for index, (elections, stale, upto) in enumerate(history, 1):
        term += elections
        command = ReserveTimestamps(term=term - stale, upto=upto)
        request = encode_request(Request(5_000, None, (command,)))
        unit = encode_unit(SESSION, index, index, [request])
        (answered,) = machine.apply(index, term, encode_entry(1, 1, [unit]))
        after, last = reserved(answered.requests[0].outcomes[0])
        assert after == greatest
        assert last == (max(greatest, upto) if stale == 0 else greatest)
        greatest = last
