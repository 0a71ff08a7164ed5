"""Forgetting old events.

Events are stored in the order of their creation times, since the replicated wall time never runs
backwards; so the oldest come first and the first one that is young enough ends the search. So does
one of which a retry may still want the answer, for as long as it may.
"""

from __future__ import annotations

from typing import Final

from statemachine import keys, vectors, versions
from statemachine.commands import TrimEvents
from statemachine.outcomes import Applied, EventsTrimmed, Outcome
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.stored_events import (
    AnyEventRow,
    AnyVersionRow,
    EventRow,
    created_at_ms,
    decode_event,
    kept_until_ms,
)
from statemachine.timestamps import remove_event
from statemachine.write_buffer import WriteBuffer

GREATEST_TRIM: Final = 10_000
"""How many events one command removes at most, whatever its limit: apply must not stall."""

_STOP: Final = keys.stop_of(keys.EVENT)


def trim_events(state: MachineState, writes: WriteBuffer, command: TrimEvents) -> Outcome:
    """Remove the oldest events that were created before a wall time, with their references."""
    limit = max(0, min(command.limit, GREATEST_TRIM))
    removed = 0
    # One more than may go, to tell whether any is left.
    for event_key, value in writes.scan(keys.EVENT, _STOP, limit=limit + 1):
        row = decode_event(value)
        if created_at_ms(row) >= command.before_wall_ms or kept_until_ms(row) > state.elapsed_ms:
            break
        if removed == limit:
            return Applied(EventsTrimmed(removed=removed, more=True))
        _remove(writes, event_key, row)
        position = Position(*keys.unpack_event(event_key[len(keys.EVENT) :]))
        state.compacted = max(state.compacted, position)
        state.event_count -= 1
        removed += 1
    return Applied(EventsTrimmed(removed=removed, more=False))


def _remove(writes: WriteBuffer, event_key: bytes, row: AnyEventRow) -> None:
    event = event_key[len(keys.EVENT) :]
    if isinstance(row, EventRow):
        remove_event(writes, event_key, row)
    elif isinstance(row, AnyVersionRow):
        versions.remove_event(writes, event, row)
    else:
        vectors.remove_event(writes, event, row)
