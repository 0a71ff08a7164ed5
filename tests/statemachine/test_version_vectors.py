"""Version vectors: what increments and merges answer, what they store, how it is listed."""

from __future__ import annotations

import pytest

from statemachine import versions
from statemachine.commands import AnyCommand, TrimEvents
from statemachine.event_ids import format_event_id
from statemachine.outcomes import EventsTrimmed, Position, RejectionCode, VersionAdvanced
from statemachine.paging import InvalidCursorError
from statemachine.store import DamagedStateError
from statemachine.stored_events import ObjectWritten, VersionIncremented, VersionMerged
from statemachine.vector_histories import GREATEST_ANSWERED, GREATEST_PARTICIPANTS
from statemachine.versions import StoredVersionEvent, list_events, version_vector
from tests.statemachine.building import (
    MINUTE_MS,
    START_MS,
    Log,
    code,
    increment,
    merge,
    record,
    result,
    write,
)
from tidelock.clocks import Relation

GREATEST = 2**63 - 1
ROWS = b"eFVZPHc"


def events(log: Log) -> list[StoredVersionEvent]:
    return list_events(log.store, limit=1_000)[0]


@pytest.mark.parametrize(
    ("before", "command", "vector", "relation"),
    [
        ([], increment(), {"a": 1}, None),
        ([increment()], increment(), {"a": 2}, None),
        ([increment()], increment(node_id="b"), {"a": 1, "b": 1}, None),
        ([increment(key="other")], increment(), {"a": 1}, None),
        ([merge({"a": 4, "b": 4})], increment(), {"a": 5, "b": 4}, None),
        ([], merge({}), {}, Relation.EQUAL),
        ([], merge({"a": 0}), {}, Relation.EQUAL),
        ([], merge({"b": 2}), {"b": 2}, Relation.BEFORE),
        ([merge({"b": 2})], merge({"b": 2}), {"b": 2}, Relation.EQUAL),
        ([merge({"b": 2})], merge({"b": 2, "c": 0}), {"b": 2}, Relation.EQUAL),
        ([merge({"b": 2})], merge({"b": 1}), {"b": 2}, Relation.AFTER),
        ([merge({"b": 2})], merge({}), {"b": 2}, Relation.AFTER),
        # 2.2 of the use cases.
        (
            [merge({"a": 4, "b": 4})],
            merge({"a": 5, "b": 3}),
            {"a": 5, "b": 4},
            Relation.CONCURRENT,
        ),
        ([], merge({"a": GREATEST}), {"a": GREATEST}, Relation.BEFORE),
    ],
)
def test_a_vector_after_a_step(
    before: list[AnyCommand], command: AnyCommand, vector: dict[str, int], relation: Relation | None
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    outcome = log.send(command)
    assert result(outcome.outcomes[0]) == VersionAdvanced(key="k", event=outcome.position)
    assert version_vector(log.store, "k") == vector
    latest = events(log)[-1]
    assert latest.vector == vector
    assert latest.event_id == format_event_id(outcome.position.entry, 0)
    assert getattr(latest.row, "relation", None) == relation


@pytest.mark.parametrize(
    ("before", "command", "expected"),
    [
        ([], increment(key=""), RejectionCode.INVALID_COMMAND),
        ([], increment(key="n" * 480), RejectionCode.INVALID_COMMAND),
        ([], increment(node_id=""), RejectionCode.INVALID_COMMAND),
        ([], increment(node_id="n" * 480), RejectionCode.INVALID_COMMAND),
        ([merge({"a": GREATEST})], increment(), RejectionCode.CLOCK_OVERFLOW),
        ([], merge({"a": -1}), RejectionCode.INVALID_COMMAND),
        ([], merge({"a": GREATEST + 1}), RejectionCode.INVALID_COMMAND),
        ([], merge({"": 1}), RejectionCode.INVALID_COMMAND),
        ([], merge({"n" * 480: 1}), RejectionCode.INVALID_COMMAND),
        ([], merge({"名" * 160: 1}), RejectionCode.INVALID_COMMAND),
        ([], merge({}, key=""), RejectionCode.INVALID_COMMAND),
        ([], merge({}, node_id=""), RejectionCode.INVALID_COMMAND),
        (
            [],
            merge({f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS + 1)}),
            RejectionCode.VECTOR_TOO_LARGE,
        ),
        (
            [merge({f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS)})],
            merge({"q": 1}),
            RejectionCode.VECTOR_TOO_LARGE,
        ),
        (
            [merge({f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS)})],
            increment(),
            RejectionCode.VECTOR_TOO_LARGE,
        ),
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
    assert [row for row in log.store.items() if row[0][:1] in ROWS] == rows
    assert log.machine.event_count == len(before)


