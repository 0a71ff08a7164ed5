"""Commands of Lamport timestamps and of the participants whose clocks they are."""

from __future__ import annotations

from statemachine.commands.command import Command


class RecordEvent(Command, frozen=True, tag=1):
    """Tick a participant's Lamport clock and store the event."""

    node_id: str
    event_type: str
    event_data: bytes
    """The client's JSON text, empty when there is none."""


class SyncClock(Command, frozen=True, tag=2):
    """Raise a participant's Lamport clock above a received timestamp and store that as an event."""

    node_id: str
    source_node_id: str
    source_event_id: str
    """Empty when the client named none."""
    timestamp: int
    event_type: str
    event_data: bytes


class JoinParticipant(Command, frozen=True, tag=3):
    """Make a participant known before its first event. Known already: nothing changes."""

    node_id: str


class LeaveParticipant(Command, frozen=True, tag=4):
    """Mark a participant as departed. Its clock and events stay; a later event brings it back."""

    node_id: str
