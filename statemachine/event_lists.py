"""Events that requests are answered from, and the lists in which they are found.

An event is in several lists: of its kind, of its participant, of its key. A list holds references,
in the order of the log, and is read by pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from statemachine import keys, paging
from statemachine.event_ids import format_event_id
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.store import DamagedStateError, Reader
from statemachine.stored_events import AnyEventRow, AnyVectorRow, AnyVersionRow, decode_event
from statemachine.tickets import LEAST_KEPT_MS, Tickets
from statemachine.write_buffer import WriteBuffer

VERSIONS_OF_KEY: Final = b"v"
OBJECT_OF_KEY: Final = b"o"
VERSIONS_OF_NODE: Final = b"n"
VERSIONS: Final = b"a"
VECTORS_OF_NODE: Final = b"c"
VECTORS: Final = b"A"

_encode: Final = msgspec.msgpack.Encoder().encode


class EventLists:
    """Stores events and enters them into lists."""

    __slots__ = ("_state", "_tickets", "_writes")

    def __init__(self, state: MachineState, writes: WriteBuffer, tickets: Tickets) -> None:
        self._state = state
        self._writes = writes
        self._tickets = tickets

    @property
    def now_ms(self) -> int:
        """The wall time of an event that is stored now."""
        return self._state.wall_ms

    def kept_until_ms(self, least_ms: int = 0) -> int:
        """Return until when the answer may be asked for again, in elapsed time.

        A little is added: what expires is forgotten only when its timer fires.
        """
        return self._state.elapsed_ms + max(self._tickets.kept_ms, least_ms) + LEAST_KEPT_MS

    def packed(self, place: int) -> bytes:
        """Return the packed position of the event that the command at `place` stores."""
        return keys.pack_event(self._state.applied_index, place)

    def position(self, place: int) -> Position:
        return Position(self._state.applied_index, place)

    def store(
        self, event: bytes, row: AnyVersionRow | AnyVectorRow, lists: Iterable[bytes]
    ) -> None:
        """Store the event with this packed position, in lists that are named by their prefixes."""
        self._state.event_count += 1
        self._writes.put(keys.EVENT + event, _encode(row))
        for each in lists:
            self._writes.put(each + event, b"")


def list_of(kind: bytes, name: str = "") -> bytes:
    """Return what the references of one list begin with."""
    return keys.EVENT_IN_LIST + kind + keys.terminated(name)[: keys.GREATEST_NAME_BYTES]


def remove(writes: WriteBuffer, event: bytes, lists: Iterable[bytes]) -> None:
    """Delete the event and the references to it."""
    writes.delete(keys.EVENT + event)
    for each in lists:
        writes.delete(each + event)


def references(
    reader: Reader, lists: Sequence[bytes], *, cursor: str | None, limit: int
) -> list[bytes]:
    """Return the packed positions of at most `limit` events of these lists, merged.

    A cursor is made of one of them.

    Raises:
        InvalidCursorError
    """
    after = b"" if cursor is None else paging.decode_cursor(cursor)[: keys.EVENT_BYTES] + b"\0"
    found = [
        key[len(each) :]
        for each in lists
        for key, _ in reader.scan(each + after, keys.stop_of_events(each), limit=limit)
    ]
    return sorted(found)[:limit]


def stored(reader: Reader, event: bytes) -> AnyEventRow:
    """Return an event that must be there.

    Raises:
        DamagedStateError
    """
    row = reader.get(keys.EVENT + event)
    if row is None:
        raise DamagedStateError(f"event {format_event_id(*keys.unpack_event(event))} is missing")
    return decode_event(row)
