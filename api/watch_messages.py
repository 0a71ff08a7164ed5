"""What watchers read: every recorded position as one server-sent event.

A position is rendered once, however many watch; a filter only chooses among its changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, get_args

import msgspec

from api import event_stream
from api.hybrid_clock import hlc
from api.shapes import Answer
from api.timestamps import stored_answer
from statemachine.change_log import Recorded
from statemachine.changes import AnyChange
from statemachine.event_ids import format_event_id
from statemachine.positions import Position
from statemachine.stored_events import AnyEventRow, Changes, EventRow
from statemachine.timestamps import stored_event

_EVENT: Final = "timestamp.event"
_SYNC: Final = "timestamp.sync"

KINDS: Final = tuple(
    sorted(
        {
            *(_EVENT, _SYNC),
            *(row.kind for row in get_args(AnyEventRow) if row is not EventRow),
            *(change.kind for change in get_args(AnyChange)),
        }
    )
)
"""Every kind of change that a watcher can be told."""

POSITION: Final = "position"
"""The name of an event that says no more than how far the log was read."""

COMPACTED: Final = "compacted"
"""The name of an event that says that what should follow is no longer kept."""

_PREFIX_END: Final = ".*"

_encode: Final = msgspec.json.Encoder().encode


class WatchMessage(Answer, frozen=True, kw_only=True):
    """The data of an event: everything that one applied command changed."""

    id: str
    """The position in the log, `entry.place`; also the id of the event."""
    at: int
    """The replicated wall time at which it was applied, milliseconds since the epoch."""
    changes: list[dict[str, Any]]
    """Each names its `kind`; the other members depend on that."""


def select(wanted: str) -> frozenset[str]:
    """Return the kinds that a list like `lock.*,timestamp.event` names.

    Raises:
        ValueError: it names no kind; the message says which part.
    """
    selected: set[str] = set()
    for part in wanted.split(","):
        found = _matching(part)
        if not found:
            raise ValueError(
                f"{part[:80]!r} is no kind of change. These are: {', '.join(KINDS)}; and what they "
                "begin with, as in timestamp.*"
            )
        selected.update(found)
    return frozenset(selected)


def _matching(part: str) -> list[str]:
    if part.endswith(_PREFIX_END):
        return [kind for kind in KINDS if kind.startswith(part[:-1])]
    return [part] if part in KINDS else []


class Rendered:
    """One position as JSON, its changes apart from each other."""

    __slots__ = ("_changes", "_head", "position", "size_bytes")

    def __init__(self, recorded: Recorded) -> None:
        position = str(recorded.position)
        self.position = position
        self._head = (
            f'id: {position}\ndata: {{"id":"{position}","at":{recorded.wall_ms},"changes":['
        ).encode()
        self._changes = [*_changes_of(recorded)]
        self.size_bytes = 300 + sum(200 + len(text) for _, text in self._changes)

    def event(self, kinds: frozenset[str]) -> bytes:
        """Return the event that tells of the changes of these kinds; empty when there are none."""
        chosen = [text for kind, text in self._changes if kind in kinds]
        return b"%b%b]}\n\n" % (self._head, b",".join(chosen)) if chosen else b""


def _changes_of(recorded: Recorded) -> Iterable[tuple[str, bytes]]:
    """Return kind and JSON of each change, the stored event first."""
    if recorded.event is not None:
        kind, described = _describe_event(recorded.position, recorded.event)
        # A client's own JSON stands in it as it was sent, line ends included.
        yield kind, event_stream.one_line(_of_kind(kind, _encode(described)))
    for change in recorded.changes:
        yield change.kind, _of_kind(change.kind, _encode(_describe(change)))


def _of_kind(kind: str, members: bytes) -> bytes:
    """Return the JSON object with its kind as the first member."""
    following = b"," if len(members) > len(b"{}") else b""
    return b'{"kind":"%b"%b%b' % (kind.encode(), following, members[1:])


def _describe_event(position: Position, row: AnyEventRow) -> tuple[str, object]:
    """Return the kind of a stored event, and the event."""
    if isinstance(row, EventRow):
        kind = _EVENT if row.source_timestamp is None else _SYNC
        return kind, stored_answer(stored_event(position, row))
    event_id = format_event_id(position.entry, position.place)
    return row.kind, {"eventId": event_id, **_describe(row)}


# Everything else is described from its fields alone, so that who adds one has nothing to do here.


def _describe(described: msgspec.Struct) -> dict[str, object]:
    return {
        name: in_json(getattr(described, field))
        for field, name, in_json in _fields(type(described))
    }


@functools.cache
def _fields(
    described: type[msgspec.Struct],
) -> Sequence[tuple[str, str, Callable[[Any], object]]]:
    """Return of each field its name, its name in JSON, and what makes its value."""
    return tuple(
        (field.name, _name_in_json(field.name), _SPECIAL.get(field.name, _value))
        for field in msgspec.structs.fields(described)
        if field.name not in _INTERNAL
    )


def _name_in_json(name: str) -> str:
    """Return the name in camel case; a moment loses its unit, as everywhere in this API."""
    if name.endswith("_at_ms"):
        name = name.removesuffix("_ms")
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _value(value: object) -> object:
    if isinstance(value, Position):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return _describe(value)
    if isinstance(value, tuple):
        return [_value(each) for each in value]
    return value


def _hlc(encoded: int) -> object:
    return hlc(encoded)


def _risen(changes: Changes) -> object:
    return [
        {"nodeId": node_id, "before": before, "after": after} for node_id, before, after in changes
    ]


def _message(client_json: bytes) -> object:
    return msgspec.Raw(client_json) if client_json else None


def _optional(text: str) -> object:
    return text or None


_INTERNAL: Final = frozenset({"kept_until_ms"})

_SPECIAL: Final[dict[str, Callable[[Any], object]]] = {
    "hlc": _hlc,
    "changes": _risen,
    "message": _message,
    "message_id": _optional,
}
"""Fields that stand for something else than they hold, by name."""


def position_event(position: Position) -> bytes:
    """Return what moves a reader on that was told nothing: its next id.

    It has a name, so that browsers do not take it for a change, and data, without which some would
    not take its id.
    """
    text = str(position)
    return event_stream.event(_encode({"id": text}), name=POSITION, event_id=text)
