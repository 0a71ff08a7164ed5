"""The clocks of a participant, which threads share and peers advance."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tidelock.clocks import ClockValueError, LamportClock, VectorClock
from tidelock.participant_clocks import (
    GREATEST_LEAP,
    GREATEST_PARTICIPANTS,
    ClockReading,
    ClockRefusedError,
    ParticipantClocks,
)


def test_events_and_receipts_advance_both_clocks() -> None:
    clocks = ParticipantClocks("a")
    clocks.tick()
    received = ClockReading(LamportClock(7), VectorClock({"a": 1, "b": 3}))
    assert clocks.receive(received) == ClockReading(LamportClock(8), VectorClock({"a": 2, "b": 3}))
    assert clocks.read() == ClockReading(LamportClock(8), VectorClock({"a": 2, "b": 3}))


def test_a_receipt_counts_also_for_the_clock_that_the_sender_does_not_keep() -> None:
    clocks = ParticipantClocks("a")
    assert clocks.receive(ClockReading(LamportClock(3), None)) == ClockReading(
        LamportClock(4), VectorClock({"a": 1})
    )
    assert clocks.receive(ClockReading(None, VectorClock({"b": 1}))) == ClockReading(
        LamportClock(5), VectorClock({"a": 2, "b": 1})
    )


def test_a_clock_that_is_not_kept_is_not_there() -> None:
    clocks = ParticipantClocks("a", vector=False)
    received = ClockReading(LamportClock(1), VectorClock({"b": 1}))
    assert clocks.receive(received) == ClockReading(LamportClock(2), None)
    assert ParticipantClocks("a", lamport=False).tick() == ClockReading(None, VectorClock({"a": 1}))


def test_no_event_of_many_threads_is_lost() -> None:
    clocks = ParticipantClocks("a")
    with ThreadPoolExecutor(8) as threads:
        readings = [*threads.map(lambda _: clocks.tick(), range(400))]
    times = {reading.lamport.time for reading in readings if reading.lamport}
    assert times == {*range(1, 401)}


@pytest.mark.parametrize(
    "received",
    [
        ClockReading(LamportClock(GREATEST_LEAP + 2), None),
        ClockReading(LamportClock(1), VectorClock({"b": GREATEST_LEAP + 2})),
        ClockReading(None, VectorClock({f"p{n}": 1 for n in range(GREATEST_PARTICIPANTS)})),
    ],
)
def test_what_is_not_believed_changes_nothing(received: ClockReading) -> None:
    clocks = ParticipantClocks("a")
    before = clocks.tick()
    with pytest.raises(ClockRefusedError):
        clocks.receive(received)
    assert clocks.read() == before


def test_a_target_is_taken_without_an_event_and_never_turns_a_clock_back() -> None:
    clocks = ParticipantClocks(
        "a", start=ClockReading(LamportClock(5), VectorClock({"a": 5, "b": 1}))
    )
    assert clocks.take(9, {"b": 4}) == ClockReading(LamportClock(9), VectorClock({"a": 5, "b": 4}))
    assert clocks.take(1, {"a": 1}) == ClockReading(LamportClock(9), VectorClock({"a": 5, "b": 4}))
    with pytest.raises(ClockRefusedError):
        clocks.take(GREATEST_LEAP * 2, {})


def test_a_participant_needs_a_name() -> None:
    with pytest.raises(ClockValueError):
        ParticipantClocks("")
