"""What commands changed is recorded in their order, read exactly once, and trimmed visibly."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.change_log import CompactedError, Recorded, compacted, read_changes
from statemachine.changes import AnyChange, ParticipantJoined, ParticipantLeft, RoutingChanged
from statemachine.commands import (
    ChangeRouting,
    JoinParticipant,
    LeaveParticipant,
    TrimChanges,
    TrimEvents,
)
from statemachine.outcomes import ChangesTrimmed, Position
from statemachine.stored_events import EventRow
from tests.statemachine.building import START_MS, Log, record, result

BEGINNING = Position(0, 0)


def changes(log: Log, after: Position = BEGINNING) -> list[AnyChange]:
    return [change for each in read_changes(log.store, after, limit=100) for change in each.changes]


def positions(log: Log, after: Position = BEGINNING, limit: int = 100) -> list[Position]:
    return [each.position for each in read_changes(log.store, after, limit=limit)]


def events(found: list[Recorded]) -> list[str]:
    return [each.event.event_type for each in found if isinstance(each.event, EventRow)]


def test_a_change_is_recorded_once_and_nothing_when_nothing_changed() -> None:
    log = Log()
    for _ in range(2):
        log.do(JoinParticipant(node_id="a"))
        log.do(ChangeRouting(node_id="n1", state="FAILED", reason="silent"))
    log.do(LeaveParticipant(node_id="a"))
    assert changes(log) == [
        ParticipantJoined(node_id="a"),
        RoutingChanged(node_id="n1", state="FAILED", reason="silent"),
        ParticipantLeft(node_id="a"),
    ]


def test_changes_and_events_come_in_the_order_of_the_log() -> None:
    log = Log()
    log.send(record("a", "first"), JoinParticipant(node_id="b"), record("b", "second"))
    log.send(LeaveParticipant(node_id="a"), record("a", "third"))
    found = list(read_changes(log.store, BEGINNING, limit=100))
    assert [each.position for each in found] == [
        Position(1, 0),
        Position(1, 1),
        Position(1, 2),
        Position(2, 0),
        Position(2, 1),
    ]
    assert events(found) == ["first", "second", "third"]
    # An event that brings its participant in, or back, is both.
    assert found[0].changes == (ParticipantJoined(node_id="a"),)
    assert found[4].changes == (ParticipantJoined(node_id="a"),)
    assert {each.wall_ms for each in found} == {START_MS}


def test_reading_on_from_any_position_misses_and_repeats_nothing() -> None:
    log = Log()
    for number in range(7):
        log.send(record(f"p{number % 3}"), JoinParticipant(node_id=f"q{number}"), record("a"))
    whole = positions(log)
    assert len(whole) == 21
    for limit in (1, 2, 5, 100):
        seen: list[Position] = []
        while page := positions(log, seen[-1] if seen else BEGINNING, limit):
            seen += page
        assert seen == whole
    assert positions(log, Position(3, 7)) == [each for each in whole if each > Position(3, 7)]


def test_old_changes_are_trimmed_and_readers_of_them_are_told() -> None:
    log = Log()
    log.do(JoinParticipant(node_id="a"))
    log.wait(1_000)
    log.do(JoinParticipant(node_id="b"))
    trim = TrimChanges(before_wall_ms=START_MS + 1_000, keep=100, limit=10)
    assert result(log.do(trim)) == ChangesTrimmed(removed=1, more=False)
    assert compacted(log.store) == Position(1, 0)
    with pytest.raises(CompactedError) as told:
        read_changes(log.store, BEGINNING, limit=1)
    assert told.value.oldest == Position(1, 0)
    assert changes(log, Position(1, 0)) == [ParticipantJoined(node_id="b")]


def test_changes_beyond_a_number_are_trimmed_however_young() -> None:
    log = Log()
    for number in range(5):
        log.do(JoinParticipant(node_id=f"p{number}"))
    trim = TrimChanges(before_wall_ms=0, keep=2, limit=2)
    assert result(log.do(trim)) == ChangesTrimmed(removed=2, more=True)
    assert result(log.do(trim)) == ChangesTrimmed(removed=1, more=False)
    assert result(log.do(trim)) == ChangesTrimmed(removed=0, more=False)
    assert len(log.rows(keys.CHANGE)) == 2
    assert compacted(log.store) == Position(3, 0)


def test_trimmed_events_are_missed_too() -> None:
    log = Log()
    log.do(record("a"))
    log.wait(1_000)
    log.do(record("a"))
    log.do(TrimEvents(before_wall_ms=START_MS + 1_000, limit=10))
    assert compacted(log.store) == Position(1, 0)
    with pytest.raises(CompactedError):
        read_changes(log.store, BEGINNING, limit=1)
    assert positions(log, Position(1, 0)) == [Position(2, 0)]
