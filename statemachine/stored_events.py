"""Rows of stored events, one table of all kinds in the order in which they were committed."""

from __future__ import annotations

from typing import Final

import msgspec


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


AnyEventRow = EventRow

_rows: Final = msgspec.msgpack.Decoder(AnyEventRow)


def decode_event(row: bytes) -> AnyEventRow:
    return _rows.decode(row)


def created_at_ms(row: AnyEventRow) -> int:
    """Return the replicated wall time of the event, milliseconds since the epoch."""
    return row.created_at_ms