def test_a_full_vector_still_takes_what_its_participants_write() -> None:
    log = Log()
    full = {f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS)}
    log.do(merge(full))
    log.do(increment(node_id="p7"))
    log.do(merge({**full, "p8": 5}))
    assert version_vector(log.store, "k") == {**full, "p7": 2, "p8": 5}


@pytest.mark.parametrize("name", ["n" * 479, "名" * 128, "a\0b", "\0", "k"])
def test_any_name_of_fitting_length_is_a_key(name: str) -> None:
    log = Log()
    log.do(increment(key=name))
    log.do(increment(key=name, node_id=name))
    assert version_vector(log.store, name) == dict(sorted({"a": 1, name: 1}.items()))
    assert version_vector(log.store, name + "x") == {}


def test_a_key_never_seen_has_an_empty_vector() -> None:
    assert version_vector(Log().store, "k") == {}
    assert version_vector(Log().store, "k" * 10_000) == {}


def test_entries_are_in_the_order_of_their_names() -> None:
    log = Log()
    log.do(merge({"c": 1, "a": 1}))
    log.do(increment(node_id="b"))
    assert list(version_vector(log.store, "k")) == ["a", "b", "c"]
    assert [list(event.vector) for event in events(log)] == [["a", "c"], ["a", "b", "c"]]


def test_a_participant_that_writes_takes_part() -> None:
    log = Log()
    log.send(increment(node_id="x"), merge({}, node_id="y"), write(b"1", node_id="z"))
    assert [key for key, _ in log.rows(b"P")] == [b"Px\0", b"Py\0", b"Pz\0"]


def test_an_event_says_what_changed() -> None:
    log = Log()
    log.do(merge({"b": 2, "a": 1}, node_id="m"))
    log.wait(7)
    log.do(increment(node_id="b"))
    first, second = (event.row for event in events(log))
    assert isinstance(first, VersionMerged)
    assert isinstance(second, VersionIncremented)
    assert (first.node_id, first.changes) == ("m", (("a", 0, 1), ("b", 0, 2)))
    assert (second.node_id, second.changes) == ("b", (("b", 2, 3),))
    assert (first.created_at_ms, second.created_at_ms) == (START_MS, START_MS + 7)


# Lists


@pytest.fixture
def log() -> Log:
    log = Log()
    log.send(increment("x", "a"), increment("y", "a"), record("a"))
    log.send(merge({"c": 3}, "x", "b"), write(b"1", key="x", node_id="a"))
    log.send(increment("x", "a"), increment("x", "b"), write(b"2", key="x", node_id="b"))
    return log


