"""Lamport timestamps: recorded events, the clocks they tick, and how they are found again.

An event has three rows: itself under its position, and two references to it, in the order of all
events (Lamport time, then participant) and in the order of its participant's. A participant's
Lamport times never repeat, so both references are unique.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, paging
from statemachine.commands import RecordEvent, SyncClock
from statemachine.event_ids import format_event_id, parse_event_id
from statemachine.hybrid_clock import next_timestamp
from statemachine.members import Participant, Participants, get_participant
from statemachine.outcomes import (
    Applied,
    EventRecorded,
    Outcome,
    Position,
    Rejected,
    RejectionCode,
)
from statemachine.rejections import CLOCK_OVERFLOW, NAME_UNUSABLE
from statemachine.state import MachineState
from statemachine.store import DamagedStateError, Reader
from statemachine.stored_events import EventRow, decode_event
from statemachine.write_buffer import WriteBuffer

GREATEST_TIMESTAMP: Final = 2**63 - 1

GREATEST_EXAMINED: Final = 1_000
"""How many events a page of a list looks at before it ends, whatever it found."""

_TIMESTAMP_NEGATIVE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "timestamp is negative. Send the Lamport timestamp that was received.",
)

_NO_SOURCE: Final = (None, None, None)


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as a query returns it."""

    event_id: str
    node_id: str
    event_type: str
    event_data: bytes
    """The client's JSON text, empty when there was none."""
    lamport_timestamp: int
    hlc: int
    created_at_ms: int
    source_node_id: str | None
    """With the two fields below: where a received timestamp came from; None for own events."""
    source_event_id: str | None
    source_timestamp: int | None


_encode: Final = msgspec.msgpack.Encoder().encode


class EventRecorder:
    """Ticks clocks and stores what happened."""

    __slots__ = ("_participants", "_state", "_writes")

    def __init__(
        self, state: MachineState, writes: WriteBuffer, participants: Participants
    ) -> None:
        self._state = state
        self._writes = writes
        self._participants = participants

    def record(self, command: RecordEvent, place: int) -> Outcome:
        """Tick the participant's clock and store the event."""
        participant = self._participants.find(command.node_id)
        if participant is None:
            return NAME_UNUSABLE
        return self._store(command, participant, participant.lamport, _NO_SOURCE, place)

    def sync(self, command: SyncClock, place: int) -> Outcome:
        """Raise the clock above its own and the received time; store the receipt as an event."""
        participant = self._participants.find(command.node_id)
        if participant is None:
            return NAME_UNUSABLE
        received = command.timestamp
        if received < 0:
            return _TIMESTAMP_NEGATIVE
        source = (command.source_node_id, command.source_event_id or None, received)
        known = max(participant.lamport, received)
        return self._store(command, participant, known, source, place)

    def _store(
        self,
        command: RecordEvent | SyncClock,
        participant: Participant,
        known: int,
        source: tuple[str | None, str | None, int | None],
        place: int,
    ) -> Outcome:
        state = self._state
        now_ms = state.wall_ms
        hlc = next_timestamp(state)
        if known >= GREATEST_TIMESTAMP or hlc > GREATEST_TIMESTAMP:
            return CLOCK_OVERFLOW
        state.hlc = hlc
        state.event_count += 1
        node_id = command.node_id
        lamport = known + 1
        participant.lamport = lamport
        if participant.active:
            self._participants.changed[node_id] = participant
        else:
            self._participants.set_active(node_id, participant, True, place)

        event = keys.pack_event(state.applied_index, place)
        number = keys.pack_number(lamport)
        # Tag and fields of an EventRow: a tuple encodes to the same bytes and is made faster.
        row = (1, node_id, command.event_type, command.event_data, lamport, hlc, now_ms, *source)
        pending = self._writes.pending
        pending[keys.EVENT + event] = _encode(row)
        pending[participant.events_prefix + number] = event
        pending[keys.EVENT_BY_LAMPORT + number + participant.name] = event
        return Applied(
            EventRecorded(node_id=node_id, lamport_timestamp=lamport, hlc=hlc, created_at_ms=now_ms)
        )


