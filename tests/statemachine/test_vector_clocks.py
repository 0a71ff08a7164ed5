"""Vector clocks: events, messages sent and received, what is remembered of them, lists."""

from __future__ import annotations

import pytest

from statemachine import timers, vectors
from statemachine.commands import AnyCommand, FireTimers, TrimEvents
from statemachine.event_ids import format_event_id
from statemachine.outcomes import (
    EventsTrimmed,
    Outcome,
    Position,
    RejectionCode,
    VectorAdvanced,
)
from statemachine.stored_events import VectorReceived, VectorSent, VectorTicked
from statemachine.vector_histories import GREATEST_ANSWERED, GREATEST_PARTICIPANTS
from statemachine.vectors import MESSAGE_KEPT_MS, StoredVectorEvent, list_events, vector_clock
from tests.statemachine.building import (
    MINUTE_MS,
    START_MS,
    Log,
    code,
    key,
    receive,
    record,
    result,
    send,
    tick,
)
from tidelock.clocks import Relation

GREATEST = 2**63 - 1
ROWS = b"eFVZPHTc"
FULL = {f"p{number:04}": 1 for number in range(GREATEST_PARTICIPANTS)}


def advanced(outcome: Outcome) -> VectorAdvanced:
    found = result(outcome)
    assert isinstance(found, VectorAdvanced)
    return found


def events(log: Log) -> list[StoredVectorEvent]:
    return list_events(log.store, limit=1_000)[0]


def answered(log: Log, command: AnyCommand) -> dict[str, int]:
    """Do the command; return the clock that it is answered."""
    event = vectors.get_event(log.store, advanced(log.do(command)).event)
    assert event is not None
    return event.vector


