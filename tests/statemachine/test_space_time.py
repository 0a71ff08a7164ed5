"""A diagram's edges generate exactly the happened-before relation of its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import keys, space_time
from statemachine.commands import AnyCommand, SyncClock
from statemachine.event_ids import format_event_id
from statemachine.outcomes import EventRecorded, ObjectWritten
from statemachine.space_time import Diagram, Kind, Link, first_at, read_events
from statemachine.vectors import vector_clock
from tests.statemachine.building import (
    START_MS,
    Log,
    increment,
    merge,
    receive,
    record,
    result,
    send,
    sync,
    tick,
    write,
)

END = keys.pack_event(2**62, 0)


def diagram_of(
    log: Log,
    participants: Iterable[str] | None = None,
    kinds: Iterable[Kind] = tuple(Kind),
    start: bytes = b"",
    stop: bytes = END,
) -> Diagram:
    selected = None if participants is None else frozenset(participants)
    diagram = Diagram(selected, kinds)
    for event, row in read_events(log.store, start, stop, limit=10_000):
        diagram.add(event, row)
    return diagram


def before_by_edges(diagram: Diagram) -> dict[bytes, frozenset[bytes]]:
    """Return of each event all that happened before it, by following the edges back."""
    before: dict[bytes, frozenset[bytes]] = {shown.event: frozenset() for shown in diagram.shown}
    for shown in diagram.shown:
        for edge in diagram.edges:
            if edge.target == shown.event:
                before[shown.event] |= before[edge.source] | {edge.source}
    return before


def before_by_clocks(diagram: Diagram) -> dict[bytes, frozenset[bytes]]:
    """Return the same from the clocks alone."""
    return {
        shown.event: frozenset(
            other.event
            for other in diagram.shown
            if other is not shown
            and all(count <= shown.clock.get(name, 0) for name, count in other.clock.items())
        )
        for shown in diagram.shown
    }


def drawn(diagram: Diagram) -> list[str]:
    """Return the edges as text, with the entry of each event as its name."""
    return [
        f"{keys.unpack_event(edge.source)[0]}-{keys.unpack_event(edge.target)[0]} {edge.link}"
        for edge in diagram.edges
    ]


@pytest.mark.parametrize(
    ("commands", "edges"),
    [
        ([record("a"), record("a"), record("b")], ["1-2 PROGRAM"]),
        # The Lamport timestamp of an event, by its number and by its id.
        ([record("a"), sync("b", 1, "a")], ["1-2 SYNC"]),
        ([record("a"), record("a"), sync("b", 1, "a")], ["1-2 PROGRAM", "1-3 SYNC"]),
        ([record("a"), sync("b", 7, "a")], []),
        ([record("a"), sync("b", 1, "c")], []),
        # A timestamp that its participant gets only later.
        ([sync("b", 1, "a"), record("a")], []),
        # Messages.
        ([send("a"), receive("b", {"a": 1}, format_event_id(1, 0))], ["1-2 MESSAGE"]),
        ([send("a"), receive("b", {"a": 1}, "elsewhere")], ["1-2 CLOCK"]),
        ([tick("a"), receive("b", {"a": 1})], ["1-2 CLOCK"]),
        # A receipt that names a message which its clock does not know.
        ([send("a"), receive("b", {}, format_event_id(1, 0))], []),
        ([send("a"), receive("b", {"c": 1}, format_event_id(1, 0))], []),
        # A clock from elsewhere knows more than there is.
        ([tick("a"), receive("b", {"a": 9, "c": 3})], ["1-2 CLOCK"]),
        ([receive("b", {"a": 9}), tick("a")], []),
        # One message brings what its sender had heard.
        (
            [send("a"), receive("b", {"a": 1}), send("b"), receive("c", {"a": 1, "b": 2})],
            ["1-2 CLOCK", "2-3 PROGRAM", "3-4 CLOCK"],
        ),
        # A message that says nothing new is an edge all the same.
        (
            [send("a"), receive("b", {"a": 1}), receive("b", {"a": 1}, format_event_id(1, 0))],
            ["1-2 CLOCK", "2-3 PROGRAM", "1-3 MESSAGE"],
        ),
        # Two sources, one of which knows the other.
        (
            [tick("a"), receive("b", {"a": 1}), receive("c", {"a": 1, "b": 1})],
            ["1-2 CLOCK", "2-3 CLOCK"],
        ),
        # Versions of a key, one after the other; other keys do not matter.
        (
            [increment("k", "a"), increment("k", "b"), increment("l", "c"), merge({}, "k", "c")],
            ["1-2 KEY", "3-4 PROGRAM", "2-4 KEY"],
        ),
        # Writers of an object: who read nothing, who read the first, who read both.
        (
            [
                write(b"1", {}, "k", "a"),
                write(b"2", {}, "k", "b"),
                write(b"3", {"a": 1}, "k", "c"),
                write(b"4", {"a": 1, "b": 1}, "k", "d"),
                write(b"5", {"a": 1}, "other", "e"),
            ],
            ["1-3 READ", "2-4 READ", "1-4 READ"],
        ),
        # A participant is one line, whatever its events are about.
        (
            [record("a"), tick("a"), increment("k", "a"), write(b"1", {}, "k", "a")],
            ["1-2 PROGRAM", "2-3 PROGRAM", "3-4 PROGRAM"],
        ),
    ],
)
def test_edges_of_small_histories(commands: list[AnyCommand], edges: list[str]) -> None:
    log = Log()
    for command in commands:
        log.do(command)
    assert drawn(diagram_of(log)) == edges


def test_a_sync_names_its_event_by_id_before_its_timestamp() -> None:
    log = Log()
    log.send(record("a"), record("a"), record("z"))

    def named(source_event_id: str, timestamp: int, node_id: str = "b") -> list[str]:
        command = SyncClock(
            node_id=node_id,
            source_node_id="a",
            source_event_id=source_event_id,
            timestamp=timestamp,
            event_type="s",
            event_data=b"",
        )
        target = log.send(command).position
        return [
            f"{keys.unpack_event(edge.source)}"
            for edge in diagram_of(log).edges
            if keys.unpack_event(edge.target)[0] == target.entry and edge.link is Link.SYNC
        ]

    assert named(format_event_id(1, 0), 2) == ["(1, 0)"]
    # What cannot be the event of this participant and time is not believed.
    assert named(format_event_id(1, 1), 1, "c") == ["(1, 0)"]
    assert named("order-17", 2, "d") == ["(1, 1)"]
    assert named(format_event_id(9, 9), 2, "e") == ["(1, 1)"]
    assert named(format_event_id(1, 2), 2, "f") == ["(1, 1)"], "that one is z's"


def test_what_is_left_out_still_orders_what_is_shown() -> None:
    log = Log()
    for command in (
        record("a"),
        sync("b", 1, "a"),
        sync("c", 2, "b"),
        send("c"),
        receive("d", {"c": 1}, format_event_id(4, 0)),
        receive("e", {"c": 1, "d": 1}),
    ):
        log.do(command)
    assert drawn(diagram_of(log, "ac")) == ["1-3 INDIRECT", "3-4 PROGRAM"]
    assert drawn(diagram_of(log, "ae")) == ["1-6 INDIRECT"]
    assert drawn(diagram_of(log, "ce")) == ["3-4 PROGRAM", "4-6 CLOCK"]
    assert drawn(diagram_of(log, "ab")) == ["1-2 SYNC"]
    assert drawn(diagram_of(log, "f")) == []
    assert [dict(shown.clock) for shown in diagram_of(log, "ae").shown] == [
        {"a": 1},
        {"a": 1, "e": 1},
    ]


def test_events_of_other_kinds_order_nothing() -> None:
    log = Log()
    for command in (tick("a"), record("a"), sync("b", 1, "a"), tick("b")):
        log.do(command)
    assert drawn(diagram_of(log)) == ["1-2 PROGRAM", "2-3 SYNC", "3-4 PROGRAM"]
    assert drawn(diagram_of(log, kinds=[Kind.VECTOR])) == []
    assert drawn(diagram_of(log, kinds=[Kind.TIMESTAMP])) == ["2-3 SYNC"]
    assert [shown.kind for shown in diagram_of(log, kinds=[Kind.VERSION]).shown] == []


def test_a_raised_clock_knows_what_it_was_raised_to() -> None:
    log = Log()
    log.do(tick("a"))
    log.machine._vectors.raise_to("b", {"a": 1})
    log.do(tick("b"))
    assert drawn(diagram_of(log)) == ["1-2 CLOCK"]


def test_events_say_what_they_were() -> None:
    log = Log()
    log.do(record("a", "created"))
    log.do(sync("b", 1, "a"))
    log.do(send("a"))
    log.do(receive("b", {"a": 1}, "m-1"))
    log.do(receive("b", {"a": 1}))
    log.do(tick("a"))
    log.wait(5)
    log.do(increment("k", "a"))
    log.do(merge({}, "k", "a"))
    log.do(write(b"1", {}, "o", "a"))
    found = [
        (shown.kind, shown.text, shown.lamport, shown.key, shown.message_id)
        for shown in diagram_of(log).shown
    ]
    sent = format_event_id(3, 0)
    assert found == [
        ("timestamp.event", "created", 1, None, None),
        ("timestamp.sync", "sync", 2, None, None),
        ("vector.sent", f"sent {sent}", None, None, sent),
        ("vector.received", "received m-1", None, None, "m-1"),
        ("vector.received", "received", None, None, None),
        ("vector.ticked", "ticked", None, None, None),
        ("version.incremented", "incremented k", None, "k", None),
        ("version.merged", "merged k", None, "k", None),
        ("version.written", "written o", None, "o", None),
    ]
    times = [shown.created_at_ms for shown in diagram_of(log).shown]
    assert times == [START_MS] * 6 + [START_MS + 5] * 3


def test_a_diagram_is_full_of_clock_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_time, "GREATEST_ENTRIES", 10)
    for participants in (None, "abc"):
        log = Log()
        log.send(tick("a"), receive("b", {"a": 1}), receive("c", {"b": 1}))
        assert not diagram_of(log, participants).is_full
        log.send(*[receive("d", {"c": 1}), receive("e", {"d": 1})] * 5)
        assert diagram_of(log, participants).is_full


@pytest.mark.parametrize(
    ("after_ms", "entry"), [(-1, 0), (0, 1), (1, 3), (10, 3), (11, 6), (20, 6), (21, 7)]
)
def test_events_are_found_by_wall_time(after_ms: int, entry: int) -> None:
    log = Log()
    log.send(record("a"), record("b"))
    log.tick()
    log.wait(10)
    log.do(record("a"))
    log.tick()
    log.wait(10)
    log.tick()
    log.do(record("a"))
    found = first_at(log.store, START_MS + after_ms, log.machine.applied_index)
    listed = read_events(log.store, found, END, limit=9)
    expected = [event for event, _ in read_events(log.store, b"", END, limit=9)]
    assert [event for event, _ in listed] == [
        event for event in expected if keys.unpack_event(event)[0] >= entry
    ]


def test_no_event_is_at_any_time_of_an_empty_log() -> None:
    assert read_events(Log().store, first_at(Log().store, 0, 0), END, limit=1) == []


# The model


@dataclass
class Happened:
    """An event with its causal history: the positions of all that happened before it."""

    event: bytes
    node_id: str
    kind: Kind
    before: frozenset[bytes]
    clock: dict[str, int] = field(default_factory=dict)
    """Of a vector event: the clock that a message from it carries."""
    lamport: int = 0
    message_id: str = ""

    @property
    def history(self) -> frozenset[bytes]:
        return self.before | {self.event}


class Histories:
    """Participants that do things and tell each other, and what each event's history is."""

    def __init__(self, kinds: frozenset[Kind]) -> None:
        self.log = Log()
        self.kinds = kinds
        self.happened: list[Happened] = []
        self.known: dict[str, frozenset[bytes]] = {}
        """Of each participant."""
        self.advanced: dict[str, frozenset[bytes]] = {}
        """Of each key's version vector."""
        self.written: dict[str, frozenset[bytes]] = {}
        """Of each object: what who reads it now has read."""
        self.reads: dict[str, list[tuple[dict[str, int], frozenset[bytes]]]] = {}
        """Of each object: contexts that somebody holds, with what they cover."""
        self.received: set[tuple[str, str]] = set()

    def do(
        self, command: AnyCommand, node_id: str, kind: Kind, learnt: frozenset[bytes]
    ) -> tuple[Happened, object]:
        outcome = self.log.send(command)
        event = keys.pack_event(outcome.position.entry, 0)
        happened = Happened(event, node_id, kind, self.known.get(node_id, frozenset()) | learnt)
        if kind in self.kinds:
            self.known[node_id] = happened.history
            self.happened.append(happened)
        return happened, result(outcome.outcomes[0])

    def lamport(self, node_id: str, source: Happened | None) -> None:
        if source is None:
            happened, answer = self.do(record(node_id), node_id, Kind.TIMESTAMP, frozenset())
        else:
            command = sync(node_id, source.lamport, source.node_id)
            happened, answer = self.do(command, node_id, Kind.TIMESTAMP, source.history)
        assert isinstance(answer, EventRecorded)
        happened.lamport = answer.lamport_timestamp

    def advance(self, node_id: str, sends: bool) -> None:
        command = send(node_id) if sends else tick(node_id)
        happened, _ = self.do(command, node_id, Kind.VECTOR, frozenset())
        happened.clock = vector_clock(self.log.store, node_id)
        if sends:
            happened.message_id = format_event_id(*keys.unpack_event(happened.event))

    def receive(self, node_id: str, source: Happened, named: bool) -> None:
        message_id = source.message_id if named else ""
        command = receive(node_id, source.clock, message_id)
        if message_id and (node_id, message_id) in self.received:
            self.log.do(command)
            return
        self.received.add((node_id, message_id))
        happened, _ = self.do(command, node_id, Kind.VECTOR, source.history)
        happened.clock = vector_clock(self.log.store, node_id)

    def version(self, node_id: str, key: str, merges: bool) -> None:
        command = merge({"a": 1}, key, node_id) if merges else increment(key, node_id)
        learnt = self.advanced.get(key, frozenset())
        happened, _ = self.do(command, node_id, Kind.VERSION, learnt)
        self.advanced[key] = happened.history

    def write(self, node_id: str, key: str, read: int) -> None:
        reads = self.reads.setdefault(key, [({}, frozenset())])
        context, learnt = reads[read % len(reads)]
        command = write(b"1", context, key, node_id)
        happened, answer = self.do(command, node_id, Kind.VERSION, learnt)
        assert isinstance(answer, ObjectWritten)
        self.written[key] = self.written.get(key, frozenset()) | happened.history
        reads.append((answer.context, self.written[key]))


