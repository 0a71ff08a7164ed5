"""Trimming removes exactly the oldest events, with everything that refers to them."""

from __future__ import annotations

import pytest

from statemachine import retention
from statemachine.commands import TrimEvents
from statemachine.outcomes import EventsTrimmed
from statemachine.timestamps import clock, list_events
from tests.statemachine.building import START_MS, Log, record, result, sync


@pytest.fixture
def log() -> Log:
    """Ten events of three participants, one every 10 ms from START_MS on."""
    log = Log()
    for number in range(10):
        name = ("a", "b", "a\0b")[number % 3]
        log.do(sync(name, number) if number % 2 else record(name))
        log.wait(10)
    return log


@pytest.mark.parametrize(
    ("before_ms", "limit", "removed", "more"),
    [
        (0, 100, 0, False),
        (1, 100, 1, False),
        (10, 100, 1, False),
        (11, 100, 2, False),
        (90, 100, 9, False),
        (1_000, 100, 10, False),
        (1_000, 10, 10, False),
        (1_000, 9, 9, True),
        (50, 5, 5, False),
        (51, 5, 5, True),
        (1_000, 0, 0, True),
        (0, 0, 0, False),
        (1_000, -1, 0, True),
        (1_000, 2**64 - 1, 10, False),
    ],
)
def test_the_oldest_events_go_up_to_the_time_and_the_limit(
    before_ms: int, limit: int, removed: int, more: bool, log: Log
) -> None:
    kept = {prefix: log.rows(prefix) for prefix in (b"P",)}
    events = log.rows(b"e")
    answer = result(log.do(TrimEvents(before_wall_ms=START_MS + before_ms, limit=limit)))
    assert answer == EventsTrimmed(removed=removed, more=more)
    assert log.rows(b"e") == events[removed:]
    references = sorted(value for _, value in log.rows(b"L"))
    assert references == [key[1:] for key, _ in events[removed:]]
    assert sorted(value for _, value in log.rows(b"N")) == references
    assert log.machine.event_count == 10 - removed
    assert log.rows(b"P") == kept[b"P"]


def test_clocks_stand_where_they_were_and_what_is_left_is_listed(log: Log) -> None:
    before = clock(log.store, "a")
    everything, _ = list_events(log.store, limit=100)
    log.do(TrimEvents(before_wall_ms=START_MS + 50, limit=100))
    assert clock(log.store, "a") == before
    left, _ = list_events(log.store, limit=100)
    assert left == [event for event in everything if event.created_at_ms >= START_MS + 50]


def test_events_of_the_same_entry_are_trimmed_too() -> None:
    log = Log()
    trim = TrimEvents(before_wall_ms=START_MS + 1, limit=2)
    outcomes = log.send(record("a"), record("b"), record("a"), trim).outcomes
    assert result(outcomes[-1]) == EventsTrimmed(removed=2, more=True)
    assert [event.lamport_timestamp for event in list_events(log.store, limit=10)[0]] == [2]


def test_one_command_never_removes_more_than_its_bound(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "GREATEST_TRIM", 3)
    answer = result(log.do(TrimEvents(before_wall_ms=START_MS + 1_000, limit=100)))
    assert answer == EventsTrimmed(removed=3, more=True)
