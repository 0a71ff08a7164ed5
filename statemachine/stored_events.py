"""Rows of stored events, one table of all kinds in the order in which they were committed."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from tidelock.clocks import Relation

Changes = tuple[tuple[str, int, int], ...]
"""Entries of a vector that rose, by name: (participant, before, after). A missing one counts as 0.

Before is what it was right after the event before. A clock that a synchronisation raised in between
rises with the next event.
"""


class EventRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """A Lamport event."""

    node_id: str
    event_type: str
    event_data: bytes
    lamport: int
    hlc: int
    created_at_ms: int
    source_node_id: str | None
    source_event_id: str | None
    source_timestamp: int | None


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """An event that answers of requests refer to."""

    kind: ClassVar[str]
    """What a watcher filters by."""

    node_id: str
    created_at_ms: int
    kept_until_ms: int
    """In elapsed time: until when a retry may ask for the answer. It is not trimmed earlier."""


class VersionIncremented(_Row, frozen=True, tag=20):
    """A write of a participant was counted in the version vector of a key."""

    kind: ClassVar[str] = "version.incremented"

    key: str
    changes: Changes


class VersionMerged(_Row, frozen=True, tag=21):
    """A version vector was raised by another one, which it may have covered already."""

    kind: ClassVar[str] = "version.merged"

    key: str
    changes: Changes
    relation: Relation
    """Of the stored vector to the received one, before."""


class ObjectWritten(_Row, frozen=True, tag=22):
    """A value of an object was written. The value itself is only in the object."""

    kind: ClassVar[str] = "version.written"

    key: str
    count: int
    """It is the participant's `count`-th write of the object."""
    context: dict[str, int]
    """What the writer had read."""
    siblings: int
    """How many values are current now, this one included."""


class VectorTicked(_Row, frozen=True, tag=23):
    """An event of a participant on its vector clock."""

    kind: ClassVar[str] = "vector.ticked"

    count: int
    """The participant's own entry, as it is now."""
    changes: Changes


class VectorSent(_Row, frozen=True, tag=24):
    """A participant sent a message, whose id is the event's."""

    kind: ClassVar[str] = "vector.sent"

    count: int
    changes: Changes
    message: bytes
    """The client's JSON text, empty when there is none."""


class VectorReceived(_Row, frozen=True, tag=25):
    """A participant received a message."""

    kind: ClassVar[str] = "vector.received"

    count: int
    changes: Changes
    message: bytes
    message_id: str
    """Empty when the client named none."""
    relation: Relation
    """Of the participant's clock to the received one, before."""


AnyVersionRow = VersionIncremented | VersionMerged | ObjectWritten
AnyVectorRow = VectorTicked | VectorSent | VectorReceived
AnyAdvance = VersionIncremented | VersionMerged | AnyVectorRow
"""Events after which a vector is kept."""
AnyEventRow = EventRow | AnyVersionRow | AnyVectorRow
"""Tags follow the rules of commands."""

_rows: Final = msgspec.msgpack.Decoder(AnyEventRow)


def decode_event(row: bytes) -> AnyEventRow:
    found: AnyEventRow = _rows.decode(row)
    return found


def created_at_ms(row: AnyEventRow) -> int:
    """Return the replicated wall time of the event, milliseconds since the epoch."""
    return row.created_at_ms


def kept_until_ms(row: AnyEventRow) -> int:
    """Return the elapsed time until which the event is kept, whatever its age."""
    return 0 if isinstance(row, EventRow) else row.kept_until_ms