NAMES = st.sampled_from("abcde")
PICKS = st.integers(0, 30)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("lamport"), NAMES, st.none() | PICKS, st.booleans(), st.booleans()),
        st.tuples(st.just("vector"), NAMES, st.none() | PICKS, st.booleans(), st.booleans()),
        st.tuples(st.just("version"), NAMES, PICKS, st.booleans(), st.booleans()),
        st.tuples(st.just("write"), NAMES, PICKS, st.booleans(), st.booleans()),
    ),
    max_size=40,
)


def enact(
    steps: list[tuple[str, str, int | None, bool, bool]], kinds: frozenset[Kind]
) -> Histories:
    histories = Histories(kinds)
    for what, node_id, pick, first, second in steps:
        wanted = Kind.TIMESTAMP if what == "lamport" else Kind.VECTOR
        sources = [each for each in histories.happened if each.kind is wanted]
        source = None if pick is None or not sources else sources[-1 - pick % len(sources)]
        match what:
            case "lamport":
                histories.lamport(node_id, source)
            case "vector":
                if source is None:
                    histories.advance(node_id, second)
                else:
                    histories.receive(node_id, source, first)
            case "version":
                histories.version(node_id, "xy"[first], second)
            case _:
                histories.write(node_id, "xy"[first], pick or 0)
    return histories


