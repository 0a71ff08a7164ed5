"""Vector clocks: for each participant, of how many events of each participant it has heard.

An event on a clock is stored with the entries that it changed. A message that was received is
remembered by its id for a while, so that its receipt is recorded once however often it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from statemachine import event_lists, keys, paging, timers
from statemachine.commands import ReceiveMessage, SendMessage, TickVector
from statemachine.event_ids import format_event_id
from statemachine.event_lists import EventLists, list_of
from statemachine.members import Participants
from statemachine.outcomes import (
    Applied,
    Outcome,
    Position,
    Rejected,
    RejectionCode,
    VectorAdvanced,
)
from statemachine.rejections import NAME_UNUSABLE
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.stored_events import (
    AnyVectorRow,
    VectorReceived,
    VectorSent,
    VectorTicked,
    decode_event,
)
from statemachine.timers import TimerKind
from statemachine.vector_histories import (
    ANSWER_TOO_LARGE,
    COUNT_OVERFLOW,
    GREATEST_COUNT,
    VECTOR_TOO_LARGE,
    Histories,
    History,
    Space,
    Succession,
    checked,
    current_vector,
)
from statemachine.write_buffer import WriteBuffer
from tidelock.clocks import compare

MESSAGE_KEPT_MS: Final = 24 * 3_600_000
"""How long the id of a received message is remembered, in elapsed time. All nodes must agree on it,
so it is not configured."""

GREATEST_LISTED: Final = 50_000
"""A page of a list ends with the event whose clock brings its entries to this number; a message
counts as an entry for each of 16 bytes."""

_BYTES_OF_ENTRY: Final = 16

_MESSAGE_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"nodeId and messageId exceed {keys.GREATEST_NAME_BYTES} bytes of UTF-8 together. Use a "
    "shorter messageId.",
)


class StoredVectorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A vector event as a query returns it."""

    event_id: str
    row: AnyVectorRow
    vector: dict[str, int]
    """The participant's clock right after it."""


class _Receipt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message that was received."""

    event: Position
    due_ms: int
    """When it is forgotten, in elapsed time."""


_encode: Final = msgspec.msgpack.Encoder().encode
_receipts: Final = msgspec.msgpack.Decoder(_Receipt)


class VectorClocks:
    """Advances vector clocks, and stores that as events."""

    __slots__ = ("_events", "_histories", "_participants", "_state", "_writes")

    def __init__(
        self,
        state: MachineState,
        writes: WriteBuffer,
        events: EventLists,
        histories: Histories,
        participants: Participants,
    ) -> None:
        self._state = state
        self._writes = writes
        self._events = events
        self._histories = histories
        self._participants = participants

    def tick(self, command: TickVector, place: int) -> Outcome:
        """Record an event."""
        node_id = command.node_id
        history = self._find(node_id)
        if history is None:
            return NAME_UNUSABLE
        rises = self._next(history, node_id, {})
        if isinstance(rises, Rejected):
            return rises
        events = self._events
        event = events.packed(place)
        row = VectorTicked(
            node_id=node_id,
            count=rises[node_id],
            changes=self._histories.record(history, rises, event),
            created_at_ms=events.now_ms,
            kept_until_ms=events.kept_until_ms(),
        )
        return self._store(row, event, place)

    def send(self, command: SendMessage, place: int) -> Outcome:
        """Record an event that is the sending of a message."""
        node_id = command.node_id
        history = self._find(node_id)
        if history is None:
            return NAME_UNUSABLE
        rises = self._next(history, node_id, {})
        if isinstance(rises, Rejected):
            return rises
        events = self._events
        event = events.packed(place)
        row = VectorSent(
            node_id=node_id,
            count=rises[node_id],
            changes=self._histories.record(history, rises, event),
            message=command.message,
            created_at_ms=events.now_ms,
            kept_until_ms=events.kept_until_ms(),
        )
        return self._store(row, event, place)

    def receive(self, command: ReceiveMessage, place: int) -> Outcome:
        """Take over what the sender knew, and record that as an event; once for each message."""
        node_id, received = command.node_id, command.vector
        history = self._find(node_id)
        if history is None:
            return NAME_UNUSABLE
        refused = checked(received)
        if refused is not None:
            return refused
        receipt_key = b""
        if command.message_id:
            receipt_key = _receipt_key(node_id, command.message_id)
            if len(receipt_key) > keys.GREATEST_NAME_BYTES:
                return _MESSAGE_UNUSABLE
            known = self._writes.get(receipt_key)
            if known is not None:
                return self._again(history, node_id, _receipts.decode(known).event)
        relation = compare(history.entries, received)
        rises = self._next(history, node_id, received)
        if isinstance(rises, Rejected):
            return rises
        events = self._events
        event = events.packed(place)
        row = VectorReceived(
            node_id=node_id,
            count=rises[node_id],
            changes=self._histories.record(history, rises, event),
            message=command.message,
            message_id=command.message_id,
            relation=relation,
            created_at_ms=events.now_ms,
            kept_until_ms=events.kept_until_ms(MESSAGE_KEPT_MS if receipt_key else 0),
        )
        if receipt_key:
            self._remember(receipt_key, events.position(place))
        return self._store(row, event, place)

    def raise_to(self, node_id: str, vector: Mapping[str, int]) -> Rejected | None:
        """Raise a participant's clock to at least `vector`; or return why that cannot be.

        It is no event of the participant: its own entry rises only if `vector` has a greater one.
        The participant's next event is stored with these changes as well.
        """
        history = self._find(node_id)
        if history is None:
            return NAME_UNUSABLE
        refused = checked(vector)
        if refused is not None:
            return refused
        rises = history.rises(vector)
        if not history.has_room(rises):
            return VECTOR_TOO_LARGE
        if rises:
            self._histories.raise_entries(history, rises)
        return None

    def forget_message(self, due_ms: int, timer_id: bytes) -> None:
        """Do what the timer of a received message is for."""
        timers.disarm(self._writes, due_ms, TimerKind.MESSAGE_EXPIRY, timer_id)
        self._writes.delete(keys.RECEIVED + timer_id)

    def _find(self, node_id: str) -> History | None:
        return self._histories.find(Space.CLOCKS, node_id)

    def _next(
        self, history: History, node_id: str, received: Mapping[str, int]
    ) -> dict[str, int] | Rejected:
        """Return the entries that rise with the participant's next event; or why it cannot be."""
        rises = history.rises(received)
        count = max(history.entries.get(node_id, 0), rises.get(node_id, 0))
        if count >= GREATEST_COUNT:
            return COUNT_OVERFLOW
        rises[node_id] = count + 1
        if not history.has_room(rises):
            return VECTOR_TOO_LARGE
        if not self._histories.may_answer(history):
            return ANSWER_TOO_LARGE
        return rises

    def _again(self, history: History, node_id: str, event: Position) -> Outcome:
        if not self._histories.may_answer(history):
            return ANSWER_TOO_LARGE
        return Applied(VectorAdvanced(node_id=node_id, event=event))

    def _remember(self, receipt_key: bytes, event: Position) -> None:
        due_ms = self._state.elapsed_ms + MESSAGE_KEPT_MS
        self._writes.put(receipt_key, _encode(_Receipt(event, due_ms)))
        timer_id = receipt_key[len(keys.RECEIVED) :]
        timers.arm(self._writes, due_ms, TimerKind.MESSAGE_EXPIRY, timer_id)

    def _store(self, row: AnyVectorRow, event: bytes, place: int) -> Outcome:
        self._participants.appear(row.node_id, place)
        self._events.store(event, row, _lists_of(row))
        position = self._events.position(place)
        return Applied(VectorAdvanced(node_id=row.node_id, event=position))


