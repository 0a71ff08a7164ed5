"""What apply answers: outcomes are data, never exceptions.

A third outcome, *unknown*, is not here: it belongs to a submitter that never learnt which of these
two it was.
"""

from __future__ import annotations

import enum

import msgspec


class RejectionCode(enum.StrEnum):
    """Why a command changed nothing. The HTTP layer maps each code to one status."""

    REQUEST_EXPIRED = "REQUEST_EXPIRED"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    IDEMPOTENCY_TABLE_FULL = "IDEMPOTENCY_TABLE_FULL"
    VERSION_NOT_ACTIVE = "VERSION_NOT_ACTIVE"
    VERSION_UNKNOWN = "VERSION_UNKNOWN"
    CLOCK_OVERFLOW = "CLOCK_OVERFLOW"
    PARTICIPANT_NOT_FOUND = "PARTICIPANT_NOT_FOUND"
    STORAGE_FULL = "STORAGE_FULL"
    INVALID_COMMAND = "INVALID_COMMAND"
    """A field that the HTTP layer should not have let through."""
    SESSION_WINDOW_EXCEEDED = "SESSION_WINDOW_EXCEEDED"
    """The submitting node has too many units in flight; a client never sees it."""


class Result(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """The base of what an applied command answers. Tags follow the rules of commands."""


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


class RoutingChanged(Result, frozen=True, tag=3):
    node_id: str
    state: str
    changed: bool


class TimersFired(Result, frozen=True, tag=4):
    fired: int


class VersionActivated(Result, frozen=True, tag=5):
    version: int


class EventsTrimmed(Result, frozen=True, tag=6):
    removed: int
    more: bool
    """True when `limit` was reached before the wall time was."""


AnyResult = (
    EventRecorded
    | ParticipantChanged
    | RoutingChanged
    | TimersFired
    | VersionActivated
    | EventsTrimmed
)


class Applied(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    result: AnyResult


class Rejected(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    code: RejectionCode
    detail: str
    """One sentence for the client: what was wrong, and what to do."""


Outcome = Applied | Rejected


class Position(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True
):
    """Where a command stands in the log: the Raft entry and the place within it, from 0."""

    entry: int
    place: int

    def __str__(self) -> str:
        return f"{self.entry}.{self.place}"


class RequestOutcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One outcome for each command of a request."""

    position: Position
    """Of the request's first command when it was first applied; the others follow it."""
    replayed: bool
    """True when an earlier request with the same idempotency key got these outcomes."""
    outcomes: tuple[Outcome, ...]


class UnitOutcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of a unit: one outcome for each of its requests."""

    session: bytes
    sequence: int
    requests: tuple[RequestOutcome, ...]