@settings(max_examples=150, deadline=None)
@given(
    STEPS,
    st.none() | st.frozensets(NAMES),
    st.frozensets(st.sampled_from(list(Kind)), min_size=1),
)
def test_edges_and_clocks_are_exactly_what_happened_before(
    steps: list[tuple[str, str, int | None, bool, bool]],
    participants: frozenset[str] | None,
    kinds: frozenset[Kind],
) -> None:
    histories = enact(steps, kinds)
    diagram = diagram_of(histories.log, participants, kinds)
    shown = {
        each.event: each.before
        for each in histories.happened
        if participants is None or each.node_id in participants
    }
    expected = {event: before & shown.keys() for event, before in shown.items()}
    assert before_by_edges(diagram) == expected
    assert before_by_clocks(diagram) == expected


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 40), st.integers(0, 40))
def test_a_part_of_the_log_makes_a_diagram_that_is_exact_for_its_own_events(
    steps: list[tuple[str, str, int | None, bool, bool]], begin: int, length: int
) -> None:
    histories = enact(steps, frozenset(Kind))
    inside = histories.happened[begin : begin + length]
    start, stop = keys.pack_event(begin + 1, 0), keys.pack_event(begin + 1 + length, 0)
    diagram = diagram_of(histories.log, None, tuple(Kind), start, stop)
    inside = [each for each in histories.happened if start <= each.event < stop]
    events = {each.event for each in inside}
    expected = {each.event: each.before & events for each in inside}
    assert before_by_edges(diagram) == expected
    assert before_by_clocks(diagram) == expected


def test_the_numbers_of_a_line_are_consecutive_from_one() -> None:
    log = Log()
    log.send(receive("a", {"a": 7}), tick("b"), tick("a"), record("a"), receive("b", {"a": 9}))
    own = [(shown.node_id, shown.clock[shown.node_id]) for shown in diagram_of(log).shown]
    assert own == [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2)]
