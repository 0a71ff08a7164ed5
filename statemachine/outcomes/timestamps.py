"""Results of Lamport timestamps and participants."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class EventRecorded(Result, frozen=True, tag=1):
    """Answer of RecordEvent and SyncClock. The event's id is the position of its command."""

    node_id: str
    lamport_timestamp: int
    hlc: int
    """The encoded hybrid timestamp: 46 bits of milliseconds, 18 of counter."""
    created_at_ms: int


class ParticipantChanged(Result, frozen=True, tag=2):
    node_id: str
    active: bool
    changed: bool
