"""Versioned objects: values that are replaced only by writers that had read them.

Each object is a dotted version vector set (`tidelock.clocks.DottedVersionVectorSet`): a write
replaces what its context covers and becomes a sibling of all else, so no write is lost because
another one came first.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.commands import WriteObject
from statemachine.event_lists import EventLists
from statemachine.members import Participants
from statemachine.outcomes import (
    Applied,
    ObjectWritten,
    Outcome,
    Rejected,
    RejectionCode,
    Sibling,
)
from statemachine.rejections import KEY_NAME_UNUSABLE, NAME_UNUSABLE
from statemachine.store import Reader
from statemachine.stored_events import ObjectWritten as ObjectWrittenRow
from statemachine.vector_histories import (
    COUNT_OVERFLOW,
    GREATEST_COUNT,
    GREATEST_PARTICIPANTS,
    VECTOR_TOO_LARGE,
    checked,
)
from statemachine.versions import lists_of
from statemachine.write_buffer import WriteBuffer
from tidelock.clocks import DottedVersionVectorSet, VersionVector

GREATEST_SIBLINGS: Final = 100
GREATEST_SIBLING_BYTES: Final = 512 * 1024
"""What the siblings of one object may have together: each write rewrites and answers them all."""

_TOO_MANY_SIBLINGS: Final = Rejected(
    RejectionCode.TOO_MANY_SIBLINGS,
    f"The object would have more than {GREATEST_SIBLINGS} siblings, or more than "
    f"{GREATEST_SIBLING_BYTES // 1024} KiB of them. Read it, merge its siblings, and write the "
    "result with the context of the read.",
)


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object as a query returns it."""

    context: dict[str, int]
    """What a reader of it has read; it belongs into the reader's next write."""
    siblings: tuple[Sibling, ...]
    """Its current values, by participant and count. None when it was never written."""


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    counts: dict[str, int]
    """How many writes of each participant are known, in the order of the names."""
    values: dict[str, tuple[bytes, ...]]
    """Those of its latest writes that are current, the latest first."""


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(_Row)


class ObjectWriter:
    """Writes objects, and stores that as events."""

    __slots__ = ("_events", "_participants", "_writes")

    def __init__(self, writes: WriteBuffer, events: EventLists, participants: Participants) -> None:
        self._writes = writes
        self._events = events
        self._participants = participants

    def write(self, command: WriteObject, place: int) -> Outcome:
        """Replace what the context covers, and keep all else beside the new value."""
        key, node_id = command.key, command.node_id
        row_key = _row_key(key)
        if row_key is None:
            return KEY_NAME_UNUSABLE
        if self._participants.find(node_id) is None:
            return NAME_UNUSABLE
        refused = checked(command.context)
        if refused is not None:
            return refused
        before = _load(self._writes, row_key)
        context = VersionVector(command.context)
        if max(before.context().of(node_id), context.of(node_id)) >= GREATEST_COUNT:
            return COUNT_OVERFLOW
        after = before.update(context, command.value, node_id)
        written = _answer(key, after)
        if len(written.context) > GREATEST_PARTICIPANTS:
            return VECTOR_TOO_LARGE
        size_bytes = sum(len(sibling.value) for sibling in written.siblings)
        if len(written.siblings) > GREATEST_SIBLINGS or size_bytes > GREATEST_SIBLING_BYTES:
            return _TOO_MANY_SIBLINGS
        self._writes.put(row_key, _encode(_row(after)))
        self._store(command, context, written, place)
        return Applied(written)

    def _store(
        self, command: WriteObject, context: VersionVector, written: ObjectWritten, place: int
    ) -> None:
        events = self._events
        row = ObjectWrittenRow(
            key=command.key,
            node_id=command.node_id,
            count=written.context[command.node_id],
            context=dict(sorted(context.entries.items())),
            siblings=len(written.siblings),
            created_at_ms=events.now_ms,
            kept_until_ms=events.kept_until_ms(),
        )
        self._participants.appear(command.node_id, place)
        events.store(events.packed(place), row, lists_of(row))


def get_object(reader: Reader, key: str) -> StoredObject:
    """Return an object, without siblings when it was never written."""
    row_key = _row_key(key)
    if row_key is None:
        return StoredObject(context={}, siblings=())
    found = _answer(key, _load(reader, row_key))
    return StoredObject(context=found.context, siblings=found.siblings)


def _row_key(key: str) -> bytes | None:
    terminated = keys.terminated(key)
    if not key or len(terminated) > keys.GREATEST_NAME_BYTES:
        return None
    return keys.OBJECT + terminated


def _load(reader: Reader, row_key: bytes) -> DottedVersionVectorSet[bytes]:
    row = reader.get(row_key)
    if row is None:
        return DottedVersionVectorSet()
    found = _rows.decode(row)
    return DottedVersionVectorSet(found.counts, found.values)


def _answer(key: str, versions: DottedVersionVectorSet[bytes]) -> ObjectWritten:
    return ObjectWritten(
        key=key,
        context=dict(sorted(versions.context().entries.items())),
        siblings=tuple(
            Sibling(dot.participant, dot.count, value) for dot, value in versions.siblings
        ),
    )


def _row(versions: DottedVersionVectorSet[bytes]) -> _Row:
    values: dict[str, tuple[bytes, ...]] = {}
    for dot, value in versions.siblings:
        values[dot.participant] = (value, *values.get(dot.participant, ()))
    return _Row(dict(sorted(versions.context().entries.items())), values)