def remove_event(writes: WriteBuffer, event: bytes, row: AnyVectorRow) -> None:
    """Delete an event, the references to it, and what is kept with it."""
    event_lists.remove(writes, event, _lists_of(row))
    Histories.forget(writes, Space.CLOCKS, row.node_id, event)
    if isinstance(row, VectorReceived) and row.message_id:
        receipt_key = _receipt_key(row.node_id, row.message_id)
        found = writes.get(receipt_key)
        receipt = None if found is None else _receipts.decode(found)
        if (
            receipt is not None
            and keys.pack_event(receipt.event.entry, receipt.event.place) == event
        ):
            writes.delete(receipt_key)
            timer_id = receipt_key[len(keys.RECEIVED) :]
            timers.disarm(writes, receipt.due_ms, TimerKind.MESSAGE_EXPIRY, timer_id)


def vector_clock(reader: Reader, node_id: str) -> dict[str, int]:
    """Return a participant's vector clock, empty for one never seen."""
    return current_vector(reader, Space.CLOCKS, node_id)


def get_event(reader: Reader, position: Position) -> StoredVectorEvent | None:
    """Return the vector event at a position, or None when there is none (any more)."""
    event = keys.pack_event(position.entry, position.place)
    found = reader.get(keys.EVENT + event)
    row = None if found is None else decode_event(found)
    if not isinstance(row, AnyVectorRow):
        return None
    return _stored_event(event, row, Succession(reader, Space.CLOCKS, gapless=False))


def list_events(
    reader: Reader, *, node_id: str | None = None, cursor: str | None = None, limit: int
) -> tuple[list[StoredVectorEvent], str | None]:
    """Return a page of vector events in the order of the log, and the cursor of the next page.

    A page ends early when what it holds has grown to `GREATEST_LISTED`. The last one has no cursor.

    Raises:
        InvalidCursorError
    """
    of = (
        list_of(event_lists.VECTORS)
        if node_id is None
        else list_of(event_lists.VECTORS_OF_NODE, node_id)
    )
    found = event_lists.references(reader, [of], cursor=cursor, limit=limit + 1)
    vectors = Succession(reader, Space.CLOCKS, gapless=True)
    items: list[StoredVectorEvent] = []
    size = 0
    for event in found:
        if len(items) == limit or size >= GREATEST_LISTED:
            return items, paging.encode_cursor(found[len(items) - 1])
        row = event_lists.stored(reader, event)
        assert isinstance(row, AnyVectorRow), "only vector events are in these lists"
        items.append(_stored_event(event, row, vectors))
        message = b"" if isinstance(row, VectorTicked) else row.message
        size += len(items[-1].vector) + len(message) // _BYTES_OF_ENTRY
    return items, None


def _lists_of(row: AnyVectorRow) -> tuple[bytes, ...]:
    return (
        list_of(event_lists.VECTORS_OF_NODE, row.node_id),
        list_of(event_lists.VECTORS),
    )


def _receipt_key(node_id: str, message_id: str) -> bytes:
    return keys.RECEIVED + keys.terminated(node_id) + message_id.encode()


def _stored_event(event: bytes, row: AnyVectorRow, vectors: Succession) -> StoredVectorEvent:
    return StoredVectorEvent(
        event_id=format_event_id(*keys.unpack_event(event)),
        row=row,
        vector=vectors.vector_after(row.node_id, event, row.changes),
    )