def remove_event(writes: WriteBuffer, event_key: bytes, row: EventRow) -> None:
    """Delete an event and both references to it."""
    number = keys.pack_number(row.lamport)
    writes.delete(event_key)
    writes.delete(keys.EVENT_BY_NODE + keys.terminated(row.node_id) + number)
    writes.delete(keys.EVENT_BY_LAMPORT + number + row.node_id.encode())


def clock(reader: Reader, node_id: str) -> int:
    """Return a participant's Lamport clock, 0 for one never seen."""
    participant = get_participant(reader, node_id)
    return 0 if participant is None else participant.lamport_timestamp


def get_event(reader: Reader, event_id: str) -> StoredEvent | None:
    """Return the event, or None when none has this id (it may have been trimmed)."""
    position = parse_event_id(event_id)
    if position is None:
        return None
    packed = keys.pack_event(position.entry, position.place)
    found = reader.get(keys.EVENT + packed)
    row = None if found is None else decode_event(found)
    return stored_event(position, row) if isinstance(row, EventRow) else None


def list_events(
    reader: Reader,
    *,
    node_id: str | None = None,
    event_type: str | None = None,
    after_lamport: int = 0,
    cursor: str | None = None,
    limit: int,
) -> tuple[list[StoredEvent], str | None]:
    """Return a page of events in Lamport order, ties by node id, and the cursor of the next page.

    A page that looked at `GREATEST_EXAMINED` events ends there, so with an `event_type` it may be
    short, even empty, and not the last: the last one has no cursor.

    Raises:
        InvalidCursorError
    """
    prefix, start = _events_after(node_id, after_lamport, cursor)
    # Lamport times are below 2**63, so nothing of this prefix follows 0x80.
    examined = limit if event_type is None else GREATEST_EXAMINED
    references = reader.scan(start, prefix + b"\x80", limit=examined + 1)
    items: list[StoredEvent] = []
    for count, (_, event) in enumerate(references):
        if count == examined or len(items) == limit:
            last_examined, _ = references[count - 1]
            return items, paging.encode_cursor(last_examined[len(prefix) :])
        row = _referenced(reader, event)
        if event_type is None or row.event_type == event_type:
            items.append(stored_event(Position(*keys.unpack_event(event)), row))
    return items, None


def _events_after(
    node_id: str | None, after_lamport: int, cursor: str | None
) -> tuple[bytes, bytes]:
    """Return the prefix of the references to read, and the key to begin at."""
    if node_id is None:
        prefix = keys.EVENT_BY_LAMPORT
    else:
        prefix = keys.EVENT_BY_NODE + keys.terminated(node_id)[: keys.GREATEST_NAME_BYTES]
    start = prefix + keys.pack_number(min(max(after_lamport, 0), GREATEST_TIMESTAMP) + 1)
    if cursor is not None:
        seen = paging.decode_cursor(cursor)
        if node_id is not None:
            seen = seen[: len(keys.pack_number(0))]
        start = max(start, prefix + seen + b"\0")
    return prefix, start


def _referenced(reader: Reader, event: bytes) -> EventRow:
    found = reader.get(keys.EVENT + event)
    row = None if found is None else decode_event(found)
    if not isinstance(row, EventRow):
        raise DamagedStateError(f"event {format_event_id(*keys.unpack_event(event))} is missing")
    return row


def stored_event(position: Position, row: EventRow) -> StoredEvent:
    """Return the event whose row is kept at a position."""
    return StoredEvent(
        event_id=format_event_id(position.entry, position.place),
        node_id=row.node_id,
        event_type=row.event_type,
        event_data=row.event_data,
        lamport_timestamp=row.lamport,
        hlc=row.hlc,
        created_at_ms=row.created_at_ms,
        source_node_id=row.source_node_id,
        source_event_id=row.source_event_id,
        source_timestamp=row.source_timestamp,
    )
