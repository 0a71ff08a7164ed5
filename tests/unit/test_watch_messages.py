"""What watchers read: every position as one event, its changes under names that the API uses."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec
import pytest

from api.timestamps import stored_answer
from api.watch_messages import KINDS, Rendered, position_event, select
from scripts.tidelock_scripts.event_source import Event, EventParser
from statemachine.change_log import Recorded, read_changes
from statemachine.changes import Change, ParticipantJoined
from statemachine.commands import AnyCommand
from statemachine.event_ids import format_event_id
from statemachine.outcomes import Position
from statemachine.timestamps import list_events
from tests.statemachine.building import (
    START_MS,
    Log,
    increment,
    merge,
    receive,
    record,
    send,
    sync,
    write,
)

ALL = frozenset(KINDS)


class _Entry(msgspec.Struct, frozen=True):
    node_id: str
    version: int


class _Everything(Change, frozen=True, tag=10_000):
    kind: ClassVar[str] = "test.everything"

    fencing_token: int
    expires_at_ms: int
    timeout_ms: int
    hlc: int
    held: bool
    holder: str | None
    ticket: Position
    vector: tuple[_Entry, ...]


def applied(*commands: AnyCommand) -> list[Recorded]:
    log = Log()
    log.send(*commands)
    return list(read_changes(log.store, Position(0, 0), limit=100))


def events_of(content: bytes) -> list[Event]:
    return EventParser().feed(content)


def data(recorded: Recorded, kinds: frozenset[str] = ALL) -> Any:
    (event,) = events_of(Rendered(recorded).event(kinds))
    return msgspec.json.decode(event.data)


def described(change: Change) -> Any:
    """Return the only change of a position that has no other."""
    recorded = Recorded(position=Position(7, 3), wall_ms=START_MS, changes=(change,), size_bytes=1)  # type: ignore[arg-type]  # a kind of this test's own
    (told,) = data(recorded, frozenset({change.kind}))["changes"]
    return told


def test_a_position_is_one_event_with_all_of_its_changes() -> None:
    (recorded,) = applied(record("orders", "paid", b'{"id": 7}'))
    (event,) = events_of(Rendered(recorded).event(ALL))
    assert (event.name, event.last_id) == ("message", "1.0")
    told = msgspec.json.decode(event.data)
    assert list(told) == ["id", "at", "changes"]
    assert (told["id"], told["at"]) == ("1.0", START_MS)
    assert [next(iter(change)) for change in told["changes"]] == ["kind", "kind"]
    assert [change["kind"] for change in told["changes"]] == [
        "timestamp.event",
        "participant.joined",
    ]
    assert told["changes"][1] == {"kind": "participant.joined", "nodeId": "orders"}


def test_a_stored_event_is_told_as_its_resource_answers_it() -> None:
    log = Log()
    log.send(record("orders", "paid", b'{"id": 7}'), sync("payments", 12, "orders"))
    stored, _ = list_events(log.store, limit=10)
    found = read_changes(log.store, Position(0, 0), limit=10)
    told = [data(each, frozenset({"timestamp.event", "timestamp.sync"})) for each in found]
    for kind, event, message in zip(
        ("timestamp.event", "timestamp.sync"), stored, told, strict=True
    ):
        answer = msgspec.json.decode(msgspec.json.encode(stored_answer(event)))
        assert message["changes"] == [{"kind": kind, **answer}]


@pytest.mark.parametrize(
    ("commands", "told"),
    [
        (
            [increment("cart", "a")],
            {
                "kind": "version.incremented",
                "key": "cart",
                "changes": [{"nodeId": "a", "before": 0, "after": 1}],
            },
        ),
        (
            [increment("cart", "a"), merge({"a": 1, "b": 7}, "cart")],
            {
                "kind": "version.merged",
                "key": "cart",
                "changes": [{"nodeId": "b", "before": 0, "after": 7}],
                "relation": "BEFORE",
            },
        ),
        (
            [write(b'{"a": 1}', {"someone_else": 3}, "cart")],
            {
                "kind": "version.written",
                "key": "cart",
                "count": 1,
                "context": {"someone_else": 3},
                "siblings": 1,
            },
        ),
        (
            [send("a", b'{"order_id":\n7}')],
            {
                "kind": "vector.sent",
                "count": 1,
                "changes": [{"nodeId": "a", "before": 0, "after": 1}],
                "message": {"order_id": 7},
            },
        ),
        (
            [receive("a", {"b": 2})],
            {
                "kind": "vector.received",
                "count": 1,
                "changes": [
                    {"nodeId": "a", "before": 0, "after": 1},
                    {"nodeId": "b", "before": 0, "after": 2},
                ],
                "message": None,
                "messageId": None,
                "relation": "BEFORE",
            },
        ),
    ],
)
def test_events_of_vectors_are_told_with_the_entries_that_rose(
    commands: list[AnyCommand], told: dict[str, Any]
) -> None:
    (last,) = applied(*commands)[-1:]
    entry, place = last.position.entry, last.position.place
    (change,) = data(last, frozenset({told["kind"]}))["changes"]
    assert change == {
        "eventId": format_event_id(entry, place),
        "nodeId": "a",
        "createdAt": START_MS,
        **told,
    }


def test_a_change_is_told_under_the_names_of_its_fields() -> None:
    change = _Everything(
        fencing_token=2**53 + 1,
        expires_at_ms=START_MS,
        timeout_ms=5,
        hlc=(START_MS << 18) + 4,
        held=True,
        holder=None,
        ticket=Position(5, 1),
        vector=(_Entry("a", 1), _Entry("b", 2)),
    )
    assert described(change) == {
        "kind": "test.everything",
        "fencingToken": 2**53 + 1,
        "expiresAt": START_MS,
        "timeoutMs": 5,
        "hlc": {"wallMs": START_MS, "logical": 4},
        "held": True,
        "holder": None,
        "ticket": "5.1",
        "vector": [{"nodeId": "a", "version": 1}, {"nodeId": "b", "version": 2}],
    }


def test_a_change_without_fields_has_its_kind() -> None:
    class Nothing(Change, frozen=True, tag=10_001):
        kind: ClassVar[str] = "test.nothing"

    assert described(Nothing()) == {"kind": "test.nothing"}


def test_a_filter_leaves_out_the_other_changes_of_a_position() -> None:
    (recorded,) = applied(record("orders"))
    only = data(recorded, frozenset({"participant.joined"}))
    assert [change["kind"] for change in only["changes"]] == ["participant.joined"]
    assert Rendered(recorded).event(frozenset({"routing.changed"})) == b""


def test_the_end_of_a_wait_alone_is_nothing_to_tell() -> None:
    recorded = Recorded(
        position=Position(7, 3), wall_ms=START_MS, settled=(Position(1, 1),), size_bytes=1
    )
    assert Rendered(recorded).event(ALL) == b""


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n", "\n\n"])
def test_line_ends_within_a_client_s_json_do_not_end_the_message(line_end: str) -> None:
    text = f'{{"a":{line_end}[1,{line_end}{line_end}2],{line_end}"b":"x\\ny"}}'
    (recorded,) = applied(record("orders", event_data=text.encode()))
    (event,) = data(recorded, frozenset({"timestamp.event"}))["changes"]
    assert event["eventData"] == {"a": [1, 2], "b": "x\ny"}


def test_texts_of_any_script_arrive_as_they_were() -> None:
    (recorded,) = applied(record("汉字\u2028😀", "zahlung-übertragen"))
    event, joined = data(recorded)["changes"]
    assert event["nodeId"] == joined["nodeId"] == "汉字\u2028😀"
    assert event["eventType"] == "zahlung-übertragen"


def test_a_position_event_moves_readers_on_and_is_no_message() -> None:
    (event,) = events_of(position_event(Position(12, 4)))
    assert (event.name, event.last_id) == ("position", "12.4")
    assert msgspec.json.decode(event.data) == {"id": "12.4"}


def test_kinds_are_a_resource_and_a_word() -> None:
    assert len(set(KINDS)) == len(KINDS) >= 5
    for kind in KINDS:
        assert re.fullmatch(r"[a-z][a-zA-Z-]*(?:\.[a-z][a-zA-Z-]*)+", kind), kind


def test_a_selection_names_kinds_or_what_they_begin_with() -> None:
    assert select("timestamp.event") == {"timestamp.event"}
    assert select("timestamp.*") == {"timestamp.event", "timestamp.sync"}
    assert select("timestamp.*,participant.left,timestamp.sync") == {
        "timestamp.event",
        "timestamp.sync",
        "participant.left",
    }


@pytest.mark.parametrize(
    ("wanted", "wrong"),
    [
        ("", "''"),
        ("timestamp", "'timestamp'"),
        ("timestamp.", "'timestamp.'"),
        ("time.*", "'time.*'"),
        ("*", "'*'"),
        (".*", "'.*'"),
        ("timestamp.event,,", "''"),
        ("timestamp.event, timestamp.sync", "' timestamp.sync'"),
        ("TIMESTAMP.EVENT", "'TIMESTAMP.EVENT'"),
    ],
)
def test_a_selection_of_nothing_is_refused(wanted: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)) as told:
        select(wanted)
    assert all(kind in str(told.value) for kind in KINDS)


def test_what_is_told_of_a_change_has_no_line_end() -> None:
    recorded = Recorded(
        position=Position(1, 1),
        wall_ms=1,
        changes=(ParticipantJoined(node_id="a\nb"),),
        size_bytes=1,
    )
    assert Rendered(recorded).event(ALL).splitlines()[2:] == [b""]
