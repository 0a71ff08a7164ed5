"""Version vectors: which writes the current version of a key consists of.

The cluster keeps one vector for each key. A participant that writes increments its entry; a vector
that came from elsewhere is merged. Both are stored as events.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import event_lists, keys, paging
from statemachine.commands import IncrementVersion, MergeVersion
from statemachine.event_ids import format_event_id
from statemachine.event_lists import EventLists, list_of
from statemachine.members import Participants
from statemachine.outcomes import Applied, Outcome, Position, VersionAdvanced
from statemachine.rejections import KEY_NAME_UNUSABLE, NAME_UNUSABLE
from statemachine.store import Reader
from statemachine.stored_events import (
    AnyVersionRow,
    ObjectWritten,
    VersionIncremented,
    VersionMerged,
    decode_event,
)
from statemachine.vector_histories import (
    ANSWER_TOO_LARGE,
    COUNT_OVERFLOW,
    GREATEST_COUNT,
    VECTOR_TOO_LARGE,
    Histories,
    Space,
    Succession,
    checked,
    current_vector,
)
from statemachine.write_buffer import WriteBuffer
from tidelock.clocks import compare

GREATEST_EXAMINED: Final = 1_000
"""How many events a page of a list looks at before it ends, whatever it found."""

GREATEST_LISTED: Final = 50_000
"""A page of a list ends with the event whose vector brings its entries to this number."""


class StoredVersionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A version event as a query returns it."""

    event_id: str
    row: AnyVersionRow
    vector: dict[str, int]
    """The key's version vector after it; of a write of an object, what its writer had read."""


class VersionRecorder:
    """Increments and merges version vectors, and stores that as events."""

    __slots__ = ("_events", "_histories", "_participants")

    def __init__(
        self, events: EventLists, histories: Histories, participants: Participants
    ) -> None:
        self._events = events
        self._histories = histories
        self._participants = participants

    def increment(self, command: IncrementVersion, place: int) -> Outcome:
        """Count a write of the participant."""
        key, node_id = command.key, command.node_id
        history = self._histories.find(Space.VERSIONS, key)
        if history is None:
            return KEY_NAME_UNUSABLE
        if self._participants.find(node_id) is None:
            return NAME_UNUSABLE
        count = history.entries.get(node_id, 0)
        if count >= GREATEST_COUNT:
            return COUNT_OVERFLOW
        rises = {node_id: count + 1}
        if not history.has_room(rises):
            return VECTOR_TOO_LARGE
        if not self._histories.may_answer(history):
            return ANSWER_TOO_LARGE
        events = self._events
        event = events.packed(place)
        row = VersionIncremented(
            key=key,
            node_id=node_id,
            changes=self._histories.record(history, rises, event),
            created_at_ms=events.now_ms,
            kept_until_ms=events.kept_until_ms(),
        )
        return self._store(row, event, place)

    def merge(self, command: MergeVersion, place: int) -> Outcome:
        """Raise the vector by another one, which may change nothing."""
        key, node_id, received = command.key, command.node_id, command.vector
        history = self._histories.find(Space.VERSIONS, key)
        if history is None:
            return KEY_NAME_UNUSABLE
        if self._participants.find(node_id) is None:
            return NAME_UNUSABLE
        refused = checked(received)
        if refused is not None:
            return refused
        rises = history.rises(received)
        if not history.has_room(rises):
            return VECTOR_TOO_LARGE
        if not self._histories.may_answer(history):
            return ANSWER_TOO_LARGE
        relation = compare(history.entries, received)
        events = self._events
        event = events.packed(place)
        row = VersionMerged(
            key=key,
            node_id=node_id,
            changes=self._histories.record(history, rises, event),
            relation=relation,
            created_at_ms=events.now_ms,
            kept_until_ms=events.kept_until_ms(),
        )
        return self._store(row, event, place)

    def _store(self, row: VersionIncremented | VersionMerged, event: bytes, place: int) -> Outcome:
        self._participants.appear(row.node_id, place)
        self._events.store(event, row, lists_of(row))
        return Applied(VersionAdvanced(key=row.key, event=self._events.position(place)))


def lists_of(row: AnyVersionRow) -> tuple[bytes, ...]:
    """Return the lists that the event is in."""
    of_key = (
        event_lists.OBJECT_OF_KEY if isinstance(row, ObjectWritten) else event_lists.VERSIONS_OF_KEY
    )
    return (
        list_of(of_key, row.key),
        list_of(event_lists.VERSIONS_OF_NODE, row.node_id),
        list_of(event_lists.VERSIONS),
    )


def remove_event(writes: WriteBuffer, event: bytes, row: AnyVersionRow) -> None:
    """Delete an event, the references to it, and the vector that was kept with it."""
    event_lists.remove(writes, event, lists_of(row))
    if not isinstance(row, ObjectWritten):
        Histories.forget(writes, Space.VERSIONS, row.key, event)


def version_vector(reader: Reader, key: str) -> dict[str, int]:
    """Return a key's version vector, empty for one never seen."""
    return current_vector(reader, Space.VERSIONS, key)


def get_event(reader: Reader, position: Position) -> StoredVersionEvent | None:
    """Return the version event at a position, or None when there is none (any more)."""
    event = keys.pack_event(position.entry, position.place)
    found = reader.get(keys.EVENT + event)
    row = None if found is None else decode_event(found)
    if not isinstance(row, AnyVersionRow):
        return None
    return _stored_event(event, row, Succession(reader, Space.VERSIONS, gapless=False))


def list_events(
    reader: Reader,
    *,
    key: str | None = None,
    node_id: str | None = None,
    cursor: str | None = None,
    limit: int,
) -> tuple[list[StoredVersionEvent], str | None]:
    """Return a page of version events in the order of the log, and the cursor of the next page.

    A page ends early when it has looked at `GREATEST_EXAMINED` events, or when its vectors have
    `GREATEST_LISTED` entries. The last one has no cursor.

    Raises:
        InvalidCursorError
    """
    if key is not None:
        lists = [list_of(event_lists.VERSIONS_OF_KEY, key), list_of(event_lists.OBJECT_OF_KEY, key)]
    elif node_id is not None:
        lists = [list_of(event_lists.VERSIONS_OF_NODE, node_id)]
    else:
        lists = [list_of(event_lists.VERSIONS)]
    filtered = key is not None and node_id is not None
    examined = GREATEST_EXAMINED if filtered else limit
    found = event_lists.references(reader, lists, cursor=cursor, limit=examined + 1)
    vectors = Succession(reader, Space.VERSIONS, gapless=node_id is None)
    items: list[StoredVersionEvent] = []
    entries = 0
    for count, event in enumerate(found):
        if count == examined or len(items) == limit or entries >= GREATEST_LISTED:
            return items, paging.encode_cursor(found[count - 1])
        row = event_lists.stored(reader, event)
        assert isinstance(row, AnyVersionRow), "only version events are in these lists"
        if filtered and row.node_id != node_id:
            continue
        items.append(_stored_event(event, row, vectors))
        entries += len(items[-1].vector)
    return items, None


def _stored_event(event: bytes, row: AnyVersionRow, vectors: Succession) -> StoredVersionEvent:
    return StoredVersionEvent(
        event_id=format_event_id(*keys.unpack_event(event)),
        row=row,
        vector=row.context
        if isinstance(row, ObjectWritten)
        else vectors.vector_after(row.key, event, row.changes),
    )