def listed(
    log: Log, limit: int = 100, key: str | None = None, node_id: str | None = None
) -> list[str]:
    """Return all pages together, each event as position and vector."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = list_events(log.store, key=key, node_id=node_id, cursor=cursor, limit=limit)
        assert len(page) <= limit
        for each in page:
            shown = "".join(f"{name}{count}" for name, count in each.vector.items())
            kind = "read " if isinstance(each.row, ObjectWritten) else ""
            found.append(f"{each.event_id[15]}.{each.event_id[-1]} {kind}{shown}")
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize(
    ("key", "node_id", "expected"),
    [
        (
            None,
            None,
            ["1.0 a1", "1.1 a1", "2.0 a1c3", "2.1 read ", "3.0 a2c3", "3.1 a2b1c3", "3.2 read "],
        ),
        ("x", None, ["1.0 a1", "2.0 a1c3", "2.1 read ", "3.0 a2c3", "3.1 a2b1c3", "3.2 read "]),
        ("y", None, ["1.1 a1"]),
        (None, "a", ["1.0 a1", "1.1 a1", "2.1 read ", "3.0 a2c3"]),
        (None, "b", ["2.0 a1c3", "3.1 a2b1c3", "3.2 read "]),
        ("x", "a", ["1.0 a1", "2.1 read ", "3.0 a2c3"]),
        ("x", "b", ["2.0 a1c3", "3.1 a2b1c3", "3.2 read "]),
        ("y", "b", []),
        ("nothing", None, []),
        (None, "nobody", []),
        ("k" * 10_000, "n" * 10_000, []),
    ],
)
def test_events_are_listed_in_the_order_of_the_log(
    log: Log, limit: int, key: str | None, node_id: str | None, expected: list[str]
) -> None:
    assert listed(log, limit, key, node_id) == expected


def test_a_rare_participant_of_a_key_costs_a_bounded_page_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "GREATEST_EXAMINED", 10)
    log = Log()
    log.send(*[increment()] * 25, increment(node_id="rare"))
    sizes = []
    cursor = None
    while True:
        page, cursor = list_events(log.store, key="k", node_id="rare", cursor=cursor, limit=100)
        sizes.append(len(page))
        if cursor is None:
            break
    assert sizes == [0, 0, 1]
    assert page[0].vector == {"a": 25, "rare": 1}


def test_a_page_of_large_vectors_ends_early_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "GREATEST_LISTED", 10)
    log = Log()
    log.send(merge(dict.fromkeys("bcdef", 1)), *[increment()] * 4)
    page, cursor = list_events(log.store, limit=100)
    assert [len(event.vector) for event in page] == [5, 6]
    assert cursor is not None
    assert len(listed(log)) == 5


@pytest.mark.parametrize("cursor", ["nonsense", "0", "ff" * 500])
def test_a_cursor_from_elsewhere_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        list_events(Log().store, cursor=cursor, limit=1)


@pytest.mark.parametrize("cursor", ["", "00", "ff" * 488])
def test_a_made_up_cursor_breaks_nothing(log: Log, cursor: str) -> None:
    assert len(list_events(log.store, cursor=cursor, limit=100)[0]) in (0, 7)


def test_one_event_is_found_by_its_position(log: Log) -> None:
    for expected in events(log):
        position = Position(int(expected.event_id[:16], 16), int(expected.event_id[16:], 16))
        assert versions.get_event(log.store, position) == expected
    assert versions.get_event(log.store, Position(1, 2)) is None, "a Lamport event"
    assert versions.get_event(log.store, Position(1, 9)) is None


@pytest.mark.parametrize("prefix", [b"e", b"V"])
def test_a_missing_row_is_damage(prefix: bytes) -> None:
    log = Log()
    log.send(increment(), increment())
    first = log.rows(b"e")[-1][0] if prefix == b"e" else log.rows(b"V")[0][0]
    log.store.delete(first)
    with pytest.raises(DamagedStateError, match="missing"):
        list_events(log.store, limit=10)


# Retention


def test_trimmed_events_leave_the_lists_and_the_vectors_stand(log: Log) -> None:
    log.wait(10 * MINUTE_MS)
    before = listed(log)
    log.do(increment("x", "a"))
    trim = TrimEvents(before_wall_ms=START_MS + MINUTE_MS, limit=4)
    assert result(log.do(trim)) == EventsTrimmed(removed=4, more=True)
    assert listed(log) == [*before[3:], "4.0 a3b1c3"]
    assert result(log.do(trim)) == EventsTrimmed(removed=4, more=False)
    assert listed(log) == ["4.0 a3b1c3"]
    assert version_vector(log.store, "x") == {"a": 3, "b": 1, "c": 3}
    assert len(log.rows(b"F")) == 3


def test_an_event_stays_while_its_answer_may_be_asked_for_and_holds_up_what_follows() -> None:
    log = Log()
    log.do(record("a"))
    log.do(increment())
    log.do(record("a"))
    trim = TrimEvents(before_wall_ms=START_MS + 30 * MINUTE_MS, limit=10)
    assert result(log.do(trim)) == EventsTrimmed(removed=1, more=False)
    log.wait(10 * MINUTE_MS)
    assert result(log.do(trim)) == EventsTrimmed(removed=2, more=False)


# What one request is answered


def test_a_request_is_not_answered_more_than_its_share() -> None:
    log = Log()
    size = GREATEST_PARTICIPANTS
    log.do(merge({f"p{number}": 1 for number in range(size)}))
    fitting = GREATEST_ANSWERED // size
    wanted = [increment(node_id="p1")] * (fitting + 2)
    outcomes = log.send(*wanted).outcomes
    assert [isinstance(result(each), VersionAdvanced) for each in outcomes[:fitting]]
    assert [code(each) for each in outcomes[fitting:]] == [RejectionCode.ANSWER_TOO_LARGE] * 2
    assert version_vector(log.store, "k")["p1"] == 1 + fitting
    assert result(log.do(increment(node_id="p1"))), "the next request begins anew"
