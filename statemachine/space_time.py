"""Space-time diagrams: which stored events happened before which, and by what.

A diagram is made of consecutive events of the log. All that orders them points backwards in it, so
one pass suffices. What orders two of them lies between them, so a diagram is complete for its own
events, wherever in the log it begins and ends.

Some participants can be left out. Order that runs through them remains: it is shown as an edge
between events that are in.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, assert_never

import msgspec

from statemachine import keys
from statemachine.event_ids import parse_event_id
from statemachine.store import Reader
from statemachine.stored_events import (
    AnyEventRow,
    AnyVectorRow,
    EventRow,
    ObjectWritten,
    VectorReceived,
    VectorSent,
    VectorTicked,
    VersionIncremented,
    VersionMerged,
    created_at_ms,
    decode_event,
)

GREATEST_ENTRIES: Final = 200_000
"""A diagram is full when the clocks of its events have so many entries together."""


class Kind(enum.StrEnum):
    """What events are about. Events of other kinds than those of a diagram order nothing in it."""

    TIMESTAMP = "timestamp"
    VERSION = "version"
    VECTOR = "vector"


class Link(enum.StrEnum):
    """By what one event happened right before another."""

    PROGRAM = "PROGRAM"
    """It is the participant's event before."""
    MESSAGE = "MESSAGE"
    """It sent the message that the other one received."""
    SYNC = "SYNC"
    """The other one was synchronised with its Lamport timestamp."""
    KEY = "KEY"
    """It advanced the version vector of a key before the other one did."""
    READ = "READ"
    """It wrote a value of an object, which the writer of the other one had read."""
    CLOCK = "CLOCK"
    """The vector clock of the other one knows it; no message says by whom."""
    INDIRECT = "INDIRECT"
    """Through events of participants that are left out."""


_NAMED: Final = frozenset((Link.MESSAGE, Link.SYNC))
"""What somebody did on purpose: an edge, also where others imply it."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a diagram."""

    event: bytes
    """Its packed position: in hexadecimal, its id."""
    node_id: str
    kind: str
    """As watchers have it."""
    text: str
    """What it was: a type, a key, a message."""
    created_at_ms: int
    clock: Mapping[str, int]
    """How many events of each participant in the diagram happened before it, itself included: a
    vector clock that begins with the diagram."""
    lamport: int | None = None
    key: str | None = None
    message_id: str | None = None


class Edge(msgspec.Struct, frozen=True):
    """One event happened right before another; both are shown."""

    source: bytes
    target: bytes
    link: Link


class _Line:
    """Events of one participant that are found by a count: those at or below it."""

    __slots__ = ("_counts", "_indexes")

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._indexes: list[int] = []

    def append(self, count: int, index: int) -> None:
        self._counts.append(count)
        self._indexes.append(index)

    def upto(self, count: int) -> int | None:
        place = bisect_right(self._counts, count)
        return self._indexes[place - 1] if place else None


