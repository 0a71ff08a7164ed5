"""What can be proposed: entries, units, requests and commands, as they stand in the log.

An *entry* is one Raft log entry. It carries the leader's stamps and *units*; a unit is what one
node's batcher sent in one piece, numbered within that node's session so that a repeated unit is
recognised. A unit carries *requests*, one for each HTTP request, and a request carries commands.

Everything is encoded as msgpack arrays. A tag, once released, keeps its meaning for ever; fields
are only ever appended together with a new tag, because unknown fields are refused.
"""

from __future__ import annotations

from typing import Final

import msgspec

ENTRY_FORMAT: Final = 1

MAX_ENTRY_BYTES: Final = 1 << 20
"""The greatest size of an encoded entry; larger requests are refused before they are proposed."""


class Command(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """The base of every command. Subclasses set `tag` to an integer that is never reused."""


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


class ChangeRouting(Command, frozen=True, tag=5):
    """Record that a cluster node entered or left the rotation, seen by the leader."""

    node_id: str
    state: str
    """HEALTHY, SUSPECT, FAILED or RECOVERING."""
    reason: str


class FireTimers(Command, frozen=True, tag=6):
    """Do what is due. Proposed by the leader from its timer index; apply checks each again."""

    timers: tuple[tuple[int, int, bytes], ...]
    """(due in elapsed ms, kind, id), in the order of the index; at most 1,000."""


class ActivateVersion(Command, frozen=True, tag=7):
    """Switch on the commands of a newer version, once every member can decode them."""

    version: int


class TrimEvents(Command, frozen=True, tag=8):
    """Forget stored timestamp events created before a wall time, at most `limit` of them."""

    before_wall_ms: int
    limit: int


AnyCommand = (
    RecordEvent
    | SyncClock
    | JoinParticipant
    | LeaveParticipant
    | ChangeRouting
    | FireTimers
    | ActivateVersion
    | TrimEvents
)


class IdempotencyKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A client's promise that requests with this key are one request."""

    principal: str
    """Whose key it is: two principals may use the same text."""
    key: str
    digest: bytes
    """16 bytes over method, path and the client's body before defaults are filled in."""
    ttl_ms: int
    """How long the outcome is remembered, in elapsed time."""


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The commands of one client request: applied together, in order, under one key."""

    expires_at_ms: int
    """Elapsed time after which apply rejects the request instead of doing it."""
    idempotency: IdempotencyKey | None
    commands: tuple[AnyCommand, ...]


class Unit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one node's batcher submits in one piece; applied at most once."""

    session: bytes
    """16 bytes, new at each boot of the submitting node."""
    sequence: int
    """Counts up from 1 within the session."""
    watermark: int
    """Every sequence below it is settled at the submitter: its outcomes may be forgotten."""
    requests: tuple[Request, ...]


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One Raft log entry of the state machine."""

    format: int
    wall_ms: int
    """The leader's wall clock, milliseconds since the epoch; apply never lets it run backwards."""
    elapsed_ms: int
    """Time during which the cluster had a leader; every timeout counts in it."""
    units: tuple[Unit, ...]
