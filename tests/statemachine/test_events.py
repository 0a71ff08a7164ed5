"""Lamport events: what they answer, what they store, and how clocks move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.commands import AnyCommand
from statemachine.event_ids import format_event_id
from statemachine.outcomes import EventRecorded, Position, RejectionCode
from statemachine.timestamps import StoredEvent, clock, get_event
from tests.statemachine.building import START_MS, Log, code, record, recorded, sync
from tidelock.clocks import HybridClock, LamportClock

GREATEST = 2**63 - 1


@pytest.mark.parametrize(
    ("before", "command", "timestamp"),
    [
        ([], record("a"), 1),
        ([record("a")], record("a"), 2),
        ([record("b"), record("b")], record("a"), 1),
        ([], sync("a", 0), 1),
        ([], sync("a", 5), 6),
        ([record("a")], sync("a", 1), 2),
        ([sync("a", 9)], sync("a", 3), 11),
        ([sync("a", 9)], record("a"), 11),
        ([], sync("a", GREATEST - 1), GREATEST),
    ],
)
def test_an_event_gets_the_lamport_timestamp_after_all_it_knows(
    before: list[AnyCommand], command: AnyCommand, timestamp: int
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    assert recorded(log.do(command)).lamport_timestamp == timestamp
    assert clock(log.store, "a") == timestamp


@pytest.mark.parametrize(
    ("before", "command", "expected"),
    [
        ([], sync("a", GREATEST), RejectionCode.CLOCK_OVERFLOW),
        ([], sync("a", 2**64 - 1), RejectionCode.CLOCK_OVERFLOW),
        ([sync("a", GREATEST - 1)], record("a"), RejectionCode.CLOCK_OVERFLOW),
        ([sync("a", GREATEST - 1)], sync("a", 0), RejectionCode.CLOCK_OVERFLOW),
        ([], sync("a", -1), RejectionCode.INVALID_COMMAND),
        ([], record(""), RejectionCode.INVALID_COMMAND),
        ([], record("n" * 480), RejectionCode.INVALID_COMMAND),
        ([], record("\0" * 240), RejectionCode.INVALID_COMMAND),
        ([], sync("", 1), RejectionCode.INVALID_COMMAND),
    ],
)
def test_a_refused_event_leaves_no_trace(
    before: list[AnyCommand], command: AnyCommand, expected: RejectionCode
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    rows = [log.rows(prefix) for prefix in (b"e", b"L", b"N", b"P")]
    hlc = log.machine.hlc
    assert code(log.do(command)) is expected
    assert [log.rows(prefix) for prefix in (b"e", b"L", b"N", b"P")] == rows
    assert (log.machine.hlc, log.machine.event_count) == (hlc, len(before))


@pytest.mark.parametrize("name", ["n" * 479, "名" * 128, "a\0b", "\0", "\U0001f600" * 119])
def test_any_name_of_fitting_length_is_a_participant(name: str) -> None:
    log = Log()
    log.do(record(name))
    log.do(record(name))
    assert clock(log.store, name) == 2


def test_a_clock_never_seen_stands_at_zero() -> None:
    log = Log()
    assert clock(log.store, "a") == 0
    assert clock(log.store, "n" * 10_000) == 0


def test_a_recorded_event_is_found_under_the_position_of_its_command() -> None:
    log = Log()
    outcome = log.send(record("a", "order.created", b'{"id":1}'))
    answer = recorded(outcome.outcomes[0])
    assert outcome.position == Position(1, 0)
    assert answer == EventRecorded(
        node_id="a", lamport_timestamp=1, hlc=START_MS << 18, created_at_ms=START_MS
    )
    event_id = format_event_id(1, 0)
    assert get_event(log.store, event_id) == StoredEvent(
        event_id=event_id,
        node_id="a",
        event_type="order.created",
        event_data=b'{"id":1}',
        lamport_timestamp=1,
        hlc=START_MS << 18,
        created_at_ms=START_MS,
        source_node_id=None,
        source_event_id=None,
        source_timestamp=None,
    )


def test_a_receipt_names_its_source() -> None:
    log = Log()
    log.do(sync("a", 7, "elsewhere"))
    event = get_event(log.store, format_event_id(1, 0))
    assert event is not None
    assert (event.source_node_id, event.source_event_id, event.source_timestamp) == (
        "elsewhere",
        None,
        7,
    )


@pytest.mark.parametrize("event_id", ["", "nonsense", "0" * 24, format_event_id(1, 1)])
def test_an_unknown_id_finds_no_event(event_id: str) -> None:
    log = Log()
    log.do(record("a"))
    assert get_event(log.store, event_id) is None


def test_the_commands_of_an_entry_have_consecutive_places() -> None:
    log = Log()
    first, second = log.unit(
        1, [log.request(record("a"), record("b")), log.request(record("a"), record("c"))]
    )
    assert (first.position, second.position) == (Position(1, 0), Position(1, 2))
    assert log.machine.applied_position == Position(1, 3)
    found = [get_event(log.store, format_event_id(1, place)) for place in range(4)]
    assert [event.node_id for event in found if event] == ["a", "b", "a", "c"]


def test_events_of_one_millisecond_have_increasing_hybrid_timestamps() -> None:
    log = Log()
    hlcs = [recorded(outcome).hlc for outcome in log.send(*[record("a")] * 3).outcomes]
    assert hlcs == [(START_MS << 18) + count for count in range(3)]


def test_time_that_runs_backwards_stands_still_instead() -> None:
    log = Log()
    log.do(record("a"))
    log.wall_ms -= 10_000
    answer = recorded(log.do(record("a")))
    assert (answer.created_at_ms, answer.hlc) == (START_MS, (START_MS << 18) + 1)


@pytest.mark.parametrize("stamp", [-1, 2**45, 2**64 - 1])
def test_an_impossible_stamp_counts_as_the_time_before(stamp: int) -> None:
    log = Log()
    log.tick()
    log.wall_ms = log.elapsed_ms = stamp
    log.tick()
    assert (log.machine.wall_ms, log.machine.elapsed_ms) == (START_MS, 0)


def test_entries_without_commands_move_time_and_index_but_not_the_position() -> None:
    log = Log()
    log.do(record("a"))
    log.wait(500)
    log.tick()
    machine = log.machine
    assert (machine.applied_index, machine.applied_position) == (2, Position(1, 0))
    assert (machine.wall_ms, machine.elapsed_ms) == (START_MS + 500, 500)


steps = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.none() | st.integers(0, 50),
        st.sampled_from([-5, 0, 0, 1, 100]),
    ),
    max_size=30,
)


@given(steps)
def test_clocks_move_as_those_of_the_sdk(history: list[tuple[str, int | None, int]]) -> None:
    log = Log()
    lamport = {name: LamportClock() for name in "abc"}
    hybrid = HybridClock()
    greatest_ms = 0
    for node_id, received, passed_ms in history:
        log.wall_ms += passed_ms
        greatest_ms = max(greatest_ms, log.wall_ms)
        hybrid = hybrid.tick(greatest_ms)
        if received is None:
            lamport[node_id] = lamport[node_id].tick()
            answer = recorded(log.do(record(node_id)))
        else:
            lamport[node_id] = lamport[node_id].receive(received)
            answer = recorded(log.do(sync(node_id, received)))
        assert answer.lamport_timestamp == lamport[node_id].time
        assert answer.hlc == hybrid.latest.encode()