class Diagram:
    """Takes events in the order of the log.

    Args:
        participants: whose events are shown; all when None.
        kinds: which events count.
    """

    def __init__(
        self, participants: frozenset[str] | None = None, kinds: Iterable[Kind] = tuple(Kind)
    ) -> None:
        self._participants = participants
        self._kinds = frozenset(kinds)
        self.shown: list[Shown] = []
        self.edges: list[Edge] = []
        self._entries = 0
        # Of every event that counts, by its index: what is shown and happened before it.
        self._clocks: list[Mapping[str, int]] = []
        self._numbers: list[tuple[str, int]] = []
        """Whose it is, and its number among those that are shown; 0 when it is not."""
        self._events: list[bytes] = []
        self._latest: dict[str, int] = {}
        self._shown_of: dict[str, list[int]] = {}
        # Where causes are found.
        self._by_event: dict[bytes, int] = {}
        self._by_lamport: dict[tuple[str, int], int] = {}
        self._lamport: dict[int, int] = {}
        self._sent: dict[bytes, tuple[int, int]] = {}
        self._vectors: dict[str, _Line] = {}
        self._of_key: dict[str, int] = {}
        self._writes: dict[tuple[str, str], _Line] = {}

    @property
    def is_full(self) -> bool:
        return self._entries >= GREATEST_ENTRIES

    def add(self, event: bytes, row: AnyEventRow) -> None:
        """Take the next event."""
        if kind_of(row) not in self._kinds:
            return
        index = len(self._clocks)
        node_id = row.node_id
        causes = self._causes(row)
        if self._participants is None or node_id in self._participants:
            clock = self._show(event, row, causes)
        else:
            clock = self._pass_on(node_id, causes)
            self._numbers.append((node_id, 0))
        self._clocks.append(clock)
        self._events.append(event)
        self._latest[node_id] = index
        self._enter(event, row, index)

    def _show(
        self, event: bytes, row: AnyEventRow, causes: Mapping[int, Link]
    ) -> Mapping[str, int]:
        """Add the event and the edges to it. Return its clock."""
        node_id = row.node_id
        own = self._shown_of.setdefault(node_id, [])
        latest = self._latest.get(node_id)
        known = {} if latest is None else dict(self._clocks[latest])
        if own:
            self.edges.append(Edge(self._events[own[-1]], event, Link.PROGRAM))
        for cause, link in causes.items():
            if link in _NAMED and self._numbers[cause][1]:
                self.edges.append(Edge(self._events[cause], event, link))
                _join(known, self._clocks[cause])
        news: dict[str, int] = {}
        for cause in causes:
            _join(news, self._clocks[cause])
        latest_news = [
            self._shown_of[name][number - 1]
            for name, number in news.items()
            if number > known.get(name, 0)
        ]
        # The latest first: what it knows needs no edge of its own.
        for cause in sorted(latest_news, reverse=True):
            name, number = self._numbers[cause]
            if number > known.get(name, 0):
                link = causes.get(cause, Link.INDIRECT)
                self.edges.append(Edge(self._events[cause], event, link))
                _join(known, self._clocks[cause])
        self._numbers.append((node_id, len(own) + 1))
        own.append(len(self._clocks))
        known[node_id] = len(own)
        self._entries += len(known)
        self.shown.append(_shown(event, row, known))
        return known

    def _pass_on(self, node_id: str, causes: Iterable[int]) -> Mapping[str, int]:
        """Return what an event knows that is not shown."""
        latest = self._latest.get(node_id)
        known: Mapping[str, int] = {} if latest is None else self._clocks[latest]
        joined: dict[str, int] | None = None
        for cause in causes:
            for name, number in self._clocks[cause].items():
                if number > (known if joined is None else joined).get(name, 0):
                    joined = dict(known) if joined is None else joined
                    joined[name] = number
        if joined is None:
            return known
        self._entries += len(joined)
        return joined

    def _causes(self, row: AnyEventRow) -> dict[int, Link]:
        """Return the events of the diagram that this one refers to, besides its own line's."""
        match row:
            case EventRow():
                source = self._source(row)
                return {} if source is None else {source: Link.SYNC}
            case VersionIncremented() | VersionMerged():
                before = self._of_key.get(row.key)
                return {} if before is None else {before: Link.KEY}
            case ObjectWritten():
                read = (
                    self._writes[row.key, name].upto(count)
                    for name, count in row.context.items()
                    if (row.key, name) in self._writes
                )
                return {cause: Link.READ for cause in read if cause is not None}
            case VectorTicked() | VectorSent() | VectorReceived():
                return self._known_by_clock(row)
            case _:
                assert_never(row)

    def _source(self, row: EventRow) -> int | None:
        """Return the event whose timestamp was received: the named one, or the one at it."""
        if row.source_node_id is None or row.source_timestamp is None:
            return None
        named = _packed(row.source_event_id)
        found = None if named is None else self._by_event.get(named)
        if found is not None and self._numbers[found][0] == row.source_node_id:
            lamport = self._lamport.get(found)
            if lamport is not None and lamport <= row.source_timestamp:
                return found
        return self._by_lamport.get((row.source_node_id, row.source_timestamp))

    def _known_by_clock(self, row: AnyVectorRow) -> dict[int, Link]:
        """Return the latest event of each participant that the clock has just come to know."""
        causes: dict[int, Link] = {}
        for name, _, count in row.changes:
            line = self._vectors.get(name)
            cause = None if line is None else line.upto(count)
            if cause is not None:
                causes[cause] = Link.CLOCK
        if isinstance(row, VectorReceived):
            named = _packed(row.message_id)
            sent = None if named is None else self._sent.get(named)
            if sent is not None and self._knows(row, *sent):
                causes[sent[0]] = Link.MESSAGE
        return causes

    def _knows(self, row: VectorReceived, cause: int, count: int) -> bool:
        """Tell whether the clock really knows the message that the receipt names."""
        sender, number = self._numbers[cause]
        if any(name == sender and after >= count for name, _, after in row.changes):
            return True
        latest = self._latest.get(row.node_id)
        return latest is not None and 0 < number <= self._clocks[latest].get(sender, 0)

    def _enter(self, event: bytes, row: AnyEventRow, index: int) -> None:
        """Let later events find this one."""
        match row:
            case EventRow():
                self._by_event[event] = index
                self._lamport[index] = row.lamport
                self._by_lamport[row.node_id, row.lamport] = index
            case VersionIncremented() | VersionMerged():
                self._of_key[row.key] = index
            case ObjectWritten():
                line = self._writes.setdefault((row.key, row.node_id), _Line())
                line.append(row.count, index)
            case VectorTicked() | VectorSent() | VectorReceived():
                self._vectors.setdefault(row.node_id, _Line()).append(row.count, index)
                if isinstance(row, VectorSent):
                    self._sent[event] = (index, row.count)
            case _:
                assert_never(row)


