"""The change log: what each applied command changed, in their order, for a limited time.

It is what a watch reads, and how a node learns that a wait has ended. A row holds all changes of
one command, so a position names it and a reader that has seen a position has seen all of it. Stored
events are merged in from rows of their own, which are written anyway.

Old rows are trimmed. The state remembers the greatest position that was, so a reader that would
miss something is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from statemachine import keys
from statemachine.changes import AnyChange
from statemachine.commands import TrimChanges
from statemachine.outcomes import Applied, ChangesTrimmed, Outcome
from statemachine.positions import Position
from statemachine.state import MachineState, load_state
from statemachine.store import Reader
from statemachine.stored_events import AnyEventRow, created_at_ms, decode_event
from statemachine.write_buffer import WriteBuffer

GREATEST_TRIM: Final = 10_000
"""How many rows one command removes at most, whatever its limit: apply must not stall."""


class CompactedError(Exception):
    """What was asked for has been trimmed: `oldest` is the first position to read after."""

    def __init__(self, oldest: Position) -> None:
        super().__init__(f"changes up to {oldest} are no longer kept")
        self.oldest = oldest


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What one command changed."""

    position: Position
    wall_ms: int
    """The replicated wall time at which it did, milliseconds since the epoch."""
    event: AnyEventRow | None = None
    """The event that it stored."""
    changes: tuple[AnyChange, ...] = ()
    settled: tuple[Position, ...] = ()
    """Tickets whose wait it ended."""
    size_bytes: int
    """What it takes in the state."""


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    wall_ms: int
    changes: tuple[AnyChange, ...]
    settled: tuple[Position, ...]


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(_Row)

_STOP: Final = keys.stop_of(keys.CHANGE)
_EVENTS_STOP: Final = keys.stop_of(keys.EVENT)


class ChangeLog:
    """Gathers what the commands of an entry change."""

    __slots__ = ("_noted", "_settled", "_state", "_writes")

    def __init__(self, state: MachineState, writes: WriteBuffer) -> None:
        self._state = state
        self._writes = writes
        self._noted: dict[int, list[AnyChange]] = {}
        self._settled: dict[int, list[Position]] = {}

    def note(self, place: int, change: AnyChange) -> None:
        """Record a change made by the command at `place` of the entry that is being applied."""
        self._noted.setdefault(place, []).append(change)

    def settle(self, place: int, ticket: Position) -> None:
        """Record that the command at `place` ended a wait."""
        self._settled.setdefault(place, []).append(ticket)

    def save(self) -> None:
        """Write the rows of the entry."""
        if not self._noted and not self._settled:
            return
        state = self._state
        for place in sorted(self._noted.keys() | self._settled.keys()):
            row = _Row(
                state.wall_ms,
                tuple(self._noted.get(place, ())),
                tuple(self._settled.get(place, ())),
            )
            self._writes.put(
                keys.CHANGE + keys.pack_event(state.applied_index, place), _encode(row)
            )
            state.change_count += 1
        self._noted.clear()
        self._settled.clear()

    def trim(self, command: TrimChanges) -> Outcome:
        """Remove the oldest rows: those recorded before a wall time, and those beyond a number."""
        state = self._state
        limit = max(0, min(command.limit, GREATEST_TRIM))
        beyond = state.change_count - max(0, command.keep)
        removed = 0
        # One more than may go, to tell whether any is left.
        for key, value in self._writes.scan(keys.CHANGE, _STOP, limit=limit + 1):
            if removed >= beyond and _rows.decode(value).wall_ms >= command.before_wall_ms:
                break
            if removed == limit:
                return Applied(ChangesTrimmed(removed=removed, more=True))
            self._writes.delete(key)
            state.compacted = max(state.compacted, _position(key))
            state.change_count -= 1
            removed += 1
        return Applied(ChangesTrimmed(removed=removed, more=False))


def has_old_changes(reader: Reader, before_wall_ms: int, keep: int) -> bool:
    """Tell whether a `TrimChanges` with these bounds would remove anything."""
    if load_state(reader).change_count > keep:
        return True
    oldest = reader.scan(keys.CHANGE, _STOP, limit=1)
    return bool(oldest) and _rows.decode(oldest[0][1]).wall_ms < before_wall_ms


def compacted(reader: Reader) -> Position:
    """Return the greatest position of which something was trimmed; (0, 0) when nothing was."""
    return load_state(reader).compacted


def read_changes(reader: Reader, after: Position, *, limit: int) -> Sequence[Recorded]:
    """Return the next at most `limit` positions after `after` at which something changed, in order.

    Raises:
        CompactedError: something after `after` has been trimmed.
    """
    oldest = compacted(reader)
    if after < oldest:
        raise CompactedError(oldest)
    start = keys.pack_event(after.entry, after.place) + b"\0"
    changed = reader.scan(keys.CHANGE + start, _STOP, limit=limit)
    stored = reader.scan(keys.EVENT + start, _EVENTS_STOP, limit=limit)
    found = {key[len(keys.EVENT) :]: _of_event(key, value) for key, value in stored}
    for key, value in changed:
        row = _rows.decode(value)
        beside = found.get(key[len(keys.CHANGE) :])
        found[key[len(keys.CHANGE) :]] = Recorded(
            position=_position(key),
            wall_ms=row.wall_ms,
            event=None if beside is None else beside.event,
            changes=row.changes,
            settled=row.settled,
            size_bytes=len(value) + (0 if beside is None else beside.size_bytes),
        )
    return [found[packed] for packed in sorted(found)[:limit]]


def _of_event(key: bytes, value: bytes) -> Recorded:
    event = decode_event(value)
    return Recorded(
        position=_position(key), wall_ms=created_at_ms(event), event=event, size_bytes=len(value)
    )


def _position(key: bytes) -> Position:
    """Return the position in the key of a change or an event: both prefixes are one byte."""
    return Position(*keys.unpack_event(key[1:]))