@pytest.mark.parametrize(
    ("before", "command", "clock"),
    [
        ([], tick(), {"a": 1}),
        ([tick()], tick(), {"a": 2}),
        ([tick("b")], tick(), {"a": 1}),
        ([], send(), {"a": 1}),
        ([tick(), send()], send(), {"a": 3}),
        ([], receive("a", {}), {"a": 1}),
        ([], receive("a", {"b": 0}), {"a": 1}),
        ([], receive("a", {"b": 2}), {"a": 1, "b": 2}),
        ([tick("b"), tick("b")], receive("b", {"a": 7, "b": 1}), {"a": 7, "b": 3}),
        # 3.2 of the use cases.
        ([receive("a", {"a": 3, "b": 2})], tick(), {"a": 5, "b": 2}),
        ([receive("b", {"a": 3, "b": 2})], receive("b", {"a": 5, "b": 2}), {"a": 5, "b": 4}),
        # A clock that was kept elsewhere for a while.
        ([tick()], receive("a", {"a": 9}), {"a": 10}),
        ([], receive("a", {"b": GREATEST}), {"a": 1, "b": GREATEST}),
        ([], receive("a", {"a": GREATEST - 1}), {"a": GREATEST}),
    ],
)
def test_a_clock_after_a_step(
    before: list[AnyCommand], command: AnyCommand, clock: dict[str, int]
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    assert answered(log, command) == clock
    node_id = next(name for name in ("a", "b") if vector_clock(log.store, name) == clock)
    assert events(log)[-1].row.node_id == node_id


@pytest.mark.parametrize(
    ("before", "received", "relation"),
    [
        ([], {}, Relation.EQUAL),
        ([], {"a": 1}, Relation.BEFORE),
        ([tick("b")], {}, Relation.AFTER),
        ([tick("b")], {"b": 1, "c": 0}, Relation.EQUAL),
        ([receive("b", {"a": 3, "b": 2})], {"a": 5, "b": 2}, Relation.CONCURRENT),
    ],
)
def test_a_receipt_tells_the_relation_of_the_clock_before_it_to_the_received_one(
    before: list[AnyCommand], received: dict[str, int], relation: Relation
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    log.do(receive("b", received))
    row = events(log)[-1].row
    assert isinstance(row, VectorReceived)
    assert row.relation is relation


@pytest.mark.parametrize(
    ("before", "command", "expected"),
    [
        ([], tick(""), RejectionCode.INVALID_COMMAND),
        ([], tick("n" * 480), RejectionCode.INVALID_COMMAND),
        ([], send(""), RejectionCode.INVALID_COMMAND),
        ([], receive("", {}), RejectionCode.INVALID_COMMAND),
        ([], receive("a", {"b": -1}), RejectionCode.INVALID_COMMAND),
        ([], receive("a", {"b": GREATEST + 1}), RejectionCode.INVALID_COMMAND),
        ([], receive("a", {"": 1}), RejectionCode.INVALID_COMMAND),
        ([], receive("a", {}, "m" * 478), RejectionCode.INVALID_COMMAND),
        ([], receive("a", {"a": GREATEST}), RejectionCode.CLOCK_OVERFLOW),
        ([receive("a", {"a": GREATEST - 1})], tick(), RejectionCode.CLOCK_OVERFLOW),
        ([receive("a", {"a": GREATEST - 1})], send(), RejectionCode.CLOCK_OVERFLOW),
        ([], receive("a", {**FULL, "q": 1}), RejectionCode.VECTOR_TOO_LARGE),
        ([], receive("a", FULL), RejectionCode.VECTOR_TOO_LARGE),
        ([receive("p0001", FULL)], receive("p0001", {"q": 1}), RejectionCode.VECTOR_TOO_LARGE),
    ],
)
def test_what_is_refused_leaves_no_trace(
    before: list[AnyCommand], command: AnyCommand, expected: RejectionCode
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    rows = [row for row in log.store.items() if row[0][:1] in ROWS]
    assert code(log.do(command)) is expected
    after = [row for row in log.store.items() if row[0][:1] in ROWS]
    assert [row for row in after if row[0][:1] != b"T"] == [
        row for row in rows if row[0][:1] != b"T"
    ]


def test_a_clock_never_seen_is_empty() -> None:
    assert vector_clock(Log().store, "a") == {}
    assert vector_clock(Log().store, "a" * 10_000) == {}


def test_a_participant_with_a_vector_clock_takes_part() -> None:
    log = Log()
    log.send(tick("x"), send("y"), receive("z", {"w": 1}))
    assert [key for key, _ in log.rows(b"P")] == [b"Px\0", b"Py\0", b"Pz\0"]


def test_events_hold_what_was_sent_and_received() -> None:
    log = Log()
    log.send(tick(), send("a", b'"hello"'))
    message_id = format_event_id(1, 1)
    log.wait(9)
    log.do(receive("b", {"a": 2}, message_id, b'"hello"'))
    ticked, sent, received = (event.row for event in events(log))
    assert isinstance(ticked, VectorTicked)
    assert isinstance(sent, VectorSent)
    assert isinstance(received, VectorReceived)
    assert (ticked.count, ticked.changes) == (1, (("a", 0, 1),))
    assert (sent.count, sent.message) == (2, b'"hello"')
    assert (received.message_id, received.message) == (message_id, b'"hello"')
    assert (received.count, received.changes) == (1, (("a", 0, 2), ("b", 0, 1)))
    assert [event.row.created_at_ms for event in events(log)] == [START_MS, START_MS, START_MS + 9]


# Messages that come again


def test_a_repeated_message_changes_nothing_and_answers_the_same() -> None:
    log = Log()
    first = advanced(log.do(receive("b", {"a": 5}, "m")))
    log.do(tick("b"))
    rows = [row for row in log.store.items() if row[0][:1] in b"eFVZPH"]
    for again in (receive("b", {"a": 5}, "m"), receive("b", {"a": 9}, "m", b"1")):
        assert advanced(log.do(again)) == first
    outcomes = log.send(receive("b", {"a": 5}, "m"), receive("b", {"a": 5}, "m")).outcomes
    assert [advanced(each) for each in outcomes] == [first, first]
    assert [row for row in log.store.items() if row[0][:1] in b"eFVZPH"] == rows
    event = vectors.get_event(log.store, first.event)
    assert event is not None
    assert event.vector == {"a": 5, "b": 1}


def test_a_message_without_an_id_is_received_as_often_as_it_is_told() -> None:
    log = Log()
    assert answered(log, receive("b", {"a": 5})) == {"a": 5, "b": 1}
    assert answered(log, receive("b", {"a": 5})) == {"a": 5, "b": 2}
    assert log.rows(b"H") == []


def test_several_participants_receive_one_message() -> None:
    log = Log()
    for node_id in ("b", "c", "b\0"):
        assert answered(log, receive(node_id, {"a": 5}, "m")) == {"a": 5, node_id: 1}


def test_a_message_that_was_refused_can_come_again() -> None:
    log = Log()
    assert code(log.do(receive("b", {"b": GREATEST}, "m"))) is RejectionCode.CLOCK_OVERFLOW
    assert answered(log, receive("b", {"a": 1}, "m")) == {"a": 1, "b": 1}


def test_a_message_is_forgotten_when_its_time_is_over_and_not_earlier() -> None:
    log = Log()
    log.do(receive("b", {"a": 5}, "m"))
    log.wait(MESSAGE_KEPT_MS - 1)
    log.fire_due()
    assert answered(log, receive("b", {"a": 5}, "m")) == {"a": 5, "b": 1}
    log.wait(1)
    due = timers.due_timers(log.store, log.elapsed_ms)
    log.do(FireTimers(timers=due))
    assert log.rows(b"H") == []
    assert answered(log, receive("b", {"a": 5}, "m")) == {"a": 5, "b": 2}
    assert len(events(log)) == 2


def test_the_first_receipt_is_kept_as_long_as_its_message_is_remembered() -> None:
    log = Log()
    log.do(receive("b", {"a": 5}, "m"))
    log.wait(MESSAGE_KEPT_MS)
    trim = TrimEvents(before_wall_ms=log.wall_ms, limit=10)
    assert result(log.do(trim)) == EventsTrimmed(removed=0, more=False)
    log.wait(2 * MINUTE_MS)
    assert result(log.do(trim)) == EventsTrimmed(removed=1, more=False)


def test_a_trimmed_receipt_takes_its_message_with_it_though_the_timer_is_late() -> None:
    log = Log()
    log.do(receive("b", {"a": 5}, "m"))
    log.wait(MESSAGE_KEPT_MS + 2 * MINUTE_MS)
    log.do(TrimEvents(before_wall_ms=log.wall_ms, limit=10))
    assert (log.rows(b"H"), log.rows(b"e")) == ([], [])
    assert answered(log, receive("b", {"a": 5}, "m")) == {"a": 5, "b": 2}
    log.fire_due()
    assert len(log.rows(b"H")) == 1


def test_a_trimmed_receipt_leaves_the_message_that_was_received_anew() -> None:
    log = Log()
    log.do(receive("b", {"a": 5}, "m"))
    log.wait(MESSAGE_KEPT_MS)
    log.fire_due()
    log.do(receive("b", {"a": 5}, "m"))
    log.wait(2 * MINUTE_MS)
    trim = TrimEvents(before_wall_ms=log.wall_ms, limit=10)
    assert result(log.do(trim)) == EventsTrimmed(removed=1, more=False)
    assert answered(log, receive("b", {"a": 5}, "m")) == {"a": 5, "b": 2}


def test_an_answer_under_a_key_is_kept_as_long_as_the_key() -> None:
    log = Log()
    log.send(tick(), idempotency=key(ttl_ms=60 * MINUTE_MS))
    log.wait(60 * MINUTE_MS - 1)
    trim = TrimEvents(before_wall_ms=log.wall_ms, limit=10)
    assert result(log.do(trim)) == EventsTrimmed(removed=0, more=False)
    again = log.send(tick(), idempotency=key(ttl_ms=60 * MINUTE_MS))
    assert again.replayed
    event = vectors.get_event(log.store, advanced(again.outcomes[0]).event)
    assert event is not None
    assert event.vector == {"a": 1}


# Clocks that are raised without an event


def test_a_raised_clock_is_told_with_the_next_event() -> None:
    log = Log()
    log.do(tick())
    clocks = log.machine._vectors
    assert clocks.raise_to("a", {"a": 3, "b": 7, "c": 0}) is None
    assert clocks.raise_to("a", {"b": 2}) is None
    log.tick()
    assert vector_clock(log.store, "a") == {"a": 3, "b": 7}
    assert [event.vector for event in events(log)] == [{"a": 1}]
    log.do(receive("a", {"b": 9, "d": 1}))
    first, second = events(log)
    assert (first.vector, second.vector) == ({"a": 1}, {"a": 4, "b": 9, "d": 1})
    assert second.row.changes == (("a", 1, 4), ("b", 0, 9), ("d", 0, 1))


@pytest.mark.parametrize(
    ("node_id", "vector", "expected"),
    [
        ("", {}, RejectionCode.INVALID_COMMAND),
        ("a", {"b": -1}, RejectionCode.INVALID_COMMAND),
        ("a", {**FULL, "q": 1}, RejectionCode.VECTOR_TOO_LARGE),
    ],
)
def test_a_clock_is_not_raised_to_what_it_cannot_hold(
    node_id: str, vector: dict[str, int], expected: RejectionCode
) -> None:
    log = Log()
    refused = log.machine._vectors.raise_to(node_id, vector)
    assert refused is not None
    assert code(refused) is expected


# Lists


def listed(log: Log, limit: int, node_id: str | None = None) -> list[tuple[str, dict[str, int]]]:
    found: list[tuple[str, dict[str, int]]] = []
    cursor: str | None = None
    while True:
        page, cursor = list_events(log.store, node_id=node_id, cursor=cursor, limit=limit)
        assert len(page) <= limit
        found += [(each.row.node_id, each.vector) for each in page]
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("node_id", [None, "a", "b", "nobody", "n" * 10_000])
def test_events_are_listed_in_the_order_of_the_log(limit: int, node_id: str | None) -> None:
    log = Log()
    log.send(tick("a"), record("a"), send("b"), receive("a", {"b": 1}), tick("a"))
    log.send(receive("b", {"a": 2, "b": 1}), tick("b"))
    expected = [
        ("a", {"a": 1}),
        ("b", {"b": 1}),
        ("a", {"a": 2, "b": 1}),
        ("a", {"a": 3, "b": 1}),
        ("b", {"a": 2, "b": 2}),
        ("b", {"a": 2, "b": 3}),
    ]
    wanted = [event for event in expected if node_id in (None, event[0])]
    assert listed(log, limit, node_id) == wanted


@pytest.mark.parametrize("command", [receive("a", dict.fromkeys("bcdef", 1)), send("a", b"1" * 96)])
def test_a_page_of_large_events_ends_early_and_goes_on(
    command: AnyCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "GREATEST_LISTED", 10)
    log = Log()
    log.send(*[command] * 5)
    page, cursor = list_events(log.store, limit=100)
    assert len(page) == 2
    assert cursor is not None
    assert len(listed(log, 100)) == 5


def test_only_a_vector_event_is_found_by_its_position() -> None:
    log = Log()
    log.send(record("a"), tick())
    assert vectors.get_event(log.store, Position(1, 0)) is None
    assert vectors.get_event(log.store, Position(1, 2)) is None
    found = vectors.get_event(log.store, Position(1, 1))
    assert found == events(log)[0]


def test_a_request_is_not_answered_more_than_its_share() -> None:
    log = Log()
    log.do(receive("p0001", FULL, "m"))
    fitting = GREATEST_ANSWERED // len(FULL)
    wanted: list[AnyCommand] = [tick("p0001"), receive("p0001", {}, "m"), send("p0001")] * (
        fitting // 3 + 1
    )
    outcomes = log.send(*wanted).outcomes
    assert all(advanced(each) for each in outcomes[:fitting])
    refused = [code(each) for each in outcomes[fitting:]]
    assert refused
    assert set(refused) == {RejectionCode.ANSWER_TOO_LARGE}