def kind_of(row: AnyEventRow) -> Kind:
    if isinstance(row, EventRow):
        return Kind.TIMESTAMP
    return Kind.VECTOR if isinstance(row, AnyVectorRow) else Kind.VERSION


def read_events(
    reader: Reader, start: bytes, stop: bytes, *, limit: int
) -> list[tuple[bytes, AnyEventRow]]:
    """Return at most `limit` stored events from one packed position to before another."""
    rows = reader.scan(keys.EVENT + start, keys.EVENT + stop, limit=limit)
    return [(key[len(keys.EVENT) :], decode_event(row)) for key, row in rows]


def first_at(reader: Reader, wall_ms: int, last_entry: int) -> bytes:
    """Return the packed position of the first event at or after a wall time, or of none after it.

    Wall times never run backwards in the log, and an entry has but one.
    """
    low, high = 0, last_entry + 1
    while low < high:
        middle = (low + high) // 2
        start = keys.EVENT + keys.pack_event(middle, 0)
        rows = reader.scan(start, keys.stop_of(keys.EVENT), limit=1)
        if not rows or created_at_ms(decode_event(rows[0][1])) >= wall_ms:
            high = middle
        else:
            low = keys.unpack_event(rows[0][0][len(keys.EVENT) :])[0] + 1
    return keys.pack_event(low, 0)


def _join(known: dict[str, int], more: Mapping[str, int]) -> None:
    for name, number in more.items():
        if number > known.get(name, 0):
            known[name] = number


def _packed(event_id: str | None) -> bytes | None:
    position = None if event_id is None else parse_event_id(event_id)
    return None if position is None else keys.pack_event(position.entry, position.place)


def _shown(event: bytes, row: AnyEventRow, clock: Mapping[str, int]) -> Shown:
    kind, text, lamport, key, message_id = _described(event, row)
    return Shown(
        event=event,
        node_id=row.node_id,
        kind=kind,
        text=text,
        created_at_ms=row.created_at_ms,
        clock=clock,
        lamport=lamport,
        key=key,
        message_id=message_id,
    )


def _described(
    event: bytes, row: AnyEventRow
) -> tuple[str, str, int | None, str | None, str | None]:
    """Return kind, text, Lamport timestamp, key and message id of an event."""
    match row:
        case EventRow():
            synced = row.source_timestamp is not None
            kind = "timestamp.sync" if synced else "timestamp.event"
            return kind, row.event_type, row.lamport, None, None
        case VersionIncremented() | VersionMerged() | ObjectWritten():
            return row.kind, f"{row.kind.partition('.')[2]} {row.key}", None, row.key, None
        case VectorTicked():
            return row.kind, "ticked", None, None, None
        case VectorSent():
            return row.kind, f"sent {event.hex()}", None, None, event.hex()
        case VectorReceived():
            message_id = row.message_id or None
            return row.kind, f"received {row.message_id}".rstrip(), None, None, message_id
        case _:
            assert_never(row)
